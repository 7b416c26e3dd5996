# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate's course in simulated time: hours of hold with slow, broken and late answers, in milliseconds."""

from __future__ import annotations

import http.server
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _gate_model, _metric_gate, _synthetic
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Reading
from ansible_collections.signal.rollout.plugins.module_utils._question import Question

EPOCH = 1_800_000_000.0
# What a query answers: (seconds until the answer, the reading), by the time it is asked and the text that is sent.
Script = Callable[[float, str], tuple[float, Reading]]


class SimulatedClock:
    """Time that passes only where the gate waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now - 1000.0

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return False


class SimulatedProvider:
    """Answers by scripts, one per query, and counts how often each was asked. ``during`` runs at given times."""

    def __init__(self, clock: SimulatedClock, scripts: dict[str, Script], during: dict[float, Callable[[], None]] | None = None) -> None:
        self.clock = clock
        self.scripts = scripts
        self.during = sorted((during or {}).items())
        self.pending: dict[Question, tuple[float, Reading]] = {}
        self.sent: dict[str, list[tuple[float, str]]] = {}
        self.timeouts: dict[str, float | None] = {}
        self.closed = False

    def ask(self, question: Question, hold: float, timeout: float | None = None) -> bool:
        if question in self.pending:
            return False
        key, query = question.text, question.at(hold)
        self.timeouts[key] = timeout
        at = self.clock.now - 1000.0
        self.sent.setdefault(key, []).append((at, query))
        delay, reading = self.scripts[key](at, query)
        self.pending[question] = (self.clock.now + delay, reading)
        return True

    def waiting(self) -> bool:
        return bool(self.pending)

    def answers(self, wait: float) -> list[tuple[Question, Reading]]:
        until = self.clock.now + wait
        due = min((when for when, _reading in self.pending.values()), default=math.inf)
        self.clock.now = max(self.clock.now, min(due, until))
        while self.during and self.clock.now - 1000.0 >= self.during[0][0]:
            self.during.pop(0)[1]()
        ready = [key for key, (when, _reading) in self.pending.items() if when <= self.clock.now]
        return [(key, self.pending.pop(key)[1]) for key in ready]

    def close(self) -> None:
        self.closed = True


def good(value: float = 0.0, delay: float = 0.01) -> Script:
    return lambda at, query: (delay, Reading("good", value, EPOCH + at))


def failing(state: str, detail: str = "because", delay: float = 0.01, **more: Any) -> Script:
    return lambda at, query: (delay, Reading(state, detail=detail, **more))


def switch(*phases: tuple[float, Script]) -> Script:
    """The last script whose start time has come."""
    return lambda at, query: [script for start, script in phases if at >= start - 1e-6][-1](at, query)


def options(**changes: Any) -> dict[str, Any]:
    asked = {
        "prometheus_url": "http://prometheus.example:9090",
        "label": "canary 10%",
        "duration": 30,
        "metrics": [{"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%"}],
        **changes,
    }
    checked = ArgumentSpecValidator(_metric_gate.ARGUMENT_SPEC).validate({key: value for key, value in asked.items() if value is not None})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


class Run:
    """One run of the gate: its result (of success or failure alike), its message and its live lines."""

    def __init__(
        self,
        scripts: dict[str, Script],
        during: dict[float, Callable[[Context], None]] | None = None,
        check_mode: bool = False,
        load: Any = None,
        **changes: Any,
    ) -> None:
        self.clock = SimulatedClock()
        self.lines: list[tuple[float, str]] = []
        context = Context(check_mode=check_mode, progress=lambda text: self.lines.append((round(self.clock.now - 1000.0, 2), text)))
        bound = {when: (lambda what=what: what(context)) for when, what in (during or {}).items()}
        self.provider = SimulatedProvider(self.clock, scripts, bound)
        params = options(**changes)
        self.message = ""
        try:
            self.result = _metric_gate.Hold(params, _metric_gate.read_options(params)[0], context, self.provider, self.clock, load).run()
        except RolloutError as error:
            self.result, self.message = error.result, error.message
        self.verdict = self.result["verdict"]
        self.seconds = self.result["seconds"]
        assert self.provider.closed
        assert set(self.result) == set(_metric_gate.empty_result()), "the same keys after every outcome"


class Inbox:
    """An HTTP server on the loopback that keeps what is sent to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        kept = self.messages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Be silent."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.target = f"json://127.0.0.1:{self.server.server_port}/inbox"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_clean_hold_passes_after_its_duration_with_a_poll_every_interval() -> None:
    run = Run({"errors": good(0.02)})
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(30, abs=0.1)
    times = [at for at, _query in run.provider.sent["errors"]]
    assert times[1:] == pytest.approx([0.01 + n for n in range(31)]), "one dry query, then an absolute schedule"
    assert run.result["metrics"][0] | {"query": ""} == {
        "name": "error_rate",
        "verdict": "pass",
        "worst": 0.02,
        "last": 0.02,
        "detail": "",
        "limit": 0.1,
        "condition": "< 0.1",
        "unit": "%",
        "samples": 31,
        "good": 31,
        "suspect": 0,
        "breaches": 0,
        "blind": 0,
        "dry_run": False,
        "query": "",
        "queries": {"value": "errors"},
        "rule": "< 0.1 %; the first sample over it is a breach",
        "evidence": {},
    }
    assert run.result["series"]["error_rate"][0] == [pytest.approx(EPOCH, abs=0.1), 0.02]
    assert run.result["started"] == "2027-01-15T08:00:00Z"
    assert run.result["changed"] is False


