# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a pod's object says, in the words of the screen; no line is wider than it may be."""

from __future__ import annotations

import shlex
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _log, _pod_status, _service_status, _status_words
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=timezone.utc)


def pod(name: str = "shop-v2-1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"app": "shop", "version": "v2"}, "creationTimestamp": "2026-11-28T11:50:00Z"},
        "spec": {
            "nodeName": "worker-1",
            "containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}],
        },
        "status": {"phase": "Running", **status},
    }


CRASHING = {
    "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [app]"}],
    "containerStatuses": [
        {
            "name": "app",
            "ready": False,
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-11-28T11:59:30Z"}},
        }
    ],
}


def test_a_crashing_pod_says_why_it_waits_and_how_it_ended() -> None:
    row = _pod_status.read_pod(pod(**CRASHING), "v1", "v2", NOW)
    assert (row["side"], row["ready"], row["status"], row["restarts"], row["age"]) == ("green", "0/1", "CrashLoopBackOff", 4, "10m")
    assert row["reasons"] == [
        "condition Ready is False: containers with unready status: [app]",
        "container app waits: CrashLoopBackOff: back-off 40s restarting",
        "container app ended 30s ago: OOMKilled, exit code 137",
    ]


def test_the_last_events_of_a_pod_come_in_the_order_of_time_and_those_of_others_do_not() -> None:
    def event(name: str, at: str, message: str, **more: Any) -> dict[str, Any]:
        return {"involvedObject": {"name": name}, "lastTimestamp": at, "type": "Warning", "reason": "BackOff", "message": message, **more}

    events = [
        event("shop-v2-1", "2026-11-28T11:59:50Z", "third", count=7),
        event("shop-v2-1", "2026-11-28T11:58:00Z", "first"),
        event("other", "2026-11-28T11:59:00Z", "not mine"),
        event("shop-v2-1", "2026-11-28T11:59:00Z", "second"),
    ]
    found = _pod_status.events_by_pod(events, ["shop-v2-1"], 2, NOW)
    assert found == {"shop-v2-1": ["60s ago Warning BackOff: second", "10s ago Warning BackOff (7 times): third"]}


def test_endpoints_are_told_apart_by_version_and_readiness_over_all_slices() -> None:
    def piece(*endpoints: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"labels": {"kubernetes.io/service-name": "shop"}}, "ports": [{"port": 8080}], "endpoints": list(endpoints)}

    slices = [
        piece({"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "shop-v1-1"}}),
        piece(
            {"addresses": ["10.0.0.2"], "conditions": {}, "targetRef": {"name": "shop-v2-1"}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": False}, "targetRef": {"name": "shop-v2-2"}},
        ),
    ]
    versions = {"shop-v1-1": "v1", "shop-v2-1": "v2", "shop-v2-2": "v2"}
    assert _pod_status.read_endpoints(slices, ["shop", "gone"], versions) == [
        {"service": "shop", "ready": {"v1": ["10.0.0.1"], "v2": ["10.0.0.2"]}, "not_ready": {"v2": ["10.0.0.3"]}, "ports": [8080]},
        {"service": "gone", "ready": {}, "not_ready": {}, "ports": []},
    ]


def test_an_autoscaler_shows_what_it_measures_beside_its_target_and_why_it_cannot_scale() -> None:
    body = {
        "metadata": {"name": "shop-hpa"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "shop-v1"},
            "minReplicas": 2,
            "maxReplicas": 6,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Pods", "pods": {"metric": {"name": "requests"}, "target": {"averageValue": "50"}}},
            ],
        },
        "status": {
            "currentReplicas": 3,
            "desiredReplicas": 4,
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 75}}}],
            "conditions": [{"type": "ScalingActive", "status": "False", "message": "unable to get metrics"}],
        },
    }
    row = _pod_status.read_autoscaler(body)
    assert row["metrics"] == ["cpu 75% / 60%", "requests <unknown> / 50"]
    assert (row["target"], row["minimum"], row["maximum"], row["replicas"], row["desired"]) == ("Deployment/shop-v1", 2, 6, 3, 4)
    assert row["problems"] == ["ScalingActive is False: unable to get metrics"]


