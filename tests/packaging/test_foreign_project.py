# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A project of somebody else that has only installed the built archive uses one role, by its full name and with three variables."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """
- name: Somebody else's play
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Try our service
      ansible.builtin.include_role:
        name: signal.rollout.verification
      vars:
        rollout_version: v7
        rollout_base_url: "{{ address }}"
        verification_checks:
          - {name: health, path: /health, json: {status: healthy, version: "{{ rollout_version }}"}}
"""


class Healthy(BaseHTTPRequestHandler):
    """A service of that project."""

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""

    def do_GET(self) -> None:  # noqa: N802 (the name that http.server calls)
        body = json.dumps({"status": "healthy", "version": "v7" if self.path == "/health" else "v6"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, ansible: Callable[..., CompletedProcess[str]]) -> Path:
    """The project: one playbook, and the collection as ansible-galaxy installs it."""
    folder = tmp_path_factory.mktemp("project")
    built = ansible("ansible-galaxy", "collection", "build", "--output-path", str(folder), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (archive,) = folder.glob("signal-rollout-*.tar.gz")
    done = ansible("ansible-galaxy", "collection", "install", "--offline", "-p", str(folder / "collections"), str(archive), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "site.yml").write_text(PLAYBOOK, encoding="utf-8")
    return folder


@pytest.mark.parametrize("right", [True, False])
def test_a_role_works_alone_in_a_project_of_somebody_else(
    right: bool, project: Path, service: str, ansible: Callable[..., CompletedProcess[str]]
) -> None:
    address = service if right else f"{service}/another"
    env = {"ANSIBLE_COLLECTIONS_PATH": str(project / "collections")}
    ended = ansible("ansible-playbook", "site.yml", "-e", f"address={address}", cwd=project, env=env)
    assert (ended.returncode == 0) is right, ended.stdout + ended.stderr
    if not right:
        assert "v6" in ended.stdout and "expected" in ended.stdout
