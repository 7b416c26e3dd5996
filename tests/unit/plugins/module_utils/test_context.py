# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interruption: real signals to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

LONG_RUN = """
import os, sys
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
context = Context()
context.on_interrupt(lambda: os.write(1, b"put back\\n"))
with context:
    print("ready", flush=True)
    slept_through = not context.sleep(30)
print("cancelled" if not slept_through else "slept", context.signal_name, flush=True)
"""
# A parent that starts the long run and is then killed: what happens to ansible-playbook's workers.
ORPHAN_MAKER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"


def start(*command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_runs_the_callback_and_ends_the_sleep(number: signal.Signals) -> None:
    process = start("-c", LONG_RUN)
    process.send_signal(number)
    out, unused = process.communicate(timeout=10)
    assert out.splitlines() == ["put back", f"cancelled {number.name}"]


def test_repeated_signals_run_the_callback_once() -> None:
    process = start("-c", LONG_RUN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.02)
    out, unused = process.communicate(timeout=10)
    assert out.count("put back") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_death_of_the_parent_runs_the_callback(number: signal.Signals) -> None:
    process = start("-c", ORPHAN_MAKER, LONG_RUN)
    process.send_signal(number)
    out, unused = process.communicate(timeout=10)
    assert out.splitlines() == ["put back", "cancelled the death of ansible-playbook"]


def test_one_failing_callback_does_not_keep_the_next_from_running() -> None:
    context, ran = Context(), []
    context.on_interrupt(lambda: ran.append("older"))

    def broken() -> None:
        raise ValueError("clean-up failed")

    context.on_interrupt(broken)
    context.interrupt("SIGTERM")
    assert ran == ["older"]


def test_removed_callback_does_not_run() -> None:
    context, ran = Context(), []
    context.on_interrupt(lambda: ran.append("x")).remove()
    context.interrupt("SIGTERM")
    assert ran == []


def test_handlers_are_restored_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Context():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_sleep_without_a_signal_lasts_and_says_so() -> None:
    started = time.monotonic()
    assert Context().sleep(0.05) is False
    assert time.monotonic() - started >= 0.05


def test_run_identity_is_stable_within_a_run_and_names_the_awx_job() -> None:
    from ansible_collections.signal.rollout.plugins.plugin_utils._identity import run_identity

    assert run_identity({"awx_job_id": 17}) == "awx-job-17"
    mine = run_identity({})
    assert mine == run_identity({}) and f"/{os.getppid()}-" in mine
    assert Path("/proc/self/stat").exists() is not mine.endswith("-0")


ORPHAN = """
import multiprocessing, os, sys, time
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
def work():
    while os.getppid() == parent:
        time.sleep(0.01)
    with Context() as context:
        print("cancelled" if context.cancelled.is_set() else "goes on", context.signal_name, flush=True)
parent = os.getpid()
multiprocessing.get_context("fork").Process(target=work).start()
os._exit(0)
"""


def test_worker_whose_parent_was_gone_before_its_task_began_does_nothing_any_more() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "cancelled the death of ansible-playbook\n"
