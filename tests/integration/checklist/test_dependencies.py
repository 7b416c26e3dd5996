# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a release depends on: those of the lab, and the same in a namespace of one's own, made wrong."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _service_contract
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from ..lab.conftest import wait_until

ROOT = Path(__file__).resolve().parents[3]
BOXES = {"dependencies.instrument", "dependencies.ticker", "dependencies.subscription"}
# What each of the services does worse than what the release needs.
WORSE = {
    "instrument-version": {"version": "1.9.4"},
    "instruments": {"instruments": [{"symbol": "A", "lot_size": "50", "strike": 1}]},
    "ticker-quote": {"symbol": "NIFTY", "time": "2026-01-05T09:15:00Z"},
    "subscription-quota": {"max_subscriptions": 500, "max_connections_per_user": 10, "enforced": True},
}


def contracts(url: str | None = None) -> list[dict[str, Any]]:
    """The lab's own contract, with the services of another place."""
    services = yaml.safe_load((ROOT / "inventories/lab/group_vars/release/preflight.yml").read_text())["preflight_services"]
    for service in services:
        service["url"] = service["url"].replace("http://10.79.0.54", url or "http://10.79.0.54")
    return services


def ask(services: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(_service_contract.ARGUMENT_SPEC).validate({"services": services, **options})
    assert not checked.error_messages, checked.error_messages
    try:
        return {"msg": "", **_service_contract.run(checked.validated_parameters, Context())}
    except RolloutError as error:
        return {"msg": error.message, **error.result}


def states(answer: dict[str, Any]) -> set[tuple[str, str]]:
    return {(box, proof["state"]) for box, proof in answer["proofs"].items()}


@pytest.fixture(scope="module")
def worse(kube: _kube.Kube) -> Iterator[str]:
    """Address of the lab's services with worse answers."""
    namespace = f"neighbours-{uuid.uuid4().hex[:8]}"
    data = kube.get(_kube.path_of("", "v1", "configmaps", "signal-data", "neighbours"))["data"]
    template = copy.deepcopy(kube.get(_kube.path_of("apps", "v1", "deployments", "signal-data", "neighbours"))["spec"]["template"])
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        body = {"metadata": {"name": "neighbours"}, "data": {**data, **{key: json.dumps(value) for key, value in WORSE.items()}}}
        kube.post(_kube.path_of("", "v1", "configmaps", namespace), {"apiVersion": "v1", "kind": "ConfigMap", **body})
        pods = _kube.path_of("", "v1", "pods", namespace)
        kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbours"}, "spec": template["spec"]})
        wait_until("the services are ready", lambda: pod_is_ready(kube.get(f"{pods}/neighbours")), 60)
        yield f"http://{kube.get(f'{pods}/neighbours')['status']['podIP']}:8080"
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


@pytest.mark.box(*BOXES)
def test_services_that_are_what_the_release_needs_prove_three_boxes() -> None:
    answer = ask(contracts())
    assert states(answer) == {(box, "proven") for box in BOXES}, answer["msg"]
    assert "version 2.3.1" in answer["proofs"]["dependencies.instrument"]["evidence"]
    assert "max_subscriptions 5000" in answer["proofs"]["dependencies.subscription"]["evidence"]


@pytest.mark.box(*BOXES)
def test_services_that_are_worse_fail_their_boxes_with_everything_that_is_wrong(worse: str) -> None:
    answer = ask(contracts(worse))
    assert states(answer) == {(box, "failed") for box in BOXES}
    for words in ("version 1.9.4, expected >=2.1,<3", 'lot_size is "50", expected integer', "last_price is missing", "max_subscriptions is 500"):
        assert words in answer["msg"]


@pytest.mark.box("dependencies.instrument")
def test_a_service_that_is_not_there_fails_its_box() -> None:
    answer = ask(contracts("http://10.79.0.54:9")[:1], timeout=1)
    assert states(answer) == {("dependencies.instrument", "failed")}


def test_an_answer_that_is_too_slow_or_has_another_status_is_a_breach() -> None:
    services = contracts()[:1]
    services[0]["requests"] = [{**services[0]["requests"][0], "latency_below_ms": 0.001}, {**services[0]["requests"][0], "path": "/nothing"}]
    answer = ask(services)
    assert "expected less than 0.001 ms" in answer["msg"] and "HTTP 404, expected 200" in answer["msg"]
