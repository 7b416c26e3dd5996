# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module release_report: a release as a page for people. Private to this collection.

It reads the record, the checklist beside it and, where it can, the gated metrics over the time of the canary. Without Prometheus the page
has everything but the drawings, and says so.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _checklist,
    _events,
    _kube,
    _prometheus,
    _record,
    _release_checklist,
    _report_chart,
    _report_page,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._question import HOLD, as_duration

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **_prometheus.ARGUMENT_SPEC,
    **_prometheus.BESIDE_KUBERNETES_SPEC,
    "service": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "contacts": {"type": "list", "elements": "dict", "default": []},
    "timeout": {"type": "float", "default": 5.0},
}
SPEC_RULES: dict[str, Any] = {}
SUPPORTS_CHECK_MODE = True

_POINTS = 240
_MARGIN = 0.04
_HOLD_WINDOW = 30.0
# Answers are drawn, so a page of a release with very many metrics stays readable and small.
_MOST_CHARTS = 24


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write the page and return where it is and what it counts. See the module's RETURN.

    Raises :class:`RolloutError` when there is no record, or the file cannot be written.
    """
    problems = _prometheus.problems_of(_prometheus.beside_kubernetes(params)) if params["prometheus_url"] else []
    if not 0 < params["timeout"] <= 60:
        problems.append(f"timeout is {params['timeout']:g}, expected more than 0 and at most 60 seconds")
    if problems:
        raise RolloutError(f"release_report: {'; '.join(problems)}. Nothing was written.")
    kube = _kube.connect(params)
    namespace, name = params["namespace"], _record.record_name(params["service"])
    document = kube.find(_kube.path_of("", "v1", "configmaps", namespace, name))
    record = _record.kept(document, _record.RECORD_KEY)
    if not record:
        raise RolloutError(
            f"release_report: ConfigMap {namespace}/{name} holds no record of a release, expected one. Nothing was written. "
            "Next: check service and namespace, or release first: ansible-playbook playbooks/deploy_v2.yml"
        )
    record = _release_checklist.gathered(kube, {**params, "version": str(record.get("version"))}, record, document, record.get("plan_hash"))
    kept = _release_checklist.valid(_record.kept(document, _release_checklist.KEY), str(record.get("version")), record.get("plan_hash"))
    ticks = _checklist.ticks(record, kept.attestations, kept.proofs)
    charts, missing = _charts(params, record)
    people = _report_page.People(record.get("approvals") or {}, kept.attestations, params["contacts"])
    text = _report_page.page(_report_page.Report(record, ticks, _events.now(), charts, missing, people))
    path = _file(params["path"], record)
    if not context.check_mode:
        _write(path, text)
    return {
        "changed": not context.check_mode,
        "path": str(path),
        "bytes": len(text.encode()),
        "charts": len(charts),
        "charts_missing": missing,
        "outcome": record.get("outcome") or "",
        "summary": _checklist.summary(ticks),
    }


def _file(path: str, record: Mapping[str, Any]) -> Path:
    """Return the file to write: in a folder, one of its own for each deployment."""
    if not (path.endswith("/") or os.path.isdir(path)):
        return Path(path)
    begun = re.sub(r"[-:]", "", str(record.get("started") or "")[:19])
    name = "-".join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in (str(record.get("service")), str(record.get("version")), begun) if part)
    return Path(path) / f"{name}.html"


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all: whoever has it open sees the old page or the new one."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise RolloutError(
            f"release_report: {path} cannot be written: {one_line(error.strerror or error)}. Next: choose another path, or make its folder writable."
        ) from None


# ------------------------------------------------------------------------------------------------ the drawings


def _seconds(stamp: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(stamp).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _charts(params: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[list[_report_chart.Chart], str]:
    """Return the drawings of all metrics that the gates asked Prometheus for, and why some are missing."""
    span = _span(record)
    wanted = _metrics(record)
    if span is None or not wanted:
        return [], "No gate has run, so that there is nothing to draw." if record.get("steps") else ""
    if not params["prometheus_url"]:
        return [], "Without prometheus_url nothing is drawn; what the gates decided is below."
    client = _prometheus.Prometheus(_prometheus.beside_kubernetes(params), params["timeout"])
    start, end = span
    step = max(1.0, math.ceil((end - start) / _POINTS))
    marks = _marks(record)
    charts, missing = [], []
    for name, metric in list(wanted.items())[:_MOST_CHARTS]:
        try:
            points = _points(client, str(metric["queries"]["value"]), start, end, step)
        except RolloutError as error:
            missing.append(f"{name}: {error.message}")
            continue
        if not points:
            missing.append(f"{name}: Prometheus keeps no data of that time")
            continue
        limit = metric.get("limit")
        charts.append(
            _report_chart.Chart(
                title=name,
                unit=str(metric.get("unit") or ""),
                points=points,
                step=step,
                start=start,
                end=end,
                limit=float(limit) if isinstance(limit, (int, float)) else None,
                condition=str(metric.get("condition") or ""),
                marks=marks,
            )
        )
    if len(wanted) > _MOST_CHARTS:
        missing.append(f"{len(wanted) - _MOST_CHARTS} further metrics are not drawn")
    return charts, f"Not drawn: {'; '.join(missing)}." if missing else ""


def _span(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the time of the canary with a margin, in seconds since the epoch."""
    steps = [step for name, step in (record.get("steps") or {}).items() if name.startswith("canary_")]
    starts = [moment for step in steps if (moment := _seconds(step.get("started"))) is not None]
    if not starts:
        return None
    ends = [moment for step in steps if (moment := _seconds(step.get("finished"))) is not None]
    start = min(starts)
    end = max(ends) if len(ends) == len(starts) else time.time()
    margin = max(2.0, (end - start) * _MARGIN)
    return start - margin, end + margin


