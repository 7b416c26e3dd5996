# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module database_backup: a dump, what it must hold, and the proof that it can be read. Private to this collection.

Everything is counted in the snapshot that pg_dump then works in, and the counting transaction holds a lock on every table until the dump
has ended, so that neither a write nor a rewrite can come between the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import (
    _backup_dump,
    _backup_inventory,
    _backup_rows,
    _backup_store,
    _kube,
    _pg_client,
    _pod_exec,
    _pod_process,
    _postgresql,
    _restore_tools,
    _scratch,
)
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

NONE, READ, RESTORED = "none", "read", "restored"
LOCAL, POD = "local", "pod"
_SILENCE_SECONDS = 30.0
_VERSION_SECONDS = 30.0

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_postgresql.ARGUMENT_SPEC,
    "state": {"type": "str", "default": "create", "choices": ["create", "verify", "listed"]},
    "dest": {"type": "path", "required": True},
    "name": {"type": "str"},
    "format": {"type": "str", "default": manifests.CUSTOM, "choices": [manifests.CUSTOM, manifests.DIRECTORY]},
    "compression": {"type": "str", "default": "zstd:3"},
    "jobs": {"type": "int", "default": 1},
    "client_dir": {"type": "path"},
    "via": {"type": "str", "default": LOCAL, "choices": [LOCAL, POD]},
    "pod": {
        "type": "dict",
        "required_one_of": [["name", "selector"]],
        "mutually_exclusive": [["name", "selector"]],
        "options": {
            **_kube.ARGUMENT_SPEC,
            "name": {"type": "str"},
            "selector": {"type": "str"},
            "container": {"type": "str"},
            "bin_dir": {"type": "str"},
            "login_host": {"type": "str", "default": "127.0.0.1"},
            "login_port": {"type": "int", "default": 5432},
        },
    },
    "timeout": {"type": "float", "default": 3600.0},
    "lock_timeout": {"type": "float", "default": 10.0},
    "space_factor": {"type": "float", "default": 1.2},
    "verify": {"type": "str", "default": READ, "choices": [NONE, READ, RESTORED]},
    "scratch_login_host": {"type": "str"},
    "scratch_login_port": {"type": "int"},
    "scratch_login_user": {"type": "str"},
    "scratch_login_password": {"type": "str", "no_log": True},
    "scratch_login_db": {"type": "str", "default": "postgres"},
    "keep": {"type": "dict", "options": {"count": {"type": "int", "default": 0}, "days": {"type": "float", "default": 0.0}}},
    "encrypt": {
        "type": "dict",
        "mutually_exclusive": [["age_recipients", "gpg_recipients"]],
        "options": {
            "age_recipients": {"type": "list", "elements": "str", "default": []},
            "gpg_recipients": {"type": "list", "elements": "str", "default": []},
        },
    },
    "decrypt": {"type": "dict", "options": {"identity_file": {"type": "path", "required": True}}},
    "progress_interval": {"type": "float", "default": 10.0},
}
SPEC_RULES: dict[str, Any] = {
    "required_together": [["scratch_login_user", "scratch_login_password"]],
    "required_if": [["via", POD, ["pod"]]],
}
SUPPORTS_CHECK_MODE = True

_SERVER = """
select current_setting('server_version') as version, pg_database_size(current_database()) as size,
       current_setting('max_locks_per_transaction')::bigint
         * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint) as locks,
       (select count(*) from pg_class where relkind in ('r', 'p')) as tables, pg_export_snapshot() as snapshot
"""
_LOCKS = """
select l.relation::regclass::text as table, l.pid, coalesce(a.usename::text, '?') as user, coalesce(a.state, '?') as state
from pg_locks l left join pg_stat_activity a using (pid)
where l.granted and l.mode = 'AccessExclusiveLock' and l.locktype = 'relation' and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
order by 1 limit 5
"""


