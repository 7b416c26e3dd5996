# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive: built from the checkout, installed elsewhere, and cut down to what a collection may rely on."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
# All that is reached by full name; the collection must work when nothing else is left.
NEEDED = {"meta", "plugins", "roles", "playbooks"}
Ansible = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="session")
def archive(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built archive."""
    target = tmp_path_factory.mktemp("archive")
    built = ansible("ansible-galaxy", "collection", "build", "--output-path", str(target), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = target.glob("signal-rollout-*.tar.gz")
    return path


@pytest.fixture(scope="session")
def installed(archive: Path, ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed collection, without network and cut down to NEEDED. The folder is empty but for that."""
    place = tmp_path_factory.mktemp("installed")
    done = ansible("ansible-galaxy", "collection", "install", "--offline", "-p", str(place / "collections"), str(archive), cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    collection = place / "collections/ansible_collections/signal/rollout"
    for path in collection.iterdir():
        if path.name not in NEEDED | {"MANIFEST.json", "FILES.json"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place


@pytest.fixture(scope="session")
def documented(installed: Path, ansible: Ansible) -> dict[str, dict]:
    """ansible-doc of every module, read from the installed collection."""
    names = [f"signal.rollout.{name}" for name in MODULES]
    shown = ansible("ansible-doc", "--json", *names, cwd=installed, env={"ANSIBLE_COLLECTIONS_PATH": str(installed / "collections")})
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def test_the_archive_holds_what_it_should_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as content:
        members = content.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    top = {member.name.split("/")[0] for member in members}
    assert top >= NEEDED | {"README.md", "LICENSE", "CHANGELOG.rst", "CONTRIBUTING.md", "MANIFEST.json", "FILES.json"}
    assert top <= NEEDED | {
        "CHANGELOG.rst",
        "CONTRIBUTING.md",
        "FILES.json",
        "LICENSE",
        "MANIFEST.json",
        "README.md",
        "changelogs",
        "docs",
        "execution-environment.yml",
        "requirements.yml",
    }
    assert [member.name for member in members if "__pycache__" in member.name or member.name.endswith(".pyc")] == []
    assert archive.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_documented_after_installation(name: str, documented: dict[str, dict], installed: Path) -> None:
    entry = documented[f"signal.rollout.{name}"]
    assert Path(entry["doc"]["filename"]).is_relative_to(installed)
    assert entry["doc"]["short_description"]
    assert entry["examples"]
    assert entry["return"]


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_runs_by_full_name_after_installation(playbook: str, installed: Path, ansible: Ansible) -> None:
    shown = ansible(
        "ansible-playbook",
        "-i",
        str(ROOT / "inventories/lab"),
        f"signal.rollout.{playbook}",
        "--list-tasks",
        cwd=installed,
        env={"ANSIBLE_COLLECTIONS_PATH": str(installed / "collections")},
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "TAGS:" in shown.stdout


def test_all_roles_are_found_after_installation(installed: Path, ansible: Ansible) -> None:
    env = {"ANSIBLE_COLLECTIONS_PATH": str(installed / "collections")}
    shown = ansible("ansible-doc", "--json", "--type", "role", "--list", "signal.rollout", cwd=installed, env=env)
    assert shown.returncode == 0, shown.stderr
    assert set(json.loads(shown.stdout)) == {f"signal.rollout.{role}" for role in ROLES}
