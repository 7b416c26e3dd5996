# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs PostgreSQL's client programs: found, asked for their version, never outliving us. Private to this collection.

A password is only in the environment of the child that needs it: nothing is left on disk whatever kills us, and a command line has none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context, set_parent_death_signal
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

_GRACE_SECONDS = 5.0
_POUR_SECONDS = 60.0
_POLL_SECONDS = 0.1
_TELLING = re.compile(r"(error|fatal|detail|hint|warning):", re.IGNORECASE)
_CHUNK = 1024 * 1024
# What every dump of a TimescaleDB catalog says though nothing is wrong.
_CIRCULAR = ("circular foreign-key", "hypertable", "chunk", "continuous_agg", "You might not be able to restore", "Consider using a full dump")


class ClientError(RolloutError):
    """A client program is not there, cannot do what is wanted, or failed."""


def find(program: str, client_dir: str | None) -> str:
    """Return the path of a program in ``client_dir``, or on the PATH without one."""
    path = shutil.which(program, path=client_dir) if client_dir else shutil.which(program)
    if path is None:
        raise ClientError(
            f"{program} was not found {'in ' + client_dir if client_dir else 'on the PATH'}. "
            "Next: install the PostgreSQL client of the server's major version, and name its folder in client_dir"
        )
    return os.path.abspath(path)


def version(path: str) -> str:
    """Return a client program's version as it prints it, such as ``17.6``."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientError(f"{path} does not run: {one_line(error)}. Next: see {path} --version") from None
    return version_of(done.stdout or done.stderr, path)


def version_of(text: str, path: str) -> str:
    """Return the version in what ``path --version`` has printed."""
    found = re.search(r"\(PostgreSQL\) (\S+)", text)
    if found is None:
        raise ClientError(f"{path} --version printed '{one_line(text, 100)}', expected the version of a PostgreSQL client")
    return found[1]


def major(text: str) -> int:
    """Return the major version of ``17.6``, ``17beta1`` or ``17.6 (Debian 17.6-1)``; 0 when there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def conninfo(params: Mapping[str, Any], session_options: str = "") -> str:
    """Return the same as :func:`environment` for a command line: everything but the password."""
    words = {
        "host": params["login_host"],
        "port": params["login_port"],
        "user": params["login_user"],
        "dbname": params["login_db"],
        "sslmode": params["ssl_mode"],
        "connect_timeout": params["connect_timeout"],
        "application_name": "signal.rollout",
        "options": session_options,
    }
    quoted = [f"{name}='{_escaped(str(value))}'" for name, value in words.items() if value]
    return " ".join([*quoted, CONNECTION])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def environment(params: Mapping[str, Any], session_options: str = "") -> dict[str, str]:
    """Return the environment in which a client program reaches the database of ``params``."""
    # Messages are told apart by their English words.
    return _postgresql.libpq_environment(params, "signal.rollout", session_options) | {"LC_ALL": "C"}


# A lost network is noticed within half a minute, not after the kernel's two hours.
CONNECTION = "keepalives=1 keepalives_idle=5 keepalives_interval=5 keepalives_count=4 tcp_user_timeout=30000"


