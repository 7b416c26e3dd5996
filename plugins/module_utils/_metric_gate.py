# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module metric_gate: holds a weight while figures keep their limits. Private to this collection.

The decisions are in ``_gate.py``. Here is what surrounds them: the schedule, the queries, the live lines, the lease, and the
way back, which is taken inside the same task since a rescue block would cost a second and does not run on a signal.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _confirm,
    _events,
    _gate,
    _gate_model,
    _gate_plan,
    _gate_words,
    _http_json,
    _kube,
    _outage_notice,
    _prometheus,
    _promql,
    _record,
    _sources,
    _statistics,
    _synthetic,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._gate_schedule import Schedule
from ansible_collections.signal.rollout.plugins.module_utils._hold_queries import Clock, Inquiry, Provider
from ansible_collections.signal.rollout.plugins.module_utils._hold_watchers import LeaseKeeper, RouteWatch, StandbyWatch
from ansible_collections.signal.rollout.plugins.module_utils._way_back import WayBack

QUESTION_SPEC: dict[str, dict[str, Any]] = {
    "query": {"type": "str"},
    "preset": {"type": "str", "choices": sorted(_promql.PRESETS)},
    "preset_vars": {"type": "dict"},
}

BANDS_SPEC: dict[str, dict[str, Any]] = {
    "far": {"type": "float"},
    "breach_at": {"type": "float"},
    "acceptable": {"type": "float"},
    "unacceptable": {"type": "float"},
    "alpha": {"type": "float", "default": 0.01},
    "beta": {"type": "float", "default": 0.05},
    "errors": {"type": "str"},
    "requests": {"type": "str"},
}

BASELINE_SPEC: dict[str, dict[str, Any]] = {
    **QUESTION_SPEC,
    "freshness": {"type": "str"},
    "direction": {"type": "str", "choices": ["increase", "decrease"]},
    "tolerance": {"type": "float"},
    "tolerance_percent": {"type": "float"},
    "confidence": {"type": "float", "default": 0.99},
    "minimum_samples": {"type": "int", "default": 8},
}

SLOPE_SPEC: dict[str, dict[str, Any]] = {
    "at_most": {"type": "float", "required": True},
    "confidence": {"type": "float", "default": 0.95},
    "warm_up": {"type": "float", "default": 0.0},
    "minimum_span": {"type": "float"},
    "minimum_samples": {"type": "int", "default": 12},
}

# Shared with preflight_check, which validates the same lists before anything starts.
METRICS_SPEC: dict[str, dict[str, Any]] = {
    **QUESTION_SPEC,
    "http": {"type": "dict", "options": _http_json.SPEC},
    "name": {"type": "str", "required": True},
    "below": {"type": "float"},
    "at_most": {"type": "float"},
    "above": {"type": "float"},
    "at_least": {"type": "float"},
    "unit": {"type": "str"},
    "failure_limit": {"type": "int", "default": 0},
    "consecutive_failure_limit": {"type": "int"},
    "consecutive_error_limit": {"type": "int"},
    "consecutive_success_limit": {"type": "int", "default": 1},
    "count": {"type": "int"},
    "interval": {"type": "float"},
    "initial_delay": {"type": "float", "default": 0.0},
    "query_timeout": {"type": "float"},
    "bands": {"type": "dict", "options": BANDS_SPEC},
    "baseline": {"type": "dict", "options": BASELINE_SPEC},
    "slope": {"type": "dict", "options": SLOPE_SPEC},
    "no_data": {"type": "str", "default": "hold", "choices": ["hold", "breach"]},
    "dry_run": {"type": "bool", "default": False},
    "freshness": {"type": "str"},
    "window": {"type": "float"},
}

REQUESTS_SPEC: dict[str, dict[str, Any]] = {**QUESTION_SPEC, "at_least": {"type": "float", "required": True}}

LEASE_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "namespace": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "holder": {"type": "str", "required": True},
    "duration": {"type": "float", "default": 60.0},
}