def _marks(record: Mapping[str, Any]) -> list[_report_chart.Mark]:
    """Return the changes of the weight. The record has those that stood; a step that went back has had its weight, too."""
    seen = [(entry.get("time"), entry.get("weight")) for entry in record.get("weights") or []]
    noted = {entry.get("step") for entry in record.get("weights") or []}
    for name, step in (record.get("steps") or {}).items():
        evidence = step.get("evidence") or {}
        weight = name.removeprefix("canary_")
        if name in noted or not weight.isdigit() or (evidence.get("confirmed") or {}).get("state") != "confirmed":
            continue
        seen.append((step.get("started"), int(weight)))
        back = evidence.get("aborted") or {}
        if back.get("done"):
            seen.append((step.get("finished"), (back.get("after") or {}).get("canary")))
    moments = sorted(((moment, weight) for time_, weight in seen if (moment := _seconds(time_)) is not None), key=lambda pair: pair[0])
    # The rollback notes the same once more, when all of it is done.
    changes = [pair for place, pair in enumerate(moments) if not place or pair[1] or moments[place - 1][1]]
    return [_report_chart.Mark(moment, f"{weight} %") for moment, weight in changes]


def _metrics(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of all holds by name, each as it was judged last; those that Prometheus was not asked for are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in record.get("order") or []:
        for metric in ((record.get("steps") or {}).get(name, {}).get("evidence") or {}).get("metrics") or []:
            if (metric.get("queries") or {}).get("value") and not metric.get("http"):
                found[str(metric.get("name"))] = metric
    return found


def _points(client: _prometheus.Prometheus, query: str, start: float, end: float, step: float) -> list[tuple[float, float]]:
    asked = {
        "query": query.replace(HOLD, as_duration(_HOLD_WINDOW)),
        "start": f"{start:.3f}",
        "end": f"{end:.3f}",
        "step": f"{step:g}",
    }
    data = client.ask("/api/v1/query_range", asked).get("data")
    series = data.get("result") if isinstance(data, dict) else None
    if not isinstance(series, list) or len(series) > 1:
        raise RolloutError("the query gives more than one series" if series else "the answer is not a matrix")
    if not series:
        return []
    points = []
    for pair in series[0].get("values") or []:
        with contextlib.suppress(TypeError, ValueError, IndexError):
            value = float(pair[1])
            if math.isfinite(value):
                points.append((float(pair[0]), value))
    return points
