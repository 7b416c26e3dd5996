# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alembic's environment: where the database is, and the limits under which migrations run.

The address is DATABASE_URL, else PGHOST, PGPORT, PGUSER and PGDATABASE with the password from PGPASSFILE or
PGPASSWORD. SIGNAL_LOCK_TIMEOUT (default 5s) limits how long a migration waits for a lock: a waiting ALTER TABLE
makes every later reader of that table wait as well. A value in PGOPTIONS wins. SIGNAL_APP_ROLE (default
signal_user) is the role that the application connects as; the migrations grant it what it needs.
"""

from __future__ import annotations

import os
import re
from logging.config import fileConfig

from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, pool
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

_DURATION = re.compile(r"[0-9]+(us|ms|s|min)?")


def database_url() -> str | URL:
    """Return the address; raises CommandError naming the variables that are missing."""
    url = os.environ.get("DATABASE_URL")
    if url:
        return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", url)
    missing = [name for name in ("PGHOST", "PGUSER", "PGDATABASE") if not os.environ.get(name)]
    if missing:
        raise CommandError(f"set DATABASE_URL, or PGHOST, PGUSER and PGDATABASE; missing: {', '.join(missing)}")
    port = os.environ.get("PGPORT") or "5432"
    if not port.isdecimal():
        raise CommandError(f"PGPORT is {port!r}, expected a number")
    return URL.create(
        "postgresql+psycopg2",
        username=os.environ["PGUSER"],
        host=os.environ["PGHOST"],
        port=int(port),
        database=os.environ["PGDATABASE"],
    )


def server_options() -> str:
    """Return the server settings of the migration session, those of PGOPTIONS last."""
    lock_timeout = os.environ.get("SIGNAL_LOCK_TIMEOUT", "5s")
    if not _DURATION.fullmatch(lock_timeout):
        raise CommandError(f"SIGNAL_LOCK_TIMEOUT is {lock_timeout!r}, expected like 5s or 500ms")
    # If this process dies, the server gives up the statement and its locks instead of finishing it unseen.
    options = f"-c lock_timeout={lock_timeout} -c client_connection_check_interval=500ms"
    return f"{options} {os.environ.get('PGOPTIONS', '')}".strip()


def application_role() -> str:
    """Return the role to grant to; raises CommandError when it is not a plain name, since it becomes SQL text."""
    role = os.environ.get("SIGNAL_APP_ROLE", "signal_user")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", role):
        raise CommandError(f"SIGNAL_APP_ROLE is {role!r}, expected a plain lower-case role name")
    return role


def run_offline() -> None:
    """Print the SQL."""
    context.configure(dialect_name="postgresql", literal_binds=True, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Apply the migrations in one transaction: all of them, or none."""
    engine = create_engine(
        database_url(),
        poolclass=pool.NullPool,
        connect_args={"options": server_options(), "application_name": "alembic", "connect_timeout": 5},
    )
    try:
        connection = engine.connect()
    except OperationalError as error:
        # The server's or the network's own words; they name host, port and role, never the password.
        raise CommandError(f"cannot connect to the database: {str(error.orig).strip()}") from error
    with connection:
        context.configure(connection=connection, target_metadata=None)
        with context.begin_transaction():
            context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
context.config.attributes["application_role"] = application_role()

if context.is_offline_mode():
    run_offline()
else:
    run_online()
