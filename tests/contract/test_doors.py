# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both doors give the same answer, task by task."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils._processes import start_time

SECRET = "s3cret-token-of-the-contract-test"
# What may differ between the doors: clock readings and Ansible's own bookkeeping.
VOLATILE = {"seconds", "ansible_facts", "_ansible_no_log", "_ansible_verbose_always", "exception", "action"}


def comparable(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: comparable(value) for key, value in result.items() if key not in VOLATILE}
    if isinstance(result, list):
        return [comparable(item) for item in result]
    return result


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def nobody() -> str:
    return f"https://127.0.0.1:{closed_port()}"


ROUTE = {"name": "signal-service", "stable": "v1", "canary": "v2", "weight": 10}
RECORD = {"state": "show", "service": "signal-service", "holder": "contract-test"}
# Without these the task fills in its own run, another one each time.
RUN = {"holder": "contract-test", "watch": {"pid": 2**22, "started": "1"}}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown option": ("canary_weight", {**ROUTE, "wieght": 10}),
    "unknown suboption": ("canary_weight", {**ROUTE, "confirm": {"methods": "none"}}),
    "required option missing": ("canary_weight", {"name": "signal-service"}),
    "option of the wrong type": ("canary_weight", {**ROUTE, "weight": "ten"}),
    "option outside its choices": ("canary_weight", {**ROUTE, "kind": "Ingress"}),
    "required_if not met": ("rollout_record", {"state": "begin", "service": "signal-service", "holder": "x"}),
    "weight out of range": ("canary_weight", {**ROUTE, "weight": 101}),
    "required_if not met, guard": ("traffic_guard", {"state": "started", "service": "signal-service", **RUN}),
    "a process that is not there": (
        "traffic_guard",
        {
            "state": "started",
            "service": "signal-service",
            **RUN,
            "abort_route": {"name": "signal-service", "stable": "v1", "canary": "v2"},
        },
    ),
    "required_if not met, guard in the cluster": ("cluster_guard", {"state": "started", "service": "signal-service", "holder": "x"}),
    "guard in the cluster without an image": (
        "cluster_guard",
        {
            "state": "started",
            "service": "signal-service",
            "holder": "x",
            "image": " ",
            "abort_route": {"name": "signal-service", "stable": "v1", "canary": "v2"},
        },
    ),
    "unreachable server, guard in the cluster": ("cluster_guard", {"state": "stopped", "service": "signal-service", "holder": "x"}),
    "unreachable server": ("canary_weight", ROUTE),
    "unreachable server, workload": ("workload_ready", {"name": "signal-service-v2"}),
    "unreachable server, record": ("rollout_record", RECORD),
    "unreachable server, drain": ("connection_drain", {name: value for name, value in ROUTE.items() if name != "weight"}),
    "unreachable server, scale": ("workload_scale", {"name": "signal-service-v2", "replicas": 0}),
    "unreachable server, snapshot": (
        "workload_snapshot",
        {"state": "restored", "service": "signal-service", "name": "signal-service-v1"},
    ),
    "snapshot of no release": ("workload_snapshot", {"state": "taken", "service": "signal-service", "name": "signal-service-v1"}),
    "unreachable server, status": ("service_status", {"service": "signal-service", "stable_version": "v1", "version": "v2"}),
    "mistakes in a report": (
        "usage_report",
        {"service": "signal-service", "stable_version": "v1", "version": "v2", "released": "yesterday", "window": 0, "parts": ["resources"]},
    ),
    "unreachable server, sign-off": ("signoff", {"service": "signal-service", "version": "v2"}),
    "rejection without a reason": (
        "signoff",
        {"service": "signal-service", "version": "v2", "state": "decided", "role": "qa", "decision": "reject", "approvers": {"qa": {"users": ["x"]}}},
    ),
    "unreachable server, message": (
        "notify",
        {"targets": ["json://x"], "event": "start", "title": "t", "body": "b", "service": "signal-service", "version": "v2", "holder": "contract-test"},
    ),
    "replicas below 0": ("workload_scale", {"name": "signal-service-v2", "replicas": -1}),
    "no replicas": ("workload_scale", {"name": "signal-service-v2"}),
    "gauge without its port": (
        "connection_drain",
        {"name": "signal-service", "stable": "v1", "canary": "v2", "pods": {"selector": "version=v2"}},
    ),
    "drain that would last for ever": (
        "connection_drain",
        {"name": "signal-service", "stable": "v1", "canary": "v2", "longest_request": 1e9},
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_both_doors_refuse_alike(case: str, run_task: Any, nobody: str) -> None:
    module, arguments = CASES[case]
    arguments = {**arguments, "host": nobody, "api_key": SECRET}
    here = run_task(module, arguments, door="in_process")
    there = run_task(module, arguments, door="module")
    assert here.result["failed"] is True and there.result["failed"] is True
    assert here.code == there.code != 0
    assert comparable(here.result) == comparable(there.result)
    assert "Traceback" not in here.result["msg"]


def test_guard_whose_server_is_away_is_refused_by_both_doors_and_leaves_no_process(run_task: Any, nobody: str, tmp_path: Path) -> None:
    arguments = {
        "state": "started",
        "service": "signal-service",
        "holder": "contract-test",
        "watch": {"pid": os.getpid(), "started": start_time(os.getpid())},
        "abort_route": {"name": "signal-service", "stable": "v1", "canary": "v2"},
        "state_dir": str(tmp_path),
        "host": nobody,
    }
    here = run_task("traffic_guard", arguments, door="in_process")
    there = run_task("traffic_guard", arguments, door="module")
    assert here.result["failed"] is True and "No answer from the Kubernetes API" in here.result["msg"]
    assert comparable(here.result) == comparable(there.result)
    assert list(tmp_path.glob("*/guard.json")) == []


def test_sources_of_a_gate_are_refused_alike_and_their_secrets_show_nowhere(run_task: Any, nobody: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}-file")
    http = {"url": f"{nobody}/figures?key={SECRET}-url", "json_path": "a.b", "token": f"{SECRET}-token", "headers": {"X-Key": f"{SECRET}-header"}}
    arguments = {
        "prometheus_url": nobody,
        "prometheus_token_file": str(tmp_path / "token"),
        "prometheus_headers": {"X-Key": f"{SECRET}-prometheus"},
        "duration": 2,
        "metrics": [
            {"name": "by query", "query": "up", "below": 1, "unit": "x"},
            {"name": "by http", "http": http, "below": 1, "unit": "x"},
        ],
        "synthetic": {
            "url": nobody, "headers": {"x-canary": "v2"}, "secret_headers": {"X-Key": f"{SECRET}-synthetic"},
            "expect": {"header": "x-version", "value": "v2"}, "when": "always",
        },
    }
    here = run_task("metric_gate", arguments, door="in_process", check=True, options=["-vvvvv"])
    there = run_task("metric_gate", arguments, door="module", check=True, options=["-vvvvv"])
    assert comparable(here.result) | {"started": ""} == comparable(there.result) | {"started": ""}
    assert "2 of 2 queries cannot be used" in here.result["msg"]
    shown = [text.replace(f"?key={SECRET}-url", "") for text in (here.output, there.output)]
    assert all(SECRET not in text for text in shown)
    mistaken = {**arguments, "metrics": [{"name": "by http", "http": {**http, "json_path": "a["}, "below": 1, "unit": "x"}], "prometheus_tenant": "a\nb"}
    here, there = (run_task("metric_gate", mistaken, door=door) for door in ("in_process", "module"))
    assert comparable(here.result) == comparable(there.result)
    assert "no JMESPath expression" in here.result["msg"] and "prometheus_tenant: it has a line break" in here.result["msg"]


@pytest.mark.parametrize("door", ["in_process", "module"])
def test_secret_option_shows_nowhere_at_the_highest_verbosity(door: str, run_task: Any, nobody: str) -> None:
    ran = run_task("canary_weight", {**ROUTE, "host": nobody, "api_key": SECRET}, door=door, options=["-vvvv"])
    assert ran.result["failed"] is True
    assert SECRET not in ran.output


@pytest.mark.parametrize("door", ["in_process", "module"])
def test_secret_in_a_server_address_is_masked_in_the_message(door: str, run_task: Any, nobody: str) -> None:
    # The server's name is quoted in the error; when it equals a secret, the secret must not come out that way.
    ran = run_task("canary_weight", {**ROUTE, "host": nobody, "api_key": nobody}, door=door)
    assert nobody not in ran.result["msg"]


@pytest.mark.parametrize("door", ["in_process", "module"])
def test_task_environment_reaches_the_engine(door: str, run_task: Any, nobody: str) -> None:
    ran = run_task("canary_weight", ROUTE, door=door, keywords={"environment": {"K8S_AUTH_HOST": nobody}})
    assert nobody in ran.result["msg"]


@pytest.mark.parametrize("door", ["in_process", "module"])
def test_action_group_sets_defaults(door: str, run_task: Any, nobody: str) -> None:
    defaults = {"group/signal.rollout.kubernetes": {"host": nobody}}
    ran = run_task("canary_weight", ROUTE, door=door, keywords={"module_defaults": defaults})
    assert nobody in ran.result["msg"]


def test_auto_takes_the_module_door_when_the_task_is_escalated_or_asynchronous(run_task: Any, nobody: str) -> None:
    # The module door leaves its process; only there does the interpreter setting matter.
    for keywords in ({"become": True, "become_method": "ansible.builtin.su"}, {"async": 30, "poll": 1}):
        ran = run_task(
            "canary_weight",
            {**ROUTE, "host": nobody},
            keywords=keywords,
            variables={"ansible_python_interpreter": "/nonexistent/python"},
        )
        assert "/nonexistent/python" in ran.output, keywords


def test_auto_takes_the_module_door_for_another_interpreter(run_task: Any, nobody: str) -> None:
    variables = {"ansible_python_interpreter": "/nonexistent/python"}
    ran = run_task("canary_weight", {**ROUTE, "host": nobody}, variables=variables)
    assert "/nonexistent/python" in ran.output


def test_auto_stays_in_the_process_on_the_controllers_own_interpreter(run_task: Any, nobody: str) -> None:
    ran = run_task(
        "canary_weight",
        {**ROUTE, "host": nobody},
        options=["-vvv"],
    )
    # A module announces its transfer to the host; in the process nothing is transferred.
    assert " EXEC " not in ran.output and "No answer from the Kubernetes API" in ran.result["msg"]


def test_unknown_door_is_refused_by_name(run_task: Any, nobody: str) -> None:
    ran = run_task("canary_weight", {**ROUTE, "host": nobody}, door="back")
    assert "signal_rollout_door is 'back'" in ran.result["msg"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "dashboards and alerts are both empty"),
        ({"alerts": [{"name": "A", "query": "x", "above": 1}], "since": "yesterday"}, "since is 'yesterday'"),
        ({"alerts": [{"name": "A", "query": "x", "above": 1}]}, "1 problem: Prometheus at"),
    ],
)
def test_monitoring_is_refused_alike(run_task: Any, nobody: str, options: dict[str, Any], said: str) -> None:
    arguments = {"prometheus_url": nobody, "prometheus_token": SECRET, **options}
    here, there = (run_task("monitoring_check", arguments, door=door) for door in ("in_process", "module"))
    assert here.code == there.code != 0
    assert comparable(here.result) == comparable(there.result)
    assert said in here.result["msg"]
    assert SECRET not in here.output + there.output


def test_evidence_is_judged_alike_and_the_token_of_the_review_shows_nowhere(run_task: Any, nobody: str, tmp_path: Path) -> None:
    commit = "3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2"
    origin = f'<properties><property name="commit" value="{commit}"/></properties>'
    (tmp_path / "it.xml").write_text(f'<testsuite tests="1">{origin}<testcase name="a"><failure/></testcase></testsuite>')
    arguments = {
        "root": str(tmp_path),
        "version": "v2",
        "commit": commit,
        "integration_tests": ["it.xml"],
        "documents": {"runbook": ["runbook.md"]},
        "review": {"provider": "github", "request": f"{nobody}/pulls/1", "reviews": f"{nobody}/pulls/1/reviews", "token": SECRET},
    }
    here, there = (run_task("release_evidence", arguments, door=door, options=["-vvvv"]) for door in ("in_process", "module"))
    assert here.code == there.code == 0
    assert comparable(here.result) == comparable(there.result)
    assert here.result["proofs"]["code.integration_tests"]["state"] == "failed"
    assert [text.partition(":")[0] for text in here.result["undecided"]] == ["code.review", "documentation.runbook"]
    assert SECRET not in here.output + there.output
