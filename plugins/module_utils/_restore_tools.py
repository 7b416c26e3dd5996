# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fills a new database from a backup, and compares it with the backup's manifest. Private to this collection.

With TimescaleDB the order matters: the extension at the backup's version first, then ``timescaledb_pre_restore()``, one serial
pg_restore that ends at its first error, ``timescaledb_post_restore()``. Any other order loses rows or keys and still ends with code 0.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _backup_dump, _backup_inventory, _backup_store, _pg_client, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._database_marks import STAMP_DIGITS, Mark
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

TIMESCALEDB = "timescaledb"
_SILENCE_SECONDS = 30.0
_LOCK_SECONDS = 10.0
_NAMED = 8
# pg_database's letters for the providers of a locale, as CREATE DATABASE spells them.
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}

_SERVER = """
select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
       (select system_identifier::text from pg_control_system()) as system_identifier,
       (select rolsuper from pg_roles where rolname = current_user) as superuser, pg_is_in_recovery() as standby,
       (select coalesce(array_agg(rolname::text), '{}') from pg_roles) as roles,
       (select coalesce(jsonb_agg(jsonb_build_array(name, version)), '[]') from pg_available_extension_versions) as extensions,
       current_setting('shared_preload_libraries') as preloaded
"""


class RestoreError(RolloutError):
    """A database was not restored, or is not what the backup says."""


@dataclass(frozen=True)
class Backup:
    """A backup whose every byte is the one that was written."""

    path: Path
    manifest: manifests.Manifest

    @property
    def has_timescaledb(self) -> bool:
        return TIMESCALEDB in self.manifest.inventory.extensions


@dataclass(frozen=True)
class Tools:
    """How a backup is restored: the superuser's connection, the client, how many at a time, how long, and what decrypts it."""

    params: Mapping[str, Any]
    client_dir: str | None = None
    timeout: float = 3600.0
    jobs: int = 1
    identity_file: str | None = None


def opened(src: str) -> Backup:
    """Return the backup at ``src``, the file or folder itself. Raises :class:`RolloutError` when it is none to rely on."""
    path = Path(src)
    name = _backup_store.name_of(path.name)
    if name == path.name:
        raise RestoreError(
            f"src is {path}, expected the file or folder of a backup ({', '.join(_backup_store.ENDINGS)}) with its manifest beside it. "
            "Next: name what database_backup made; a plain SQL dump cannot be compared with anything"
        )
    manifest = _backup_store.check(_backup_store.Store(str(path.parent)).entry(name))
    return Backup(path.parent / manifest.file, manifest)


def server_problems(server: Mapping[str, Any], backup: Backup, client: str, jobs: int) -> list[str]:
    """Return why this server and client cannot restore the backup, one sentence each. Pure."""
    seen = backup.manifest.inventory
    problems = []
    if not server["superuser"]:
        problems.append("login_user is no superuser, as creating the extension and restoring its catalog need")
    if server["standby"]:
        problems.append("the server is a standby, expected the primary")
    major = server["number"] // 10000
    for what, version in (("the backup's server", seen.server_version), ("pg_restore", client)):
        if _pg_client.major(version) != major:
            problems.append(f"{what} is of version {version}, the server of {server['version']}: expected the same major version")
    if _pg_client.major(client) < _pg_client.major(backup.manifest.client_version):
        problems.append(f"pg_restore is of version {client}, older than the pg_dump that made the backup ({backup.manifest.client_version})")
    available = {tuple(item) for item in server["extensions"]}
    missing = sorted(f"{name} {version}" for name, version in seen.extensions.items() if (name, version) not in available)
    if missing:
        problems.append(f"the server does not offer {', '.join(missing)}, which the backup was made with")
    if backup.has_timescaledb and TIMESCALEDB not in server["preloaded"]:
        problems.append("shared_preload_libraries of the server does not name timescaledb")
    unknown = sorted(set(seen.roles) - set(server["roles"]))
    if unknown:
        problems.append(f"roles that own something in the backup do not exist: {', '.join(unknown)}")
    if jobs > 1 and (backup.has_timescaledb or backup.manifest.encrypted):
        # pg_restore fills the catalog of TimescaleDB out of order then, and a decrypted stream cannot be read by several.
        problems.append(f"jobs is {jobs}, expected 1 for a backup that {'holds TimescaleDB' if backup.has_timescaledb else 'is encrypted'}")
    return problems


def look(session: Session) -> dict[str, Any]:
    """Return what :func:`server_problems` judges of the server."""
    return session.rows(_SERVER)[0]


def check(session: Session, backup: Backup, tools: Tools) -> dict[str, Any]:
    """Return what :func:`look` saw. Raises :class:`RestoreError` with everything that stands against a restore; reads only."""
    client = _pg_client.version(_pg_client.find("pg_restore", tools.client_dir))
    server = look(session)
    problems = server_problems(server, backup, client, tools.jobs)
    if backup.manifest.encrypted == "age" and not tools.identity_file:
        problems.append("the backup is encrypted with age: expected decrypt.identity_file")
    if problems:
        raise RestoreError(f"{session.name}: nothing was changed: {'; '.join(problems)}. Next: remove these causes and run again")
    return server