def test_one_live_line_per_poll_counts_down() -> None:
    lines = [text for _at, text in Run({"errors": good()}, duration=3).lines]
    assert lines == [
        "canary 10%: watching 1 metric for 00:03, a poll every 1 s",
        *(f"canary 10%: hold 00:0{left} left | error_rate 0.00 % < 0.1" for left in (3, 2, 1, 0)),
        "canary 10%: PASS, every limit held for 3 s: error_rate < 0.1 %",
    ]


def test_a_breach_ends_the_hold_within_one_poll() -> None:
    run = Run({"errors": switch((0, good()), (12.5, good(4.87)))})
    assert run.verdict == "breach"
    assert run.seconds == pytest.approx(13.02, abs=0.01)
    assert run.result["detection_time_s"] == pytest.approx(1.01, abs=0.02), "since the last good sample"
    assert run.message.startswith("canary 10%: breach: error_rate is 4.87 %, expected < 0.1 %, 13.0 s into the hold.")
    assert run.lines[-2][1].endswith("error_rate 4.87 % < 0.1 OVER")


def test_a_breach_does_not_wait_for_a_slow_query_of_another_metric() -> None:
    metrics = [
        {"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%"},
        {"name": "p99", "query": "latency", "below": 200, "unit": "ms"},
    ]
    run = Run({"errors": switch((0, good()), (5, good(9.0))), "latency": good(10.0, delay=4.5)}, metrics=metrics)
    assert run.verdict == "breach"
    # The dry queries take 4.5 s; polls are counted from then on.
    assert run.seconds == pytest.approx(5.51, abs=0.02)


def test_slow_answers_neither_drift_nor_stretch_the_hold() -> None:
    run = Run({"errors": good(delay=2.3)}, duration=600, minimum_samples=200)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(600 + 2 * 2.3, abs=3.01)
    assert all(math.isclose((at - 2.3) % 1, 0, abs_tol=1e-6) or math.isclose((at - 2.3) % 1, 1, abs_tol=1e-6) for at, _q in run.provider.sent["errors"][1:])


def test_an_outage_of_eight_minutes_is_told_once_and_then_passes() -> None:
    run = Run({"errors": switch((0, good()), (100, failing("error", "connection refused")), (580, good()))}, duration=900)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(900 + 480, abs=2)
    during = [text for at, text in run.lines if 100 < at < 580]
    assert during == [
        "canary 10%: cannot see error_rate (error: connection refused); the weight stays as it is for up to 09:59 more, then the gate fails",
    ]
    assert sum("can be seen again" in text for _at, text in run.lines) == 1
    assert None in [value for _at, value in run.result["series"]["error_rate"]]


def test_people_are_told_once_of_an_outage_that_lasts_and_not_of_one_that_does_not(inbox: Inbox) -> None:
    notice = {"targets": [inbox.target], "event": "canary_10/outage", "title": "Metrics out of sight", "after": 60}
    gone, seen = failing("error", "refused"), good()
    gaps = switch((0, seen), (50, gone), (80, seen), (100, gone), (300, seen), (400, gone), (520, seen))
    run = Run({"errors": gaps}, duration=900, outage_notice=notice)
    assert run.verdict == "pass"
    assert run.result["outage_notice"] == {"event": "canary_10/outage", "sent": True, "record_events": ["canary_10/outage"], "error": ""}
    (message,) = inbox.messages
    assert message["title"] == "Metrics out of sight"
    assert "error_rate: error: refused" in message["message"] and "08:28 more; then the gate fails" in message["message"]


def test_people_who_were_told_before_are_not_told_again(inbox: Inbox) -> None:
    notice = {"targets": [inbox.target], "event": "out", "title": "Out of sight", "sent_events": ["out"]}
    run = Run({"errors": switch((0, good()), (10, failing("error", "refused")), (200, good()))}, duration=300, outage_notice=notice)
    assert (run.verdict, run.result["outage_notice"]["sent"], inbox.messages) == ("pass", False, [])


