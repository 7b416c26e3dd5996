# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives a prepared database the name of the live one. Private to this collection.

Two things are committed, one after the other. First the live database takes no more connections: what is lost is then counted for the last
time, by a session that was there before. Then one transaction renames both and marks the old one. A run that is killed between the two
leaves the live database closed and under its own name; the next run opens it, or goes on.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _database_marks, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._database_marks import Mark
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._postgresql import Session, psycopg2

_SILENCE_SECONDS = 30.0
_EMPTY_SECONDS = 30.0
_TRIES = 3
_RESTORING = "timescaledb.restoring"
# Settings whose value is a list of quoted names; any other is one text.
_LISTS = ("search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries")
_DATABASES = """
select d.oid::bigint as oid, d.datname::text as name, d.datallowconn as allowed, d.datconnlimit as connection_limit,
       pg_get_userbyid(d.datdba)::text as owner, coalesce(shobj_description(d.oid, 'pg_database'), '') as comment
from pg_database d where not d.datistemplate order by d.datname
"""
_PRIVILEGES = """
select case e.grantee when 0 then null else pg_get_userbyid(e.grantee)::text end as grantee, e.privilege_type as privilege, e.is_grantable as passed_on
from pg_database d, aclexplode(d.datacl) e where d.oid = %s
"""
_OPTIONS = """
select case s.setrole when 0 then null else pg_get_userbyid(s.setrole)::text end as role, unnest(s.setconfig) as setting
from pg_db_role_setting s where s.setdatabase = %s
"""


class SwapError(RolloutError):
    """The databases keep their names."""


@dataclass(frozen=True)
class Database:
    """One database of the server, and what its comment says a restore made of it."""

    oid: int
    name: str
    allowed: bool
    connection_limit: int
    owner: str
    comment: str

    @property
    def mark(self) -> Mark | None:
        return _database_marks.decode(self.comment)

    def shown(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.mark.state if self.mark else "live", "accepts_connections": self.allowed, "owner": self.owner}


def databases(session: Session) -> list[Database]:
    return [Database(**row) for row in session.rows(_DATABASES)]


@contextlib.contextmanager
def alone(session: Session, live: str) -> Any:
    """Keep out every other restore of ``live``, as long as the session lives."""
    key = _database_marks.lock_key(live)
    if not session.rows("select pg_try_advisory_lock(%s) as got", [key])[0]["got"]:
        raise SwapError(f"{session.name}: another restore of {live} is running. Next: wait for its end; nothing was changed")
    try:
        yield
    finally:
        with contextlib.suppress(RolloutError):
            session.rows("select pg_advisory_unlock(%s)", [key])


@dataclass(frozen=True)
class Swap:
    """What becomes of the two databases: ``old`` (None when there is none) leaves the name ``live`` to ``new``.

    ``mark`` is what the old one gets, without ``successor``, ``base`` and what is kept of it; ``comment`` is the new one's.
    """

    live: str
    old: Database | None
    new: Database
    mark: Mark
    comment: str
    moment: datetime

    @property
    def before(self) -> str:
        return _database_marks.derived_name(self.live, "before", self.moment)


def perform(session: Session, params: Mapping[str, Any], swap: Swap, judge: Callable[[Session], None], context: Context) -> None:
    """Close the live database, have ``judge`` count for the last time what is lost, and rename.

    ``judge`` raises to refuse. Whatever is raised here, the live database is open under its own name again.
    """
    if swap.old is None:
        _rename(session, swap)
        return
    if session.rows("select 1 from pg_prepared_xacts where database = %s limit 1", [swap.live]):
        raise SwapError(f"{swap.live} holds prepared transactions. Next: commit or roll them back (SELECT * FROM pg_prepared_xacts)")
    if not swap.old.allowed:
        _allow(session, swap.live, True)
    watcher = _postgresql.connect({**params, "login_db": swap.live}, _SILENCE_SECONDS)
    try:
        _allow(session, swap.live, False)
        _empty(session, swap.old.oid, watcher.process)
        judge(watcher)
        watcher.close()
        if context.cancelled.is_set():
            raise SwapError(f"{swap.live} keeps its name: the run was interrupted by {context.signal_name}. Next: run again")
        for left in reversed(range(_TRIES)):
            _empty(session, swap.old.oid)
            _empty(session, swap.new.oid)
            try:
                _rename(session, swap)
                break
            except RolloutError as error:
                if not left or "being accessed" not in error.message:
                    raise
    except BaseException:
        with contextlib.suppress(RolloutError):
            session.rollback()
            # Only if it is still the one that was closed.
            if any(item.oid == swap.old.oid and item.name == swap.live for item in databases(session)):
                _allow(session, swap.live, True)
        raise
    finally:
        watcher.close()


