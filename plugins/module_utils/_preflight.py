# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module preflight_check: every reason why a release would fail, in one go. Private to this collection.

A check is a function of ``_preflight_*.py`` that yields problems, and one line in :data:`CHECKS`. Checks run at the same time, each
with its own deadline; one that depends on another starts when that one has found nothing wrong. Nothing is written anywhere: the only
POSTs are SelfSubjectAccessReviews, which the API server answers and forgets, and the only PATCH is a dry run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _kube,
    _metric_gate,
    _postgresql,
    _preflight_cluster,
    _preflight_database,
    _preflight_manifests,
    _preflight_mesh,
    _preflight_room,
    _preflight_services,
    _prometheus,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import EVIDENCE_LIMIT, Check, NotApplicable, Problem, Site

RIGHT_SPEC: dict[str, dict[str, Any]] = {
    "verb": {"type": "str", "required": True},
    "group": {"type": "str", "default": ""},
    "resource": {"type": "str", "required": True},
    "namespace": {"type": "str"},
    "name": {"type": "str"},
}

TRAFFIC_ROUTE_SPEC: dict[str, dict[str, Any]] = {
    **{
        name: _canary_weight.ROUTE_SPEC[name]
        for name in ("kind", "name", "route", "destination_host", "stable", "canary", "extra_destinations", "others")
    },
    "gateway_namespace": _canary_weight.ROUTE_SPEC["confirm"]["options"]["namespace"],
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "cluster_server": {"type": "str"},
    "environment": {"type": "str"},
    "rights": {"type": "list", "elements": "dict", "options": RIGHT_SPEC},
    "deployment": {"type": "str"},
    "stable_version": {"type": "str"},
    "version": {"type": "str"},
    "full_pods": {"type": "int"},
    "manifests": {"type": "list", "elements": "raw"},
    "files": {"type": "dict"},
    "allowed_kinds": {"type": "list", "elements": "str", "default": ["ConfigMap", "Deployment", "Secret", "Service"]},
    "traffic_route": {"type": "dict", "options": TRAFFIC_ROUTE_SPEC, "aliases": ["virtual_service"]},
    "postgresql": {
        "type": "dict",
        "options": {
            **_postgresql.ARGUMENT_SPEC,
            "extension": {"type": "str", "default": "timescaledb"},
            "pg_bin_dir": {"type": "path"},
        },
    },
    "backup": {
        "type": "dict",
        "options": {
            "path": {"type": "path", "required": True},
            "free_factor": {"type": "float", "default": 1.2},
            "max_age_hours": {"type": "float"},
            "verified": {"type": "str", "default": "read", "choices": ["read", "restored"]},
            "local_client": {"type": "bool", "default": True},
        },
    },
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.BESIDE_KUBERNETES_SPEC,
    "max_clock_skew": {"type": "float", "default": 30.0},
    "scrape_job": {"type": "str"},
    "scrape_targets": {"type": "int", "default": 1},
    "metrics": {"type": "list", "elements": "dict", "options": _metric_gate.METRICS_SPEC},
    "minimum_requests": {"type": "dict", "options": _metric_gate.REQUESTS_SPEC},
    "redis_url": {"type": "str", "no_log": True},
    "notification_targets": {"type": "list", "elements": "str", "no_log": True},
    "urls": {"type": "dict"},
    "variables": {"type": "dict"},
    "timeout": {"type": "float", "default": 10.0},
}

SUPPORTS_CHECK_MODE = True

# Boxes of the checklist and the checks that must all have passed for it.
BOXES: dict[str, tuple[str, ...]] = {
    "infrastructure.capacity": ("capacity", "nodes"),
    "dependencies.mesh": ("traffic_route", "mesh"),
}

