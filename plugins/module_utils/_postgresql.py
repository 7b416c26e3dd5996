# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL sessions with deadlines and clean errors. Private to this collection."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import (
    RolloutError,
    one_line,
    require,
)

try:
    import psycopg2
    import psycopg2.extensions
    import psycopg2.extras
    import psycopg2.sql
except ImportError:
    psycopg2 = None

SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "login_host": {"type": "str", "default": "localhost"},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "required": True},
    "login_password": {"type": "str", "no_log": True},
    "login_db": {"type": "str", "required": True},
    "ssl_mode": {"type": "str", "default": "prefer", "choices": SSL_MODES},
    "ca_cert": {"type": "path"},
    "connect_timeout": {"type": "int", "default": 5},
}

MIN_SECRET_LENGTH = 8

_HOST = re.compile(r"[A-Za-z0-9_.:%-]+")
# Part of libpq's English message -> what to look at next.
_HINTS: tuple[tuple[str, str], ...] = (
    ("password authentication failed", "check login_user and login_password"),
    ("no password supplied", "give login_password"),
    ("no pg_hba.conf entry", "ask the server's owner to allow this host, user, database and encryption in pg_hba.conf"),
    ("certificate", "check ssl_mode and ca_cert"),
    ("SSL", "check ssl_mode and ca_cert"),
    ("too many clients", "wait, or close idle sessions (SELECT * FROM pg_stat_activity)"),
    ("too many connections", "wait, or close idle sessions (SELECT * FROM pg_stat_activity)"),
)


