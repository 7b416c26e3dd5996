# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""endpoint_probe against the lab: the API server's TLS, and the signal service behind two Envoy gateways."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _probe
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

STATE = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
GATEWAY = {"base_url": "http://10.79.0.60", "host_header": "signal-service.lab"}
SERVICE = {"base_url": "http://10.79.0.70"}
KEY = "NSE@NIFTY@OPTION@21500@CALL"
WEBSOCKET = {
    "name": "subscriptions",
    "path": "/api/v1/subscriptions/websocket",
    "websocket": {
        "send": [{"type": "subscribe", "instrument": KEY}],
        "expect": [{"type": "hello"}, {"type": "subscribed"}, {"type": "greeks"}],
        "ping": {"type": "ping", "t": 1},
        "pong": {"type": "pong", "t": 1},
        "round_trips": 10,
        "latency_below_ms": 1000,
    },
}


def params(**options: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(_probe.ARGUMENT_SPEC).validate(options)
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def refused(**options: Any) -> RolloutError:
    with pytest.raises(RolloutError) as failure:
        _probe.run(params(**options), Context())
    return failure.value


@pytest.mark.parametrize("where", [GATEWAY, SERVICE], ids=["gateway", "service"])
@pytest.mark.parametrize("check_mode", [False, True])
def test_every_endpoint_of_the_stable_version_answers(where: dict[str, Any], check_mode: bool) -> None:
    checks = [
        {"name": "health", "path": "/health", "json": {"status": "healthy", "checks.database": "ok"}, "header": {"x-signal-version": "v1"}},
        {"name": "status", "path": "/api/v1/status"},
        {"name": "greeks", "path": f"/api/v1/realtime/greeks/{KEY}", "json": {"$": {"type": "object"}}, "repeat": 10, "latency_below_ms": 2000},
        {"name": "openapi", "path": "/openapi.json", "json": {r"paths./api/v1/status": {"exists": True}, "paths./api/v2/status": {"exists": False}}},
        {"name": "metrics", "path": "/metrics", "contains": "signal_requests_total"},
        {"name": "absent in v1", "path": "/api/v2/status", "status": [404]},
        WEBSOCKET,
    ]
    result = _probe.run(params(**where, checks=checks), Context(check_mode))
    assert [check["ok"] for check in result["checks"]] == [True] * 7
    assert result["changed"] is False
    latency = result["checks"][-1]["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p99"] <= latency["max"]


def test_failed_expectations_are_named_and_the_printed_command_repeats_them() -> None:
    checks = [
        {"name": "version", "path": "/health", "header": {"x-signal-version": "v2"}, "json": {"version": "v2"}},
        {"name": "v2 socket", "path": "/api/v2/subscriptions/websocket", "websocket": {}},
        {"name": "wrong tick", "path": WEBSOCKET["path"], "websocket": {"expect": [{"type": "hello", "version": "v2"}]}},
        {"name": "fine", "path": "/health"},
    ]
    error = refused(**GATEWAY, timeout=2, checks=checks)
    assert error.result["failed_checks"] == ["version", "v2 socket", "wrong tick"]
    problems = {check["name"]: [item["message"] for item in check["problems"]] for check in error.result["checks"]}
    assert problems["version"] == ['header x-signal-version: "v1", expected "v2"', 'json version: "v1", expected "v2"']
    assert problems["v2 socket"][0].startswith("connection: status 40")
    assert '"version": "v1"' in problems["wrong tick"][0].replace('":"', '": "')
    command = shlex.split(error.message.split("Next: ")[1])
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert "x-signal-version: v1" in shown


def test_host_that_the_gateway_does_not_know_is_a_404() -> None:
    error = refused(base_url="http://10.79.0.60", host_header="other.lab", checks=[{"name": "a", "path": "/health"}])
    assert error.result["checks"][0]["status"] == 404


def test_certificate_is_verified_unless_switched_off() -> None:
    server = "https://10.77.0.2:6443"
    checks = [{"name": "http", "path": "/livez", "status": [200, 401, 403]}, {"name": "ws", "path": "/livez", "websocket": {}}]
    error = refused(base_url=server, checks=checks)
    assert all("TLS: certificate not accepted" in check["problems"][0]["seen"] for check in error.result["checks"]), error.message
    authority = next((STATE / "pki").rglob("ca.crt"), None) or next((STATE / "pki").rglob("ca.pem"))
    for options in ({"ca_cert": str(authority)}, {"validate_certs": False}):
        error = refused(base_url=server, checks=checks, **options)
        http, ws = error.result["checks"]
        assert http["ok"], error.message
        # The API server is no WebSocket server there: it answers as HTTP, which is past TLS.
        assert ws["problems"][0]["seen"].startswith("status ")
