# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Alembic in an interpreter of its own: a child that dies with us and tells by a pipe what it does. Private to this collection."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

TICK_SECONDS = 0.2
_TERM_SECONDS = 2.0
_KEPT_OUTPUT = 16384
# Exit code of a child that must not migrate: its session does not see our lock.
FENCED = 75

# Runs under the release's own interpreter, so it needs nothing but Alembic and SQLAlchemy. Every connection that env.py opens, by
# whatever driver, is told its limits and must see the lock that stands for this run; a connection to another database does not.
PROGRAM = r"""
import ctypes, io, json, logging, os, sys, warnings

order = json.loads(sys.argv[1])
pipe = os.fdopen(order["pipe"], "w", encoding="utf-8")


def tell(**event):
    pipe.write(json.dumps(event) + "\n")
    pipe.flush()


if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != order["parent"]:
    os._exit(70)


def ask(cursor, statement):
    cursor.execute(statement)
    return cursor.fetchone()


def connected(connection, record):
    cursor = connection.cursor()
    process, held = ask(cursor, order["look"])
    if not held or not ask(cursor, order["fence"])[0]:
        tell(event="fenced", process=process)
        os._exit(order["fenced"])
    for statement in order["session"]:
        cursor.execute(statement)
    cursor.close()
    connection.commit()
    tell(event="connected", process=process)


def stepped(record):
    tell(event="step", text=record.getMessage())
    return True


def revisions(config):
    from alembic.script import ScriptDirectory
    from alembic.util import to_tuple

    script = ScriptDirectory.from_config(config)
    found = []
    for item in script.walk_revisions("base", "heads"):
        needed = [other.revision for name in to_tuple(item.dependencies, default=()) for other in script.get_revisions(name)]
        found.append({"id": item.revision, "down": list(to_tuple(item.down_revision, default=())), "depends_on": needed, "title": item.doc or ""})
    return found


def main():
    from alembic import command
    from alembic.config import Config

    buffer = io.StringIO()
    config = Config(order["ini"], output_buffer=buffer) if order["action"] == "sql" else Config(order["ini"])
    # Two scripts with one id are only warned about.
    warnings.filterwarnings("error", message="Revision .* is present more than once")
    if order["action"] == "revisions":
        tell(event="revisions", revisions=revisions(config))
        return
    run = getattr(command, order["direction"])
    if order["action"] == "sql":
        run(config, order["range"], sql=True)
        tell(event="sql", text=buffer.getvalue())
        return
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    event.listen(Pool, "connect", connected)
    logger = logging.getLogger("alembic.runtime.migration")
    logger.setLevel(logging.INFO)
    logger.addFilter(stepped)
    run(config, order["target"])


try:
    main()
except (Exception, SystemExit) as error:
    origin = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None) or ""
    text = str(origin).strip().splitlines() or [""]
    tell(event="error", kind=type(origin).__name__, message=text[0], sqlstate=state, statement=str(getattr(error, "statement", None) or "")[:2000])
    sys.exit(1)
"""


@dataclass
class Ended:
    """How the child ended: its exit code, why we ended it ('' when it ended by itself), its error event, the end of its output."""

    code: int
    stopped: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sqlstate(self) -> str:
        return str(self.error.get("sqlstate", ""))

    def reason(self) -> str:
        """Return in one line why it failed."""
        if self.code == FENCED:
            return "its connection does not see the lock of this run: env.py connects to another database than login_db, or through a pooler"
        if self.error:
            at = f" (at: {one_line(self.error['statement'], 120)})" if self.error.get("statement") else ""
            return f"{self.error['kind']}: {one_line(self.error['message'])}{at}"
        last = one_line((self.output.strip().splitlines() or ["no output"])[-1])
        return f"it ended by signal {-self.code}" if self.code < 0 else f"it ended with exit code {self.code}: {last}"


def interpreter(python: str | None, command: str | None) -> str:
    """Return the interpreter that Alembic is installed for: ``python``, else the one of the program ``command``, else our own."""
    if python:
        return _program("python", python)
    if not command:
        return sys.executable
    path = _program("alembic_command", command)
    with open(path, "rb") as script:
        opening = script.read(1024).decode("utf-8", "replace")
    found = shebang(opening)
    if found is None:
        raise RolloutError(f"alembic_command is {path}, which does not name its Python in its first line. Next: give the interpreter as python")
    return _program("python", found)


def shebang(opening: str) -> str | None:
    """Return the interpreter that the first lines of a script name, as pip and others write them; None where there is none."""
    lines = opening.splitlines()
    words = lines[0][2:].split() if lines and lines[0].startswith("#!") else []
    if words and words[0].endswith("/env"):
        words = [word for word in words[1:] if not word.startswith("-")]
    # A path that is too long for the kernel, or has a blank: #!/bin/sh, then '''exec' "/path/python" "$0" "$@"
    if words and words[0].endswith("/sh") and len(lines) > 1 and lines[1].startswith("'''exec' "):
        rest = lines[1][len("'''exec' ") :]
        words = [rest.split('"')[1]] if rest.startswith('"') else rest.split()[:1]
    return words[0] if words and "python" in os.path.basename(words[0]) else None