def test_a_target_that_takes_nothing_is_a_warning_without_its_address() -> None:
    notice = {"targets": ["json://127.0.0.1:9/s3cretpath"], "event": "out", "title": "Out of sight", "after": 0, "timeout": 2}
    run = Run({"errors": switch((0, good()), (10, failing("error", "refused")), (50, good()))}, duration=100, outage_notice=notice)
    (warning,) = [text for text in run.result["warnings"] if "people were not told" in text]
    assert run.verdict == "pass" and "connection refused" in warning and "s3cret" not in str(run.result)


def test_a_notice_that_could_not_be_sent_is_refused_before_the_first_query() -> None:
    notice = {"targets": [], "event": "a#b", "title": " ", "after": -1}
    with pytest.raises(_gate_model.ConfigError) as refused:
        _metric_gate.run(options(outage_notice=notice), Context())
    for part in ("outage_notice: event is 'a#b'", "outage_notice: title is empty", "outage_notice.after is -1.0 s"):
        assert part in refused.value.message
    assert set(refused.value.result) == set(_metric_gate.empty_result())


def test_each_change_of_blindness_is_told() -> None:
    run = Run({"errors": switch((0, good()), (10, failing("error", "refused")), (20, failing("no_data", "no series")), (30, good()))}, duration=60)
    told = [text for _at, text in run.lines if "cannot see" in text]
    assert [("refused" in text, "no series" in text) for text in told] == [(True, False), (False, True)]


@pytest.mark.parametrize(("state", "verdict"), [("error", "error"), ("no_data", "no_data")])
def test_a_longer_outage_fails(state: str, verdict: str) -> None:
    run = Run({"errors": switch((0, good()), (100, failing(state, "gone")))}, duration=900)
    assert run.verdict == verdict
    assert run.seconds == pytest.approx(99 + 600, abs=1.1)
    assert "all of outage_budget (600 s); the last answer" in run.message


def test_prometheus_down_from_the_start_holds_and_then_passes() -> None:
    run = Run({"errors": switch((0, failing("error", "refused")), (60, good()))})
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(60 + 30, abs=1.1)


def test_days_of_hold_keep_the_result_small() -> None:
    run = Run({"errors": switch((0, good()), (50_000, good(0.09)), (50_010, good()))}, duration=86_400, interval=10)
    assert run.verdict == "pass"
    assert run.result["metrics"][0]["samples"] == 8641
    points = run.result["series"]["error_rate"]
    assert len(points) <= _gate_model.SERIES_POINTS
    assert max(value for _at, value in points) == 0.09


@pytest.mark.parametrize("detail", ["HTTP 400: bad_data: parse error: unexpected end of input", "2 series where one is expected"])
def test_a_hopeless_query_ends_the_gate_before_any_hold(detail: str) -> None:
    run = Run({"errors": failing("error", detail, hopeless=True)})
    assert run.verdict == "error"
    assert run.seconds < 0.1
    assert f"metric error_rate: {detail}" in run.message
    assert len(run.provider.sent["errors"]) == 1


def test_several_series_during_a_hold_are_waited_out() -> None:
    run = Run({"errors": switch((0, good()), (10, failing("error", "2 series", hopeless=True)), (15, good()))})
    assert run.verdict == "pass"


def test_check_mode_validates_the_queries_and_judges_nothing() -> None:
    metrics = [
        {"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%", "freshness": "newest"},
        {"name": "p99", "query": "latency", "below": 200, "unit": "ms"},
    ]
    run = Run({"errors": good(99.0), "latency": failing("no_data"), "newest": good()}, check_mode=True, metrics=metrics)
    assert (run.verdict, run.message) == ("none", "")
    assert "a plan has no numbers" in run.result["reason"]
    assert {key: len(sent) for key, sent in run.provider.sent.items()} == {"errors": 1, "latency": 1, "newest": 1}


def test_check_mode_names_every_query_that_cannot_be_used() -> None:
    metrics = [
        {"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%"},
        {"name": "p99", "query": "latency", "below": 200, "unit": "ms", "freshness": "newest"},
    ]
    scripts = {"errors": failing("error", "parse error"), "latency": good(), "newest": failing("error", "refused"), "count": good()}
    run = Run(scripts, check_mode=True, metrics=metrics, minimum_requests={"query": "count", "at_least": 10})
    assert run.verdict == "error"
    assert "metric error_rate: parse error (query: errors)" in run.message
    assert "freshness of metric p99: refused" in run.message