class BackupError(RolloutError):
    """There is no backup, or not one to rely on."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Make, verify or list backups. See the module's documentation for the result."""
    began = time.monotonic()
    result: dict[str, Any] = {
        "changed": False,
        "file": "",
        "manifest_file": "",
        "manifest": {},
        "bytes": 0,
        "sha256": "",
        "verified": NONE,
        "removed": [],
        "backups": [],
        "warnings": [],
    }
    problems = _option_problems(params)
    store = _backup_store.Store(params["dest"])
    try:
        if problems:
            raise BackupError(f"{'; '.join(problems)}. Next: correct the options")
        {"create": _create, "verify": _verify, "listed": _list}[params["state"]](params, context, store, result, began + params["timeout"])
    except RolloutError as error:
        # A warning in the result of a failed task would hide the error's own line.
        result["seconds"] = round(time.monotonic() - began, 3)
        error.result = {**result, **error.result, "warnings": result["warnings"]}
        raise
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _option_problems(params: Mapping[str, Any]) -> list[str]:
    problems = []
    if params["name"]:
        problems += [problem for problem in [_backup_store.name_problem(params["name"])] if problem]
    for option in ("timeout", "lock_timeout", "progress_interval"):
        if not 0 < params[option] <= 10**7:
            problems.append(f"{option} is {params[option]:g}, expected more than 0 seconds")
    if not 1 <= params["jobs"] <= 64:
        problems.append(f"jobs is {params['jobs']}, expected 1 to 64")
    if params["space_factor"] < 0:
        problems.append(f"space_factor is {params['space_factor']:g}, expected 0 or more")
    keep = params["keep"] or {"count": 0, "days": 0}
    problems += [f"keep.{name} is {value:g}, expected 0 or more" for name, value in sorted(keep.items()) if value < 0]
    method, colon, level = params["compression"].partition(":")
    if method not in ("zstd", "lz4", "gzip", "none") or (colon and not level.isdigit()):
        problems.append(f"compression is '{one_line(params['compression'], 40)}', expected zstd, lz4, gzip or none, and a level such as zstd:3")
    if params["format"] == manifests.DIRECTORY and _encryption(params).program:
        problems.append("a backup of format directory cannot be encrypted, expected the format custom")
    if params["state"] == "create" and params["verify"] == RESTORED and _encryption(params).program == "age" and not params["decrypt"]:
        problems.append("verify is restored and the backup is encrypted with age, expected decrypt.identity_file")
    if params["via"] == POD and params["format"] == manifests.DIRECTORY:
        problems.append("a backup of format directory cannot be streamed out of a pod, expected the format custom")
    if params["via"] == POD and params["verify"] == RESTORED:
        problems.append("verify is restored, which needs pg_restore on this host, expected via local, or verify read")
    if params["format"] == manifests.CUSTOM and params["jobs"] > 1:
        problems.append(f"jobs is {params['jobs']} with the format custom, expected the format directory")
    return problems


def _encryption(params: Mapping[str, Any]) -> _backup_dump.Encryption:
    for program in ("age", "gpg"):
        recipients = (params["encrypt"] or {}).get(f"{program}_recipients")
        if recipients:
            return _backup_dump.Encryption(program, tuple(recipients))
    return _backup_dump.Encryption()


def _programs(params: Mapping[str, Any]) -> _backup_dump.Programs:
    if params["via"] == POD:
        return _programs_in_pod(params["pod"])
    dump = _pg_client.find("pg_dump", params["client_dir"])
    return _backup_dump.Programs(dump, _pg_client.find("pg_restore", params["client_dir"]), _pg_client.version(dump))


def _programs_in_pod(pod: dict[str, Any]) -> _backup_dump.Programs:
    container = _pod_process.find(_kube.connect(pod), pod["namespace"], pod["name"], pod["selector"], pod["container"])
    dump, restore = (f"{pod['bin_dir'].rstrip('/')}/{name}" if pod["bin_dir"] else name for name in ("pg_dump", "pg_restore"))
    try:
        told = [container.run(_pod_process.within(_VERSION_SECONDS, [program, "--version"])) for program in (dump, restore)]
    except _pod_exec.ExecError as error:
        if not error.not_found:
            raise
        raise BackupError(
            f"The {container.where} lacks pg_dump, pg_restore or sh ({error.message}). Next: name their folder in pod.bin_dir, "
            "or a container that has them, or install a client here and set via to local"
        ) from None
    return _backup_dump.Programs(dump, restore, _pg_client.version_of(told[0].stdout.decode(errors="replace"), dump), container)


def _create(params: dict[str, Any], context: Context, store: _backup_store.Store, result: dict[str, Any], deadline: float) -> None:
    now = datetime.now(timezone.utc)
    name = params["name"] or _backup_store.default_name(params["login_db"], now)
    encryption = _encryption(params)
    final = store.folder / f"{name}{'.dir' if params['format'] == manifests.DIRECTORY else '.dump'}{encryption.ending}"
    programs = _programs(params)
    if encryption.program:
        _pg_client.find(encryption.program, None)
    taken = [str(path) for path in (final, store.folder / (name + manifests.SUFFIX)) if path.exists()]
    if taken:
        raise BackupError(f"{' and '.join(taken)} exists already and is never overwritten. Next: set another name, or none")
    with _session(params) as session:
        server = session.rows(_SERVER)[0]
        _refuse(params, store, programs, server, result)
        compression, warning = _backup_dump.compression_for(params["compression"], programs.version)
        result["warnings"] += [warning] if warning else []
        result.update(changed=True, file=str(final), manifest_file=str(store.folder / (name + manifests.SUFFIX)))
        if context.check_mode:
            result["removed"] = [entry.name for entry in _superseded(params, store.entries(), now)]
            return
        store.make()
        with store.alone() as leftovers:
            if leftovers:
                result["warnings"].append(f"removed what a killed backup had left: {', '.join(leftovers)}")
            job = _backup_dump.Job(params, programs, server["snapshot"], compression, _pg_client.major(server["version"]), encryption)
            manifest = _dumped(session, job, final, context, result, deadline)
            session.close()
            partial = final.with_name(final.name + _backup_store.PARTIAL)
            with _removed_on_error(partial):
                if params["verify"] == RESTORED:
                    _restore(params, partial, manifest, context, deadline)
                    manifest = dataclasses.replace(manifest, verified=RESTORED)
                store.publish(partial, final, manifest)
            result.update(manifest=manifest.to_dict(), bytes=manifest.bytes, sha256=manifest.sha256, verified=manifest.verified)
            for entry in _superseded(params, store.entries(), now):
                store.forget(entry)
                result["removed"].append(entry.name)