STANDBY_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "namespace": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "at_least": {"type": "int", "default": 1},
    "enough": {"type": "int"},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.TLS_SPEC,
    "label": {"type": "str", "default": "gate"},
    "duration": {"type": "float", "required": True},
    "interval": {"type": "float", "default": 1.0},
    "initial_delay": {"type": "float", "default": 0.0},
    "query_timeout": {"type": "float", "default": 5.0},
    "metrics": {"type": "list", "elements": "dict", "required": True, "options": METRICS_SPEC},
    "minimum_samples": {"type": "int"},
    "minimum_requests": {"type": "dict", "options": REQUESTS_SPEC},
    "extension": {"type": "float", "default": 0.0},
    "outage_budget": {"type": "float", "default": 600.0},
    "max_age": {"type": "float", "default": 30.0},
    "scrape_interval": {"type": "float"},
    "abort_route": {
        "type": "dict",
        "options": {
            **_kube.ARGUMENT_SPEC,
            **_canary_weight.ROUTE_SPEC,
        },
    },
    "shift": {
        "type": "dict",
        "options": {"weight": {"type": "int", "required": True}, "expected_weight": {"type": "int"}},
    },
    "abort_timeout": {"type": "float", "default": 60.0},
    "on_interrupt": {"type": "str", "default": "back", "choices": ["back", "hold"]},
    "lease": {"type": "dict", "options": LEASE_SPEC},
    "standby": {"type": "dict", "options": STANDBY_SPEC},
    "synthetic": {"type": "dict", "options": _synthetic.SPEC},
    "outage_notice": {"type": "dict", "options": _outage_notice.SPEC},
}

SPEC_RULES: dict[str, Any] = {"required_by": {"shift": ["abort_route"]}}
SUPPORTS_CHECK_MODE = True

# Verdicts that the record tells as events; the others are told by the step that failed.
_EVENTS = {
    _gate_model.CANCELLED: _events.INTERRUPTED,
    _gate_model.NO_DATA: _events.OUTAGE,
    _gate_model.INSUFFICIENT: _events.OUTAGE,
}
# A signal handler runs at once, but what it did is noticed after at most this long.
_SLICE = 0.25


class SystemClock:
    """The machine's clocks, with a sleep that a signal ends."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> bool:
        return self._context.sleep(seconds)


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Watch the metrics for the duration; return when every one has passed.

    Raises :class:`RolloutError` with the same keys for every other verdict, after traffic has been put back where that was asked
    for. See the module's RETURN for the keys.
    """
    plan, load = read_options(params)
    if any(metric.needs_scipy for metric in plan.metrics):
        # Before the first write: a rule must not fail for want of its library when it is needed.
        _statistics.load()
    prometheus = _prometheus.Prometheus(params, params["query_timeout"]) if params["prometheus_url"] else None
    synthetic = _synthetic.SyntheticLoad(load) if load is not None else None
    return Hold(params, plan, context, _sources.Sources(prometheus), SystemClock(context), synthetic).run()


def read_options(params: dict[str, Any]) -> tuple[_gate_model.Plan, _synthetic.Load | None]:
    """Return the plan and the synthetic load.

    Raises :class:`_gate_model.ConfigError` with every mistake, those of the connection included.
    """
    problems = _prometheus.problems_of(params) if _asks_prometheus(params) or params["prometheus_url"] else []
    lease = params.get("lease")
    if lease and not (math.isfinite(lease["duration"]) and lease["duration"] > 0):
        problems.append(f"lease.duration is {lease['duration']} s, expected a number above 0")
    if not (math.isfinite(params["abort_timeout"]) and params["abort_timeout"] >= 0):
        problems.append(f"abort_timeout is {params['abort_timeout']} s, expected a number of at least 0")
    if params["outage_notice"]:
        problems.extend(_outage_notice.problems_of(params["outage_notice"]))
    load = _synthetic.read_load(params["synthetic"], bool(params["minimum_requests"]), problems) if params["synthetic"] else None
    try:
        plan = _gate_plan.read_plan(params)
    except _gate_model.ConfigError as error:
        problems.extend(error.problems)
    if problems:
        error = _gate_model.ConfigError(problems)
        error.result = {**empty_result(), "verdict": _gate_model.ERROR, "reason": error.message}
        raise error
    return plan, load


def _asks_prometheus(params: dict[str, Any]) -> bool:
    by_query = ("freshness", "bands", "baseline")
    return bool(params["minimum_requests"]) or any(
        not metric["http"] or any(metric[name] for name in by_query) for metric in params["metrics"]
    )