def _rename(session: Session, swap: Swap) -> None:
    sql, name, literal = psycopg2.sql.SQL, psycopg2.sql.Identifier, psycopg2.sql.Literal
    limit = swap.old.connection_limit if swap.old else -1
    with session.transaction():
        if swap.old:
            base = session.rows("select pg_current_snapshot()::text as base")[0]["base"]
            kept = swap.mark.become(
                _database_marks.SUPERSEDED, successor=swap.new.oid, base=base, comment=swap.old.comment, connection_limit=swap.old.connection_limit
            )
            _take_over(session, swap.old, swap.new)
            session.rows(sql("alter database {} rename to {}").format(name(swap.live), name(swap.before)))
            session.rows(sql("comment on database {} is {}").format(name(swap.before), literal(kept.encoded())))
        session.rows(sql("alter database {} rename to {}").format(name(swap.new.name), name(swap.live)))
        session.rows(sql("comment on database {} is {}").format(name(swap.live), literal(swap.comment or None)))
        session.rows(sql("alter database {} with allow_connections true connection limit {}").format(name(swap.live), literal(limit)))


def _take_over(session: Session, old: Database, new: Database) -> None:
    """Give the new database the owner, the privileges and the settings of the old one: no dump of one database holds them."""
    sql, name = psycopg2.sql.SQL, psycopg2.sql.Identifier
    target = name(new.name)
    session.rows(sql("alter database {} owner to {}").format(target, name(old.owner)))
    grants = session.rows(_PRIVILEGES, [old.oid])
    if grants:
        session.rows(sql("revoke all on database {} from public, {}").format(target, name(old.owner)))
    for grant in grants:
        words = "grant {} on database {} to {}" + (" with grant option" if grant["passed_on"] else "")
        grantee = name(grant["grantee"]) if grant["grantee"] else sql("public")
        # The privilege is a word of the server's own list.
        session.rows(sql(words).format(sql(grant["privilege"]), target, grantee))
    for option in session.rows(_OPTIONS, [old.oid]):
        key, value = option["setting"].split("=", 1)
        if key == _RESTORING:
            continue
        whose = sql("alter role {} in database {}").format(name(option["role"]), target) if option["role"] else sql("alter database {}").format(target)
        session.rows(sql("{} set {} to {}").format(whose, sql(".").join(name(part) for part in key.split(".")), _value(key, value)))


def _value(key: str, value: str) -> Any:
    literal = psycopg2.sql.Literal
    return psycopg2.sql.SQL(", ").join(literal(item) for item in list_items(value)) if key in _LISTS else literal(value)


def list_items(value: str) -> list[str]:
    """Return the names of a list setting such as ``"$user", public``."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', value)
    return [quoted.replace('""', '"') if quoted or not plain else plain for quoted, plain in found] or [""]


def _allow(session: Session, database: str, allowed: bool) -> None:
    words = "alter database {} with allow_connections " + ("true" if allowed else "false")
    session.rows(psycopg2.sql.SQL(words).format(psycopg2.sql.Identifier(database)))


def _empty(session: Session, oid: int, but: int = 0) -> None:
    """End every session of a database but one, and see them gone."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while True:
        left = session.rows(
            "select pid, coalesce(usename::text, backend_type) as who, pg_terminate_backend(pid) as told from pg_stat_activity "
            "where datid = %s and pid <> all(%s) and backend_type not like 'autovacuum%%'",
            [oid, [but, session.process]],
        )
        if not left:
            return
        if time.monotonic() > deadline:
            raise SwapError(f"{len(left)} sessions do not end, one of {left[0]['who']} (pid {left[0]['pid']}). Next: end them, and run again")
        time.sleep(0.05)
