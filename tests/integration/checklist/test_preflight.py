# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole preflight as a playbook, in a namespace of one's own: a sound release, and one with twelve defects at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube

from ..lab.conftest import LAB, Mesh
from . import test_dependencies
from .test_infrastructure import release

worse = test_dependencies.worse
ROOT = Path(__file__).resolve().parents[3]
BOXES = [
    "infrastructure.capacity", "infrastructure.redis", "dependencies.instrument", "dependencies.ticker", "dependencies.subscription", "dependencies.mesh",
]  # fmt: skip


@pytest.fixture
def release_dir(mesh: Mesh, tmp_path: Path) -> Path:
    """A release of version v2 of the service ``echo``: the lab's own migrations, and a Deployment that fits the namespace."""
    folder = tmp_path / "release"
    shutil.copytree(ROOT / "lab/signal_service/release", folder, ignore=shutil.ignore_patterns("k8s", "evidence"))
    (folder / "k8s/deployments").mkdir(parents=True)
    body = yaml.safe_load(Path(release(mesh, tmp_path)).read_text())
    body["metadata"]["name"] = "echo-v2"
    body["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] = {"tcpSocket": {"port": 8080}}
    (folder / "k8s/deployments/echo.yaml").write_text(yaml.safe_dump(body))
    return folder


@pytest.fixture
def preflight(mesh: Mesh, release_dir: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    namespace = f"/api/v1/namespaces/{mesh.namespace}"
    mesh.kube.patch(namespace, {"metadata": {"labels": {"signal.rollout/environment": "lab"}}}, content_type=_kube.MERGE_PATCH)
    sound = {
        "rollout_service": "echo", "rollout_namespace": mesh.namespace, "rollout_kubeconfig": str(LAB / "kubeconfig/admin"),
        "rollout_release_dir": str(release_dir), "preflight_scrape_job": "signal-service", "preflight_required_boxes": BOXES,
        "preflight_evidence_dir": "", "database_migration_backup_dir": str(tmp_path / "backups"), "canary_full_pods": 2,
    }  # fmt: skip

    def run(**variables: Any) -> tuple[int, str]:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/preflight.yml", "-e", json.dumps({**sound, **variables})]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    yield run
    # The namespace is the module's: the next test expects it as it was.
    mesh.kube.patch(namespace, {"metadata": {"labels": {"signal.rollout/environment": None}}}, content_type=_kube.MERGE_PATCH)


def versions(mesh: Mesh) -> dict[str, str]:
    """What a write to any object of the namespace would change, those aside that controllers write by themselves."""
    found = {}
    for plural, group in (
        ("deployments", ("apps", "v1")), ("services", ("", "v1")), ("configmaps", ("", "v1")), ("secrets", ("", "v1")), ("resourcequotas", ("", "v1")),
        ("virtualservices", ("networking.istio.io", "v1")), ("destinationrules", ("networking.istio.io", "v1")), ("leases", ("coordination.k8s.io", "v1")),
    ):  # fmt: skip
        for entry in mesh.kube.list(mesh.path(plural, None, group)):
            found[f"{plural}/{entry['metadata']['name']}"] = str(entry["metadata"].get("generation") or entry["metadata"]["resourceVersion"])
    return found


@pytest.mark.box(*BOXES)
def test_a_sound_release_passes_with_all_of_its_boxes_proven_and_writes_nothing(mesh: Mesh, preflight: Callable[..., tuple[int, str]]) -> None:
    before = versions(mesh)
    code, output = preflight()
    assert code == 0, output
    assert versions(mesh) == before


@pytest.mark.box(*BOXES)
def test_twelve_defects_planted_at_once_are_all_named_in_one_run_that_writes_nothing(
    mesh: Mesh,
    preflight: Callable[..., tuple[int, str]],
    release_dir: Path,
    tmp_path: Path,
    worse: str,
) -> None:
    manifest = release_dir / "k8s/deployments/echo.yaml"
    body = yaml.safe_load(manifest.read_text())
    body["spec"]["template"]["spec"] |= {"nodeSelector": {"disk": "fast"}}
    body["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "nobody-made-it"}}]
    manifest.write_text(yaml.safe_dump(body))
    (tmp_path / "backups").mkdir(mode=0o755)
    rule = mesh.path("destinationrules")
    subsets = mesh.kube.get(rule)["spec"]
    mesh.kube.patch(rule, [{"op": "replace", "path": "/spec/subsets/1/name", "value": "v9"}], manager="test")
    before = versions(mesh)
    try:
        code, output = preflight(
            rollout_environment="elsewhere",
            rollout_db_owner_password="not-the-password",  # noqa: S106
            rollout_prometheus_url="http://10.79.0.53:9",
            rollout_base_url="http://169.254.169.254",
            communication_targets=["nosuchservice://somewhere"],
            preflight_redis_limits={"maxmemory_policies": ["noeviction"]},
            preflight_services=test_dependencies.contracts(worse),
        )
    finally:
        after = versions(mesh)
        mesh.kube.patch(rule, [{"op": "replace", "path": "/spec", "value": subsets}], manager="test")
    assert code != 0
    assert after == before
    said = re.sub(r"\s+", " ", output)
    defects = {
        "environment of the namespace": "rollout_environment: Namespace",
        "node selector": "not selected by the pod",
        "missing ConfigMap": "no ConfigMap nobody-made-it",
        "open backup folder": "mode 0755",
        "missing subset": "defines subset 'v2'",
        "database password": "rollout_db_owner_password",
        "Prometheus": "rollout_prometheus_url: Prometheus",
        "address": "169.254.169.254, where clouds keep credentials",
        "messages": "communication_targets: target 1 of 1",
        "Redis policy": "maxmemory-policy allkeys-lru, expected noeviction",
        "instrument service": "version 1.9.4, expected >=2.1,<3",
        "subscription quota": "max_subscriptions is 500",
    }
    assert len(defects) == 12
    assert [name for name, words in defects.items() if words not in said] == [], output
    assert f"{len(BOXES)} of {len(BOXES)} boxes" in said
    assert "not-the-password" not in output