def freshness(age: float, delay: float = 0.01) -> Script:
    return lambda at, query: (delay, Reading("good", EPOCH + at - age, EPOCH + at))


FRESH = [{"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%", "freshness": "newest"}]


def test_a_fresh_figure_passes() -> None:
    assert Run({"errors": good(), "newest": freshness(1.0)}, metrics=FRESH).verdict == "pass"


def test_the_age_is_taken_by_prometheus_clock_so_that_a_wrong_local_clock_does_not_matter() -> None:
    def skewed(at: float, query: str) -> tuple[float, Reading]:
        return 0.01, Reading("good", EPOCH + at - 9001.0, EPOCH + at - 9000.0)

    assert Run({"errors": good(), "newest": skewed}, metrics=FRESH).verdict == "pass"
    assert Run({"errors": skewed}, outage_budget=5).verdict == "no_data"


def test_a_figure_of_scrapes_that_stopped_is_no_data() -> None:
    def stopped(at: float, query: str) -> tuple[float, Reading]:
        return 0.01, Reading("good", EPOCH + min(at, 10.0), EPOCH + at)

    run = Run({"errors": good(), "newest": stopped}, metrics=FRESH, duration=100, outage_budget=20)
    assert run.verdict == "no_data"
    assert run.seconds == pytest.approx(10 + 30 + 20, abs=2)
    assert "s old, expected at most 30 s" in run.message


def test_a_freshness_query_without_answer_is_no_evidence() -> None:
    run = Run({"errors": good(), "newest": failing("no_data", "no series")}, metrics=FRESH, outage_budget=10)
    assert run.verdict == "no_data"
    assert "freshness: no series" in run.message


def test_a_freshness_query_slower_than_the_interval_does_not_starve_the_metric() -> None:
    assert Run({"errors": good(), "newest": freshness(1.0, delay=3.2)}, metrics=FRESH, duration=60).verdict == "pass"


def test_a_freshness_answer_grows_old_while_the_next_one_does_not_come() -> None:
    hanging = switch((0, freshness(1.0)), (10, freshness(1.0, delay=10_000)))
    run = Run({"errors": good(), "newest": hanging}, metrics=FRESH, duration=600, outage_budget=20)
    assert run.verdict == "no_data"
    assert run.seconds == pytest.approx(9 + 30 + 20, abs=2)


def test_two_metrics_with_the_same_query_share_one_question() -> None:
    metrics = [{"name": name, "query": "errors", "below": 0.1, "unit": "%", "freshness": "newest"} for name in ("one", "two")]
    run = Run({"errors": good(), "newest": freshness(0.0)}, metrics=metrics, duration=10)
    assert run.verdict == "pass"
    assert [len(sent) for sent in run.provider.sent.values()] == [12, 12]
    assert [metric["samples"] for metric in run.result["metrics"]] == [11, 11]


def test_the_count_of_requests_reaches_back_to_the_start_of_the_hold() -> None:
    def count(at: float, query: str) -> tuple[float, Reading]:
        seconds = float(re.fullmatch(r"count\[(\d+)s\]", query)[1])
        return 0.01, Reading("good", 50 * seconds, EPOCH + at)

    floor = {"query": "count[$hold]", "at_least": 2995}
    run = Run({"errors": good(), "count[$hold]": count}, minimum_requests=floor, extension=300)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(60, abs=0.1)
    assert run.result["requests"] == {"count": 3000.0, "at_least": 2995.0}
    assert run.provider.sent["count[$hold]"][-1][1] == "count[60s]"
    assert run.lines[-2][1] == "canary 10%: hold extended | error_rate 0.00 % < 0.1 | requests 3000 >= 2995"


def test_too_few_requests_fail_as_insufficient() -> None:
    run = Run({"errors": good(), "count": good(12.0)}, minimum_requests={"query": "count", "at_least": 2995}, extension=30)
    assert run.verdict == "insufficient"
    assert run.seconds == pytest.approx(60, abs=0.1)
    assert "12 requests, expected at least 2995" in run.message


def test_the_initial_delay_is_waited_before_the_hold() -> None:
    run = Run({"errors": switch((0, good(50.0)), (14, good()))}, initial_delay=15)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(45, abs=0.1)


def test_an_interruption_ends_the_hold_and_is_no_pass() -> None:
    run = Run({"errors": good()}, during={7.5: lambda context: context.interrupt("SIGTERM")})
    assert run.verdict == "cancelled"
    assert run.seconds == pytest.approx(7.5, abs=0.3)
    assert "interrupted by SIGTERM" in run.message
    assert "Traffic was left as it is: no abort_route was given" in run.message


def test_an_interruption_before_the_first_poll_is_no_pass() -> None:
    assert Run({"errors": good(delay=3.0)}, during={0.1: lambda context: context.interrupt("SIGINT")}).verdict == "cancelled"


