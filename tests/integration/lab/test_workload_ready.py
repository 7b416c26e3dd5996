# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for real Deployments, good and broken ones."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _workload
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import connection

DEPLOYMENTS = _kube.path_of("apps", "v1", "deployments", "signal")
Deploy = Callable[..., str]


@pytest.fixture
def deploy(kube: _kube.Kube) -> Iterator[Deploy]:
    made: list[str] = []

    def make(replicas: int = 1, **container: Any) -> str:
        name = f"wait-{uuid.uuid4().hex[:8]}"
        labels = {"app": name}
        full = {
            "name": "app",
            "image": "localhost/signal-service:v1",
            "imagePullPolicy": "Never",
            "command": ["sleep", "infinity"],
            **container,
        }
        template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [full]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        kube.post(DEPLOYMENTS, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
        made.append(name)
        return name

    yield make
    for name in made:
        kube.delete(f"{DEPLOYMENTS}/{name}")


def wait(name: str, timeout: float = 30.0, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    spec = _workload.ARGUMENT_SPEC
    params = {key: rule.get("default") for key, rule in spec.items()}
    params.update(connection("deployer"), name=name, timeout=timeout, **options)
    return _workload.run(params, Context(check_mode=check_mode))


def test_good_deployment_becomes_ready(deploy: Deploy) -> None:
    result = wait(deploy(replicas=2))
    assert result["ready"] and result["replicas"]["available"] == 2
    assert [pod["ready"] for pod in result["pods"]] == [True, True]


def test_missing_image_fails_at_once_with_its_reason_and_events(deploy: Deploy) -> None:
    with pytest.raises(RolloutError, match="ErrImageNeverPull") as caught:
        wait(deploy(image="localhost/nobody:1"), timeout=300)
    assert caught.value.result["ready"] is False and caught.value.result["events"]


def test_missing_config_map_fails_at_once_and_is_named(deploy: Deploy) -> None:
    source = [{"configMapRef": {"name": "no-such-config"}}]
    with pytest.raises(RolloutError, match='CreateContainerConfigError.*"no-such-config" not found'):
        wait(deploy(envFrom=source), timeout=300)


def test_crash_loop_fails_with_exit_code_and_last_log_line(deploy: Deploy) -> None:
    command = ["sh", "-c", "echo REDIS_URL is not set; exit 3"]
    with pytest.raises(RolloutError, match="last exit code 3.*Last log line: REDIS_URL is not set"):
        wait(deploy(command=command), timeout=300, restart_limit=1)


def test_pod_that_fits_nowhere_is_terminal_after_its_grace(deploy: Deploy) -> None:
    resources = {"requests": {"cpu": "1000"}}
    with pytest.raises(RolloutError, match="cannot be scheduled.*Insufficient cpu"):
        wait(deploy(resources=resources), timeout=300, unschedulable_grace=0.5)


def test_unready_pod_is_waited_for_until_the_deadline(deploy: Deploy) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    with pytest.raises(RolloutError, match="not ready after 3 s: 0 of 1 pods are available"):
        wait(deploy(readinessProbe=probe), timeout=3)


def test_new_template_is_not_ready_while_old_pods_serve(deploy: Deploy, kube: _kube.Kube) -> None:
    name = deploy()
    wait(name)
    path = f"{DEPLOYMENTS}/{name}"
    broken = copy.deepcopy(kube.get(path)["spec"]["template"]["spec"]["containers"][0])
    broken["image"] = "localhost/nobody:1"
    kube.patch(path, [{"op": "replace", "path": "/spec/template/spec/containers/0", "value": broken}])
    with pytest.raises(RolloutError, match="ErrImageNeverPull"):
        wait(name, timeout=60)


def test_scaled_to_zero_and_absent_are_not_ready(deploy: Deploy) -> None:
    with pytest.raises(RolloutError, match=r"spec\.replicas is 0"):
        wait(deploy(replicas=0))
    with pytest.raises(RolloutError, match="does not exist"):
        wait("nobody")


def test_check_mode_looks_once(deploy: Deploy) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    assert wait(deploy(readinessProbe=probe), timeout=300, check_mode=True)["ready"] is False
