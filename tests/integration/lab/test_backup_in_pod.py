# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_backup by the client programs in the database's own pod: streamed out, read back, cut, killed, and refused where there are none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_backup as engine
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _pod_process
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from bench import faults

from .conftest import LAB, wait_until
from .database import HOST, PORT, new_database, password, session

KUBECONFIG = LAB / "kubeconfig/admin"
BIN = "/usr/lib/postgresql/17/bin"
SERVER = {"kubeconfig": str(KUBECONFIG), "namespace": "signal-data", "selector": "app=timescaledb", "bin_dir": BIN}
SCHEMA = """
create extension timescaledb;
create table tick (time timestamptz not null, instrument bigint, price double precision);
select create_hypertable('tick', by_range('time', interval '1 day'));
insert into tick select timestamptz '2026-01-01' + i * interval '30 seconds', i % 500, random() from generate_series(1, 60000) i;
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with new_database("pod", "", setup=SCHEMA) as name:
        yield name


@pytest.fixture(scope="module")
def container(kube: _kube.Kube) -> _pod_process.Container:
    return _pod_process.find(kube, "signal-data", None, "app=timescaledb", None)


def backup(database: str, folder: Path, pod: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    wanted = {
        "login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "login_db": database,
        "dest": str(folder), "name": "a", "via": "pod", "pod": {**SERVER, **(pod or {})}, "space_factor": 0, **changes,
    }  # fmt: skip
    checked = ArgumentSpecValidator(engine.ARGUMENT_SPEC, **engine.SPEC_RULES).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return engine.run(checked.validated_parameters, Context())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"} if folder.exists() else set()


def dumping(database: str) -> int:
    with session("postgres") as cursor:
        cursor.execute("select count(*) from pg_stat_activity where datname = %s and application_name = 'signal.rollout'", [database])
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def watched(program: str) -> Iterator[list[bytes]]:
    """Command lines and environments of every process of this machine, containers included, whose command line has ``program``."""
    seen: set[bytes] = set()
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    words = path.read_bytes()
                    if program.encode() in words:
                        seen.add(words + (path.parent / "environ").read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    found: list[bytes] = []
    try:
        yield found
    finally:
        end.set()
        thread.join()
        found.extend(seen)


def test_a_backup_out_of_the_pod_is_read_back_there_and_its_password_is_in_no_command_line(database: str, tmp_path: Path) -> None:
    with watched(f"{BIN}/pg_dump") as processes:
        # Slow enough to be looked at.
        result = backup(database, tmp_path / "b", compression="zstd:19")
    assert (result["verified"], result["warnings"]) == ("read", [])
    assert {table["name"]: table["rows"] for table in result["manifest"]["tables"]} == {"tick": 60000}
    assert result["sha256"] == hashlib.sha256(Path(result["file"]).read_bytes()).hexdigest()
    assert Path(result["file"]).stat().st_mode & 0o777 == 0o600
    assert any(b"--snapshot=" in words for words in processes)
    assert [words for words in processes if password().encode() in words] == []
    local = {"via": "local", "client_dir": str(LAB / "pgclient/bin")}
    assert backup(database, tmp_path / "b", state="verify", verify="restored", **local)["verified"] == "restored"


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_damage_is_caught_by_reading_it_in_the_pod(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """The disk loses bytes after they were written and before the checksum is taken."""
    path = Path(backup(database, tmp_path / "b")["file"])
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] if damage == "cut" else content[:half] + bytes(4096) + content[half + 4096 :])
    found = engine._backup_store.Store(str(path.parent)).entry("a").manifest
    monkeypatch.setattr(engine._backup_store, "check", lambda entry: found)
    with pytest.raises(RolloutError, match="it cannot be read back"):
        backup(database, path.parent, state="verify")


def test_a_full_disk_here_ends_the_dump_there_and_leaves_nothing(database: str, tmp_path: Path) -> None:
    with faults.small_disk(tmp_path / "small", 65536) as folder:
        with pytest.raises(RolloutError, match=r"No space left on device.*Next: free space in dest"):
            backup(database, folder)
        assert names(folder) == set()
    wait_until("pg_dump in the pod has ended", lambda: not _running(f"{BIN}/pg_dump".encode()) and dumping(database) == 0, 5)


def test_a_connection_to_the_cluster_that_is_cut_ends_the_dump_there_and_leaves_nothing(database: str, tmp_path: Path) -> None:
    settings = yaml.safe_load(KUBECONFIG.read_text(encoding="utf-8"))
    cluster = settings["clusters"][0]["cluster"]
    host, port = cluster["server"].removeprefix("https://").split(":")
    with faults.proxy(host, int(port)) as between:
        # The proxy has no certificate of the server's.
        settings["clusters"][0]["cluster"] = {"server": f"https://127.0.0.1:{between.port}", "insecure-skip-tls-verify": True}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(settings), encoding="utf-8")
        between.at_byte, between.action = 400_000, between.cut
        with pytest.raises(RolloutError, match=r"the connection to container postgres of pod .* broke|ended without an exit code"):
            backup(database, tmp_path / "b", {"kubeconfig": str(tmp_path / "kubeconfig")}, compression="none")
        assert between.fired
    assert names(tmp_path / "b") == set()
    wait_until("pg_dump in the pod has ended", lambda: not _running(f"{BIN}/pg_dump".encode()) and dumping(database) == 0, 5)


def test_a_killed_run_leaves_no_program_in_the_pod_and_the_next_works(database: str, tmp_path: Path) -> None:
    run = faults.Run(lambda: backup(database, tmp_path / "b", compression="none"))
    partial = tmp_path / "b/a.dump.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert run.process.exitcode is None, "it ended before it wrote anything"
        time.sleep(0.002)
    run.kill()
    assert run.killed()
    wait_until("pg_dump in the pod has ended", lambda: not _running(f"{BIN}/pg_dump".encode()) and dumping(database) == 0, 5)
    assert names(tmp_path / "b") == {"a.dump.partial"}
    assert backup(database, tmp_path / "b")["warnings"] == ["removed what a killed backup had left: a.dump.partial"]
    assert names(tmp_path / "b") == {"a.dump", "a.json"}


def test_a_backup_out_of_the_pod_is_encrypted_before_it_touches_the_disk(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    key = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "dba@example.com", "future-default", "default", "never"]
    subprocess.run(key, check=True, capture_output=True)
    try:
        result = backup(database, tmp_path / "b", encrypt={"gpg_recipients": ["dba@example.com"]})
        assert result["verified"] == "read" and not Path(result["file"]).read_bytes().startswith(b"PGDMP")
        assert backup(database, tmp_path / "b", state="verify")["verified"] == "read"
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, timeout=30)


def test_what_cannot_be_streamed_is_refused_before_anything_is_written(database: str, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"format directory cannot be streamed out of a pod.*; verify is restored"):
        backup(database, tmp_path / "b", format="directory", verify="restored")
    with pytest.raises(RolloutError, match=r"container postgres of pod .* lacks pg_dump, pg_restore or sh .*Next: name their folder in pod\.bin_dir"):
        backup(database, tmp_path / "b", {"bin_dir": "/nonexistent"})
    with pytest.raises(RolloutError, match=r"0 ready pods for the selector app=nothing, expected one"):
        backup(database, tmp_path / "b", {"selector": "app=nothing"})
    with pytest.raises(RolloutError, match="has the containers postgres, expected sidecar"):
        backup(database, tmp_path / "b", {"container": "sidecar"})
    with pytest.raises(RolloutError, match=r"was not backed up: .*pg_dump: error: connection to server at \"127\.0\.0\.1\", port 9 failed"):
        backup(database, tmp_path / "b", {"login_port": 9})
    assert names(tmp_path / "b") == set()


def test_a_program_in_the_pod_takes_and_gives_megabytes_at_once_and_ends_with_its_own_code(container: _pod_process.Container) -> None:
    content = os.urandom(3_000_000)
    process = _pod_process.PodProcess(container, ["cat"], stdin=True, stdout=True)
    assert process.stdin and process.stdout
    given = process.stdin

    def give() -> None:
        with given:
            view = memoryview(content)
            while view:
                view = view[given.write(view) :]

    thread = threading.Thread(target=give)
    thread.start()
    taken = b""
    while piece := process.stdout.read(65536):
        taken += piece
    thread.join()
    assert hashlib.sha256(taken).digest() == hashlib.sha256(content).digest()
    assert process.wait(10) == 0
    assert _pod_process.PodProcess(container, ["ls", "/nonexistent"]).wait(10) == 2


def test_a_program_in_the_pod_waits_for_its_reader_and_ends_with_the_connection(container: _pod_process.Container) -> None:
    before = _memory()
    command = _pod_process.while_connected(["cat", "/dev/zero", "signal"])
    process = _pod_process.PodProcess(container, command, b"\n", stdout=True)
    assert process.stdout
    assert process.stdout.read(10) == bytes(10)
    # Gigabytes, if they were taken unasked.
    time.sleep(1)
    assert process.poll() is None and _memory() - before < 64 * 1024
    assert _running(b"cat\0/dev/zero\0signal")
    process.end(9)
    process.stdout.close()
    assert process.wait(10) == -9
    wait_until("cat has ended", lambda: not _running(b"cat\0/dev/zero\0signal"), 5)


def _running(words: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words in path.read_bytes():
                return True
    return False


def _memory() -> int:
    """Resident memory of this process in KiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])