@contextlib.contextmanager
def _session(params: Mapping[str, Any]) -> Iterator[_postgresql.Session]:
    # A network that is silent for so long is lost; the statements have their own deadlines.
    session = _postgresql.connect(params, _SILENCE_SECONDS, "signal.rollout backup")
    try:
        yield session
    finally:
        session.close()


@contextlib.contextmanager
def _removed_on_error(partial: Path) -> Iterator[None]:
    """Leave nothing behind, whatever ends this; a full disk is made room on."""
    try:
        yield
    except OSError as error:
        _backup_store.remove(partial)
        raise BackupError(f"{partial.parent}: the backup cannot be written: {one_line(error)}. Next: free space in dest, or set another one") from None
    except BaseException:
        _backup_store.remove(partial)
        raise


def _refuse(params: Mapping[str, Any], store: _backup_store.Store, programs: _backup_dump.Programs, server: dict[str, Any], result: dict[str, Any]) -> None:
    """Raise for what would fail later, before anything is written."""
    name = _postgresql.address(params)
    if _pg_client.major(programs.version) < _pg_client.major(server["version"]):
        raise BackupError(
            f"{name}: pg_dump {programs.version} is older than the server's {server['version']}. "
            "Next: install a client of the server's major version, and name its folder in client_dir, or use that of the server by via=pod"
        )
    needed, free = int(server["size"] * params["space_factor"]), store.free()
    if free < needed:
        raise BackupError(
            f"{store.folder} has {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f} MB ({params['space_factor']:g} x the size of {name}). "
            "Next: free space, or set dest or space_factor"
        )
    if server["tables"] > server["locks"]:
        raise BackupError(
            f"{name}: {server['tables']} tables and chunks, but the server's lock table has room for {server['locks']}: pg_dump locks each. "
            "Next: raise max_locks_per_transaction"
        )
    if server["tables"] * 2 > server["locks"]:
        result["warnings"].append(
            f"{server['tables']} tables and chunks, and room for {server['locks']} locks: raise max_locks_per_transaction before there are more"
        )


def _dumped(session: _postgresql.Session, job: _backup_dump.Job, final: Path, context: Context, result: dict[str, Any], deadline: float) -> manifests.Manifest:
    """Count, dump and read back; return what to note. Nothing is left of a dump that is not complete."""
    params, now = job.params, datetime.now(timezone.utc)
    database = params["login_db"]
    try:
        inventory = _backup_inventory.read(
            session,
            max(1.0, deadline - time.monotonic()),
            params["lock_timeout"],
            lambda table, done, of: context.progress(f"{database}: counting {table} ({done + 1} of {of})"),
        )
    except RolloutError as error:
        if "lock timeout" in error.message:
            error.reword(_locked(params))
        raise
    partial = final.with_name(final.name + _backup_store.PARTIAL)
    counter = None if params["verify"] == NONE else _backup_rows.RowCounter()
    with _removed_on_error(partial):
        tables = len(inventory.tables) + sum(table.chunks for table in inventory.tables)
        progress = _backup_dump.Progress(tables, partial, lambda text: context.progress(f"{database}: {text}"))
        try:
            _backup_dump.write(job, partial, progress, context, deadline - time.monotonic(), counter)
        except _backup_dump.DumpError as error:
            if "does not support compression" not in error.message:
                error.reword(f"{_postgresql.address(params)} was not backed up: {error.message}")
                raise
            _backup_store.remove(partial)
            result["warnings"].append(f"{job.programs.dump} was built without {job.compression}: gzip was used")
            job = dataclasses.replace(job, compression="gzip:6" if _pg_client.major(job.programs.version) >= 16 else "6")
            _backup_dump.write(job, partial, progress, context, deadline - time.monotonic(), counter)
        if counter and not job.encryption.program:
            context.progress(f"{database}: reading {final.name} back")
            counter = _backup_dump.read(partial, job.programs, context, deadline - time.monotonic())
        sha256, files = _backup_store.digests(partial)
        manifest = manifests.Manifest(
            file=final.name,
            format=params["format"],
            compression=job.compression,
            bytes=_backup_store.size_of(partial),
            sha256=sha256,
            created=_backup_store.stamp(now),
            client_version=job.programs.version,
            inventory=inventory,
            encrypted=job.encryption.program,
            files=files,
            verified=READ if counter else NONE,
        )
        if counter:
            _backup_dump.compare_rows(manifest, counter)
        return manifest


