# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The generator's books, report and address check: pure parts."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traffic.generator import paths
from traffic.ledger import Latencies, Ledger, Second, bucket, bucket_value, total
from traffic.report import share_band, slices, text
from traffic.target import TargetError, checked_url


@given(st.floats(0.01, 100_000.0))
def test_buckets_are_exact_to_one_percent(value):
    assert bucket_value(bucket(value)) == pytest.approx(value, rel=0.011)


@given(st.lists(st.floats(0.01, 10_000.0), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_percentiles_agree_with_sorting(values, share):
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(1, -int(-(share * len(values)) // 1)) - 1]
    assert latencies.percentile(share) == pytest.approx(exact, rel=0.011)


def test_without_values_there_is_no_percentile():
    assert Latencies().percentile(0.99) is None
    assert Latencies().summary()["p99"] is None


def test_a_dump_read_back_is_the_same():
    generator = random.Random(1)
    books = Second()
    books.sent, books.ok, books.failed = 10, 7, 2
    books.causes["status 500"] += 2
    books.versions.update(v1=8, v2=1)
    books.ws_closed["1001"] += 3
    for _value in range(50):
        books.latency.add(generator.uniform(0.1, 300.0))
        books.ws_rtt.add(generator.uniform(0.1, 30.0))
    dumped = json.loads(json.dumps(books.dump()))
    assert total([dumped]).dump() == dumped
    assert total([dumped, dumped]).totals()["sent"] == 20
    assert total([dumped, dumped]).latency.percentile(0.5) == total([dumped]).latency.percentile(0.5)


def test_seconds_close_in_order_and_only_when_complete():
    ledger = Ledger()
    ledger.at(100.2).sent += 1
    ledger.at(101.0).sent += 1
    ledger.at(101.9).ok += 1
    ledger.close_before(105.0)
    # Second 100 waits for its answer, and 101 for 100.
    ledger.at(100.9).failed += 1
    ledger.close_before(101.5)
    with pytest.raises(ValueError, match="closed"):
        ledger.at(100.0)
    ledger.at(101.5).ws_messages += 1
    ledger.close_before(105.0)
    seconds = json.loads(ledger.seconds_text())
    assert [books["t"] for books in seconds] == [100, 101]
    totals = ledger.totals()
    assert (totals["sent"], totals["ok"], totals["failed"], totals["in_flight"]) == (2, 1, 1, 0)
    assert totals["websocket"]["messages"] == 1


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["ok", "failed", "open"])), max_size=100), st.integers(0, 25))
def test_totals_are_the_sum_of_the_seconds(events, until):
    ledger = Ledger()
    for second, outcome in events:
        books = ledger.at(second)
        books.sent += 1
        if outcome != "open":
            setattr(books, outcome, getattr(books, outcome) + 1)
    ledger.close_before(until)
    totals, seconds = ledger.totals(), json.loads(ledger.seconds_text())
    for name in ("sent", "ok", "failed", "in_flight"):
        assert totals[name] == sum(books[name] for books in seconds)
    assert totals["sent"] == totals["ok"] + totals["failed"] + totals["in_flight"] == len(events)


def test_the_mix_is_served_by_v1():
    mix = paths()
    assert len(mix) == 100
    assert all(path.startswith("/api/v1/") for path in mix)
    assert {path.split("/")[3] for path in mix} == {"realtime", "historical", "status"}
    assert mix == paths()


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("http://10.79.0.60", "http://10.79.0.60"),
        ("http://10.77.0.2:8080/", "http://10.77.0.2:8080"),
        ("http://10.78.255.1", "http://10.78.255.1"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_lab_addresses_are_targets(url, checked):
    assert checked_url(url) == checked


@pytest.mark.parametrize(
    "url",
    [
        "http://10.76.255.255",
        "http://10.80.0.1",
        "http://192.168.0.1",
        "http://8.8.8.8",
        "http://signal-service.lab",
        "http://[::2]",
        "http://[::ffff:8.8.8.8]",
        "http://0.0.0.0",
        "http://2130706433",
        "http://127.0.0.1@8.8.8.8",
        "http://127.0.0.1:99999",
        "https://10.79.0.60",
        "10.79.0.60",
        "http://",
        "http://10.79.0.60/?a=b",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(TargetError):
        checked_url(url)


def _second(t: int, v1: int, v2: int) -> dict:
    books = Second()
    books.sent = books.ok = v1 + v2
    books.versions.update(v1=v1, v2=v2)
    for _request in range(v1 + v2):
        books.latency.add(2.0)
    return {"t": t, **books.dump()}


def _report(seconds: list[dict]) -> dict:
    totals = total(seconds).totals()
    totals["websocket"]["open"] = {"v1": 2}
    return {
        "schema": 1,
        "url": "http://10.79.0.60",
        "host": "signal-service.lab",
        "rate": 100.0,
        "websockets": 2,
        "pid": 1,
        "started": 1000.0,
        "updated": 1020.0,
        "finished": True,
        "ended": "duration",
        "totals": totals,
        "marks": [],
        "seconds": seconds,
    }


def test_slices_follow_the_marks():
    report = _report([_second(t, 100, 0) for t in range(1000, 1010)] + [_second(t, 90, 10) for t in range(1010, 1020)])
    marks = [{"time": 1009.4, "name": "10 %"}]
    parts = slices(report, marks, 10)
    assert [(name, part[0]["t"], part[-1]["t"]) for name, part in parts] == [("start", 1000, 1009), ("10 %", 1010, 1019)]
    lines = text(report, marks, None).splitlines()
    row = next(line for line in lines if line.startswith("10 %"))
    assert "10.0 ± 2.8 %" in row
    assert "90.0 ± 2.8 %" in row


def test_slices_cover_every_second_once():
    report = _report([_second(t, 5, 5) for t in range(1000, 1023)])
    parts = slices(report, [], 5)
    assert [books["t"] for _name, part in parts for books in part] == list(range(1000, 1023))
    assert [len(part) for _name, part in parts] == [5, 5, 5, 5, 3]


def test_a_run_without_seconds_still_has_a_report():
    assert "0 sent" in text(_report([]), [], None)


def test_the_band_is_three_sigma():
    assert share_band(10, 100) == "10.0 ± 9.0 %"
    assert share_band(0, 100) == "0.0 ± 0.0 %"
    assert share_band(0, 0) == "-"