def create(session: Session, name: str, backup: Backup, owner: str, mark: Mark) -> None:
    """Make the empty database ``name`` with the backup's encoding and locale. It must not exist."""
    if session.rows("select 1 from pg_database where datname = %s", [name]):
        raise RestoreError(f"{session.name}: the database {name} exists, expected none of that name. Next: drop it, or run again in a second")
    seen = backup.manifest.inventory
    identifier, literal, sql = psycopg2.sql.Identifier, psycopg2.sql.Literal, psycopg2.sql.SQL
    words = [
        sql("create database {} with owner {} template template0").format(identifier(name), identifier(owner)),
        sql("allow_connections false encoding {}").format(literal(seen.encoding)),
        sql("lc_collate {} lc_ctype {}").format(literal(seen.locale["collate"]), literal(seen.locale["ctype"])),
    ]
    provider = _PROVIDERS[seen.locale["provider"]]
    if _pg_client.major(seen.server_version) >= 15:
        words.append(sql("locale_provider {}").format(sql(provider)))
    if seen.locale["locale"]:
        words.append(sql("{} {}").format(sql("icu_locale" if provider == "icu" else "builtin_locale"), literal(seen.locale["locale"])))
    session.rows(sql(" ").join(words))
    # Until it is marked nobody can put anything into it: one that a killed run has left so is empty for certain.
    with session.transaction():
        comment(session, name, mark.encoded())
        session.rows(sql("alter database {} with allow_connections true").format(identifier(name)))


def give(session: Session, name: str, owner: str) -> None:
    """Make ``owner`` the owner of the database ``name``."""
    identifier = psycopg2.sql.Identifier
    session.rows(psycopg2.sql.SQL("alter database {} owner to {}").format(identifier(name), identifier(owner)))


def unmarked(session: Session, prefix: str) -> list[str]:
    """Return the databases named ``prefix`` and a time that :func:`create` was killed in the middle of."""
    rows = session.rows(
        "select datname::text as name from pg_database where not datallowconn and not datistemplate "
        "and shobj_description(oid, 'pg_database') is null and left(datname::text, -%s) = %s and right(datname::text, %s) ~ '^[0-9]+$'",
        [STAMP_DIGITS, prefix, STAMP_DIGITS],
    )
    return [row["name"] for row in rows]


def comment(session: Session, name: str, text: str | None) -> None:
    """Set the comment of a database; None removes it."""
    session.rows(psycopg2.sql.SQL("comment on database {} is {}").format(psycopg2.sql.Identifier(name), psycopg2.sql.Literal(text)))


def drop(session: Session, name: str) -> None:
    """Drop a database with whoever is connected to it; one that does not exist is no error."""
    session.rows(psycopg2.sql.SQL("drop database if exists {} with (force)").format(psycopg2.sql.Identifier(name)))


def fill(tools: Tools, backup: Backup, name: str, context: Context) -> None:
    """Restore the backup into the empty database ``name``. Raises :class:`RestoreError`; the database is of no use then."""
    began = time.monotonic()
    params = {**tools.params, "login_db": name}
    if backup.has_timescaledb:
        with _session(params, tools.timeout) as session:
            version = psycopg2.sql.Literal(backup.manifest.inventory.extensions[TIMESCALEDB])
            session.rows(psycopg2.sql.SQL("create extension timescaledb version {}").format(version))
            session.rows("select public.timescaledb_pre_restore()")
    _pg_restore(tools, backup, params, context, began)
    with _session(params, tools.timeout) as session:
        if backup.has_timescaledb:
            session.rows("select public.timescaledb_post_restore()")
        context.progress(f"{name}: restored after {time.monotonic() - began:.0f} s, collecting statistics")
        session.rows("analyze")


@contextlib.contextmanager
def _session(params: Mapping[str, Any], timeout: float) -> Any:
    session = _postgresql.connect_committing(params, _SILENCE_SECONDS)
    try:
        session.rows("select set_config('statement_timeout', %s, false)", [str(round(timeout * 1000))])
        yield session
    finally:
        session.close()


def _pg_restore(tools: Tools, backup: Backup, params: Mapping[str, Any], context: Context, began: float) -> None:
    program = _pg_client.find("pg_restore", tools.client_dir)
    argv = [program, "--exit-on-error", "--no-password", f"--jobs={tools.jobs}", f"--dbname={_pg_client.CONNECTION}"]
    env = _pg_client.environment(params, "-c client_connection_check_interval=1s")

    def tick() -> None:
        context.progress(f"{params['login_db']}: restoring, {time.monotonic() - began:.0f} s")

    children: list[_pg_client.Child] = []
    try:
        if not backup.manifest.encrypted:
            children.append(_pg_client.Child([*argv, str(backup.path)], env))
        else:
            cipher = backup.manifest.encrypted
            decryption = _backup_dump.decryption(cipher, _pg_client.find(cipher, None), tools.identity_file)
            with backup.path.open("rb") as stream:
                children.append(_pg_client.Child(decryption, stdin=stream, stdout=subprocess.PIPE))
            children.append(_pg_client.Child(argv, env, stdin=subprocess.PIPE))
            children[0].pour([children[1].stdin])
        _pg_client.wait(children, context, tools.timeout, tick)
    except _pg_client.ClientError as error:
        raise RestoreError(f"{params['login_db']} was not restored: {error.message}. Next: remove the cause and run again") from None
    finally:
        for child in children:
            child.stop()


def compare(tools: Tools, backup: Backup, name: str) -> int:
    """Count every row of the database ``name`` and return how many tables agree. Raises :class:`RestoreError` for any difference."""
    session = _postgresql.connect({**tools.params, "login_db": name}, _SILENCE_SECONDS)
    try:
        seen = _backup_inventory.read(session, tools.timeout, _LOCK_SECONDS)
    finally:
        session.close()
    problems = manifests.compare(backup.manifest, seen)
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise RestoreError(
            f"{name} is not what the backup {backup.path.name} holds: {'; '.join(problems[:_NAMED])}{more}. Next: use another backup",
            problems=problems,
        )
    return len(seen.tables)