# New checks are added here; a check is made only when all of its options are set.
CHECKS: tuple[Check, ...] = (
    Check("cluster", ("namespace",), _preflight_cluster.check_cluster),
    Check("namespace", ("namespace",), _preflight_cluster.check_namespace, needs=("cluster",)),
    Check("rights", ("rights",), _preflight_cluster.check_rights, needs=("cluster",)),
    Check("stable", ("deployment",), _preflight_cluster.check_stable, needs=("cluster",)),
    Check("traffic_route", ("traffic_route",), _preflight_mesh.check_traffic_route, needs=("cluster",)),
    Check("manifests", ("manifests",), _preflight_manifests.check_manifests),
    Check("files", ("files",), _preflight_manifests.check_files),
    Check("references", ("manifests",), _preflight_manifests.check_references, needs=("cluster",), after=("manifests",)),
    Check("capacity", ("manifests",), _preflight_room.check_capacity, needs=("cluster",), after=("manifests", "stable")),
    Check("nodes", ("manifests",), _preflight_room.check_nodes, needs=("cluster",), after=("manifests", "stable")),
    Check("mesh", ("traffic_route",), _preflight_mesh.check_mesh, needs=("traffic_route",), after=("manifests", "stable")),
    Check("database", ("postgresql",), _preflight_database.check_database),
    Check("postgresql_client", ("postgresql",), _preflight_database.check_postgresql_client, needs=("database",)),
    Check("backup", ("backup",), _preflight_database.check_backup, after=("database",)),
    Check("backups", ("backup", "postgresql"), _preflight_database.check_backups),
    Check("prometheus", ("prometheus_url",), _preflight_services.check_prometheus),
    Check("scrapes", ("prometheus_url", "scrape_job"), _preflight_services.check_scrapes, needs=("prometheus",)),
    Check("queries", ("prometheus_url", "metrics"), _preflight_services.check_queries, needs=("prometheus",)),
    Check("redis", ("redis_url",), _preflight_services.check_redis),
    Check("notifications", ("notification_targets",), _preflight_services.check_notifications),
    Check("urls", ("urls",), _preflight_services.check_urls),
)
# An empty list of these is not "do not check", it is the problem.
_EMPTY_IS_WRONG = ("notification_targets", "manifests")


