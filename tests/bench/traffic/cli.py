# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line, and the order of the sections."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from .breach import Breach
from .change import Change
from .confirm import Confirm
from .deploys import Deploys
from .outage import MetricsOutage
from .results import ROOT, Results, fingerprint
from .section import Options, Section
from .signals import Signals
from .stage import KINDS, BenchError, Stage

DESCRIPTION = """Measure on the lab what the traffic of a release is worth, with each kind of route, and print it as Markdown. Nothing is asserted.

Results are kept trial by trial in build/bench/traffic: a run that was stopped, or that --minutes ended, goes on where it was; results of other code
are put aside. The lab is reset before and after. Needs the lab to itself: nothing else may touch namespace signal meanwhile."""
FOLDER = ROOT / "build" / "bench" / "traffic"
# A trial, or a preparation, that the lab itself spoiled is made this often in a row before the section is given up.
SPOILED = 3


def sections() -> list[Section]:
    # The outage first: the lab's Prometheus loses its data with its pod, and errors that the gateways counted earlier look new to it then.
    return [MetricsOutage(), Breach(), Deploys(), Change(), Confirm(), Signals()]


def missing(section: Section, results: Results, trials: int, only: Sequence[str] = ()) -> list[str]:
    """The variants of the trials that are still to be made, taking turns; only those variants, when some are given."""
    variants = [variant for variant in section.variants if not only or variant in only]
    open_ = {variant: max(0, trials - len(results.of(variant))) for variant in variants}
    return [variant for number in range(trials) for variant in variants if number < open_[variant]]


def measure(section: Section, results: Results, trials: int, options: Options, deadline: float, only: Sequence[str] = ()) -> bool:
    """Make the missing trials, as many as fit before ``deadline``; returns whether all are made."""
    left = missing(section, results, trials, only)
    if not left:
        return True
    about = section.preparation + len(left) * section.seconds
    print(f"{section.name}, {results.kind}: {section.about}; {len(left)} trials to make, about {about / 60:.0f} min", flush=True)
    if time.monotonic() + section.preparation + section.seconds + 10 > deadline:
        return False
    results.begin_turn({"cores": os.cpu_count(), "rate": options.rate})
    spoiled = 0
    with Stage(KINDS[results.kind], FOLDER / "logs" / f"{section.name}-{results.kind}") as stage:
        _prepare(section, stage, options)
        while left:
            if time.monotonic() + section.seconds > deadline:
                return False
            started = time.monotonic()
            try:
                trial = {"variant": left[0], **section.trial(stage, options, left[0])}
            except BenchError as error:
                spoiled += 1
                print(f"  a trial gave nothing: {error}", file=sys.stderr, flush=True)
                if spoiled == SPOILED:
                    raise
                stage.start_over()
                _prepare(section, stage, options)
                continue
            spoiled = 0
            left.pop(0)
            results.add(trial)
            told = json.dumps({key: value for key, value in trial.items() if value not in (None, {}, [])})
            print(f"  {len(left):3} left, {time.monotonic() - started:4.0f} s: {told[:240]}", flush=True)
    return True


def _prepare(section: Section, stage: Stage, options: Options) -> None:
    for tries in range(1, SPOILED + 1):
        try:
            section.prepare(stage, options)
            return
        except BenchError as error:
            if tries == SPOILED:
                raise
            print(f"  the preparation failed, once more: {error}", file=sys.stderr, flush=True)
            stage.start_over()


def report(chosen: Sequence[Section], kinds: Sequence[str], code: str) -> str:
    """All tables of what is measured so far."""
    parts = []
    for section in chosen:
        results = [results for kind in kinds if (results := Results(FOLDER, section.name, kind, code)).trials]
        if results:
            dates = sorted(turn["started"][:10] for result in results for turn in result.data["turns"])
            codes = sorted({result.data["code"] for result in results})
            parts.append(f"### {section.name}: {section.about}\n\nTaken {dates[0]} to {dates[-1]}, code {', '.join(codes)}.\n\n{section.table(results)}\n")
    return "\n".join(parts)


def _names(text: str, known: Sequence[str]) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(known)}")
    return chosen


def _stop(number: int, _frame: object) -> None:
    # Once: a second one must not end the clean-up.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    every = sections()
    names = [section.name for section in every]
    parser = argparse.ArgumentParser(prog="traffic", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=names, type=lambda text: _names(text, names), help=f"sections, of {','.join(names)}")
    parser.add_argument("--kind", default=list(KINDS), type=lambda text: _names(text, list(KINDS)), help=f"kinds of route, of {','.join(KINDS)}")
    parser.add_argument("--variant", action="append", default=[], help="a variant of the sections, as their tables name it; may be given again")
    parser.add_argument("--trials", type=int, help="for each variant, instead of the section's own number")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no trial that would end later")
    parser.add_argument("--rate", type=int, default=200, help="requests/s (default %(default)s)")
    parser.add_argument("--window", type=int, default=10, help="seconds that a query looks back (default %(default)s)")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is measured, also of other code")
    given = parser.parse_args()
    chosen = [section for section in every if section.name in given.only]
    variants = [variant for section in chosen for variant in section.variants]
    if strange := [variant for variant in given.variant if variant not in variants]:
        parser.error(f"--variant {strange[0]!r}: expected one of {', '.join(map(repr, variants))}")
    if given.report:
        print(report(chosen, given.kind, ""))
        return 0
    code = fingerprint()
    deadline = time.monotonic() + given.minutes * 60
    options = Options(rate=given.rate, window=given.window)
    # A job that is stopped must leave the lab as it found it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    complete, failed = True, []
    for kind in given.kind:
        for section in chosen:
            try:
                results = Results(FOLDER, section.name, kind, code)
                complete &= measure(section, results, given.trials or section.trials, options, deadline, given.variant)
            except (BenchError, subprocess.SubprocessError, OSError) as error:
                failed.append(f"{section.name}, {kind}: {error}")
                print(f"  given up: {error}", file=sys.stderr, flush=True)
    text = report(chosen, given.kind, code)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.md").write_text(text, encoding="utf-8")
    print(text)
    if failed:
        print("Not measured:\n" + "\n".join(failed), file=sys.stderr)
        return 1
    if not complete:
        print("Not complete: the same command goes on.", file=sys.stderr)
        return 3
    return 0
