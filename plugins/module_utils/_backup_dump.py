# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes one dump into a file or folder, and reads dumps back, by pg_dump and pg_restore. Private to this collection.

A dump that is encrypted is so before it touches the disk: what pg_dump writes goes through the encrypting program and, at the same time,
through pg_restore, which reads all of it. Programs in a container are told the password on their standard input, as from a terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils import _backup_rows, _backup_store, _pg_client, _pod_process
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

_TABLE = re.compile(r'dumping contents of table "?(.+?)"?$')
_SHOWN = 5
# Part of what a program says -> what to do.
_HINTS: tuple[tuple[str, str], ...] = (
    ("No space left on device", "free space in dest, or set another one"),
    ("Disk quota exceeded", "free space in dest, or set another one"),
    ("out of shared memory", "raise max_locks_per_transaction on the server: every chunk takes one lock"),
    ("lock timeout", "see who holds the lock: SELECT pid, usename, state, query FROM pg_stat_activity WHERE xact_start < now() - interval '10 s'"),
    ("unsupported startup parameter", "give host and port of the server itself: a pooler shares its sessions out"),
    ("server version mismatch", "name a client of the server's major version or newer in client_dir"),
    ("permission denied", "give the role pg_read_all_data"),
    ("row-level security", "give the role BYPASSRLS"),
    ("server closed the connection", "see the server's log, and run again when it answers"),
    ("terminating connection", "see the server's log, and run again when it answers"),
    ("no end within timeout", "raise timeout"),
    ("encryption failed", "import the recipient's public key: gpg --import"),
)


class DumpError(RolloutError):
    """A dump was not made, or cannot be read back."""


@dataclass(frozen=True)
class Encryption:
    """Whom a backup is encrypted for: recipients of ``age`` or of ``gpg``, or nobody."""

    program: str = ""
    recipients: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        return f".{self.program}" if self.program else ""

    def argv(self, path: str) -> list[str]:
        flag = "--recipient"
        recipients = [word for recipient in self.recipients for word in (flag, recipient)]
        if self.program == "age":
            return [path, "--encrypt", *recipients]
        # Whom to encrypt for was said by name: neither a web of trust nor a server of keys has a say in it.
        return [path, "--batch", "--no-tty", "--trust-model", "always", "--no-auto-key-locate", "--encrypt", *recipients]


def decryption(program: str, path: str, identity_file: str | None) -> list[str]:
    """Return the command that decrypts its standard input; gpg takes the key from its own keyring."""
    if program == "age":
        return [path, "--decrypt", "--identity", identity_file or ""]
    return [path, "--batch", "--no-tty", "--decrypt"]


@dataclass
class Progress:
    """What a running dump is at, by what pg_dump says about it."""

    of: int
    partial: Path
    show: Callable[[str], None]
    tables: int = 0
    table: str = ""
    began: float = field(default_factory=time.monotonic)

    def said(self, line: str) -> None:
        found = _TABLE.search(line)
        if found:
            self.tables += 1
            self.table = found[1]

    def tick(self) -> None:
        size = _backup_store.size_of(self.partial) if self.partial.exists() else 0
        place = f"table {self.tables} of {self.of}, {self.table}, " if self.table else ""
        self.show(f"{place}{size / 1e6:.1f} MB, {time.monotonic() - self.began:.0f} s")


