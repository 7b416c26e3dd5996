# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Integration tests of the signal service: one running instance, its database and its cache. SIGNAL_URL says where it is."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

import pytest
import websocket

URL = os.environ.get("SIGNAL_URL", "")
KEY = "NSE@NIFTY@OPTION@21500@CALL"


def get(path: str) -> tuple[int, dict[str, str], Any]:
    try:
        with urllib.request.urlopen(URL + path, timeout=10) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}, json.load(error)


def test_it_is_healthy_with_database_and_cache() -> None:
    status, headers, body = get("/health")
    assert (status, body["status"]) == (200, "healthy"), body
    assert headers["x-signal-version"] == "v2"
    assert body["checks"] == {"database": "ok", "redis": "ok"}


def test_greeks_of_a_call_are_in_their_ranges() -> None:
    status, _headers, body = get(f"/api/v2/realtime/greeks/{KEY}")
    assert status == 200
    assert 0 < body["greeks"]["delta"] < 1
    assert body["greeks"]["gamma"] > 0 > body["greeks"]["theta"]


@pytest.mark.parametrize(("moneyness", "delta"), [("OTM25delta", 0.25), ("ITM25delta", 0.75)])
def test_the_strike_of_a_moneyness_has_its_delta(moneyness: str, delta: float) -> None:
    status, _headers, body = get(f"/api/v2/realtime/moneyness/NIFTY/greeks/{moneyness}?option_type=CALL")
    assert status == 200
    assert body["greeks"]["delta"] == pytest.approx(delta, abs=0.01)


def test_history_comes_in_any_timeframe() -> None:
    status, _headers, body = get(f"/api/v2/historical/greeks/{KEY}?from=2024-01-03T00:00:00&to=2024-01-04T00:00:00&timeframe=45")
    assert status == 200
    assert body["count"] == len(body["points"]) == 32


def test_v1_is_served_as_before() -> None:
    assert get(f"/api/v1/realtime/greeks/{KEY}")[0] == 200
    assert get("/api/v1/realtime/moneyness/NIFTY/greeks/ATM")[0] == 404


@pytest.mark.parametrize(("path", "status"), [("realtime/greeks/NIFTY", 422), ("realtime/greeks/NSE@NOTHING@OPTION@1@CALL", 404)])
def test_wrong_requests_are_refused(path: str, status: int) -> None:
    assert get(f"/api/v2/{path}")[0] == status


def test_a_subscription_brings_greeks_each_second() -> None:
    connection = websocket.create_connection(URL.replace("http", "ws", 1) + "/api/v2/subscriptions/websocket", timeout=10)
    try:
        connection.send(json.dumps({"type": "subscribe", "instrument": KEY}))
        seen = [json.loads(connection.recv())["type"] for _message in range(4)]
    finally:
        connection.close()
    assert seen == ["hello", "subscribed", "greeks", "greeks"]