def test_usage_is_in_percent_of_what_is_set_and_of_nothing_else() -> None:
    rows = _pod_status.usage_of(_pod_status.containers(pod()), {"app": {"cpu": 0.25, "memory": 96 * 2**20}})
    assert rows == [
        {
            "container": "app",
            "cpu": 0.25,
            "memory": 96 * 2**20,
            "cpu_of_request_percent": 250.0,
            "cpu_of_limit_percent": None,
            "memory_of_request_percent": 150.0,
            "memory_of_limit_percent": 75.0,
        }
    ]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("connect to postgres://signal:hunter2@db/signal", "connect to postgres://signal:********@db/signal"),
        ("redis://:hunter2@cache:6379 refused", "redis://:********@cache:6379 refused"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=******** psql"),
        ('{"api_key": "hunter2", "user": "jane"}', '{"api_key": ********, "user": "jane"}'),
        ("token: hunter2, retrying", "token: ********, retrying"),
        ("12 tokens were used", "12 tokens were used"),
    ],
)
def test_what_looks_like_a_secret_in_a_log_is_masked(line: str, shown: str) -> None:
    assert _pod_status.masked(line) == shown


def test_a_structured_line_of_a_log_begins_with_time_level_and_message() -> None:
    line = '{"time": "2026-11-28T09:29:06.503+00:00", "level": "error", "version": "v1", "message": "redis failed", "error_type": "TimeoutError"}'
    assert _status_words.log_words(line) == "09:29:06 ERROR redis failed error_type=TimeoutError"
    assert _status_words.log_words("plain words") == "plain words"
    assert _status_words.log_words("[1, 2]") == "[1, 2]"


def answer(words: str) -> dict[str, Any]:
    row = _pod_status.read_pod(pod(**CRASHING), "v1", "v2", NOW)
    row.update(usage=_pod_status.usage_of(_pod_status.containers(pod()), {"app": {"cpu": 0.25, "memory": 2**27}}), log_is_previous=True)
    row.update(log=[words], events=[words], reasons=[words])
    return {
        "pods": [row],
        "endpoints": [{"service": "shop", "ready": {}, "not_ready": {"v2": [f"10.0.0.{place}" for place in range(40)]}, "ports": []}],
        "autoscalers": [],
        "usage_source": "metrics API",
        "commands": ["kubectl -n shop exec -it shop-v2-1 -c app -- /bin/bash"],
        "not_seen": [words],
    }


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")), max_size=400), st.integers(80, 200))
def test_no_line_of_the_screen_is_wider_than_it_may_be(words: str, width: int) -> None:
    assert max(map(len, _status_words.text(answer(words), width).splitlines())) <= width


def test_a_line_for_a_shell_stays_one_command_when_it_is_broken() -> None:
    command = shlex.join(["kubectl", f"--kubeconfig=/etc/{'x' * 60}", "-n", "shop", "exec", "-it", "shop-v2-7797bf7c47-g7s89", "-c", "app", "--", "/bin/bash"])
    screen = _status_words.text({**answer("x"), "commands": [command]}, 80)
    pasted = screen[screen.index("kubectl") : screen.index("Not seen")]
    assert " \\\n" in pasted
    assert shlex.split(pasted.replace("\\\n", " ")) == shlex.split(command)


def test_options_out_of_range_are_all_named_before_anything_is_read() -> None:
    params = {"log_lines": 5000, "log_pods": 1, "events": -1, "usage_window": 60, "width": 20}
    with pytest.raises(RolloutError) as refused:
        _service_status.run(params, Context())
    assert all(name in refused.value.message for name in ("log_lines is 5000", "events is -1", "width is 20, expected 80 to 1000"))


def test_the_documents_table_has_exactly_its_rows_and_fits_a_screen() -> None:
    record = {
        "started": "2026-11-28T12:00:00Z",
        "version": "v2",
        "steps": {
            "canary_10": {"status": "done", "finished": "2026-11-28T12:20:00Z", "notes": "n" * 150},
            "configuration": {"status": "done", "finished": "2026-11-28T12:10:00Z", "notes": "eleven keys"},
        },
        "order": ["configuration", "canary_10"],
    }
    rows = _log.rows(record)
    table = _log.document(rows).splitlines()
    assert [line.split("|")[2].strip() for line in table[2:]] == [words for _name, words in _log.ACTIONS]
    assert max(map(len, table)) <= 120
    assert table[5].split("|")[4].strip().endswith("nnn...")
    lines = _log.lines(rows).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "2026-11-28 12:00:00  Start deployment: done",
        "2026-11-28 12:10:00  Configuration updates: done",
        "2026-11-28 12:20:00  Route 10% traffic: done",
    ]
    assert "n" * 116 in _log.lines(rows) and max(map(len, lines)) <= 120
