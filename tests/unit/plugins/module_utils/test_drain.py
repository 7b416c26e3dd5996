# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a version that lost its traffic counts as drained, and how its connections are counted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _drain
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._drain import Limits, Look, decide
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

HOST = "signal-service.signal.svc.cluster.local"
LIMITS = Limits(settle=0.2, longest_request=30.0, websocket_timeout=60.0)
QUIET = Look(0, 0)


def test_two_empty_looks_end_the_drain_and_one_does_not() -> None:
    assert decide(QUIET, QUIET, 0.3, LIMITS) == "nothing is running"
    assert decide(None, QUIET, 0.3, LIMITS) == ""
    assert decide(Look(1, 0), QUIET, 0.3, LIMITS) == ""


def test_two_empty_looks_within_the_settling_time_prove_nothing() -> None:
    assert decide(QUIET, QUIET, 0.19, LIMITS) == ""


def test_empty_gateways_are_enough_where_the_service_has_no_count_of_its_own() -> None:
    assert decide(Look(0, None), Look(0, None), 0.3, LIMITS) == "nothing is running"


def test_running_requests_are_waited_for_up_to_the_longest_request() -> None:
    busy = Look(3, 0)
    assert decide(busy, busy, 29.9, LIMITS) == ""
    assert decide(busy, busy, 30.0, LIMITS) == "3 still open after 30.0 s"


def test_websockets_alone_are_waited_for_up_to_their_own_time() -> None:
    sockets = Look(4, 4)
    assert sockets.requests == 0
    assert decide(sockets, sockets, 59.9, LIMITS) == ""
    assert decide(sockets, sockets, 60.0, LIMITS).startswith("4 still open")


def test_websockets_that_get_no_time_end_the_drain_once_the_requests_are_done() -> None:
    sockets, limits = Look(4, 4), Limits(0.2, 30.0, 0.0)
    assert decide(Look(5, 4), sockets, 0.4, limits) == ""
    assert decide(sockets, sockets, 0.5, limits).startswith("4 still open")


def test_websockets_that_no_gateway_knows_of_are_waited_for_too() -> None:
    direct = Look(0, 2)
    assert decide(direct, direct, 1.0, LIMITS) == "" and direct.left == 2


def test_without_the_service_s_own_count_what_outlives_the_longest_request_counts_as_websockets() -> None:
    streams = Look(4, None)
    assert decide(streams, streams, 29.9, Limits(0.2, 30.0, 0.0)) == ""
    assert decide(streams, streams, 30.0, Limits(0.2, 30.0, 0.0)).startswith("4 still open")
    assert decide(streams, streams, 59.9, LIMITS) == ""


def test_requests_that_cannot_be_seen_get_the_time_of_the_longest() -> None:
    blind = Look(None, 0, "gateway a cannot be read")
    assert decide(blind, blind, 29.9, LIMITS) == ""
    assert "cannot be seen" in decide(blind, blind, 30.0, LIMITS)
    unseen = Look(None, None)
    assert unseen.left is None and "cannot be seen" in decide(unseen, unseen, 30.0, LIMITS)


def test_open_websockets_keep_their_time_when_the_requests_cannot_be_seen() -> None:
    blind = Look(None, 3)
    assert decide(blind, blind, 59.9, LIMITS) == "" and "cannot be seen" in decide(blind, blind, 60.0, LIMITS)


def stat(cluster: str, gauge: str, value: int, end: str = ";") -> dict[str, Any]:
    return {"name": f"cluster.{cluster}{end}.{gauge}", "value": value}


@pytest.mark.parametrize("end", [";", ""])
def test_envoy_s_counts_are_summed_over_the_ports_of_the_version_alone(end: str) -> None:
    stats = [
        stat(f"outbound|80|v2|{HOST}", "upstream_rq_active", 3, end),
        stat(f"outbound|81|v2|{HOST}", "upstream_rq_active", 2, end),
        stat(f"outbound|80|v2|{HOST}", "upstream_rq_pending_active", 1, end),
        stat(f"outbound|80|v2|{HOST}", "upstream_cx_active", 50, end),
        stat(f"outbound|80|v1|{HOST}", "upstream_rq_active", 100, end),
        stat(f"outbound|80||{HOST}", "upstream_rq_active", 1000, end),
        stat(f"outbound|80|v2|other.{HOST}", "upstream_rq_active", 10000, end),
    ]
    assert _drain.gauges_of_clusters({"stats": stats}, "v2", HOST) == 6
    assert _drain.gauges_of_clusters({"stats": stats}, "", HOST) == 1000


def test_gateway_that_keeps_no_such_gauge_is_not_taken_for_an_idle_one() -> None:
    assert _drain.gauges_of_clusters({"stats": []}, "v2", HOST) is None
    assert _drain.gauges_of_clusters({"stats": [stat(f"outbound|80|v2|{HOST}", "upstream_cx_active", 4)]}, "v2", HOST) is None


def test_counts_of_the_endpoints_are_summed_where_the_clusters_have_none() -> None:
    def endpoint(active: str) -> dict[str, Any]:
        return {"stats": [{"name": "rq_active", "value": active}, {"name": "rq_pending_active"}, {"name": "cx_active", "value": "9"}]}

    clusters = [
        {"name": f"outbound|80|v2|{HOST}", "host_statuses": [endpoint("3"), endpoint("2")]},
        {"name": f"outbound|80|v1|{HOST}", "host_statuses": [endpoint("7")]},
        {"name": "xds-grpc", "host_statuses": [endpoint("1")]},
    ]
    assert _drain.hosts_of_clusters({"cluster_statuses": clusters}, "v2", HOST) == 5
    assert _drain.hosts_of_clusters({"cluster_statuses": []}, "v2", HOST) == 0


PAGE = """# HELP signal_websocket_connections Open WebSocket connections.
# TYPE signal_websocket_connections gauge
signal_websocket_connections{version="v2"} 7.0
signal_websocket_connections{version="v2",kind="a b"} 2.0
signal_websocket_connections_total{version="v2"} 900.0
broken NaN
"""


def test_the_service_s_gauge_is_summed_over_its_series() -> None:
    assert _drain.gauge_total(PAGE, "signal_websocket_connections") == 9


@pytest.mark.parametrize("name", ["signal_websocket", "broken", "connections"])
def test_gauge_that_is_missing_or_no_number_is_not_taken_for_0(name: str) -> None:
    assert _drain.gauge_total(PAGE, name) is None


@pytest.mark.parametrize("bad", [{"longest_request": -1.0}, {"settle": float("nan")}, {"interval": 0.0}, {"websocket_timeout": 1e6}])
def test_times_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    params = {"longest_request": 1.0, "websocket_timeout": 0.0, "settle": 0.2, "interval": 0.1, **bad}
    with pytest.raises(RolloutError, match="expected seconds") as refused:
        _drain.run(params, Context())
    assert next(iter(bad)) in refused.value.message