# A closed port: what an API server that is down looks like.
NOWHERE = {"host": "http://127.0.0.1:9", "namespace": "signal", "name": "signal-service", "stable": "v1", "canary": "v2"}


@pytest.mark.parametrize(
    ("scripts", "changes", "verdict"),
    [
        ({"errors": good(5.0)}, {}, "breach"),
        ({"errors": failing("error")}, {"outage_budget": 3}, "error"),
        ({"errors": failing("no_data")}, {"outage_budget": 3}, "no_data"),
        ({"errors": good(), "count": good(1.0)}, {"minimum_requests": {"query": "count", "at_least": 2}}, "insufficient"),
        ({"errors": failing("error", hopeless=True)}, {}, "error"),
    ],
)
def test_every_bad_end_tries_to_put_traffic_back_and_says_when_it_could_not(
    scripts: dict[str, Script], changes: dict[str, Any], verdict: str
) -> None:
    run = Run(scripts, abort_route=NOWHERE, abort_timeout=0, **changes)
    assert run.verdict == verdict
    assert run.result["aborted"]["done"] is False
    assert "No answer from the Kubernetes API" in run.result["aborted"]["error"]
    assert "TRAFFIC IS NOT BACK" in run.message
    assert run.result["changed"] is False


def test_traffic_is_put_back_once_even_when_the_handler_has_done_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(route: dict[str, Any], context: Context) -> dict[str, Any]:
        written.append(route["weight"])
        after = {"stable": 100, "canary": 0}
        return {"changed": True, "before": {"stable": 90, "canary": 10}, "after": after, "confirmed": None, "routes": [{"after": after}]}

    monkeypatch.setattr(_metric_gate._canary_weight, "run", write)
    run = Run({"errors": good()}, during={5.0: lambda context: context.interrupt("SIGTERM")}, abort_route=NOWHERE)
    assert written == [0]
    assert (run.verdict, run.result["changed"], run.result["aborted"]["done"]) == ("cancelled", True, True)
    assert "Traffic is back on v1: weight 10 -> 0" in run.message


def test_a_bug_in_the_gate_puts_traffic_back_like_any_other_bad_end() -> None:
    def broken(at: float, query: str) -> tuple[float, Reading]:
        if at > 3:
            raise ZeroDivisionError("a bug")
        return 0.01, Reading("good", 0.0, EPOCH + at)

    run = Run({"errors": broken}, abort_route=NOWHERE, abort_timeout=0)
    assert run.verdict == "error"
    assert "internal error of the gate: ZeroDivisionError: a bug" in run.message
    assert run.result["aborted"] is not None


def test_a_lease_without_credentials_is_refused(tmp_path: Path) -> None:
    lease = {"namespace": "signal", "name": "l", "holder": "h", "kubeconfig": str(tmp_path / "none")}
    run = Run({"errors": good()}, lease=lease)
    assert run.verdict == "error"
    assert "Cannot read credentials" in run.message


def test_a_pass_leaves_the_route_alone() -> None:
    run = Run({"errors": good()}, abort_route=NOWHERE, abort_timeout=0)
    assert (run.verdict, run.result["aborted"]) == ("pass", None)


def test_an_interruption_puts_traffic_back_in_the_handler_or_holds_by_option() -> None:
    seen: list[Any] = []

    def interrupt(context: Context) -> None:
        context.interrupt("SIGHUP")
        seen.append(list(context._callbacks))

    back = Run({"errors": good()}, during={5.0: interrupt}, abort_route=NOWHERE, abort_timeout=0)
    assert back.result["aborted"]["error"] != ""
    hold = Run({"errors": good()}, during={5.0: interrupt}, abort_route=NOWHERE, abort_timeout=0, on_interrupt="hold")
    assert hold.result["aborted"] is None
    assert "as on_interrupt says" in hold.message
    assert [len(callbacks) for callbacks in seen] == [1, 0]


def test_a_wrong_configuration_is_refused_with_all_mistakes_and_all_keys() -> None:
    params = options(
        prometheus_url="ftp://user:secret@prometheus",
        prometheus_user="me",
        duration=0,
        metrics=[{"name": "m", "query": "q", "below": 1}],
        abort_timeout=-1,
        lease={"namespace": "signal", "name": "l", "holder": "h", "duration": 0},
    )
    with pytest.raises(_gate_model.ConfigError) as caught:
        _metric_gate.run(params, Context())
    for words in ("scheme is 'ftp'", "one is set without the other", "duration is 0.0", "unit is missing", "lease.duration", "abort_timeout"):
        assert words in caught.value.message, words
    assert "secret" not in caught.value.message
    assert set(caught.value.result) == set(_metric_gate.empty_result())
    assert caught.value.result["verdict"] == "error"


