# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, stop and report of the traffic generator in ``lab/traffic``."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from . import processes, settings
from .processes import PidFile
from .settings import LAB_SOURCE, LabError, Paths

# The generator finishes its open requests and writes its report on TERM.
STOP_SECONDS = 20.0


def _pid_file(paths: Paths) -> PidFile:
    return PidFile(paths.state / "traffic.pid")


def _report(paths: Paths) -> Path:
    return paths.state / "traffic.json"


def state(paths: Paths) -> str:
    pid = _pid_file(paths).alive()
    return f"running, pid {pid}" if pid else "not running"


def start(paths: Paths, arguments: list[str]) -> int:
    """Start the generator in the background; ``arguments`` go to it as they are."""
    if pid := _pid_file(paths).alive():
        print(f"traffic is running already (pid {pid})")
        return 0
    log = paths.logs / "traffic.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    _report(paths).unlink(missing_ok=True)
    # fmt: off
    command = [_interpreter(), "-m", "traffic", "run", "--url", settings.GATEWAY_URL, "--host", settings.HOST_HEADER,
               "--report", str(_report(paths)), *arguments]
    # fmt: on
    pid = processes.spawn(command, _pid_file(paths), log, cwd=LAB_SOURCE)
    time.sleep(0.5)
    processes.reap()
    if _pid_file(paths).alive() is None:
        raise LabError("the traffic generator ended at once:\n" + log.read_text(errors="replace")[-1000:])
    print(f"traffic started (pid {pid}, log {log})")
    return 0


def stop_if_running(paths: Paths) -> bool:
    pid = _pid_file(paths).alive()
    if pid is None:
        return False
    processes.stop({pid: processes.start_time(pid)}, STOP_SECONDS, "traffic generator")
    _pid_file(paths).remove()
    return True


def stop(paths: Paths) -> int:
    print("traffic stopped" if stop_if_running(paths) else "traffic was not running")
    return 0


def report(paths: Paths, arguments: list[str]) -> int:
    """Print the generator's report: of the running one up to now, else of the last one."""
    if not _report(paths).exists():
        raise LabError(f"{_report(paths)}: no report. Run: labctl traffic start")
    return subprocess.run([sys.executable, "-m", "traffic", "report", str(_report(paths)), *arguments], cwd=LAB_SOURCE).returncode


def _interpreter() -> str:
    """A Python that has the generator's one dependency: the one that runs labctl, else the checkout's environment."""
    if importlib.util.find_spec("aiohttp"):
        return sys.executable
    environment = LAB_SOURCE.parent / ".venv" / "bin" / "python"
    if environment.exists():
        return str(environment)
    raise LabError(f"the traffic generator needs aiohttp, which {sys.executable} lacks, and there is no {environment}. Run: make venv")