@dataclass
class Outcome:
    """How one check ended."""

    started: float = 0.0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    skipped: str = ""
    done: threading.Event = field(default_factory=threading.Event)


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Make every check that the options ask for. Returns ``problems`` (none), ``checks`` and ``seconds``.

    Raises :class:`RolloutError` with the same keys when a problem was found, all of them in its message.
    """
    if not params["timeout"] > 0:
        raise RolloutError(f"preflight_check: timeout is {params['timeout']} s, expected a number above 0.", **_result([], [], 0.0, []))
    return Preflight(params, context).run()


def asked(params: dict[str, Any]) -> list[Check]:
    """The checks that the options ask for."""

    def is_set(option: str) -> bool:
        value = params.get(option)
        return bool(value) or (value is not None and option in _EMPTY_IS_WRONG)

    return [check for check in CHECKS if all(is_set(option) for option in check.options)]


class Preflight:
    """One run of all checks."""

    def __init__(self, params: dict[str, Any], context: Context) -> None:
        self.site = Site(params)
        self.context = context
        self.timeout: float = params["timeout"]
        self.checks = asked(params)
        self.outcomes = {check.name: Outcome() for check in self.checks}
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        for check in self.checks:
            threading.Thread(target=self._make, args=(check,), name=f"check {check.name}", daemon=True).start()
        self._await()
        seconds = round(time.monotonic() - began, 3)
        problems = [problem for outcome in self.outcomes.values() for problem in outcome.problems]
        checks = [
            {
                "check": name,
                "ok": not outcome.problems and not outcome.skipped,
                "problems": len(outcome.problems),
                "skipped": outcome.skipped,
                "seconds": round(outcome.seconds, 3),
            }
            for name, outcome in self.outcomes.items()
        ]
        result = _result([asdict(problem) for problem in problems], checks, seconds, self.site.warnings)
        result["break_glass"] = self.site.facts.get("break_glass", "")
        result["proofs"] = proofs(self.outcomes, self.site.facts)
        if self.context.cancelled.is_set():
            raise RolloutError("preflight_check: interrupted. Nothing was written.", **result)
        if problems:
            lines = "\n".join(f"{number}. {problem}" for number, problem in enumerate(problems, 1))
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            raise RolloutError(f"preflight_check: {count} found in {seconds:.1f} s. Nothing was written.\n{lines}", **result)
        self.context.progress(f"preflight: {len(checks)} checks passed in {seconds:.1f} s")
        return result

    def _await(self) -> None:
        """Wait for every check; one that is over its time is given up, and those that depend on it are left out."""
        while not self.context.cancelled.is_set():
            open_checks = [check for check in self.checks if not self.outcomes[check.name].done.is_set()]
            if not open_checks:
                return
            for check in open_checks:
                outcome = self.outcomes[check.name]
                if outcome.started and time.monotonic() - outcome.started > self.timeout:
                    self._finish(outcome, [self._late(check)])
            self.outcomes[open_checks[0].name].done.wait(0.05)

    def _late(self, check: Check) -> Problem:
        option = check.options[-1]
        return Problem(
            check=check.name,
            object=f"check {check.name}",
            variable=self.site.variable(option),
            rule="it ends in time",
            seen=f"no answer within {self.timeout:g} s",
            expected="an answer",
            next="see whether what it looks at is reachable and not overloaded",
        )

    def _make(self, check: Check) -> None:
        outcome = self.outcomes[check.name]
        for name in (*check.after, *check.needs):
            earlier = self.outcomes.get(name)
            if earlier is not None:
                earlier.done.wait()
                if name in check.needs and (earlier.problems or earlier.skipped):
                    self._finish(outcome, [], f"left out, since check {name} found a problem")
                    return
        outcome.started = time.monotonic()
        found: list[Problem] = []
        skipped = ""

        def problem(option: str, what: str, rule: str, seen: str, expected: str, then: str) -> Problem:
            return Problem(check.name, what, self.site.variable(option), rule, seen, expected, then)

        try:
            found.extend(check.find(self.site, problem))
        except NotApplicable as reason:
            skipped = str(reason)
        except RolloutError as error:
            seen, _next, then = error.message.partition(" Next: ")
            found.append(
                problem(check.options[-1], f"check {check.name}", "it can be made", seen.rstrip("."), "an answer", then.rstrip(".") or "see above")
            )
        except Exception as error:
            # A thread that dies silently would look like a check that passed.
            found.append(problem(check.options[-1], f"check {check.name}", "it can be made", f"{type(error).__name__}: {error}", "an answer", "report this"))
        self._finish(outcome, found, skipped)

    def _finish(self, outcome: Outcome, problems: list[Problem], skipped: str = "") -> None:
        with self._lock:
            if outcome.done.is_set():
                return
            outcome.problems, outcome.skipped = problems, skipped
            outcome.seconds = time.monotonic() - outcome.started if outcome.started else 0.0
            outcome.done.set()


def _result(problems: list[dict[str, Any]], checks: list[dict[str, Any]], seconds: float, warnings: list[str]) -> dict[str, Any]:
    return {"changed": False, "problems": problems, "checks": checks, "seconds": seconds, "warnings": list(warnings), "break_glass": "", "proofs": {}}


def proofs(outcomes: Mapping[str, Outcome], facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what the checks prove of the checklist. A check that was not made, or could not be, proves and refutes nothing. Pure."""
    found: dict[str, dict[str, str]] = {name.removeprefix("proof "): value for name, value in facts.items() if name.startswith("proof ")}
    for box, names in BOXES.items():
        if not all(name in outcomes for name in names):
            continue
        problems = [problem for name in names for problem in outcomes[name].problems]
        # A check that gave no answer is told as a problem about itself.
        measured = [problem for problem in problems if problem.object != f"check {problem.check}"]
        if measured:
            words = "; ".join(f"{problem.object}: {problem.seen}, expected {problem.expected}" for problem in measured)
            found[box] = {"state": "failed", "evidence": one_line(words, EVIDENCE_LIMIT)}
        elif not problems and not any(outcomes[name].skipped for name in names) and facts.get(f"evidence {names[-1]}"):
            found[box] = {"state": "proven", "evidence": one_line(facts[f"evidence {names[-1]}"], EVIDENCE_LIMIT)}
    return found