def _program(option: str, name: str) -> str:
    path = os.path.expanduser(name)
    found = path if os.sep in path else shutil.which(path)
    if not found or not os.access(found, os.X_OK) or os.path.isdir(found):
        raise RolloutError(f"{option} is {name}, expected an executable program. Next: install Alembic there, or correct the path")
    return found


def environment(params: Mapping[str, Any], options: str) -> dict[str, str]:
    """Return the child's environment: the connection of ``params``, and what the release's env.py wants besides."""
    connection = _postgresql.libpq_environment(params, "signal.rollout alembic", options)
    return {**connection, "PYTHONDONTWRITEBYTECODE": "1", **(params["environment"] or {})}


class Alembic:
    """The release's Alembic: interpreter, configuration file, environment."""

    def __init__(self, python: str, ini: str, variables: Mapping[str, str], context: Context) -> None:
        self.python = python
        self.ini = ini
        self._variables = dict(variables)
        self._context = context

    def revisions(self, deadline: float) -> list[dict[str, Any]]:
        """Read the release's scripts; raises :class:`RolloutError` when Alembic cannot."""
        return self._answer({"action": "revisions"}, "revisions", deadline)

    def sql(self, direction: str, span: str, deadline: float) -> str:
        """Return the statements that a migration over ``span`` (FROM:TO) would send."""
        return self._answer({"action": "sql", "direction": direction, "range": span}, "sql", deadline)

    def _answer(self, order: dict[str, Any], event: str, deadline: float) -> Any:
        ended = self.run(order, deadline)
        for seen in ended.events:
            if seen["event"] == event:
                return seen["revisions" if event == "revisions" else "text"]
        what = "read the release's migrations" if event == "revisions" else "write out the SQL of the migration"
        if ended.stopped:
            raise RolloutError(f"Alembic did not {what}: {ended.stopped}")
        hint = f"check {self.ini}"
        if ended.error.get("kind") in ("ModuleNotFoundError", "ImportError"):
            hint = f"install what is missing for {self.python}, or name Alembic's own interpreter by alembic_command or python"
        raise RolloutError(f"Alembic did not {what}: {ended.reason()}. Next: {hint}")

    def run(
        self,
        order: dict[str, Any],
        deadline: float,
        seen: Callable[[dict[str, Any]], None] = lambda event: None,
        tick: Callable[[], str] = lambda: "",
    ) -> Ended:
        """Run one order until it ends, ``deadline`` (monotonic), an interruption, or ``tick`` returns why to stop.

        ``seen`` is called with each event, ``tick`` about every :data:`TICK_SECONDS`. The child is always gone afterwards.
        """
        reading, writing = os.pipe()
        full = {**order, "ini": self.ini, "pipe": writing, "parent": os.getpid(), "fenced": FENCED}
        try:
            # A session of its own: Ctrl-C in a terminal must reach us, who know what to do then, and not the child.
            child = subprocess.Popen(
                [self.python, "-c", PROGRAM, json.dumps(full)],
                cwd=os.path.dirname(self.ini),
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            raise RolloutError(f"{self.python}: cannot be started: {one_line(error)}") from None
        finally:
            os.close(writing)
        try:
            return self._followed(child, reading, deadline, seen, tick)
        finally:
            _end(child)
            os.close(reading)
            if child.stdout:
                child.stdout.close()

    def _followed(
        self, child: subprocess.Popen[bytes], reading: int, deadline: float, seen: Callable[[dict[str, Any]], None], tick: Callable[[], str]
    ) -> Ended:
        texts = {reading: b"", child.stdout.fileno(): b""}
        ended = Ended(code=-1)
        with selectors.DefaultSelector() as selector:
            for descriptor in texts:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _mask in selector.select(TICK_SECONDS):
                    descriptor = key.fd
                    chunk = os.read(descriptor, 65536)
                    if not chunk:
                        selector.unregister(descriptor)
                    texts[descriptor] += chunk
                    if descriptor != reading:
                        texts[descriptor] = texts[descriptor][-_KEPT_OUTPUT:]
                *lines, texts[reading] = texts[reading].split(b"\n")
                for event in map(json.loads, lines):
                    ended.events.append(event)
                    if event["event"] == "error":
                        ended.error = event
                    seen(event)
                ended.stopped = self._why_stop(deadline) or tick()
                if ended.stopped:
                    break
        if ended.stopped:
            _end(child)
        ended.code = child.wait()
        ended.output = texts[child.stdout.fileno()].decode("utf-8", "replace")
        return ended

    def _why_stop(self, deadline: float) -> str:
        if self._context.cancelled.is_set():
            return f"interrupted by {self._context.signal_name}"
        return "the time given by timeout is over" if time.monotonic() >= deadline else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it has started, if it still runs."""
    for number, patience in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, None)):
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)


def session_statements(limits: Sequence[tuple[str, str]]) -> list[str]:
    """Return the statements that set ``limits`` in a session, skipping what the server does not know."""
    return [f"SELECT set_config(name, '{value}', false) FROM pg_settings WHERE name = '{name}'" for name, value in limits]