def empty_result() -> dict[str, Any]:
    """Every key of the result, before anything is known."""
    return {
        "changed": False,
        "verdict": _gate_model.NONE,
        "reason": "",
        "metrics": [],
        "series": {},
        "requests": None,
        "detection": [],
        "detection_time_s": None,
        "shift": None,
        "drift": None,
        "aborted": None,
        "started": None,
        "seconds": 0.0,
        "outages": [],
        "outage_notice": None,
        "synthetic": None,
        "warnings": [],
    }


class Hold:
    """One run of the gate."""

    def __init__(
        self,
        params: dict[str, Any],
        plan: _gate_model.Plan,
        context: Context,
        provider: Provider,
        clock: Clock,
        load: _synthetic.SyntheticLoad | None = None,
    ) -> None:
        self.params = params
        self.plan = plan
        self.context = context
        self.provider = provider
        self.clock = clock
        self.load = load
        self.label: str = params["label"]
        self.inquiry = Inquiry(plan, provider, clock, params["query_timeout"])
        self.gate: _gate.Gate | None = None
        self.way_back = WayBack(params["abort_route"], params["abort_timeout"])
        self.keeper: LeaseKeeper | None = None
        self.route_watch: RouteWatch | None = None
        self.standby: StandbyWatch | None = None
        self.result = empty_result()
        self.result["warnings"] = list(plan.warnings)
        self.result["detection"] = _gate_words.detection(plan)
        self._began = clock.monotonic()
        self._to_unix = clock.time() - self._began
        self._reported = False
        self._turn = False
        self._blindness = ""
        self._blind_since = 0.0
        self._notice = _outage_notice.OutageNotice(params["outage_notice"], context) if params["outage_notice"] else None
        self._never_seen = False
        self._weak = ""
        self._misrouted = ""

    # ------------------------------------------------------------------------------------------------ the course

    def run(self) -> dict[str, Any]:
        self.result["started"] = _iso(self.clock.time())
        if self.context.check_mode:
            return self._check_queries()
        handles = []
        try:
            self._hold_lease()
            self._watch_standby()
            if self.params["abort_route"] and self.params["on_interrupt"] == "back":
                handles.append(self.context.on_interrupt(self.way_back.take))
            if self.load is not None:
                handles.append(self.context.on_interrupt(self.load.stop))
            return self._finish(self._guarded_watch())
        finally:
            for handle in handles:
                handle.remove()
            if self.keeper is not None:
                self.keeper.stop()
            for watcher in (self.route_watch, self.standby, self.load):
                if watcher is not None:
                    watcher.stop()
            self.provider.close()

    def _check_queries(self) -> dict[str, Any]:
        readings = self.inquiry.try_out(_SLICE, self.context.cancelled.is_set)
        self.provider.close()
        problems = self.inquiry.problems(readings, _is_error)
        self.result["seconds"] = self._elapsed()
        self._fill_metrics()
        if problems:
            self.result["verdict"] = _gate_model.ERROR
            self.result["reason"] = "; ".join(problems)
            raise RolloutError(
                f"{self.label}: {len(problems)} of {len(readings)} queries cannot be used: {self.result['reason']}. "
                "Next: correct the queries, or the address of Prometheus.",
                **self.result,
            )
        for metric in self.plan.metrics:
            self.context.progress(f"{self.label}: {metric.name}: {_gate_words.rule(self.plan, metric)}")
            for role, question in metric.questions.items():
                self.context.progress(f"{self.label}: {metric.name}: {role}: {question}")
        if self.plan.requests is not None:
            self.context.progress(f"{self.label}: requests >= {self.plan.requests.at_least:g}: {self.plan.requests.question}")
        self._tell_detection()
        self.result["reason"] = (
            f"check mode: {len(readings)} queries are valid, nothing was judged: a plan has no numbers. "
            f"The hold takes {_gate_words.clock(self.plan.duration)}, at most {_gate_words.clock(self.plan.longest)}."
        )
        return self.result

    def _hold_lease(self) -> None:
        lease = self.params["lease"]
        if not lease:
            return
        route = self.params["abort_route"] or {}
        connection = {name: lease[name] if lease[name] is not None else route.get(name) for name in _kube.CONNECTION_OPTIONS}
        self.keeper = self.way_back.keeper = LeaseKeeper(lease, lambda: _kube.connect(connection))
        try:
            self.keeper.start()
        except (_record.LostLock, _kube.KubeError) as error:
            self.result.update(verdict=_gate_model.ERROR, reason=error.message)
            raise RolloutError(error.message, **self.result) from None

    def _watch_standby(self) -> None:
        standby = self.params["standby"]
        if not standby:
            return
        route = self.params["abort_route"] or {}
        connection = {name: standby[name] if standby[name] is not None else route.get(name) for name in _kube.CONNECTION_OPTIONS}
        watch = StandbyWatch(standby, self.plan.interval, lambda: _kube.connect(connection))
        self.way_back.closed = lambda: watch.empty
        try:
            watch.start()
        except _kube.KubeError as error:
            self.result.update(verdict=_gate_model.ERROR, reason=error.message)
            raise RolloutError(error.message, **self.result) from None
        self.standby = watch

    def _guarded_watch(self) -> _gate_model.Verdict:
        """Watch; whatever breaks in here is no evidence either, and traffic must not stay where nobody watches it."""
        try:
            return self._watch()
        except RolloutError:
            raise
        except Exception as error:
            return _gate_model.Verdict(_gate_model.ERROR, f"internal error of the gate: {type(error).__name__}: {error}")

    def _watch(self) -> _gate_model.Verdict:
        verdict = self._interrupted() or self._refuse_hopeless() or self._probe_load() or self._shift()
        if verdict is not None:
            return verdict
        self._announce()
        if self.plan.initial_delay and self.clock.sleep(self.plan.initial_delay):
            return self._interrupted() or self._cancelled()
        self.gate = _gate.Gate(self.plan, self.clock.monotonic())
        schedule = Schedule(self.plan, self.gate.start)
        now = self.gate.start
        while True:
            self._turn = self.inquiry.ask(self.gate, schedule, now) or self._turn
            self._reported = False
            verdict = self._collect(schedule.next)
            if verdict is not None:
                return verdict
            now = max(self.clock.monotonic(), schedule.next)

    def _probe_load(self) -> _gate_model.Verdict | None:
        """Before anything is moved: synthetic requests that end at the wrong version would only harm."""
        trouble = self.load.probe() if self.load is not None else ""
        if not trouble:
            return None
        return self._interrupted() or _gate_model.Verdict(_gate_model.ERROR, f"synthetic load cannot be used: {trouble}")

    def _shift(self) -> _gate_model.Verdict | None:
        """Move traffic to the weight that is to be watched, when this task is to do that too.

        One task for both leaves no moment in which green has traffic and nobody would take it back.
        """
        shift = self.params.get("shift")
        if not shift:
            return None
        route = {**self.params["abort_route"], **shift, "on_interrupt": self.params["on_interrupt"]}
        try:
            self.result["shift"] = _canary_weight.run(route, self.context)
        except RolloutError as error:
            self.result["shift"] = error.result
            self.result["drift"] = error.result.get("drift")
            if error.result.get("changed") and not isinstance(error, _canary_weight.Drift):
                return self._interrupted() or _gate_model.Verdict(_gate_model.ERROR, error.message.rstrip("."))
            # Nothing was moved, or somebody else has moved it meanwhile: not for the gate to change.
            self.result.update(verdict=_gate_model.ERROR, reason=error.message, seconds=self._elapsed(), aborted=self.way_back.outcome)
            verdict = _gate_model.CANCELLED if self.context.cancelled.is_set() else _gate_model.ERROR
            self._note_event(verdict, f"{self.label}: {error.message}")
            raise RolloutError(error.message, **self.result) from None
        before, after = self.result["shift"]["before"], self.result["shift"]["after"]
        proof = _confirm.words(self.result["shift"]["confirmed"])
        self.context.progress(f"{self.label}: weight {before['canary']} -> {after['canary']}, {proof}")
        self.route_watch = RouteWatch(self.params["abort_route"], self.plan.interval)
        self.route_watch.start(after["canary"])
        return None

    def _announce(self) -> None:
        count = len(self.plan.metrics)
        self.context.progress(
            f"{self.label}: watching {count} metric{'s' if count > 1 else ''} for {_gate_words.clock(self.plan.duration)}, "
            f"a poll every {self.plan.interval:g} s"
        )
        for metric in self.plan.metrics:
            if not _gate_words.is_plain(metric):
                self.context.progress(f"{self.label}: {metric.name}: {_gate_words.rule(self.plan, metric)}")
        self._tell_detection()

    def _tell_detection(self) -> None:
        for entry in self.result["detection"]:
            self.context.progress(f"{self.label}: {_gate_words.detection_words(entry)}")

    def _interrupted(self) -> _gate_model.Verdict | None:
        if self.context.cancelled.is_set():
            return self._cancelled()
        if self.keeper is not None and self.keeper.lost is not None:
            return _gate_model.Verdict(_gate_model.ERROR, self.keeper.lost)
        if self.route_watch is not None and self.route_watch.foreign is not None:
            self.result["drift"] = self.route_watch.foreign.result.get("drift")
            return _gate_model.Verdict(_gate_model.ERROR, self.route_watch.foreign.message)
        if self.standby is not None and self.standby.gone:
            return _gate_model.Verdict(_gate_model.ERROR, self.standby.gone)
        return None

    def _cancelled(self) -> _gate_model.Verdict:
        return _gate_model.Verdict(_gate_model.CANCELLED, f"interrupted by {self.context.signal_name or 'a signal'}")

    # ------------------------------------------------------------------------------------------------ the queries

    def _refuse_hopeless(self) -> _gate_model.Verdict | None:
        """A query that can never be answered ends the gate at once: holding would not make it right."""
        readings = self.inquiry.try_out(_SLICE, self.context.cancelled.is_set)
        problems = self.inquiry.problems(readings, lambda reading: reading.hopeless)
        if self.context.cancelled.is_set():
            return self._cancelled()
        return _gate_model.Verdict(_gate_model.ERROR, "; ".join(problems)) if problems else None

    @property
    def _gate(self) -> _gate.Gate:
        if self.gate is None:
            raise RuntimeError("the hold has not begun")
        return self.gate

    def _collect(self, until: float) -> _gate_model.Verdict | None:
        """Take answers as they come until the next question is due; return as soon as one of them decides."""
        while True:
            verdict = self._interrupted()
            if verdict is not None:
                return verdict
            left = until - self.clock.monotonic()
            if left <= 0:
                break
            for question, reading in self.provider.answers(min(left, _SLICE)):
                verdict = self.inquiry.take(self._gate, question, reading)
                if verdict is not None:
                    self.context.progress(_gate_words.live_line(self.label, self._gate))
                    return verdict
            if not self._reported and not self.provider.waiting():
                verdict = self._report()
                if verdict is not None:
                    return verdict
        return None if self._reported else self._report()

    # ------------------------------------------------------------------------------------------------ what is told

    def _report(self) -> _gate_model.Verdict | None:
        """Close a poll: tell it, and decide."""
        self._reported = True
        now = self.clock.monotonic()
        self._tell_standby()
        verdict = self._gate.decide(now)
        if verdict is None:
            self._steer_load(now)
        # What is blind, and in which way; each change of that is told once, and polls only while there is something to see.
        blind = self._gate.blind(now)
        blindness = ", ".join(f"{tally.metric.name}:{tally.last.state if tally.last else ''}" for tally in blind)
        if blindness and blindness != self._blindness:
            self.context.progress(_gate_words.blind_line(self.label, self._gate, now, bool(self.params["abort_route"])))
        elif self._blindness and not blindness:
            self.context.progress(f"{self.label}: every metric can be seen again; the hold goes on")
        self._note_outage(blind, now)
        if verdict is None:
            self._tell_people(blind, now)
        self._blindness = blindness
        # One line per turn of the gate, however often single metrics are asked.
        if (self._turn or verdict is not None) and len(blind) < len(self._gate.counted):
            self.context.progress(_gate_words.live_line(self.label, self._gate))
        self._turn = False
        return verdict

    def _steer_load(self, now: float) -> None:
        """Let synthetic requests begin or pause, by what users have sent so far."""
        load, gate = self.load, self._gate
        if load is None:
            return
        if load.misrouted and not self._misrouted:
            self._misrouted = load.misrouted
            warning = f"synthetic load stopped: an answer came from '{load.misrouted}'; the header route has changed"
            self.context.progress(f"{self.label}: {warning}")
            self.result["warnings"].append(f"{self.label}: {warning}.")
        wanted = load.load.when == _synthetic.ALWAYS or self._users_are_too_few(load, gate, now)
        if not load.steer(wanted):
            return
        count = "" if gate.requests is None else f"{gate.requests:.0f} requests so far; "
        what = f"sending up to {load.load.rate:g} synthetic requests/s to {load.load}" if wanted else "no synthetic requests are needed now"
        self.context.progress(f"{self.label}: {count}{what}")

    def _users_are_too_few(self, load: _synthetic.SyntheticLoad, gate: _gate.Gate, now: float) -> bool:
        floor = self.plan.requests
        if floor is None:
            return False
        elapsed = now - gate.start
        if gate.requests is None:
            # The first scrapes of a hold count nothing yet; and while Prometheus does not answer, sending proves nothing.
            patience = 2 * self.plan.scrape_interval + self.plan.interval if self.plan.scrape_interval else self.plan.max_age
            if gate.requests_state != _gate_model.NO_DATA or elapsed < patience:
                return False
        return _synthetic.is_needed(gate.requests or 0.0, floor.at_least, load.sent, elapsed, gate.remaining())

    def _tell_standby(self) -> None:
        if self.standby is None:
            return
        weak = self._gate.way_back_closed = self.standby.weak
        told = f"{weak}; the hold does not pass while that is so" if weak else self.standby.short
        if told and told != self._weak:
            self.context.progress(f"{self.label}: {told}")
            self.result["warnings"].append(f"{self.label}: {told}.")
        elif self._weak and not told:
            self.context.progress(f"{self.label}: traffic could go back again")
        self._weak = told

    def _note_outage(self, blind: list[_gate.Tally], now: float) -> None:
        """Keep in the result what could not be seen, from when on and for how long."""
        outages = self.result["outages"]
        if blind:
            if not self._blindness:
                self._never_seen = all(tally.last_seen is None for tally in blind)
                outages.append({"metrics": [], "since": _iso(self.clock.time()), "seconds": 0.0, "reason": ""})
                self._blind_since = now
            last = outages[-1]
            last["metrics"] = sorted({*last["metrics"], *(tally.metric.name for tally in blind)})
            last["reason"] = _gate.words_of(blind[0].last)
        if outages and (blind or self._blindness):
            outages[-1]["seconds"] = round(now - self._blind_since, 3)
        if outages and not blind and self._blindness and self._never_seen and now - self._blind_since <= self.plan.max_age:
            # A version that has just got its first traffic shows nothing for some seconds: no outage.
            outages.pop()

    def _tell_people(self, blind: list[_gate.Tally], now: float) -> None:
        """Send the one message of this hold, of the first outage that lasts."""
        if self._notice is None or not blind or not self._notice.is_due(now - self._blind_since):
            return
        shift = self.params["shift"]
        weight = shift["weight"] if shift else None
        self._notice.tell(_gate_words.outage_message(self.label, self._gate, now, bool(self.params["abort_route"]), weight))

    def _tell_notice(self) -> None:
        """Put into the result whether people were told."""
        told = self._notice.result() if self._notice is not None else None
        self.result["outage_notice"] = told
        if told and told["error"]:
            self.result["warnings"].append(f"{self.label}: people were not told of the outage: {told['error']}")

    def _finish(self, verdict: _gate_model.Verdict) -> dict[str, Any]:
        decided = self.clock.monotonic()
        stays = verdict.kind == _gate_model.PASS or (verdict.kind == _gate_model.CANCELLED and self.params["on_interrupt"] == "hold")
        stays = stays or self.result["drift"] is not None
        stays = stays or (self.standby is not None and bool(self.standby.gone))
        if self.route_watch is not None:
            self.route_watch.stop()
        if self.load is not None:
            self.load.stop()
            self.result["synthetic"] = self.load.result()
        for outage in self.result["outages"]:
            self.result["warnings"].append(
                f"{self.label}: {', '.join(outage['metrics'])} could not be seen for {outage['seconds']:.0f} s from {outage['since']} on "
                f"({outage['reason']}). The weight was frozen meanwhile."
            )
        if self.params["abort_route"] and not stays:
            self.way_back.take()
        self._tell_notice()
        self.result["aborted"] = self.way_back.outcome
        self.result.update(verdict=verdict.kind, reason=verdict.reason, seconds=self._elapsed())
        self._fill_metrics()
        if verdict.kind == _gate_model.BREACH and verdict.metric is not None:
            tally = self._gate.tallies[verdict.metric]
            since = tally.last_good.time if tally.last_good is not None else self._gate.start
            self.result["detection_time_s"] = round(decided - since, 3)
        moved = [self.result["shift"], self.result["aborted"]]
        self.result["changed"] = any(move["changed"] for move in moved if move)
        if verdict.kind == _gate_model.PASS:
            self.context.progress(f"{self.label}: PASS, {verdict.reason}")
            return self.result
        into = f", {decided - self.gate.start:.1f} s into the hold" if self.gate is not None else ""
        traffic = self.way_back.words(self._why_left())
        message = f"{self.label}: {verdict.kind}: {verdict.reason}{into}. {traffic}"
        self._note_event(verdict.kind, f"{self.label}: {verdict.reason}{into}. {traffic}")
        self.context.progress(message)
        raise RolloutError(message, **self.result)

    def _note_event(self, verdict: str, words: str) -> None:
        """Have the record tell the next person what no step tells; traffic is where it belongs by now, so this may take a moment."""
        drift, back, shift = self.result["drift"], self.way_back.outcome or {}, self.result["shift"] or {}
        if self.keeper is None or not (drift or verdict in _EVENTS):
            return
        before, after = (shift.get("after") or {}).get("canary"), (shift.get("after") or {}).get("canary")
        if drift:
            before, after = drift["expected"], drift["seen"]
        elif back:
            before, after = ((back.get(side) or {}).get("canary") for side in ("before", "after"))
            if before == 0 and shift.get("changed"):
                # The shift, interrupted itself, had put its weight back already.
                before = self.params["shift"]["weight"]
        signal_name = self.context.signal_name if verdict == _gate_model.CANCELLED else None
        kind = _events.DRIFT if drift else _EVENTS[verdict]
        note = self.keeper.note(kind, words, signal=signal_name, before=before, after=after)
        if note:
            self.context.progress(f"{self.label}: the record does not tell of this: {note}")

    def _fill_metrics(self) -> None:
        gate = self.gate
        if gate is None:
            self.result["metrics"] = [
                _metric_result(self.plan, _gate.Tally(metric, 0.0), _gate_model.NONE) for metric in self.plan.metrics
            ]
            return
        for name, tally in gate.tallies.items():
            self.result["metrics"].append(_metric_result(self.plan, tally, gate.verdict_of(tally)))
            self.result["series"][name] = [[round(point[0] + self._to_unix, 3), point[1]] for point in tally.series.points()]
        if self.plan.requests is not None:
            self.result["requests"] = {"count": gate.requests, "at_least": self.plan.requests.at_least}

    def _why_left(self) -> str:
        """Why traffic was left where it is, when that was not for want of an abort_route."""
        if self.result["drift"] is not None:
            return "it is somebody else's edit"
        if self.standby is not None and self.standby.gone:
            return "there is nothing that could take it. Next: scale the stable version up again, then playbooks/resume.yml"
        return ""

    def _elapsed(self) -> float:
        return round(self.clock.monotonic() - self._began, 3)


def _metric_result(plan: _gate_model.Plan, tally: _gate.Tally, verdict: str) -> dict[str, Any]:
    metric = tally.metric
    return {
        "name": metric.name,
        "verdict": verdict,
        "worst": tally.worst,
        "last": tally.last.value if tally.last is not None else None,
        "detail": tally.last.detail if tally.last is not None else "",
        "limit": metric.limit.value,
        "condition": metric.limit.condition,
        "unit": metric.limit.unit,
        "samples": tally.samples,
        "good": tally.good,
        "suspect": tally.suspect,
        "breaches": tally.breaches,
        "blind": tally.blind_samples,
        "dry_run": metric.dry_run,
        "query": str(metric.question),
        "queries": {role: str(question) for role, question in metric.questions.items()},
        "rule": _gate_words.rule(plan, metric),
        "evidence": _gate_words.evidence(tally),
    }


def _is_error(reading: _gate_model.Reading) -> bool:
    return reading.state == _gate_model.ERROR


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
