# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a guard acts, and how it knows one process from another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _daemon, _guard, _processes


def step(status: str, started: str) -> dict[str, Any]:
    return {"status": status, "started": started}


CASES: dict[str, tuple[dict[str, Any], bool, tuple[int, ...]]] = {
    "nothing has begun": ({"steps": {"blue_green": step("done", "1")}}, False, ()),
    "the first step has begun": ({"steps": {"canary_10": step("started", "1")}, "weights": []}, True, (10,)),
    "between two steps": ({"steps": {"canary_10": step("done", "1")}, "weights": [{"weight": 10}]}, True, (10,)),
    "a later step has begun": (
        {"steps": {"canary_10": step("done", "1"), "canary_50": step("started", "2")}, "weights": [{"weight": 10}]},
        True,
        (50, 10),
    ),
    "a step has failed": (
        {"steps": {"canary_10": step("done", "1"), "canary_50": step("failed", "2")}, "weights": [{"weight": 10}]},
        True,
        (50, 10),
    ),
    "the last step is being watched": (
        {"steps": {"canary_50": step("done", "1"), "canary_100": step("started", "2")}, "weights": [{"weight": 50}]},
        True,
        (100, 50),
    ),
    "the last step has passed": ({"steps": {"canary_100": step("done", "2")}, "weights": [{"weight": 100}]}, False, ()),
    "resumed from the first step": (
        {"steps": {"canary_50": step("done", "1"), "canary_10": step("started", "2")}, "weights": [{"weight": 10}, {"weight": 50}]},
        True,
        (10, 50),
    ),
    "closed": ({"outcome": "rolled_back", "steps": {"canary_10": step("failed", "1")}}, False, ()),
}


@pytest.mark.parametrize("case", list(CASES))
def test_canary_in_progress_is_read_from_the_record(case: str) -> None:
    record, going_on, weights = CASES[case]
    progress = _guard.progress_of(record)
    assert (progress.going_on, progress.weights) == (going_on, weights)
    assert progress.words


def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_process_that_has_ended_is_not_alive_even_before_its_parent_has_looked() -> None:
    process = child()
    named = _processes.Process(process.pid, _processes.start_time(process.pid))
    assert named.alive()
    process.kill()
    assert _processes.wait_gone(named, 5)
    assert not _processes.tell(named, signal.SIGTERM)
    process.wait()


def test_process_id_with_another_start_time_is_another_process() -> None:
    assert not _processes.Process(os.getpid(), "1").alive()
    assert not _processes.tell(_processes.Process(os.getpid(), "1"), signal.SIGKILL)


def test_watch_tells_the_end_of_a_process_that_is_no_child() -> None:
    process = child()
    reader, writer = os.pipe()
    watch = _processes.Watch(_processes.Process(process.pid, _processes.start_time(process.pid)))
    try:
        assert watch.wait(0.0, reader) == (False, False)
        os.write(writer, b"x")
        assert watch.wait(5.0, reader) == (False, True)
        os.read(reader, 1)
        process.kill()
        assert watch.wait(5.0, reader) == (True, False)
    finally:
        watch.close()
        process.wait()
        os.close(reader)
        os.close(writer)


# As ansible-playbook: the first SIGINT takes its own handler away. Then it ends, or not.
INTERRUPTED = """
import signal, time
def handle(number, frame):
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, handle)
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep({seconds})
"""


@pytest.mark.parametrize(("seconds", "grace", "hangs"), [(60, 0.2, True), (0, 20.0, False), (60, None, False)])
def test_watch_tells_a_process_that_was_interrupted_and_hangs_from_one_that_ends(seconds: int, grace: float | None, hangs: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED.format(seconds=seconds)], stdout=subprocess.PIPE)
    reader, writer = os.pipe()
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        watch = _processes.Watch(_processes.Process(process.pid, _processes.start_time(process.pid)), grace)
        assert watch.wait(0.3, reader) == (False, False)
        process.send_signal(signal.SIGINT)
        gone, _told = watch.wait(10.0 if grace is not None else 0.5, reader)
        assert (gone, watch.hangs) == (grace is not None, hangs)
        watch.close()
    finally:
        process.kill()
        process.communicate()
        os.close(reader)
        os.close(writer)


def test_watch_of_a_process_id_that_came_back_is_over_at_once() -> None:
    reader, writer = os.pipe()
    watch = _processes.Watch(_processes.Process(os.getpid(), "1"))
    assert watch.wait(5.0, reader) == (True, False)
    os.close(reader)
    os.close(writer)


def test_daemon_that_cannot_start_gives_its_reason_and_leaves_no_process(tmp_path: Path) -> None:
    def job(daemon: _daemon.Daemon) -> None:
        raise _guard.GuardError("the lock is somebody else's")

    with pytest.raises(_daemon.StartError, match="the lock is somebody else's"):
        _daemon.start(job, "test-daemon", tmp_path / "log", 10.0)


def test_daemon_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    noted = tmp_path / "pid"

    def job(daemon: _daemon.Daemon) -> None:
        noted.write_text(str(os.getpid()), encoding="ascii")
        time.sleep(60)

    with pytest.raises(_daemon.StartError, match="not ready within"):
        _daemon.start(job, "test-daemon", tmp_path / "log", 2.0)
    pid = int(noted.read_text(encoding="ascii"))
    assert _processes.wait_gone(_processes.Process(pid, _processes.start_time(pid)), 5)


def test_daemon_lets_go_of_what_it_inherits_and_is_stopped_by_its_signal(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    marks = tmp_path / "marks"

    def job(daemon: _daemon.Daemon) -> None:
        daemon.log("a line")
        daemon.ready()
        while not os.read(daemon.stop, 1):
            pass
        marks.write_text("stopped", encoding="ascii")

    pid = _daemon.start(job, "test-daemon", tmp_path / "log", 10.0)
    named = _processes.Process(pid, _processes.start_time(pid))
    os.close(writer)
    # Nobody holds the other end any more: end of file, although the process lives.
    assert os.read(reader, 1) == b"" and named.alive()
    os.close(reader)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert named.alive()
    assert _processes.tell(named, _daemon.STOP) and _processes.wait_gone(named, 5)
    assert marks.read_text(encoding="ascii") == "stopped"
    assert "a line" in (tmp_path / "log").read_text(encoding="utf-8")


def test_folder_that_cannot_be_written_is_found_by_a_plan(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    params = {"namespace": "signal", "service": "signal-service", "holder": "jane", "state_dir": str(tmp_path / "file" / "below")}
    with pytest.raises(_guard.GuardError, match="canary_guard_dir"):
        _guard.Folder(params).refuse_unwritable()
    _guard.Folder({**params, "state_dir": str(tmp_path / "new" / "deep")}).refuse_unwritable()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_only_the_newest_folders_of_ended_guards_are_kept(tmp_path: Path) -> None:
    for number in range(_guard._KEPT + 3):
        folder = _guard.Folder({"namespace": "signal", "service": "s", "holder": f"run-{number}", "state_dir": str(tmp_path)})
        folder.make()
        # The oldest of all still runs, as far as its file says.
        folder.write({"pid": 1} if number == 0 else {"pid": 1, "ended": {"time": "", "why": ""}})
        os.utime(folder.state, (number, number))
    folder.prune()
    assert len(list(tmp_path.iterdir())) == _guard._KEPT + 1
