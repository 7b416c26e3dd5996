# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line: ``python -m traffic run|mark|report``."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    # Started as a folder, `python lab/traffic`: give the package its name, so that its parts find each other.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from traffic.marks import marks_path, read_marks  # noqa: E402
from traffic.report import ReportError, read, text  # noqa: E402
from traffic.target import TargetError, checked_url  # noqa: E402


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text_: str) -> float:
        try:
            value = float(text_)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text_!r} is not a number from {low:g} to {high:g}")
        return value

    return number


def _run(options: argparse.Namespace) -> int:
    # Only this command needs aiohttp; reports can be read and marks set with any Python.
    import asyncio

    try:
        from traffic.generator import MAX_DURATION, MAX_RATE, MAX_WEBSOCKETS, Generator, Plan, ReportInUse
    except ModuleNotFoundError as error:
        print(f"traffic: {sys.executable} has no {error.name}; use the project's virtual environment", file=sys.stderr)
        return 2

    try:
        plan = Plan(
            url=checked_url(options.url),
            host=options.host,
            rate=_between(0.1, MAX_RATE)(options.rate),
            websockets=int(_between(0, MAX_WEBSOCKETS)(options.websockets)),
            report=options.report,
            duration=MAX_DURATION if options.duration is None else _between(0.1, MAX_DURATION)(options.duration),
            timeout=options.timeout,
        )
    except (TargetError, argparse.ArgumentTypeError) as error:
        print(f"traffic: {error}", file=sys.stderr)
        return 2
    plan.report.parent.mkdir(parents=True, exist_ok=True)

    async def run() -> dict[str, object]:
        return await Generator(plan).run()

    try:
        totals = asyncio.run(run())
    except ReportInUse as error:
        print(f"traffic: {error}", file=sys.stderr)
        return 3
    print(f"traffic: {totals['sent']} sent, {totals['ok']} ok, {totals['failed']} failed; report: {plan.report}")
    return 0


def _mark(options: argparse.Namespace) -> int:
    line = json.dumps({"time": round(time.time(), 3), "name": options.name[:80]}) + "\n"
    path = marks_path(options.report)
    if not path.exists():
        print(f"traffic: no run writes {options.report}", file=sys.stderr)
        return 2
    # One write of one line: marks set at the same moment do not mix.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
    return 0


def _report(options: argparse.Namespace) -> int:
    try:
        data = read(options.file)
    except ReportError as error:
        print(f"traffic: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(data["totals"], indent=1))
    else:
        print(text(data, read_marks(options.file), options.slice), end="")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="traffic", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="send traffic until TERM, INT or --duration")
    run.add_argument("--url", default="http://10.79.0.60", help="base address: loopback or 10.77.0.0 to 10.79.255.255 (default %(default)s)")
    run.add_argument("--host", default="signal-service.lab", help="Host header (default %(default)s)")
    run.add_argument("--rate", default="100", help="requests per second (default %(default)s)")
    run.add_argument("--websockets", default="20", help="standing WebSocket connections (default %(default)s)")
    run.add_argument("--report", required=True, type=Path, help="JSON file, written anew each second")
    run.add_argument("--duration", help="seconds (default and maximum 7200)")
    run.add_argument("--timeout", default=10.0, type=_between(0.1, 60), help="seconds per request (default %(default)s)")
    run.set_defaults(command=_run)

    mark = commands.add_parser("mark", help="note the time of an event, to slice the report by")
    mark.add_argument("name")
    mark.add_argument("--report", required=True, type=Path)
    mark.set_defaults(command=_mark)

    report = commands.add_parser("report", help="print a report")
    report.add_argument("file", type=Path)
    report.add_argument("--slice", type=lambda t: int(_between(1, 7200)(t)), help="seconds per row, instead of the marks")
    report.add_argument("--json", action="store_true", help="the totals as JSON")
    report.set_defaults(command=_report)

    options = parser.parse_args(arguments)
    return options.command(options)


if __name__ == "__main__":
    sys.exit(main())
