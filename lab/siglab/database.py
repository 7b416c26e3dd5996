# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TimescaleDB of the lab: roles, the template database at v1's schema with its data, and fresh copies of it."""

from __future__ import annotations

import time

from . import cache, pki, processes
from .api import Api
from .settings import (
    BASELINE_VERSION,
    DATABASE_IP,
    SERVICE_IMAGE,
    SERVICE_SOURCE,
    LabError,
    Paths,
)

DATABASE = "signal_db"
TEMPLATE = "signal_template"
OWNER = "signal_owner"
APPLICATION = "signal_user"
# Alembic revision of the schema that v1 was released with.
BASELINE_REVISION = "0001"
NAMESPACE = "signal-data"
MIGRATION_POD = "signal-template-migrations"


def inputs_digest() -> str:
    """Changes when the template database has to be made anew."""
    return cache.digest(SERVICE_SOURCE / "release" / "migrations", SERVICE_SOURCE / "seed", BASELINE_REVISION)


def sql(paths: Paths, statements: str, *, database: str = "postgres", role: str = "postgres", timeout: float = 60) -> str:
    """Run SQL with the lab's own client and return what it printed, unaligned, one row a line."""
    return processes.run(
        # fmt: off
        [str(paths.state / "pgclient" / "bin" / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
         "--set", "ON_ERROR_STOP=1", "--host", DATABASE_IP, "--username", role, "--dbname", database, "--file", "-"],
        # fmt: on
        stdin=statements,
        env={"PGPASSWORD": pki.password(paths, role), "PGCONNECT_TIMEOUT": "5", "PGAPPNAME": "labctl"},
        timeout=timeout,
    )


def answers(paths: Paths) -> bool:
    try:
        return sql(paths, "SELECT 1", timeout=10).strip() == "1"
    except LabError:
        return False


def is_prepared(paths: Paths) -> bool:
    """True when the template database was made, completely, from the present migrations and data."""
    marker = paths.run / "template.digest"
    return marker.exists() and marker.read_text() == inputs_digest()


def prepare(paths: Paths, api: Api) -> None:
    """Create roles and the template database when they are missing or were made from other migrations."""
    if is_prepared(paths):
        return
    marker = paths.run / "template.digest"
    wanted = inputs_digest()
    marker.unlink(missing_ok=True)
    _create_roles(paths)
    _drop(paths, TEMPLATE)
    sql(paths, f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
    sql(
        paths,
        f"""
        CREATE EXTENSION timescaledb;
        ALTER SCHEMA public OWNER TO {OWNER};
        REVOKE ALL ON DATABASE {TEMPLATE} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {TEMPLATE} TO {APPLICATION};
        """,
        database=TEMPLATE,
    )
    _migrate(paths, api)
    sql(paths, (SERVICE_SOURCE / "seed" / "seed.sql").read_text(), database=TEMPLATE, role=OWNER)
    # A database that nobody can connect to, background workers included, can be copied at any time.
    sql(paths, f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false; ALTER DATABASE {TEMPLATE} IS_TEMPLATE true;")
    marker.write_text(wanted)


def recreate(paths: Paths) -> None:
    """Replace the service's database by a fresh copy of the template; ends all connections to it."""
    _drop(paths, DATABASE)
    deadline = time.monotonic() + 20
    while True:
        try:
            sql(
                paths,
                f"""
                SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{TEMPLATE}';
                CREATE DATABASE {DATABASE} TEMPLATE {TEMPLATE} OWNER {OWNER};
                REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;
                GRANT CONNECT ON DATABASE {DATABASE} TO {APPLICATION};
                """,
            )
            return
        except LabError as error:
            if "being accessed by other users" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _create_roles(paths: Paths) -> None:
    statements = []
    for role in (OWNER, APPLICATION):
        password = pki.password(paths, role)
        statements.append(
            f"SELECT 'CREATE ROLE {role}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')\\gexec\n"
            f"ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD '{password}';"
        )
    sql(paths, "\n".join(statements))


def _drop(paths: Paths, database: str) -> None:
    sql(
        paths,
        f"SELECT 'ALTER DATABASE {database} IS_TEMPLATE false' WHERE EXISTS (SELECT FROM pg_database WHERE datname = '{database}')\\gexec\n"
        f"DROP DATABASE IF EXISTS {database} WITH (FORCE);",
    )


def _migrate(paths: Paths, api: Api) -> None:
    """Run the service's own Alembic migrations up to v1's revision, in a pod of the service's image."""
    secret = f"{MIGRATION_POD}-password"
    _remove_migration_pod(api, secret)
    api.ensure(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret, "namespace": NAMESPACE},
            "stringData": {"PGPASSWORD": pki.password(paths, OWNER)},
        }
    )
    environment = {"PGHOST": DATABASE_IP, "PGDATABASE": TEMPLATE, "PGUSER": OWNER}
    api.ensure(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": MIGRATION_POD, "namespace": NAMESPACE},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "activeDeadlineSeconds": 60,
                "containers": [
                    {
                        "name": "alembic",
                        "image": f"{SERVICE_IMAGE}:{BASELINE_VERSION}",
                        "imagePullPolicy": "Never",
                        "command": ["python3", "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", BASELINE_REVISION],
                        "env": [{"name": name, "value": value} for name, value in environment.items()],
                        "envFrom": [{"secretRef": {"name": secret}}],
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                    }
                ],
            },
        }
    )
    phase = ""

    def ended() -> bool:
        nonlocal phase
        pod = api.get("Pod", NAMESPACE, MIGRATION_POD) or {}
        phase = pod.get("status", {}).get("phase", "")
        return phase in ("Succeeded", "Failed")

    processes.wait_until(ended, 75, f"pod {NAMESPACE}/{MIGRATION_POD} (Alembic migrations of the template database) ended", 0.1)
    if phase == "Failed":
        pod = api.get("Pod", NAMESPACE, MIGRATION_POD) or {}
        states = pod.get("status", {}).get("containerStatuses") or [{}]
        message = states[0].get("state", {}).get("terminated", {}).get("message", "no message")
        raise LabError(f"Alembic migrations to {BASELINE_REVISION} of {TEMPLATE} failed:\n{message.strip()[-1500:]}")
    _remove_migration_pod(api, secret)


def _remove_migration_pod(api: Api, secret: str) -> None:
    api.delete("Secret", NAMESPACE, secret)
    api.delete("Pod", NAMESPACE, MIGRATION_POD, grace=0)
    processes.wait_until(lambda: api.get("Pod", NAMESPACE, MIGRATION_POD) is None, 30, f"pod {NAMESPACE}/{MIGRATION_POD} removed")