def test_worst_case_detection_is_told_when_window_and_scrapes_are_known() -> None:
    metrics = [{"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%", "window": 30}]
    run = Run({"errors": good()}, metrics=metrics, scrape_interval=1)
    assert run.result["detection"] == [
        {"metric": "error_rate", "worst_case": [{"times": times, "seconds": seconds, "requests": None} for times, seconds in ((2, 17.0), (10, 5.0), (50, 2.6))]}
    ]
    assert "canary 10%: error_rate is seen over its limit within 17 s at 2x, 5 s at 10x, 2.6 s at 50x the limit" in [text for _at, text in run.lines]


# ------------------------------------------------------------------------------------------- rules of single metrics


def growing(rate: float) -> Script:
    """A count that grows by ``rate`` each second."""
    return lambda at, query: (0.01, Reading("good", rate * at, EPOCH + at))


BANDED = [{"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%", "bands": {"far": 50, "errors": "failed", "requests": "asked"}}]


def test_slightly_over_the_limit_the_counts_of_the_hold_decide() -> None:
    scripts = {"errors": switch((0, good()), (5, good(0.3))), "failed": switch((0, good()), (5, growing(0.2))), "asked": growing(20)}
    run = Run(scripts, metrics=BANDED, duration=100)
    assert run.verdict == "breach"
    assert 10 < run.seconds < 40
    assert "sufficient evidence that it is not < 0.1 %" in run.message
    metric = run.result["metrics"][0]
    assert metric["suspect"] > 5 and metric["breaches"] == 0
    assert metric["evidence"]["bands"]["likelihood_ratio"] >= metric["evidence"]["bands"]["breach_from"]
    assert metric["queries"] == {"value": "errors", "errors": "failed", "requests": "asked"}
    assert any("error_rate: < 0.1 %; from 5 % on the first sample is a breach" in text for _at, text in run.lines)
    assert any(text.endswith("error_rate 0.30 % < 0.1 slightly over") for _at, text in run.lines)


def test_far_over_the_limit_a_breach_waits_for_no_count() -> None:
    scripts = {"errors": switch((0, good()), (5, good(9.0))), "failed": good(), "asked": switch((0, growing(20)), (4, good(80.0, delay=30)))}
    run = Run(scripts, metrics=BANDED, duration=100)
    assert run.verdict == "breach"
    assert run.seconds == pytest.approx(5.02, abs=0.02)


def test_counts_that_cannot_be_read_are_blindness() -> None:
    scripts = {"errors": good(), "failed": switch((0, good()), (20, failing("error", "refused"))), "asked": growing(20)}
    run = Run(scripts, metrics=BANDED, duration=100, outage_budget=30)
    assert run.verdict == "error"
    assert "errors: refused" in run.message


def test_nothing_counted_in_the_first_seconds_is_no_outage() -> None:
    scripts = {"errors": good(), "failed": switch((0, failing("no_data")), (10, good())), "asked": switch((0, failing("no_data")), (10, growing(300)))}
    run = Run(scripts, metrics=BANDED, duration=60, outage_budget=0)
    assert run.verdict == "pass", run.message
    assert run.result["outages"] == []


def test_a_slow_count_of_requests_is_paired_with_the_errors_of_its_moment() -> None:
    """Errors without the requests among which they occurred would look like more than they are."""
    lagging = growing(2000)
    scripts = {"errors": good(0.05), "failed": growing(1), "asked": lambda at, query: (4.0, lagging(at, query)[1])}
    run = Run(scripts, metrics=BANDED, duration=60)
    assert run.verdict == "pass", run.message
    assert run.result["metrics"][0]["evidence"]["bands"]["errors"] > 40


COMPARED = [
    {"name": "p99", "query": "latency", "below": 200, "unit": "ms", "window": 5, "baseline": {"query": "stable", "tolerance": 10}},
]


def test_a_canary_worse_than_the_stable_version_goes_back() -> None:
    def rising(at: float, query: str) -> tuple[float, Reading]:
        return 0.01, Reading("good", 150 + at % 7, EPOCH + at)

    run = Run({"latency": rising, "stable": good(100.0)}, metrics=COMPARED, duration=100)
    assert run.verdict == "breach"
    assert run.seconds == pytest.approx(35, abs=1)
    assert "p99 is worse than the stable version's: medians 15" in run.message


