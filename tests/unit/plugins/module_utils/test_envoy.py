# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading what Envoy and istiod say."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _envoy, _istiod, _kube, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


def test_rejected_updates_are_counted_by_kind_and_route() -> None:
    stats = [
        {"name": "cluster_manager.cds.update_rejected", "value": 0},
        {"name": "http.outbound_0.0.0.0_8080;.rds.http.8080.update_rejected", "value": 2},
        {"name": "http.outbound_0.0.0.0_80;.rds.80.update_rejected", "value": 1},
        {"name": "http.inbound_0.0.0.0_80;.rds.80.update_rejected", "value": 1},
        {"name": "listener_manager.lds.update_rejected", "value": 3},
        {"name": "cluster.outbound|80||x.y.svc.cluster.local;.update_rejected", "value": 9},
        {"histograms": {}},
    ]
    assert _envoy.rejected_updates({"stats": stats}) == {"cds": 0, "rds http.8080": 2, "rds 80": 2, "lds": 3}


def test_failed_updates_are_read_from_error_state() -> None:
    failure = {"details": "Proto constraint\nvalidation failed", "last_update_attempt": "2026-11-24T16:00:00Z"}
    dump = {
        "configs": [
            {"name": "0.0.0.0_8080", "error_state": failure},
            {"name": "fine"},
            {"route_config": {"name": "http.8080"}, "error_state": {}},
            {"route_config": {"name": "http.9090"}, "error_state": {"version_info": "1"}},
        ]
    }
    assert _envoy.update_failures(dump) == ["0.0.0.0_8080: Proto constraint validation failed", "http.9090: no reason given"]


def test_newest_rejection_is_found_in_a_proxys_log() -> None:
    kind = "gRPC config for type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    other = kind.replace("Route", "Listener")
    lines = [f"{kind} rejected: older", f"{kind} rejected: Only unique values", f"{other} rejected: a filter", "it was rejected: by nobody", "end"]
    log = "\n".join(f"[x][warning] {line}" for line in lines)
    assert _envoy.newest_rejection(log) == "Only unique values"
    assert _envoy.newest_rejection("nothing\nof interest") == ""


def test_configurations_that_hold_the_route_are_named() -> None:
    dump = {"configs": [{"route_config": {"name": "80", "x": 1}}, {"route_config": {"name": "http.8080"}}, {"static": {}}]}
    assert _envoy.configs_with(dump, lambda one: "x" in one["configs"][0]["route_config"]) == ("80",)


@pytest.mark.parametrize(
    ("status", "reason", "message", "closed"),
    [
        (403, "Forbidden", "pods is forbidden", True),
        (503, "ServiceUnavailable", "error trying to reach service: dial tcp 10.0.0.1:15000: connect: connection refused", True),
        (503, "ServiceUnavailable", "error trying to reach service: dial tcp 10.0.0.1:15000: i/o timeout", False),
        (404, "NotFound", 'pods "x" not found', False),
        (404, "", "invalid path", True),
        (500, "InternalError", "etcd", False),
        (0, "", "no answer", False),
    ],
)
def test_only_a_port_that_stays_shut_makes_another_way_necessary(status: int, reason: str, message: str, closed: bool) -> None:
    assert _envoy.proxy_is_closed(_kube.KubeError(message, status=status, reason=reason)) is closed


def test_body_of_a_chunked_answer_is_put_together() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert _envoy.body_of(raw) == b"abcde"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "broken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "broken"),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", "answered 426: no"),
    ],
)
def test_answer_that_is_not_whole_or_not_200_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        _envoy.body_of(raw)


# ---------------------------------------------------------------------------------------------------- istiod

METRICS = """
# TYPE pilot_xds_rds_reject gauge
pilot_xds_rds_reject{err="Internal",node="gateway-1.istio-system"} 1
pilot_xds_rds_reject{node="a\\"b.ns",err="InvalidArgument"} 1e+00
pilot_xds_lds_reject{err="Internal",node="gateway-1.istio-system"} 5
pilot_xds_cds_reject{err="Internal",node="x"} NaN
pilot_total_xds_rejects{type="rds"} 447
pilot_xds_pushes{type="rds"} 100
"""


def test_rejections_are_read_by_kind_node_and_code_and_in_total() -> None:
    found = _istiod.counts_of(METRICS)
    assert found.nodes == {
        ("rds", "gateway-1.istio-system", "Internal"): 1,
        ("rds", 'a\\"b.ns', "InvalidArgument"): 1,
        ("lds", "gateway-1.istio-system", "Internal"): 5,
    }
    assert found.totals == {"rds": 447}
    assert found.errors("rds", "gateway-1.istio-system") == ["Internal"] and found.errors("rds", "gateway-2.istio-system") == []


def test_counts_of_several_istiods_add_up() -> None:
    total = _istiod.counts_of(METRICS)
    total.add(_istiod.counts_of(METRICS))
    assert total.totals == {"rds": 894} and total.nodes[("lds", "gateway-1.istio-system", "Internal")] == 10


def test_only_growth_counts_and_a_restarted_istiod_begins_at_zero() -> None:
    one, two = ("rds", "a", "Internal"), ("rds", "b", "Internal")
    more = _istiod.grown(_istiod.Counts({one: 1}, {"rds": 9, "lds": 2}), _istiod.Counts({one: 1, two: 1}, {"rds": 10, "lds": 1}))
    assert more.errors("rds", "a") == [] and more.errors("rds", "b") == ["Internal"]
    assert more.totals == {"rds": 1, "lds": 1}


# ---------------------------------------------------------------------------------------------------- exec


def test_success_is_exit_code_0() -> None:
    assert _pod_exec.completed("x", b"out", b"err", b'{"status": "Success"}') == _pod_exec.Completed(b"out", "err", 0)


def test_exit_code_is_read_from_the_status() -> None:
    status = b'{"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "22"}]}}'
    assert _pod_exec.completed("x", b"", b"", status).code == 22


@pytest.mark.parametrize(
    ("status", "said", "not_found"),
    [
        (b'{"status": "Failure", "message": "exec: \\"pilot-agent\\": executable file not found in $PATH"}', "pilot-agent", True),
        (b'{"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "127"}]}}', "no reason given", True),
        (b'{"status": "Failure", "message": "container is not running"}', "not running", False),
        (b"", "without an exit code", False),
        (b"[]", "without an exit code", False),
    ],
)
def test_command_that_did_not_run_is_an_error(status: bytes, said: str, not_found: bool) -> None:
    with pytest.raises(_pod_exec.ExecError, match=said) as caught:
        _pod_exec.completed("x", b"", b"", status)
    assert caught.value.not_found is not_found
