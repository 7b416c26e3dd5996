# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line programs of the checkout share: places, environment, commands with a deadline, one user of the lab.

Standard library only: these programs start before the virtual environment exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("PYTHON", "/usr/bin/python3")
CACHE = Path(os.environ.get("SIGNAL_LAB_CACHE") or Path.home() / ".cache/signal-lab")
STATE = Path(os.environ.get("SIGNAL_LAB_DIR") or "/var/lib/signal-lab")
LABCTL = (PYTHON, str(ROOT / "lab/labctl"))
VENV = ROOT / ".venv"
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


class Stop(Exception):
    """The program cannot go on; the text says what was seen and what to do next."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (124 after the deadline) and wall time in seconds."""

    code: int
    seconds: float


def tool(name: str) -> str:
    """Path of a program of the virtual environment."""
    return str(VENV / "bin" / name)


def environment(**extra: str) -> dict[str, str]:
    """Environment for the tools: the virtual environment first, and none of the caller's own Ansible or pytest settings."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ANSIBLE_", "MOLECULE_", "PYTEST_")) and key not in _NOT_PASSED_ON
    }
    # Named outright, because Ansible ignores an ansible.cfg that it only finds when the folder is writable for everybody.
    kept["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    kept["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | extra


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12.3 s, 3 min 20 s."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def run(
    command: Sequence[str],
    *,
    deadline: float,
    log: Path | None = None,
    cwd: Path = ROOT,
    heartbeat: str = "",
    patience: float = 10.0,
) -> Outcome:
    """Run a command without standard input until it ends or ``deadline`` seconds have passed.

    With ``log`` its output goes to that file (appended) and, where ``heartbeat`` names it, a line a minute says that it still runs;
    without ``log`` the output goes to the terminal. The command is a process group of its own, so that after the deadline or an
    interruption exactly it and its children are ended: TERM first, KILL ``patience`` seconds later.
    """
    started = time.monotonic()
    stream = log.open("ab") if log else None
    # Some tools colour and wrap their output even where nobody sees it.
    plain = {"NO_COLOR": "1", "COLUMNS": "200"} if log else {}
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment() | plain,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
            process_group=0,
        )
    except OSError as error:
        if stream:
            stream.write(f"{command[0]}: {error}\n".encode())
        else:
            print(f"{command[0]}: {error}", file=sys.stderr)
        return Outcome(127, 0.0)
    finally:
        if stream:
            stream.close()
    done = threading.Event()
    if heartbeat and log:
        threading.Thread(target=_beat, args=(heartbeat, started, log, done), daemon=True).start()
    try:
        code = process.wait(timeout=deadline)
    except subprocess.TimeoutExpired:
        end(process, patience)
        text = f"ended after its deadline of {duration(deadline)}: {' '.join(command)}"
        if log:
            with log.open("a") as handle:
                handle.write(text + "\n")
        else:
            print(text, file=sys.stderr)
        code = 124
    except BaseException:
        end(process, patience)
        raise
    finally:
        done.set()
    return Outcome(code, time.monotonic() - started)


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a command started by :func:`run` and everything in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        ends = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            # The group outlives its leader while one of the children still cleans up.
            while time.monotonic() < ends:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)


def _beat(name: str, started: float, log: Path, done: threading.Event) -> None:
    while not done.wait(60):
        print(f"    {name} has been running for {duration(time.monotonic() - started)}; last line: {last_line(log)}", flush=True)


def last_line(log: Path) -> str:
    """The last line with text of a log, shortened; a dash where there is none."""
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - 4000))
        lines = [line.strip() for line in handle.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return lines[-1][:120] if lines else "-"


@contextlib.contextmanager
def sole_user_of_the_lab(purpose: str) -> Iterator[None]:
    """Keep a second deploy or test run on this machine from resetting the lab under the first one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "lab-in-use.lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise Stop(f"The lab is in use by {handle.read().strip() or 'another run'}. Wait until it has ended, then run {purpose} again.") from None
        handle.truncate(0)
        handle.write(f"{purpose} (process {os.getpid()})\n")
        handle.flush()
        yield
        handle.truncate(0)


def end_on_signals() -> None:
    """Turn TERM and HUP into the exception that INT raises, so that ``finally`` blocks run for all three."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