def test_a_stable_version_without_data_is_waited_for() -> None:
    gap = switch((0, good(100.0)), (20, failing("no_data", "no series")), (40, good(100.0)))
    run = Run({"latency": good(100.0), "stable": gap}, metrics=COMPARED, duration=60)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(80, abs=2)
    assert any("cannot see p99 (no_data: baseline: no series)" in text for _at, text in run.lines)
    outage = run.result["outages"][0]
    assert outage["metrics"] == ["p99"] and outage["seconds"] == pytest.approx(20, abs=1.1)
    assert any("p99 could not be seen for" in text and "The weight was frozen meanwhile" in text for text in run.result["warnings"])


def test_a_leak_goes_back() -> None:
    memory = [{"name": "memory", "query": "memory", "below": 80, "unit": "%", "slope": {"at_most": 100}}]
    run = Run({"memory": lambda at, query: (0.01, Reading("good", 20 + 0.1 * at, EPOCH + at))}, metrics=memory, duration=100)
    assert run.verdict == "breach"
    assert "memory grows by 360 % per hour" in run.message


def test_each_metric_has_its_own_rhythm_delay_and_deadline() -> None:
    metrics = [
        {"name": "error_rate", "query": "errors", "below": 0.1, "unit": "%"},
        {"name": "lag", "query": "lag", "below": 5, "unit": "s", "interval": 7, "initial_delay": 3, "query_timeout": 2.5},
    ]
    run = Run({"errors": good(), "lag": good(1.0)}, metrics=metrics, duration=30)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(31, abs=0.2), "the fourth sample of lag completes its 27 s at second 31"
    assert [round(at) for at, _query in run.provider.sent["lag"]] == [0, 3, 10, 17, 24, 31]
    assert run.provider.timeouts == {"errors": 5.0, "lag": 2.5}
    per_poll = [text for _at, text in run.lines if "left |" in text]
    assert len(per_poll) == 32, "one line per turn of the gate"


def test_a_gate_of_counted_metrics_passes_as_soon_as_all_are_done() -> None:
    metrics = [
        {"name": "lag", "query": "lag", "below": 5, "unit": "s", "interval": 2, "count": 5, "failure_limit": 1},
        {"name": "queue", "query": "queue", "below": 5, "unit": "s", "interval": 3, "count": 2},
    ]
    run = Run({"lag": switch((0, good(1.0)), (4, good(9.0)), (5, good(1.0))), "queue": good()}, metrics=metrics, duration=300)
    assert run.verdict == "pass", run.message
    assert run.seconds == pytest.approx(8, abs=0.2)
    assert len(run.provider.sent["queue"]) == 3, "a metric that is done is asked no more"


def test_an_outage_is_right_with_counts_and_slow_rhythms() -> None:
    metrics = [{"name": "lag", "query": "lag", "below": 5, "unit": "s", "interval": 20, "count": 6, "failure_limit": 0}]
    run = Run({"lag": switch((0, good(1.0)), (50, failing("error", "refused")), (210, good(1.0)))}, metrics=metrics, duration=300)
    assert run.verdict == "pass"
    assert run.seconds == pytest.approx(3 * 20 + 180 + 20, abs=25)
    longer = Run({"lag": switch((0, good(1.0)), (50, failing("error", "refused")))}, metrics=metrics, duration=300, outage_budget=100)
    assert longer.verdict == "error"
    assert longer.seconds == pytest.approx(40 + 100, abs=21)
    assert sum("cannot see" in text for _at, text in longer.lines) == 1


def test_a_metric_that_is_still_delayed_is_not_blind() -> None:
    metrics = [{"name": "lag", "query": "lag", "below": 5, "unit": "s", "initial_delay": 20}, {**BANDED[0], "bands": None}]
    run = Run({"lag": good(1.0), "errors": good()}, metrics=metrics, duration=60, outage_budget=5)
    assert run.verdict == "pass", run.message


def test_check_mode_shows_every_rule_and_query_and_how_fast_they_see() -> None:
    metrics = [{**BANDED[0], "window": 30}]
    scripts = {"errors": good(), "failed": good(), "asked": good()}
    run = Run(scripts, metrics=metrics, duration=60, check_mode=True, scrape_interval=1)
    told = [text for _at, text in run.lines]
    assert any("alpha 0.01, beta 0.05" in text for text in told)
    assert "canary 10%: error_rate: requests: asked" in told
    assert any("about" in text and "requests at 2x" in text for text in told)
    assert run.result["metrics"][0]["rule"].startswith("< 0.1 %; from 5 %")


def test_check_mode_finds_a_companion_that_cannot_be_asked() -> None:
    scripts = {"errors": good(), "failed": failing("error", "parse error"), "asked": good()}
    run = Run(scripts, metrics=BANDED, duration=60, check_mode=True)
    assert "errors of metric error_rate: parse error (query: failed)" in run.message


