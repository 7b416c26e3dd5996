# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules by which `make bench-traffic` turns trials into figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench.traffic import figures
from bench.traffic.breach import shown
from bench.traffic.cli import missing, sections
from bench.traffic.results import Results
from bench.traffic.signals import phase
from bench.traffic.stage import KINDS


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 15.0), (0.95, 29.0), (1.0, 30.0), (0.0, 1.0)],
)
def test_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert figures.percentile([float(value) for value in range(30, 0, -1)], share) == expected


def test_spread_leaves_out_what_never_happened() -> None:
    assert figures.spread([3.0, None, 1.0, 2.0]) == "2.00 / 3.00 / 3.00"
    assert figures.spread([None]) == "-"


def test_counts_are_added_by_name() -> None:
    assert figures.listed(figures.total([{"1001": 2}, {}, {"1006": 1, "1001": 3}])) == "1001: 5, 1006: 1"
    assert figures.listed({}) == "none"


def test_failures_are_told_with_cause_and_version() -> None:
    fine = {"sent": 1500, "failed": 0, "causes": {}, "failed_versions": {}}
    assert figures.failures([fine]) == "0 of 1,500"
    bad = {"sent": 500, "failed": 3, "causes": {"status 503": 3}, "failed_versions": {"v1": 2, "none": 1}}
    assert figures.failures([fine, bad]) == "3 of 2,000 (status 503: 3; from none: 1, v1: 2)"


def test_a_measurement_goes_on_where_it_was_and_variants_take_turns(tmp_path: Path) -> None:
    signals = next(section for section in sections() if section.name == "signals")
    results = Results(tmp_path, "signals", "VirtualService", "abc")
    assert missing(signals, results, 2) == ["INT", "TERM", "HUP", "KILL"] * 2
    results.add({"variant": "TERM"})
    again = Results(tmp_path, "signals", "VirtualService", "abc")
    assert missing(signals, again, 2) == ["INT", "TERM", "HUP", "KILL", "INT", "HUP", "KILL"]


def test_results_of_other_code_are_put_aside_and_never_mixed(tmp_path: Path) -> None:
    old = Results(tmp_path, "change", "HTTPRoute", "old")
    old.add({"variant": ""})
    new = Results(tmp_path, "change", "HTTPRoute", "new")
    assert new.trials == []
    new.begin_turn({"cores": 2})
    new.add({"variant": ""})
    assert len(Results(tmp_path, "change", "HTTPRoute", "new").trials) == 1
    assert (tmp_path / "change-HTTPRoute.previous.json").exists()
    # A report without naming the code shows what there is.
    assert len(Results(tmp_path, "change", "HTTPRoute", "").trials) == 1


LINES = [
    (1.0, "TASK [signal.rollout.canary : Note in the record that this step begins: 10] ****"),
    (2.0, "10 %: hold 00:03 left | error rate 0.00 % < 0.1"),
    (3.0, "10 %: PASS, every limit held for 3 s"),
    (4.0, "TASK [signal.rollout.canary : Note in the record that this step begins: 100] ****"),
    (5.0, "100 %: hold 00:03 left | error rate 0.00 % < 0.1"),
]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(0.5, "before the first shift"), (1.5, "shift"), (2.5, "hold"), (3.5, "between the steps"), (4.5, "shift"), (5.5, "bake")],
)
def test_moment_of_a_signal_belongs_to_the_phase_that_was_told_last(moment: float, expected: str) -> None:
    assert phase(LINES, moment) == expected


def _document(kind: str) -> dict[str, Any]:
    if kind == "VirtualService":
        route = [{"destination": {"subset": "v1"}, "weight": 90}, {"destination": {"subset": "v2"}, "weight": 10}]
        return {"spec": {"http": [{"name": "other", "route": []}, {"name": "primary", "route": route}]}}
    backends = [{"name": "signal-service-v1", "weight": 90}, {"name": "signal-service-v2", "weight": 10}]
    return {"spec": {"rules": [{"name": "by-header", "backendRefs": [{"name": "signal-service-v2"}]}, {"name": "primary", "backendRefs": backends}]}}


@pytest.mark.parametrize(
    ("kind", "green", "others"),
    [
        (
            "VirtualService",
            "outbound|80|v2|signal-service.signal.svc.cluster.local",
            ["outbound|80|v1|signal-service.signal.svc.cluster.local", "outbound|80|v2|echo.mesh-1.svc.cluster.local", "BlackHoleCluster"],
        ),
        (
            "HTTPRoute",
            "outbound|80||signal-service-v2.signal.svc.cluster.local",
            ["outbound|80||signal-service-v1.signal.svc.cluster.local", "outbound|80|v2|signal-service.signal.svc.cluster.local", ""],
        ),
    ],
)
def test_green_is_known_in_the_route_and_in_envoy(kind: str, green: str, others: list[str]) -> None:
    assert KINDS[kind].green(_document(kind)) == 10
    assert KINDS[kind].is_green(green)
    assert [name for name in others if KINDS[kind].is_green(name)] == []


SERIES = [
    # A counter that existed, one that appears with its first error, one that was reset.
    {"values": [[10.0, "5"], [11.0, "5"], [12.0, "6"], [13.0, "6"]]},
    {"values": [[12.5, "1"], [13.5, "3"]]},
    {"values": [[10.2, "9"], [12.2, "0"]]},
]


@pytest.mark.parametrize(("needed", "expected"), [(1, 12.0), (2, 12.5), (3, 13.5), (4, 13.5), (5, None)])
def test_errors_are_shown_by_the_scrape_that_completes_their_number(needed: int, expected: float | None) -> None:
    assert shown(SERIES, 11.5, needed) == expected


def test_trials_that_were_measured_in_another_way_are_not_shown(tmp_path: Path) -> None:
    results = Results(tmp_path, "breach", "VirtualService", "abc")
    results.add({"variant": "5 %"})
    results.path.write_text(results.path.read_text().replace(results.data["bench"], "older"))
    assert Results(tmp_path, "breach", "VirtualService", "").trials == []
