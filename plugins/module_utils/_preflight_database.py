# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: the database, its client programs, and backups. Private to this collection."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from ansible_collections.signal.rollout.plugins.module_utils import _backup_store, _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import EVIDENCE_LIMIT, Ask, NotApplicable, Problem, Site


def check_database(site: Site, problem: Ask) -> Iterator[Problem]:
    options = site.params["postgresql"]
    title = _postgresql.address(options)
    try:
        session = _postgresql.connect(options, query_timeout=site.params["timeout"])
    except RolloutError as error:
        seen, _next, then = error.message.removeprefix(f"{title}: ").partition(" Next: ")
        option = "login_password" if "password" in seen else "login_db" if "does not exist" in seen else "login_host"
        yield problem(
            f"postgresql.{option}", title, "the database can be reached", one_line(seen).rstrip("."), "a connection", then or "see the server's log"
        )
        return
    try:
        row = session.rows(
            "SELECT pg_is_in_recovery() AS standby, current_setting('server_version_num')::int / 10000 AS major,"
            " pg_database_size(current_database()) AS size,"
            " (SELECT extversion FROM pg_extension WHERE extname = %s) AS extension",
            (options["extension"],),
        )[0]
    finally:
        session.close()
    site.facts["database"] = row
    if row["standby"]:
        yield problem(
            "postgresql.login_host", title, "the server accepts writes", "a standby in recovery", "the primary", "name the primary's address"
        )
    if options["extension"] and row["extension"] is None:
        yield problem(
            "postgresql.login_db",
            title,
            f"the extension {options['extension']} is installed in this database",
            "it is not",
            f"CREATE EXTENSION {options['extension']} was run",
            "have it created, or correct the database's name",
        )


def check_postgresql_client(site: Site, problem: Ask) -> Iterator[Problem]:
    options = site.params["postgresql"]
    if not options["pg_bin_dir"] and not site.params["backup"]:
        raise NotApplicable("no backup and no pg_bin_dir was named")
    if site.params["backup"] and not site.params["backup"]["local_client"]:
        raise NotApplicable("the backup is made by the programs of another container")
    for program in ("pg_dump", "pg_restore"):
        path = os.path.join(options["pg_bin_dir"], program) if options["pg_bin_dir"] else shutil.which(program) or program
        seen = _program_version(path, site.params["timeout"])
        major = int(seen) if seen.isdigit() else None
        needed = site.facts["database"]["major"]
        if major is None or major < needed:
            yield problem(
                "postgresql.pg_bin_dir",
                path,
                "the client is as new as the server",
                f"version {seen}" if major else seen,
                f"version {needed} or newer, as the server",
                "install that client, and name its folder",
            )


def _program_version(path: str, timeout: float) -> str:
    """The major version of a PostgreSQL program, or why there is none."""
    try:
        done = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout / 2, check=False)
    except FileNotFoundError:
        return "no such program"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be run ({type(error).__name__})"
    text = done.stdout.decode(errors="backslashreplace")
    found = re.search(r"PostgreSQL\) (\d+)", text)
    if done.returncode != 0 or not found:
        return f"exit code {done.returncode}: {one_line(text + done.stderr.decode(errors='backslashreplace'), 120)}"
    return found.group(1)


def check_backup(site: Site, problem: Ask) -> Iterator[Problem]:
    backup = site.params["backup"]
    path = backup["path"]
    existing = path
    while not os.path.lexists(existing) and os.path.dirname(existing) != existing:
        existing = os.path.dirname(existing)
    title = f"backup folder {path}"
    if not os.path.isabs(path):
        yield problem("backup.path", title, "the path is absolute", "a relative path", "an absolute one", "write it in full")
        return
    status = os.lstat(existing)
    if existing == path and (stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode)):
        yield problem("backup.path", title, "it is a folder of its own", "a link or a file", "a folder", "name a folder")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield problem("backup.path", title, "it can be written", f"no right to write in {existing}", "that right", "correct owner or mode")
    if existing == path and status.st_mode & 0o077:
        yield problem(
            "backup.path",
            title,
            "only its owner can look into it",
            f"mode {stat.S_IMODE(status.st_mode):04o}",
            "0700",
            f"chmod 0700 {path}: a backup holds everything the database holds",
        )
    database = site.facts.get("database")
    if database is None:
        return
    space = os.statvfs(existing)
    free, needed = space.f_bavail * space.f_frsize, int(database["size"] * backup["free_factor"])
    if free < needed:
        yield problem(
            "backup.path",
            title,
            f"there is free space for {backup['free_factor']:g} times the database",
            _bytes(free),
            f"at least {_bytes(needed)}",
            "free some, or name another folder",
        )


def _bytes(number: int) -> str:
    return f"{number / 1024**3:.2f} GiB"


def check_backups(site: Site, problem: Ask) -> Iterator[Problem]:
    """Keep what the newest backup proves. A release makes one of its own, so that an old one is no reason not to begin."""
    wanted = site.params["backup"]
    if wanted["max_age_hours"] is not None:
        entries = _backup_store.Store(wanted["path"]).entries()
        found = judge_backups(entries, site.params["postgresql"]["login_db"], wanted["max_age_hours"], wanted["verified"], datetime.now(timezone.utc))
        if found:
            site.facts["proof infrastructure.backups"] = found
    yield from ()


def judge_backups(
    entries: Sequence[_backup_store.Entry], database: str, max_age_hours: float, verified: str, now: datetime
) -> dict[str, str] | None:
    """Return what the newest backup of ``database`` proves; None when there is none to judge. Pure."""
    own = [entry for entry in entries if entry.manifest and entry.manifest.inventory.database == database]
    newest = max(own, key=lambda entry: (entry.created, entry.name), default=None)
    if newest is None or newest.manifest is None:
        return None
    age = (now - datetime.fromisoformat(newest.created.replace("Z", "+00:00"))).total_seconds() / 3600
    seen = newest.manifest.verified
    line = f"{newest.name}, {age:.1f} hours old, {newest.manifest.bytes} bytes, {newest.manifest.inventory.rows} rows, verified: {seen}"
    wrong = [newest.problem] if newest.problem else []
    if age > max_age_hours:
        wrong.append(f"expected at most {max_age_hours:g} hours")
    if seen != "restored" and seen != verified:
        wrong.append(f"expected verified: {verified}")
    return {"state": "failed" if wrong else "proven", "evidence": one_line("; ".join([line, *wrong]), EVIDENCE_LIMIT)}