def option_problems(params: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the connection options, one sentence each; empty when nothing is.

    Nothing is contacted. The password is never part of a sentence.
    """
    problems = []
    host = params["login_host"]
    if host.startswith("/"):
        if _has_control_characters(host):
            problems.append("login_host holds a control character, expected the path of a socket directory")
    elif not _HOST.fullmatch(host):
        problems.append(
            f"login_host is '{one_line(host, 80)}', expected one host name, address or absolute socket directory "
            "(no URL, no connection string)"
        )
    if not 1 <= params["login_port"] <= 65535:
        problems.append(f"login_port is {params['login_port']}, expected 1 to 65535")
    for name in ("login_user", "login_db"):
        value = params[name]
        if not value or _has_control_characters(value) or len(value.encode()) > 63:
            problems.append(f"{name} is '{one_line(value, 80)}', expected 1 to 63 bytes without control characters")
        elif "://" in value or "=" in value:
            problems.append(f"{name} looks like a connection string of {len(value)} characters, expected a plain name")
    if not 1 <= params["connect_timeout"] <= 60:
        problems.append(f"connect_timeout is {params['connect_timeout']}, expected 1 to 60 seconds")
    if params["ca_cert"] and not os.path.isfile(params["ca_cert"]):
        problems.append(f"ca_cert is '{one_line(params['ca_cert'])}', expected an existing file")
    return problems + secret_problems("login_password", params["login_password"])


def secret_problems(name: str, secret: str | None) -> list[str]:
    """Return what makes ``secret`` unusable as a password, without showing it."""
    if secret is None:
        return []
    if secret.startswith("$ANSIBLE_VAULT;"):
        return [f"{name} is still encrypted by ansible-vault, expected the decrypted text"]
    if _has_control_characters(secret):
        return [f"{name} holds a control character (a trailing newline?), expected one line without its end"]
    if len(secret) < MIN_SECRET_LENGTH:
        # Ansible masks secrets by replacing their text everywhere: a short one would mangle every result.
        return [f"{name} has {len(secret)} characters, expected at least {MIN_SECRET_LENGTH}"]
    return []


def libpq_environment(params: Mapping[str, Any], application: str, options: str) -> dict[str, str]:
    """Return the environment in which a child reaches the database of ``params``: ours, without any libpq setting of ours but a password file.

    The password is in it, as PGPASSWORD: only this user and root can read it, and nothing of it stays behind. ``options`` as in PGOPTIONS.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG") or name == "PGPASSFILE"}
    given = {
        "PGHOST": params["login_host"],
        "PGPORT": str(params["login_port"]),
        "PGUSER": params["login_user"],
        "PGDATABASE": params["login_db"],
        "PGSSLMODE": params["ssl_mode"],
        "PGSSLROOTCERT": params["ca_cert"],
        "PGCONNECT_TIMEOUT": str(params["connect_timeout"]),
        "PGPASSWORD": params["login_password"],
        "PGOPTIONS": options,
        "PGAPPNAME": application,
    }
    return kept | {name: value for name, value in given.items() if value}


def address(params: Mapping[str, Any]) -> str:
    """Return how messages name this database, without any secret."""
    return f"PostgreSQL {params['login_host']}:{params['login_port']}/{params['login_db']} as {params['login_user']}"


# Held in this mode, a table cannot be read, nor its size be asked.
_HELD = """
SELECT l.pid, l.relation::regclass::text AS "table", a.usename AS "user", a.application_name AS application,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float AS seconds
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid() AND c.relkind IN ('r', 'p', 'm')
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY a.xact_start LIMIT 5
"""


class Session:
    """One connection whose statements are counted and whose errors are :class:`RolloutError`.

    It is always inside a transaction, and never commits: whatever it wrote is gone after :meth:`close`. Only one that
    :func:`connect_committing` has opened commits, each statement by itself or those of one :meth:`transaction` together.
    """

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self.name = name
        self.queries = 0

    def rows(self, statement: Any, arguments: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run one statement and return its rows by column name; an empty list when it returns none.

        ``statement`` is a constant text or a ``psycopg2.sql`` composition; values only through ``arguments``.
        """
        try:
            return self.raw_rows(statement, arguments)
        except psycopg2.Error as error:
            raise self.translated(error) from error

    def raw_rows(self, statement: Any, arguments: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Like :meth:`rows`, with psycopg2's own errors, for a caller that tells them apart."""
        self.queries += 1
        with self._connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(statement, arguments)
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []

    def restart(self, read_only: bool) -> None:
        """Roll back, and begin the next transaction as reading or writing."""
        self._connection.rollback()
        self._connection.set_session(isolation_level="READ COMMITTED", readonly=read_only)

    @property
    def process(self) -> int:
        """The server's process id of this session, as in pg_stat_activity."""
        return int(self._connection.info.backend_pid)

    def refuse_pooler(self) -> None:
        """Raise :class:`RolloutError` where a pooler shares sessions out: locks and settings would stay with one that is somebody else's next."""
        seen = int(self.rows("SELECT pg_backend_pid() AS process")[0]["process"])
        if seen != self.process:
            raise RolloutError(
                f"{self.name}: the connection goes through a pooler (the session is process {seen}, the connection said "
                f"{self.process}), where a lock does not stay with its run. Next: give host and port of the server itself"
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is run inside together, or none of it. Only for a committing session."""
        self._connection.autocommit = False
        try:
            yield
            self._connection.commit()
        except psycopg2.Error as error:
            self.rollback()
            raise self.translated(error) from error
        except BaseException:
            self.rollback()
            raise
        finally:
            with contextlib.suppress(psycopg2.Error):
                self._connection.autocommit = True

    def rollback(self) -> None:
        """End the transaction; a lost connection has ended it already."""
        with contextlib.suppress(psycopg2.Error):
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()

    def cancel(self) -> None:
        """Ask the server to stop this session's statement; may be called from another thread."""
        with contextlib.suppress(psycopg2.Error):
            self._connection.cancel()

    @property
    def superuser_warning(self) -> list[str]:
        """A warning for a session that no privilege holds back, as a list to add to others; the server told so by itself."""
        if self._connection.info.parameter_status("is_superuser") != "on":
            return []
        return [f"{self.name} is a superuser: missing privileges go unnoticed, and a mistake has no limit. See docs/database_roles.md."]

    @property
    def closed(self) -> bool:
        """Whether the connection has been lost or closed."""
        return bool(self._connection.closed)

    def _held(self) -> str:
        """Who holds a table so that nobody can even read it, in words; empty for nobody, or where that cannot be asked."""
        self.rollback()
        try:
            found = self.raw_rows(_HELD)
        except psycopg2.Error:
            return ""
        return "; ".join(
            f"{row['table']} by process {row['pid']} ({row['user'] or 'unknown user'}, {one_line(row['application'] or 'no application name', 60)}) "
            f"for {row['seconds'] or 0:.0f} s"
            for row in found
        )

    def translated(self, error: Any) -> RolloutError:
        """Return ``error`` as a message that names the database and what to do."""
        code = error.pgcode or ""
        # The first line is the primary message; what follows repeats the statement.
        text = one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
        if code == "57014":
            held = self._held()
            seen = f" Held meanwhile: {held}." if held else ""
            return RolloutError(
                f"{self.name}: a statement did not end within query_timeout ({text}).{seen} "
                f"Next: {'wait for the end of that session, or ' if held else ''}raise query_timeout"
            )
        if code == "42501":
            return RolloutError(f"{self.name}: {text}. Next: use a role with that right, or grant it")
        return RolloutError(f"{self.name}: {text} (SQLSTATE {code or 'none'}). Next: see the server's log")


def connect(params: Mapping[str, Any], query_timeout: float, application: str = "signal.rollout") -> Session:
    """Open a session that starts with a read-only snapshot (repeatable read).

    ``query_timeout`` in seconds only bounds how long a silent network is waited for; the server's own
    statement_timeout is the caller's to set inside the transaction, since poolers refuse start-up options.
    Raises :class:`RolloutError` for bad options, an unreachable server or refused credentials.
    """
    connection = _opened(params, query_timeout, application)
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    return Session(connection, address(params))


def connect_committing(params: Mapping[str, Any], query_timeout: float, application: str = "signal.rollout") -> Session:
    """Open a session whose statements commit by themselves, for what cannot run in a transaction (CREATE DATABASE).

    Arguments and errors as for :func:`connect`. The server looks every second whether this client still lives while a statement
    runs (PostgreSQL 14 and newer), so that nothing goes on for a client that was killed.
    """
    connection = _opened(params, query_timeout, application)
    connection.autocommit = True
    session = Session(connection, address(params))
    session.rows("SELECT set_config(name, '1s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'")
    return session


def _opened(params: Mapping[str, Any], query_timeout: float, application: str) -> Any:
    require("psycopg2", psycopg2)
    problems = option_problems(params)
    if problems:
        raise RolloutError(f"{address(params)}: {'; '.join(problems)}")
    # libpq reads PGOPTIONS, PGSERVICE and others from the environment; what is named here wins over them.
    settings = {
        "host": params["login_host"],
        "port": params["login_port"],
        "user": params["login_user"],
        "dbname": params["login_db"],
        "sslmode": params["ssl_mode"],
        "connect_timeout": params["connect_timeout"],
        "application_name": application,
        "options": "",
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int((query_timeout + params["connect_timeout"]) * 1000),
    }
    if params["login_password"] is not None:
        settings["password"] = params["login_password"]
    if params["ca_cert"]:
        settings["sslrootcert"] = params["ca_cert"]
    try:
        return psycopg2.connect(**settings)
    except psycopg2.Error as error:
        raise RolloutError(connection_message(params, str(error))) from None


def connection_message(params: Mapping[str, Any], reason: str) -> str:
    """Return the message for a connection that could not be made; ``reason`` is libpq's text."""
    if params["login_password"]:
        reason = reason.replace(params["login_password"], "********")
    hint = next((hint for part, hint in _HINTS if part in reason), None)
    if hint is None and "database" in reason and "does not exist" in reason:
        hint = "check login_db"
    if hint is None:
        hint = (
            "check login_host and login_port, and that the server runs: "
            f"pg_isready -h {params['login_host']} -p {params['login_port']}"
        )
    return f"{address(params)}: cannot connect: {one_line(reason)}. Next: {hint}"


def _has_control_characters(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)