def _locked(params: Mapping[str, Any]) -> str:
    """Say which tables are held against readers, and by whom."""
    with contextlib.suppress(RolloutError), _session(params) as session:
        held = [f"{row['table']} by process {row['pid']} ({row['user']}, {row['state']})" for row in session.rows(_LOCKS)]
        if held:
            return (
                f"{_postgresql.address(params)} was not backed up: locked for longer than lock_timeout ({params['lock_timeout']:g} s): "
                f"{', '.join(held)}. Next: wait for the end of that transaction, or end it: SELECT pg_terminate_backend(pid)"
            )
    return (
        f"{_postgresql.address(params)} was not backed up: a table was locked for longer than lock_timeout ({params['lock_timeout']:g} s). "
        "Next: run again, or raise lock_timeout"
    )


def _superseded(params: Mapping[str, Any], entries: list[_backup_store.Entry], now: datetime) -> list[_backup_store.Entry]:
    keep = params["keep"] or {"count": 0, "days": 0.0}
    return _backup_store.superseded(entries, params["login_db"], keep["count"], keep["days"], now)


def _list(params: dict[str, Any], context: Context, store: _backup_store.Store, result: dict[str, Any], deadline: float) -> None:
    found = store.entries()
    result["backups"] = [entry.shown() for entry in found if entry.manifest is None or entry.manifest.inventory.database == params["login_db"]]


def _verify(params: dict[str, Any], context: Context, store: _backup_store.Store, result: dict[str, Any], deadline: float) -> None:
    entry = _wanted(params, store)
    result.update(file=str(entry.path), manifest_file=str(store.folder / (entry.name + manifests.SUFFIX)))
    manifest = _backup_store.check(entry)
    result.update(manifest=manifest.to_dict(), bytes=manifest.bytes, sha256=manifest.sha256)
    if params["verify"] == NONE:
        return
    if params["via"] == POD and manifest.format == manifests.DIRECTORY:
        raise BackupError(f"Backup {entry.path} is a folder, which cannot be streamed into a pod. Next: set via to local, or verify to none")
    decrypt: list[str] = []
    if manifest.encrypted:
        identity_file = (params["decrypt"] or {}).get("identity_file")
        if manifest.encrypted == "age" and not identity_file:
            result["warnings"].append(f"{entry.name} is encrypted for age: only its checksum was compared. Give decrypt.identity_file to read it")
            return
        decrypt = _backup_dump.decryption(manifest.encrypted, _pg_client.find(manifest.encrypted, None), identity_file)
    try:
        _backup_dump.compare_rows(manifest, _backup_dump.read(entry.path, _programs(params), context, deadline - time.monotonic(), decrypt))
    except _backup_dump.DumpError as error:
        error.reword(f"Backup {entry.path}: {error.message}")
        raise
    result["verified"] = READ
    if params["verify"] == RESTORED:
        _restore(params, entry.path, manifest, context, deadline)
        result["verified"] = RESTORED


def _restore(params: Mapping[str, Any], path: Path, manifest: manifests.Manifest, context: Context, deadline: float) -> None:
    """Restore a backup into a database that is dropped again. Raises :class:`RolloutError` when that is not as the manifest says."""
    given = {name: params[f"scratch_{name}"] for name in ("login_host", "login_port", "login_user", "login_password")}
    scratch = {**params, **{name: value for name, value in given.items() if value is not None}, "login_db": params["scratch_login_db"]}
    identity_file = (params["decrypt"] or {}).get("identity_file")
    tools = _restore_tools.Tools(scratch, params["client_dir"], max(1.0, deadline - time.monotonic()), 1, identity_file)
    context.progress(f"{manifest.inventory.database}: restoring {manifest.file} into a scratch database")
    with _scratch.scratch_database(tools, _restore_tools.Backup(path, manifest), context) as name:
        context.progress(f"{name}: as the manifest says, dropping it")


def _wanted(params: Mapping[str, Any], store: _backup_store.Store) -> _backup_store.Entry:
    if params["name"]:
        return store.entry(params["name"])
    found = [entry for entry in store.entries() if entry.manifest and entry.manifest.inventory.database == params["login_db"]]
    if not found:
        raise BackupError(f"{store.folder} has no backup of {params['login_db']}. Next: make one with state create, or set dest or name")
    return found[0]
