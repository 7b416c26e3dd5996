# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module measurement: figures over a window that has passed, against a limit or against the old version. Private.

A gate watches while something happens. This asks once, afterwards: for success criteria, and for what people are told. No data is no figure.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _messages, _prometheus
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import BREACH, GOOD, LIMITS, PASS, Limit, Reading
from ansible_collections.signal.rollout.plugins.module_utils._question import as_duration

_FIGURE: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "query": {"type": "str", "required": True},
    "unit": {"type": "str", "required": True},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.TLS_SPEC,
    "measurements": {
        "type": "list", "elements": "dict", "default": [],
        "options": {**_FIGURE, **{limit: {"type": "float"} for limit in LIMITS}, "box": {"type": "str"}},
    },
    "comparisons": {
        "type": "list", "elements": "dict", "default": [], "options": {**_FIGURE, "higher_is_better": {"type": "bool", "default": False}},
    },
    "version": {"type": "str", "required": True},
    "baseline_version": {"type": "str"},
    "start": {"type": "str"},
    "end": {"type": "str"},
    "window": {"type": "float"},
    "timeout": {"type": "float", "default": 10.0},
}
SPEC_RULES: dict[str, Any] = {"mutually_exclusive": [["start", "window"]], "required_one_of": [["start", "window"]]}
SUPPORTS_CHECK_MODE = True

_LABEL_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EVIDENCE = 300
# Smaller differences are the noise of two histograms.
_SAME_PERCENT = 1.0


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Ask every query once. Raises :class:`RolloutError` for options that cannot be used; see the module's RETURN."""
    problems = _problems(params)
    if problems:
        raise RolloutError(f"measurement cannot use its options: {'; '.join(problems)}. Nothing was asked.")
    end = _at(params["end"]) or time.time()
    window = params["window"] or end - (_at(params["start"]) or end)
    client = _prometheus.Prometheus(params, params["timeout"])

    def ask(query: str, version: str) -> Reading:
        return client.read(query.replace("{version}", version).replace("{window}", as_duration(window)), at=end)

    measurements = [judged(entry, ask(entry["query"], params["version"]), window) for entry in params["measurements"]]
    comparisons = [
        compared(entry, ask(entry["query"], params["version"]), ask(entry["query"], params["baseline_version"])) for entry in params["comparisons"]
    ]
    return {"changed": False, "window": window, "measurements": measurements, "comparisons": comparisons, "proofs": proofs_of(measurements)}


def _at(text: str | None) -> float | None:
    found = _messages.moment_of(text) if text else None
    return found.timestamp() if found else None


def _problems(params: Mapping[str, Any]) -> list[str]:
    times = [name for name in ("start", "end") if params[name] and _at(params[name]) is None]
    problems = [f"{name} is '{one_line(params[name], 60)}', expected a time with its zone" for name in times]
    problems += _prometheus.problems_of(dict(params))
    start, end = _at(params["start"]), _at(params["end"])
    if start is not None and (end or time.time()) <= start:
        problems.append("end is not after start")
    if params["window"] is not None and not 0 < params["window"] <= 30 * 86400:
        problems.append(f"window is {params['window']:g}, expected more than 0 and at most 2592000 seconds")
    if not 0 < params["timeout"] <= 300:
        problems.append(f"timeout is {params['timeout']:g}, expected more than 0 and at most 300 seconds")
    if params["comparisons"] and not params["baseline_version"]:
        problems.append("comparisons need baseline_version")
    for name in ("version", "baseline_version"):
        if params[name] and not _LABEL_VALUE.fullmatch(params[name]):
            problems.append(f"{name} is '{one_line(params[name], 60)}', expected letters, digits, dots and dashes")
    for entry in params["measurements"]:
        limits = [limit for limit in LIMITS if entry.get(limit) is not None]
        if len(limits) != 1 or not math.isfinite(entry[limits[0]]):
            problems.append(f"measurement '{one_line(entry['name'], 60)}' has {len(limits)} limits, expected one finite of {', '.join(LIMITS)}")
    for entry in params["comparisons"]:
        if "{version}" not in entry["query"]:
            problems.append(f"comparison '{one_line(entry['name'], 60)}' has no {{version}} in its query, so that both sides would be the same")
    return problems


def judged(entry: Mapping[str, Any], reading: Reading, window: float) -> dict[str, Any]:
    """Return one figure against its limit, with its verdict and in words. Pure."""
    kind = next(name for name in LIMITS if entry.get(name) is not None)
    limit = Limit(kind, entry[kind], entry["unit"])
    found = {"name": entry["name"], "unit": entry["unit"], "limit": str(limit), "box": entry.get("box") or "", "value": reading.value}
    if reading.state != GOOD or reading.value is None:
        return {**found, "value": None, "verdict": reading.state, "words": f"{entry['name']}: {one_line(reading.detail, 200) or 'no data'}"}
    verdict = PASS if limit.holds(reading.value) else BREACH
    words = f"{entry['name']} {limit.show(reading.value)} {entry['unit']}, expected {limit}, over {window:.0f} s"
    return {**found, "verdict": verdict, "words": words}


def compared(entry: Mapping[str, Any], new: Reading, old: Reading) -> dict[str, Any]:
    """Return one figure of the new version against the old one's; ``percent`` is None unless both were measured. Pure."""
    name, unit = entry["name"], entry["unit"]
    found = {"name": name, "unit": unit, "value": new.value, "baseline": old.value, "percent": None, "better": False}
    for side, reading in (("new", new), ("old", old)):
        if reading.state != GOOD or reading.value is None:
            return {**found, "words": f"{name}: the {side} version has no figure: {one_line(reading.detail, 200) or 'no data'}"}
    if new.value is None or old.value is None:
        raise AssertionError("unreachable")
    if old.value <= 0:
        return {**found, "words": f"{name}: the old version's figure is {old.value:g}, against which nothing can be compared"}
    percent = 100 * (new.value - old.value) / old.value
    better = (percent if entry["higher_is_better"] else -percent) >= _SAME_PERCENT
    change = f"{abs(percent):.0f} % {'higher' if percent > 0 else 'lower'}" if abs(percent) >= _SAME_PERCENT else "unchanged"
    return {**found, "percent": percent, "better": better, "words": f"{name} {change}: {new.value:.3g} {unit}, before {old.value:.3g} {unit}"}


def proofs_of(measurements: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return what the figures prove: a box of which one figure is missing stays open, unless another one failed. Pure."""
    proofs = {}
    for box in {entry["box"] for entry in measurements if entry["box"]}:
        own = [entry for entry in measurements if entry["box"] == box]
        verdicts = {entry["verdict"] for entry in own}
        evidence = one_line("; ".join(entry["words"] for entry in own), _EVIDENCE)
        if BREACH in verdicts:
            proofs[box] = {"state": "failed", "evidence": one_line("; ".join(e["words"] for e in own if e["verdict"] == BREACH), _EVIDENCE)}
        elif verdicts == {PASS}:
            proofs[box] = {"state": "proven", "evidence": evidence}
    return proofs