@dataclass(frozen=True)
class Programs:
    """Where the client programs are, and the version they have."""

    dump: str
    restore: str
    version: str
    container: _pod_process.Container | None = None

    def reader(self, timeout: float) -> _pg_client.Child:
        """Start reading a dump from standard input, as SQL to standard output."""
        argv = [self.restore, "--file=-"]
        if self.container:
            process = _pod_process.PodProcess(self.container, _pod_process.within(timeout, argv), stdin=True, stdout=True, name=self.restore)
            return _pg_client.Child(argv, process=process)
        return _pg_client.Child(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@dataclass(frozen=True)
class Job:
    """One dump to be made."""

    params: Mapping[str, Any]
    programs: Programs
    snapshot: str
    compression: str
    server_major: int
    encryption: Encryption = Encryption()

    def argv(self) -> list[str]:
        words = [
            self.programs.dump,
            f"--format={self.params['format']}",
            f"--compress={self.compression}",
            f"--lock-wait-timeout={max(1, round(self.params['lock_timeout'] * 1000))}",
            f"--snapshot={self.snapshot}",
            "--password" if self.programs.container and self.params["login_password"] else "--no-password",
            "--verbose",
            f"--dbname={self._connection}",
        ]
        if self.params["format"] == manifests.DIRECTORY:
            words.append(f"--jobs={self.params['jobs']}")
        return words

    @property
    def _options(self) -> str:
        # A server of PostgreSQL 14 or newer notices within a second that a killed client is gone.
        return "-c client_connection_check_interval=1s" if self.server_major >= 14 else ""

    @property
    def _connection(self) -> str:
        if not self.programs.container:
            return _pg_client.CONNECTION
        pod = self.params["pod"]
        host = pod["login_host"]
        # Inside of the pod nobody listens in, and the server's certificate has another name.
        mode = "prefer" if host.startswith(("/", "127.")) or host in ("localhost", "::1") else self.params["ssl_mode"]
        return _pg_client.conninfo({**self.params, "login_host": host, "login_port": pod["login_port"], "ssl_mode": mode}, self._options)

    def start(self, said: Callable[[str], None]) -> _pg_client.Child:
        """Start it, writing to its standard output."""
        argv = self.argv()
        if not self.programs.container:
            return _pg_client.Child(argv, self.environment(), stdout=subprocess.PIPE, said=said)
        command, password = _pod_process.while_connected(argv), f"{self.params['login_password'] or ''}\n".encode()
        return _pg_client.Child(argv, said=said, process=_pod_process.PodProcess(self.programs.container, command, password, stdout=True, name=argv[0]))

    def environment(self) -> dict[str, str]:
        return _pg_client.environment(self.params, self._options)


def write(job: Job, partial: Path, progress: Progress, context: Context, timeout: float, counter: _backup_rows.RowCounter | None) -> None:
    """Make the dump at ``partial``, for its owner only. Raises :class:`DumpError` when it is not complete.

    With ``counter``, a dump that is encrypted is read on its way; any other is read by :func:`read`.
    """
    interval = job.params["progress_interval"]
    try:
        if not job.encryption.program and not job.programs.container:
            target = [f"--file={partial}"]
            if job.params["format"] == manifests.CUSTOM:
                os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            child = _pg_client.Child([*job.argv(), *target], job.environment(), said=progress.said)
            _pg_client.wait([child], context, timeout, progress.tick, interval)
            return
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_streamed(job, descriptor, progress, context, timeout, counter)
        finally:
            os.close(descriptor)
    except _pg_client.ClientError as error:
        raise DumpError(explained(error.message)) from None


def _write_streamed(job: Job, descriptor: int, progress: Progress, context: Context, timeout: float, counter: _backup_rows.RowCounter | None) -> None:
    program = _pg_client.find(job.encryption.program, None) if job.encryption.program else ""
    children = [job.start(progress.said)]
    sinks: list[Any] = [] if program else [_Writing(descriptor)]
    try:
        if program:
            children.append(_pg_client.Child(job.encryption.argv(program), stdin=subprocess.PIPE, stdout=descriptor))
        if program and counter:
            children.append(job.programs.reader(timeout))
            children[-1].pour([_Counting(counter)])
        children[0].pour([*sinks, *(child.stdin for child in children[1:])])
        _pg_client.wait(children, context, timeout, progress.tick, job.params["progress_interval"])
    finally:
        for child in children:
            child.stop()


def read(path: Path, programs: Programs, context: Context, timeout: float, decrypt: Sequence[str] = ()) -> _backup_rows.RowCounter:
    """Read a whole dump back: every block is decompressed, every row counted. Raises :class:`DumpError` when it cannot be."""
    counter = _backup_rows.RowCounter()
    children = []
    try:
        if decrypt:
            with path.open("rb") as stream:
                children.append(_pg_client.Child(decrypt, stdin=stream, stdout=subprocess.PIPE))
            children.append(programs.reader(timeout))
            children[0].pour([children[1].stdin])
        elif programs.container:
            children.append(programs.reader(timeout))
            _feed(path, children[0].stdin)
        else:
            children.append(_pg_client.Child([programs.restore, "--file=-", str(path)], stdout=subprocess.PIPE))
        children[-1].pour([_Counting(counter)])
        _pg_client.wait(children, context, timeout)
    except _pg_client.ClientError as error:
        raise DumpError(f"it cannot be read back: {explained(error.message)}") from None
    finally:
        for child in children:
            child.stop()
    return counter


def _feed(path: Path, sink: IO[bytes]) -> None:
    """Copy a file into a pipe, in a thread that ends with whoever reads it: that one has to notice when it did not get all."""

    def copy() -> None:
        with contextlib.suppress(OSError, ValueError):
            with path.open("rb") as stream:
                shutil.copyfileobj(stream, sink)
            sink.close()

    threading.Thread(target=copy, daemon=True).start()


class _Writing:
    """Stands for a pipe into an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        """The file stays open until all is known to have ended well."""


class _Counting:
    """Stands for a pipe into a counter."""

    def __init__(self, counter: _backup_rows.RowCounter) -> None:
        self.write = counter.feed

    def close(self) -> None:
        """Nothing is held."""


def compare_rows(manifest: manifests.Manifest, counter: _backup_rows.RowCounter) -> None:
    """Raise :class:`DumpError` when what was read has not the rows of the manifest."""
    problems = _backup_rows.differences(manifest, counter.rows)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DumpError(f"it cannot be read back: {'; '.join(problems[:_SHOWN])}{more}. Next: take another backup; this one cannot be relied on")


def explained(text: str) -> str:
    """Add to a program's complaint what to do about it."""
    hint = next((hint for words, hint in _HINTS if words in text), "run the program by hand with the same connection")
    return f"{text}. Next: {hint}"


def compression_for(wanted: str, client_version: str) -> tuple[str, str]:
    """Return the compression that a client can do, and a warning when it is not the one that was wanted."""
    method = wanted.partition(":")[0]
    if method in ("zstd", "lz4") and _pg_client.major(client_version) < 16:
        return "6", f"compression {wanted} needs a client of PostgreSQL 16 or newer, this is {client_version}: gzip was used"
    if method in ("gzip", "none") and _pg_client.major(client_version) < 16:
        return ("0" if method == "none" else wanted.partition(":")[2] or "6"), ""
    return wanted, ""
