# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module metric_gate: holds a weight while figures keep their limits. Private to this collection.

The decisions are in ``_gate.py``. Here is what surrounds them: the schedule, the queries, the live lines, the lease, and the
way back, which is taken inside the same task since a rescue block would cost a second and does not run on a signal.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _gate,
    _kube,
    _prometheus,
    _promql,
    _record,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

QUESTION_SPEC: dict[str, dict[str, Any]] = {
    "query": {"type": "str"},
    "preset": {"type": "str", "choices": sorted(_promql.PRESETS)},
    "preset_vars": {"type": "dict"},
}

# Shared with preflight_check, which validates the same lists before anything starts.
METRICS_SPEC: dict[str, dict[str, Any]] = {
    **QUESTION_SPEC,
    "name": {"type": "str", "required": True},
    "below": {"type": "float"},
    "at_most": {"type": "float"},
    "above": {"type": "float"},
    "at_least": {"type": "float"},
    "unit": {"type": "str"},
    "failure_limit": {"type": "int", "default": 0},
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
            "kind": _canary_weight.ARGUMENT_SPEC["kind"],
        },
    },
    "shift": {
        "type": "dict",
        "options": {"weight": {"type": "int", "required": True}, "expected_weight": {"type": "int"}},
    },
    "abort_timeout": {"type": "float", "default": 60.0},
    "on_interrupt": {"type": "str", "default": "back", "choices": ["back", "hold"]},
    "lease": {"type": "dict", "options": LEASE_SPEC},
}

SPEC_RULES: dict[str, Any] = {"required_by": {"shift": ["abort_route"]}}
SUPPORTS_CHECK_MODE = True

# How many times over its limit a figure is taken to be when worst-case detection times are told.
SEVERITIES = (2, 10, 50)
# A signal handler runs at once, but what it did is noticed after at most this long.
_SLICE = 0.25
_TRANSIENT = (0, 408, 429, 500, 502, 503, 504)
_RETRY_PAUSE = 0.5


class Clock(Protocol):
    """Time as the hold sees it; tests give one that runs hours in milliseconds."""

    def monotonic(self) -> float: ...

    def time(self) -> float: ...

    def sleep(self, seconds: float) -> bool:
        """Wait; True when the run was cancelled meanwhile."""


class Provider(Protocol):
    """Where readings come from; see :class:`_prometheus.Lanes` for the meaning of each call."""

    def ask(self, key: str, query: str) -> bool: ...

    def waiting(self) -> bool: ...

    def answers(self, wait: float) -> list[tuple[str, _gate.Reading]]: ...

    def close(self) -> None: ...


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
    plan = read_plan(params)
    provider = _prometheus.Lanes(_prometheus.Prometheus(params, params["query_timeout"]), params["query_timeout"])
    return Hold(params, plan, context, provider, SystemClock(context)).run()


def read_plan(params: dict[str, Any]) -> _gate.Plan:
    """Return the plan; raises :class:`_gate.ConfigError` with every mistake, those of the connection included."""
    problems = _prometheus.problems_of(params)
    lease = params.get("lease")
    if lease and not (math.isfinite(lease["duration"]) and lease["duration"] > 0):
        problems.append(f"lease.duration is {lease['duration']} s, expected a number above 0")
    if not (math.isfinite(params["abort_timeout"]) and params["abort_timeout"] >= 0):
        problems.append(f"abort_timeout is {params['abort_timeout']} s, expected a number of at least 0")
    try:
        plan = _gate.read_plan(params)
    except _gate.ConfigError as error:
        problems.extend(error.problems)
    if problems:
        error = _gate.ConfigError(problems)
        error.result = {**empty_result(), "verdict": _gate.ERROR, "reason": error.message}
        raise error
    return plan


def empty_result() -> dict[str, Any]:
    """Every key of the result, before anything is known."""
    return {
        "changed": False,
        "verdict": _gate.NONE,
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
        "warnings": [],
    }


@dataclass
class Watch:
    """One metric's newest answers. ``fresh`` is ``(when asked, reading)`` of its freshness query."""

    metric: _gate.Metric
    value: tuple[float, _gate.Reading] | None = None
    fresh: tuple[float, _gate.Reading] | None = None