class Child:
    """One running program, of this machine or the given ``process``. Its standard error is drained; it ends when we do, however we end."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.DEVNULL,
        said: Callable[[str], None] | None = None,
        process: Any = None,
    ) -> None:
        self.name = os.path.basename(argv[0])
        self._unwritten = ""
        self._lines: list[str] = []
        self._said = said
        self._pouring: threading.Thread | None = None
        self._process: Any = process or _started(argv, env, stdin, stdout)
        self._drain = threading.Thread(target=self._read, daemon=True)
        self._drain.start()

    @property
    def stdin(self) -> IO[bytes]:
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        return self._process.stdout

    def _read(self) -> None:
        with self._process.stderr as stream:
            for raw in stream:
                line = raw.decode(errors="backslashreplace").rstrip()
                if self._said:
                    self._said(line)
                if _TELLING.search(line) or self._said is None:
                    # The first say what is wrong; the rest is bounded.
                    self._lines = [*self._lines[:200], line]

    @property
    def unwritten(self) -> str:
        """Why what it wrote has not all arrived; '' when it has."""
        return self._unwritten

    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def pour(self, sinks: Sequence[Any]) -> None:
        """Copy all that it writes into what has ``write()`` and ``close()``, in a thread that ends with any of them."""

        def copy() -> None:
            try:
                while chunk := self.stdout.read(_CHUNK):
                    for sink in sinks:
                        sink.write(chunk)
            except (OSError, ValueError) as error:
                # A program that no longer reads says why by itself. What cannot be written to a disk is only known here.
                if isinstance(error, OSError) and error.errno != errno.EPIPE:
                    self._unwritten = one_line(error)
                    self.stdout.close()
            for sink in sinks:
                with contextlib.suppress(OSError, ValueError):
                    sink.close()

        self._pouring = threading.Thread(target=copy, daemon=True)
        self._pouring.start()

    def stop(self) -> None:
        """End it and what it has started: asked first, so that it cancels its statements, then by force."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.end(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE_SECONDS)
        if self._pouring and self._process.returncode == 0:
            # What it wrote last may still be in the pipe.
            self._pouring.join(_POUR_SECONDS)
            if self._pouring.is_alive():
                self._unwritten = f"its last output was not taken within {_POUR_SECONDS:g} s"
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self._drain.join(_GRACE_SECONDS)

    def messages(self) -> list[str]:
        """What it wrote on standard error, without what every TimescaleDB dump warns of."""
        self._drain.join(_GRACE_SECONDS)
        return [line for line in self._lines if not any(words in line for words in _CIRCULAR) and line.strip() not in ("", "Password:")]

    def complaint(self) -> str:
        """Return in one line why it failed."""
        lines = [f"error: {self._unwritten}"] if self._unwritten else self.messages()
        worst = [line for line in lines if "warning:" not in line] or lines
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"{self.name}: {one_line(' '.join(worst[:4]), 400) or 'it said nothing'} ({how})"


class _Local(subprocess.Popen):
    """A program of this machine, with all that it starts."""

    def end(self, number: int) -> None:
        os.killpg(self.pid, number)


def _started(argv: Sequence[str], env: Mapping[str, str] | None, stdin: Any, stdout: Any) -> _Local:
    parent = os.getpid()
    try:
        return _Local(
            list(argv),
            env=None if env is None else dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            umask=0o077,
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )
    except OSError as error:
        raise ClientError(f"{argv[0]} does not start: {one_line(error)}") from None


def wait(
    children: Iterable[Child],
    context: Context,
    timeout: float,
    tick: Callable[[], None] = lambda: None,
    interval: float = 10.0,
) -> None:
    """Wait until all have ended well; otherwise end all of them and raise :class:`ClientError` for the first that did not.

    ``tick`` is called every ``interval`` seconds.
    """
    running = list(children)
    deadline = time.monotonic() + timeout
    next_tick = time.monotonic() + interval
    try:
        while True:
            codes = [child.code() for child in running]
            failed = [child for child, code in zip(running, codes) if code]
            if failed:
                # The first in a chain that did not merely lose its neighbour.
                raise ClientError(next((child for child in failed if child.code() not in (-signal.SIGPIPE,)), failed[0]).complaint())
            if all(code == 0 for code in codes):
                for child in running:
                    child.stop()
                    if child.unwritten:
                        raise ClientError(child.complaint())
                return
            if context.sleep(_POLL_SECONDS):
                raise ClientError(f"{running[0].name} was ended: the run was interrupted by {context.signal_name}")
            if time.monotonic() > deadline:
                raise ClientError(f"{running[0].name} was ended: no end within timeout ({timeout:g} s)")
            if time.monotonic() >= next_tick:
                next_tick += interval
                tick()
    finally:
        for child in running:
            child.stop()


def _die_with(parent: int) -> None:
    if set_parent_death_signal(signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)
