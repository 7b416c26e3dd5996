# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release that no user takes part in: it passes by requests of its own, or not at all."""

from __future__ import annotations

from typing import Any

from .conftest import Stage

BLUE, GREEN = [100, 0], [0, 100]
SYNTHETIC: dict[str, Any] = {
    "canary_synthetic_url": "http://10.79.0.60/api/v1/status",
    "canary_synthetic_headers": {"Host": "signal-service.lab", "x-release-canary": "v2"},
    "canary_synthetic_expect": {"header": "x-signal-version"},
    "canary_synthetic_rate": 20,
}
# Nobody asks the old version, so it has no figures to compare the new one with.
ALONE: dict[str, Any] = {"canary_compare": False, "canary_outage_budget_seconds": 20}


def http_routes(stage: Stage) -> list[dict[str, Any]]:
    """The routes, without the weights."""
    routes = stage.virtual_service["spec"]["http"]
    for route in routes:
        for destination in route["route"]:
            destination.pop("weight", None)
    return routes


def test_release_without_users_passes_by_synthetic_requests(quiet_stage: Stage) -> None:
    before = http_routes(quiet_stage)
    ended = quiet_stage.play("deploy_v2", **SYNTHETIC, **ALONE)
    assert ended.code == 0, ended.output[-4000:]
    assert quiet_stage.weights() == GREEN and quiet_stage.record()["outcome"] == "complete"
    assert http_routes(quiet_stage) == before, "the header route stays as it is"
    for step in ("canary_10", "canary_50", "canary_100"):
        evidence = quiet_stage.record()["steps"][step]["evidence"]
        assert evidence["synthetic"]["sent"] >= 20 and evidence["synthetic"]["failed"] == 0
        assert "signal_requests_total" in evidence["metrics"][0]["query"]


def test_release_without_users_and_without_them_goes_back(quiet_stage: Stage) -> None:
    ended = quiet_stage.play("deploy_v2", **{**ALONE, "canary_outage_budget_seconds": 4})
    assert ended.code != 0
    assert quiet_stage.weights() == BLUE and quiet_stage.record()["outcome"] == "rolled_back"
    assert "no_data" in ended.output or "insufficient" in ended.output


def test_header_route_that_leads_to_the_old_version_stops_the_release(quiet_stage: Stage) -> None:
    wrong = {**SYNTHETIC, "canary_synthetic_headers": {"Host": "signal-service.lab", "x-release-canary": "other"}}
    ended = quiet_stage.play("deploy_v2", **wrong, **ALONE)
    assert ended.code != 0
    flat = " ".join(ended.output.split())
    assert "synthetic load cannot be used" in flat and "was answered by 'v1'" in flat
    assert quiet_stage.weights() == BLUE
    assert all(entry["weight"] == 0 for entry in quiet_stage.record().get("weights", []))
