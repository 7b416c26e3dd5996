# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting, finding and stopping processes: only those the lab started are ever stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .settings import LabError


def wait_until(condition: Callable[[], bool], timeout: float, what: str, interval: float = 0.05) -> None:
    """Poll ``condition`` every ``interval`` seconds; raise LabError naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not so after {timeout:g} s. Look at: labctl status, labctl logs")
        time.sleep(interval)


def run(
    command: list[str],
    *,
    timeout: float = 60,
    stdin: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run ``command`` and return its standard output.

    With ``log``, both streams go to that file instead and the result is empty. Raises LabError with the last lines
    of what the command wrote when it fails or takes longer than ``timeout`` seconds.
    """
    environment = {**os.environ, **(env or {})}
    stream = log.open("ab") if log else None
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=stream or subprocess.PIPE,
            stderr=stream or subprocess.PIPE,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]}: no such command. Run: labctl up (it installs what is missing)") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command[:4])}: still running after {timeout:g} s, stopped") from error
    finally:
        if stream:
            stream.close()
    if done.returncode != 0:
        said = log.read_text(errors="replace") if log else (done.stderr or done.stdout)
        tail = "\n  ".join(said.strip().splitlines()[-8:])
        where = f" (all of it: {log})" if log else ""
        raise LabError(f"{' '.join(command[:4])}: exit code {done.returncode}{where}\n  {tail}")
    return done.stdout or ""


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which process ``pid`` started; None when there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def rss(pid: int) -> int:
    """Resident memory of ``pid`` in bytes; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def pss(pid: int) -> int:
    """Memory of ``pid`` in bytes, with what it shares divided by the number of its sharers; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def all_pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


@dataclass(frozen=True)
class PidFile:
    """A pid with its start time, so that a number used again by another process is never mistaken for ours."""

    path: Path

    def write(self, pid: int) -> None:
        started = start_time(pid)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(f"{pid} {started}\n")
        temporary.rename(self.path)

    def alive(self) -> int | None:
        """The pid when that very process still runs, else None."""
        try:
            pid, started = self.path.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if started != "None" and start_time(int(pid)) == int(started) else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def spawn(
    command: list[str],
    pid_file: PidFile,
    log: Path,
    *,
    netns: Path | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Start a daemon in its own session, optionally inside network namespace ``netns``; return its pid.

    nsenter replaces itself by the command, so the pid is the daemon's own. ``ip netns exec`` is no substitute: it
    mounts a new /sys, in which the kubelet finds no cgroups.
    """
    prefix = ["nsenter", f"--net={netns}", "--"] if netns else []
    with log.open("ab") as stream:
        process = subprocess.Popen(
            prefix + command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env=env if env is not None else dict(os.environ),
            cwd=cwd or "/",
        )
    pid_file.write(process.pid)
    return process.pid


def reap() -> None:
    """Collect our own children that have ended, so that they are not counted as leftovers."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def stop(pids: dict[int, int | None], grace: float, what: str) -> None:
    """End processes given as {pid: start time}: TERM, ``grace`` seconds, KILL, and wait until they are gone."""
    pids = {pid: started for pid, started in pids.items() if started is not None}

    def running() -> list[int]:
        reap()
        return [pid for pid, started in pids.items() if start_time(pid) == started]

    def send(number: int) -> None:
        for pid in running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    if grace > 0:
        send(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while running() and time.monotonic() < deadline:
            time.sleep(0.02)
    send(signal.SIGKILL)
    wait_until(lambda: not running(), 15, f"{what}: end of the processes {sorted(pids)}", 0.02)