class LeaseKeeper:
    """Renews the Lease from a thread of its own, so that a slow API server does not delay the polls."""

    def __init__(self, lease: dict[str, Any], connect: Callable[[], _kube.Kube]) -> None:
        self._lease = lease
        self._connect = connect
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self.lost: str | None = None

    def start(self) -> None:
        """Renew once now, then go on in the background.

        Raises :class:`_record.LostLock` when somebody else holds it, and :class:`_kube.KubeError` without credentials.
        """
        kube = self._connect()
        self._renew(kube)
        threading.Thread(target=self._run, args=(kube.clone(),), name="lease", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def may_write(self) -> bool:
        """Whether this run still holds the Lease; asks the server when the last renewal is older than the Lease lasts."""
        if self.lost is None and time.monotonic() - self._renewed > self._lease["duration"]:
            try:
                self._renew(self._connect())
            except _record.LostLock as error:
                self.lost = error.message
        return self.lost is None

    def _run(self, kube: _kube.Kube) -> None:
        pause = self._lease["duration"] / 3
        while not self._stop.wait(pause):
            try:
                fine = self._renew(kube)
            except _record.LostLock as error:
                self.lost = error.message
                return
            pause = self._lease["duration"] / 3 if fine else min(1.0, self._lease["duration"] / 3)

    def _renew(self, kube: _kube.Kube) -> bool:
        """True when renewed, False when the server gave no proper answer."""
        try:
            _record.renew(kube, self._lease["namespace"], self._lease["name"], self._lease["holder"])
        except _kube.KubeError:
            return False
        self._renewed = time.monotonic()
        return True


class RouteWatch:
    """Looks at the held weight from a thread of its own, so that somebody else's edit is seen within an interval."""

    def __init__(self, route: dict[str, Any], interval: float) -> None:
        self._route = {**route, "confirm": {**route["confirm"], "method": "none"}}
        self._interval = interval
        self._stop = threading.Event()
        self.foreign: RolloutError | None = None

    def start(self, weight: int) -> None:
        """Begin to watch; ``weight`` is what the canary has and must keep."""
        self._route.update(weight=weight, expected_weight=weight)
        threading.Thread(target=self._run, name="route", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        kube: _kube.Kube | None = None
        while not self._stop.wait(self._interval):
            try:
                kube = kube or _kube.connect(self._route)
                # Check mode only reads: an equal weight is one GET, another one is drift.
                _canary_weight.Shift(self._route, Context(check_mode=True), kube).run()
            except _kube.KubeError:
                # An API server that does not answer says nothing about the weight; the hold goes on.
                continue
            except RolloutError as error:
                if not self._stop.is_set():
                    self.foreign = error
                return


class Hold:
    """One run of the gate."""

    def __init__(
        self, params: dict[str, Any], plan: _gate.Plan, context: Context, provider: Provider, clock: Clock
    ) -> None:
        self.params = params
        self.plan = plan
        self.context = context
        self.provider = provider
        self.clock = clock
        self.label: str = params["label"]
        self.watches = [Watch(metric) for metric in plan.metrics]
        self.gate: _gate.Gate | None = None
        self.keeper: LeaseKeeper | None = None
        self.route_watch: RouteWatch | None = None
        self.result = empty_result()
        self.result["warnings"] = list(plan.warnings)
        self.result["detection"] = detection(plan)
        self._asked: dict[str, float] = {}
        self._began = clock.monotonic()
        self._to_unix = clock.time() - self._began
        self._reported = False
        self._blindness = ""
        self._going_back = False

    # ------------------------------------------------------------------------------------------------ the course

    def run(self) -> dict[str, Any]:
        self.result["started"] = _iso(self.clock.time())
        if self.context.check_mode:
            return self._check_queries()
        handle = None
        try:
            self._hold_lease()
            if self.params["abort_route"] and self.params["on_interrupt"] == "back":
                handle = self.context.on_interrupt(self._back)
            return self._finish(self._guarded_watch())
        finally:
            if handle is not None:
                handle.remove()
            if self.keeper is not None:
                self.keeper.stop()
            if self.route_watch is not None:
                self.route_watch.stop()
            self.provider.close()

    def _check_queries(self) -> dict[str, Any]:
        readings = self._dry_queries()
        self.provider.close()
        problems = self._query_problems(readings, _is_error)
        self.result["seconds"] = self._elapsed()
        self.result["metrics"] = [_metric_result(_gate.Tally(metric, 0.0), _gate.NONE) for metric in self.plan.metrics]
        if problems:
            self.result["verdict"] = _gate.ERROR
            self.result["reason"] = "; ".join(problems)
            raise RolloutError(
                f"{self.label}: {len(problems)} of {len(readings)} queries cannot be used: {self.result['reason']}. "
                "Next: correct the queries, or the address of Prometheus.",
                **self.result,
            )
        self.result["reason"] = (
            f"check mode: {len(readings)} queries are valid, nothing was judged: a plan has no numbers. "
            f"The hold takes {_gate.clock(self.plan.duration)}, at most {_gate.clock(self.plan.longest)}."
        )
        return self.result

    def _hold_lease(self) -> None:
        lease = self.params["lease"]
        if not lease:
            return
        route = self.params["abort_route"] or {}
        connection = {name: lease[name] if lease[name] is not None else route.get(name) for name in _kube.CONNECTION_OPTIONS}
        self.keeper = LeaseKeeper(lease, lambda: _kube.connect(connection))
        try:
            self.keeper.start()
        except (_record.LostLock, _kube.KubeError) as error:
            self.result.update(verdict=_gate.ERROR, reason=error.message)
            raise RolloutError(error.message, **self.result) from None

    def _guarded_watch(self) -> _gate.Verdict:
        """Watch; whatever breaks in here is no evidence either, and traffic must not stay where nobody watches it."""
        try:
            return self._watch()
        except RolloutError:
            raise
        except Exception as error:
            return _gate.Verdict(_gate.ERROR, f"internal error of the gate: {type(error).__name__}: {error}")

    def _watch(self) -> _gate.Verdict:
        verdict = self._interrupted() or self._refuse_hopeless() or self._shift()
        if verdict is not None:
            return verdict
        self._announce()
        if self.plan.initial_delay and self.clock.sleep(self.plan.initial_delay):
            return self._interrupted() or self._cancelled()
        start = self.clock.monotonic()
        self.gate = _gate.Gate(self.plan, start)
        poll = 0
        while True:
            self._ask(start + poll * self.plan.interval)
            verdict = self._collect(start + (poll + 1) * self.plan.interval)
            if verdict is not None:
                return verdict
            # Counted from the start, so that slow polls never make the schedule drift; missed polls are left out.
            poll = max(poll + 1, math.floor((self.clock.monotonic() - start) / self.plan.interval + 1e-6))

    def _shift(self) -> _gate.Verdict | None:
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
                return self._interrupted() or _gate.Verdict(_gate.ERROR, error.message)
            # Nothing was moved, or somebody else has moved it meanwhile: not for the gate to change.
            self.result.update(verdict=_gate.ERROR, reason=error.message, seconds=self._elapsed())
            raise RolloutError(error.message, **self.result) from None
        before, after = self.result["shift"]["before"], self.result["shift"]["after"]
        confirmed = self.result["shift"]["confirmed"]
        self.context.progress(
            f"{self.label}: weight {before['canary']} -> {after['canary']}, "
            f"confirmed by {confirmed['proxies']} gateways in {confirmed['seconds']:.2f} s"
        )
        self.route_watch = RouteWatch(self.params["abort_route"], self.plan.interval)
        self.route_watch.start(after["canary"])
        return None

    def _announce(self) -> None:
        count = len(self.plan.metrics)
        self.context.progress(
            f"{self.label}: watching {count} metric{'s' if count > 1 else ''} for {_gate.clock(self.plan.duration)}, "
            f"a poll every {self.plan.interval:g} s"
        )
        for entry in self.result["detection"]:
            times = ", ".join(f"{item['seconds']:g} s at {item['times']}x" for item in entry["worst_case"])
            self.context.progress(f"{self.label}: {entry['metric']} is seen over its limit within {times} the limit")

    def _interrupted(self) -> _gate.Verdict | None:
        if self.context.cancelled.is_set():
            return self._cancelled()
        if self.keeper is not None and self.keeper.lost is not None:
            return _gate.Verdict(_gate.ERROR, self.keeper.lost)
        if self.route_watch is not None and self.route_watch.foreign is not None:
            self.result["drift"] = self.route_watch.foreign.result.get("drift")
            return _gate.Verdict(_gate.ERROR, self.route_watch.foreign.message)
        return None

    def _cancelled(self) -> _gate.Verdict:
        return _gate.Verdict(_gate.CANCELLED, f"interrupted by {self.context.signal_name or 'a signal'}")

    # ------------------------------------------------------------------------------------------------ the queries

    def _questions(self) -> list[str]:
        """Every query once, also when several metrics share it. The text is its lane's key."""
        texts = [metric.query for metric in self.plan.metrics]
        texts += [metric.freshness for metric in self.plan.metrics if metric.freshness]
        if self.plan.requests is not None:
            texts.append(self.plan.requests.query)
        return list(dict.fromkeys(texts))

    def _dry_queries(self) -> dict[str, _gate.Reading]:
        """Ask everything once, only to learn whether it can be asked."""
        questions = self._questions()
        for text in questions:
            self.provider.ask(text, text.replace(_promql.HOLD, _promql.as_duration(self.plan.duration)))
        readings: dict[str, _gate.Reading] = {}
        while self.provider.waiting() and not self.context.cancelled.is_set():
            readings.update(self.provider.answers(_SLICE))
        return readings

    def _refuse_hopeless(self) -> _gate.Verdict | None:
        """A query that can never be answered ends the gate at once: holding would not make it right."""
        problems = self._query_problems(self._dry_queries(), lambda reading: reading.hopeless)
        if self.context.cancelled.is_set():
            return self._cancelled()
        return _gate.Verdict(_gate.ERROR, "; ".join(problems)) if problems else None

    def _query_problems(self, readings: dict[str, _gate.Reading], wrong: Callable[[_gate.Reading], bool]) -> list[str]:
        uses: list[tuple[str, str]] = [(f"metric {metric.name}", metric.query) for metric in self.plan.metrics]
        uses += [(f"freshness of metric {metric.name}", metric.freshness) for metric in self.plan.metrics if metric.freshness]
        if self.plan.requests is not None:
            uses.append(("minimum_requests", self.plan.requests.query))
        return [
            f"{where}: {readings[text].detail} (query: {text})" for where, text in uses if text in readings and wrong(readings[text])
        ]

    def _ask(self, asked: float) -> None:
        elapsed = max(self.plan.interval, asked - self._gate.start)
        for text in self._questions():
            if self.provider.ask(text, text.replace(_promql.HOLD, _promql.as_duration(elapsed))):
                self._asked[text] = asked
        self._reported = False

    @property
    def _gate(self) -> _gate.Gate:
        if self.gate is None:
            raise RuntimeError("the hold has not begun")
        return self.gate

    def _collect(self, until: float) -> _gate.Verdict | None:
        """Take answers as they come until the next poll is due; return as soon as one of them decides."""
        while True:
            verdict = self._interrupted()
            if verdict is not None:
                return verdict
            left = until - self.clock.monotonic()
            if left <= 0:
                break
            for text, reading in self.provider.answers(min(left, _SLICE)):
                verdict = self._take(text, reading)
                if verdict is not None:
                    return verdict
            if not self._reported and not self.provider.waiting():
                verdict = self._report()
                if verdict is not None:
                    return verdict
        return None if self._reported else self._report()

    def _take(self, text: str, reading: _gate.Reading) -> _gate.Verdict | None:
        asked = self._asked[text]
        if self.plan.requests is not None and self.plan.requests.query == text:
            self._gate.add_requests(reading)
        concerned = [watch for watch in self.watches if text in (watch.metric.query, watch.metric.freshness)]
        for watch in concerned:
            if watch.metric.freshness == text:
                watch.fresh = (asked, reading)
            if watch.metric.query == text:
                watch.value = (asked, reading)
        for watch in concerned:
            verdict = self._judge(watch)
            if verdict is not None:
                self.context.progress(_gate.live_line(self.label, self._gate))
                return verdict
        return None

    def _judge(self, watch: Watch) -> _gate.Verdict | None:
        """Judge the newest value once, as soon as its freshness is known too."""
        if watch.value is None or (watch.metric.freshness and watch.fresh is None):
            return None
        asked, reading = watch.value
        watch.value = None
        if reading.state == _gate.GOOD and watch.fresh is not None:
            reading, age = self._aged(reading, *watch.fresh)
        else:
            age = self.clock.time() - reading.at if reading.at is not None else None
        return self._gate.add(watch.metric.name, _gate.judge(watch.metric, reading, asked, age, self.plan.max_age))

    def _aged(self, reading: _gate.Reading, asked: float, fresh: _gate.Reading) -> tuple[_gate.Reading, float | None]:
        """The age of the newest scrape by Prometheus' own clock, plus what has passed since that was asked."""
        if fresh.state != _gate.GOOD or fresh.value is None or fresh.at is None:
            return _gate.Reading(fresh.state, detail=f"freshness: {fresh.detail}", at=fresh.at), None
        return reading, fresh.at - fresh.value + max(0.0, self.clock.monotonic() - asked)

    # ------------------------------------------------------------------------------------------------ what is told

    def _report(self) -> _gate.Verdict | None:
        """Close a poll: tell it, and decide."""
        self._reported = True
        now = self.clock.monotonic()
        verdict = self._gate.decide(now)
        # What is blind, and in which way; each change of that is told once, and polls only while there is something to see.
        blind = self._gate.blind()
        blindness = ", ".join(f"{tally.metric.name}:{tally.last.state if tally.last else ''}" for tally in blind)
        if blindness and blindness != self._blindness:
            self.context.progress(_gate.blind_line(self.label, self._gate, now, bool(self.params["abort_route"])))
        elif self._blindness and not blindness:
            self.context.progress(f"{self.label}: every metric can be seen again; the hold goes on")
        self._blindness = blindness
        if len(blind) < len(self._gate.counted):
            self.context.progress(_gate.live_line(self.label, self._gate))
        return verdict

    def _finish(self, verdict: _gate.Verdict) -> dict[str, Any]:
        decided = self.clock.monotonic()
        stays = verdict.kind == _gate.PASS or (verdict.kind == _gate.CANCELLED and self.params["on_interrupt"] == "hold")
        stays = stays or self.result["drift"] is not None
        if self.route_watch is not None:
            self.route_watch.stop()
        if self.params["abort_route"] and not stays:
            self._back()
        self.result.update(verdict=verdict.kind, reason=verdict.reason, seconds=self._elapsed())
        self._fill_metrics()
        if verdict.kind == _gate.BREACH and verdict.metric is not None:
            tally = self._gate.tallies[verdict.metric]
            since = tally.last_good.time if tally.last_good is not None else self._gate.start
            self.result["detection_time_s"] = round(decided - since, 3)
        moved = [self.result["shift"], self.result["aborted"]]
        self.result["changed"] = any(move["changed"] for move in moved if move)
        if verdict.kind == _gate.PASS:
            self.context.progress(f"{self.label}: PASS, {verdict.reason}")
            return self.result
        into = f", {decided - self.gate.start:.1f} s into the hold" if self.gate is not None else ""
        message = f"{self.label}: {verdict.kind}: {verdict.reason}{into}. {self._traffic_words()}"
        self.context.progress(message)
        raise RolloutError(message, **self.result)

    def _fill_metrics(self) -> None:
        gate = self.gate
        if gate is None:
            self.result["metrics"] = [_metric_result(_gate.Tally(metric, 0.0), _gate.NONE) for metric in self.plan.metrics]
            return
        for name, tally in gate.tallies.items():
            self.result["metrics"].append(_metric_result(tally, gate.verdict_of(tally)))
            self.result["series"][name] = [[round(point[0] + self._to_unix, 3), point[1]] for point in tally.series.points()]
        if self.plan.requests is not None:
            self.result["requests"] = {"count": gate.requests, "at_least": self.plan.requests.at_least}

    def _traffic_words(self) -> str:
        aborted = self.result["aborted"]
        if aborted is None:
            kept = "Traffic was left as it is"
            if self.result["drift"] is not None:
                return f"{kept}: it is somebody else's edit."
            if self.params["abort_route"]:
                return f"{kept}, as on_interrupt says. Next: playbooks/resume.yml or playbooks/rollback.yml."
            return f"{kept}: no abort_route was given. Next: playbooks/rollback.yml puts it back."
        if not aborted["done"]:
            return f"TRAFFIC IS NOT BACK: {aborted['error']} Next: run playbooks/rollback.yml now; playbooks/status.yml shows the weights."
        before = (aborted["before"] or {}).get("canary")
        how = "was already 0" if before == 0 else f"{before} -> 0 in {aborted['seconds']:.2f} s"
        confirmed = aborted["confirmed"]
        if aborted["error"]:
            proof = f", but this is not confirmed: {aborted['error']}"
        elif confirmed and confirmed.get("method") != "none":
            proof = f", confirmed by {confirmed['proxies']} gateways"
        else:
            proof = ""
        return f"Traffic is back on {self.params['abort_route']['stable']}: weight {how}{proof}. Next: playbooks/status.yml shows why."

    def _elapsed(self) -> float:
        return round(self.clock.monotonic() - self._began, 3)

    # ------------------------------------------------------------------------------------------------ the way back

    def _back(self) -> None:
        """Put all traffic back, once. Also called from a signal handler, in the middle of anything."""
        if self._going_back:
            return
        self._going_back = True
        started = time.monotonic()
        outcome: dict[str, Any] = {
            "done": False,
            "changed": False,
            "before": None,
            "after": None,
            "confirmed": None,
            "seconds": 0.0,
            "error": "",
        }
        self.result["aborted"] = outcome
        try:
            if self.keeper is not None and not self.keeper.may_write():
                outcome["error"] = f"This run may not write any more: {self.keeper.lost}"
                return
            self._write_zero(outcome, started + self.params["abort_timeout"])
        except Exception as error:
            # Whatever goes wrong here must be told as "traffic is not back", never as an internal error alone.
            outcome["error"] = f"{type(error).__name__}: {error}"
        finally:
            outcome["seconds"] = round(time.monotonic() - started, 3)

    def _write_zero(self, outcome: dict[str, Any], deadline: float) -> None:
        """Write weight 0; transient trouble of the API server is tried again until ``deadline``."""
        route = {**self.params["abort_route"], "weight": 0, "expected_weight": None}
        while True:
            try:
                self._note(outcome, _canary_weight.run(route, Context()))
                return
            except RolloutError as error:
                self._note(outcome, error.result)
                outcome["error"] = error.message
                transient = isinstance(error, _kube.KubeError) and error.status in _TRANSIENT
                if not transient or time.monotonic() + _RETRY_PAUSE >= deadline:
                    return
            time.sleep(_RETRY_PAUSE)

    def _note(self, outcome: dict[str, Any], answer: dict[str, Any]) -> None:
        outcome["changed"] = outcome["changed"] or bool(answer.get("changed"))
        outcome["before"] = outcome["before"] or answer.get("before")
        outcome["after"] = answer.get("after") or outcome["after"]
        outcome["confirmed"] = answer.get("confirmed")
        outcome["done"] = (outcome["after"] or {}).get("canary") == 0
        outcome["error"] = ""


def detection(plan: _gate.Plan) -> list[dict[str, Any]]:
    """Worst-case detection times of each metric whose window is known, when the scrape interval is."""
    if plan.scrape_interval is None:
        return []
    return [
        {
            "metric": metric.name,
            "worst_case": [
                {
                    "times": times,
                    "seconds": round(_gate.detection_seconds(metric.window, times, plan.scrape_interval, plan.interval), 3),
                }
                for times in SEVERITIES
            ],
        }
        for metric in plan.metrics
        if metric.window is not None
    ]


def _metric_result(tally: _gate.Tally, verdict: str) -> dict[str, Any]:
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
        "breaches": tally.breaches,
        "blind": tally.blind_samples,
        "dry_run": metric.dry_run,
        "query": metric.query,
    }


def _is_error(reading: _gate.Reading) -> bool:
    return reading.state == _gate.ERROR


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