def test_a_dry_run_with_rules_is_shown_and_never_decides() -> None:
    metrics = [{"name": "calm", "query": "calm", "below": 1, "unit": "s"}, {**COMPARED[0], "dry_run": True}]
    run = Run({"calm": good(), "latency": good(150.0), "stable": good(100.0)}, metrics=metrics, duration=60)
    assert run.verdict == "pass"
    assert [metric["verdict"] for metric in run.result["metrics"]] == ["pass", "breach"]


def test_a_version_that_shows_nothing_for_its_first_seconds_is_no_outage() -> None:
    assert Run({"errors": switch((0, failing("no_data", "NaN")), (5, good()))}).result["outages"] == []
    assert len(Run({"errors": switch((0, failing("no_data", "NaN")), (50, good()))}).result["outages"]) == 1
    assert len(Run({"errors": switch((0, good()), (5, failing("no_data", "NaN")), (8, good()))}).result["outages"]) == 1


def test_a_missing_library_is_told_before_the_first_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(RolloutError) as caught:
        _metric_gate.run(options(metrics=COMPARED, duration=100, prometheus_url="http://127.0.0.1:1"), Context())
    assert "The Python library 'scipy' is not installed" in caught.value.message


# ------------------------------------------------------------------------------------------------ synthetic load

FLOORED: dict[str, Any] = {"minimum_requests": {"query": "count", "at_least": 300}, "scrape_interval": 2}


class Sender(_synthetic.SyntheticLoad):
    """Keeps what it was told instead of sending: simulated time has no network."""

    def __init__(self, when: str = "below_floor", refusal: str = "") -> None:
        super().__init__(_synthetic.Load("http://host", (("x-canary", "v2"),), "v2", expect_header="x-version", when=when))
        self.refusal = refusal
        self.told: list[bool] = []
        self.stops = 0

    def probe(self) -> str:
        return self.refusal

    def steer(self, wanted: bool) -> bool:
        changed = wanted != (self.told[-1] if self.told else False)
        self.told.append(wanted)
        return changed

    def stop(self) -> None:
        self.stops += 1


def begin(run: Run) -> float | None:
    """When the gate said that it sends, in seconds."""
    return next((at for at, text in run.lines if "sending up to 10 synthetic requests/s" in text), None)


def test_nothing_is_sent_before_the_first_scrapes_could_have_counted_users() -> None:
    sender = Sender()
    run = Run({"errors": good(), "count": failing("no_data")}, load=sender, **FLOORED)
    began = begin(run)
    assert began is not None and 5 <= began < 7, "two scrapes and a poll"
    assert run.verdict == "insufficient" and sender.stops > 0


def test_users_who_will_reach_the_floor_are_left_alone_and_too_few_are_helped() -> None:
    enough = Sender()
    assert Run({"errors": good(), "count": lambda at, query: (0.01, Reading("good", 11.0 * at, EPOCH + at))}, load=enough, **FLOORED).verdict == "pass"
    assert not any(enough.told)
    few = Sender()
    run = Run({"errors": good(), "count": lambda at, query: (0.01, Reading("good", 5.0 * at, EPOCH + at))}, load=few, **FLOORED)
    assert begin(run) is not None and few.told[-1] is True and run.verdict == "insufficient"


def test_an_outage_of_prometheus_starts_nothing() -> None:
    sender = Sender()
    run = Run({"errors": good(), "count": failing("error")}, load=sender, **FLOORED)
    assert not any(sender.told) and run.verdict == "insufficient"


def test_always_sends_from_the_first_poll_on() -> None:
    sender = Sender("always")
    run = Run({"errors": good()}, load=sender)
    assert begin(run) is not None and all(sender.told) and run.verdict == "pass"
    assert run.result["synthetic"]["sent"] == 0 and sender.stops > 0


def test_a_refused_header_route_ends_the_gate_before_the_hold() -> None:
    sender = Sender(refusal="GET http://host was answered by 'v1'")
    run = Run({"errors": good()}, load=sender)
    assert run.verdict == "error" and "synthetic load cannot be used: GET http://host was answered by 'v1'" in run.message
    assert sender.told == []


def test_an_answer_of_another_version_is_told_once_and_warned_about() -> None:
    sender = Sender("always")
    run = Run({"errors": good()}, during={10.0: lambda context: setattr(sender, "misrouted", "v1")}, load=sender)
    assert sum("an answer came from 'v1'" in text for _at, text in run.lines) == 1
    assert any("an answer came from 'v1'" in warning for warning in run.result["warnings"])


def test_check_mode_neither_probes_nor_sends() -> None:
    sender = Sender("always", refusal="must not be asked")
    assert Run({"errors": good()}, check_mode=True, load=sender).verdict == "none"
    assert sender.told == []
