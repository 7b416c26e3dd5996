# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils import _restore_tools as tools
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

INVENTORY = manifests.Inventory(
    database="signal",
    server_version="17.6",
    system_identifier="7",
    encoding="UTF8",
    locale={"provider": "c", "collate": "C.UTF-8", "ctype": "C.UTF-8", "locale": ""},
    alembic=("0001",),
    extensions={"plpgsql": "1.0", "timescaledb": "2.19.3"},
    snapshot="10:10:",
    tables=(),
    roles=("signal_owner",),
)
MANIFEST = manifests.Manifest("signal.dump", "custom", "zstd:3", 3, "", "2026-01-01T00:00:00Z", "17.6", INVENTORY)
BACKUP = tools.Backup(Path("/backups/signal.dump"), MANIFEST)
SERVER: dict[str, Any] = {
    "version": "17.12 (Debian)",
    "number": 170012,
    "superuser": True,
    "standby": False,
    "roles": ["postgres", "signal_owner"],
    "extensions": [["plpgsql", "1.0"], ["timescaledb", "2.19.3"]],
    "preloaded": "timescaledb",
}


def test_a_server_of_the_same_versions_is_accepted() -> None:
    assert tools.server_problems(SERVER, BACKUP, "17.5", 1) == []


@pytest.mark.parametrize(
    ("changes", "client", "jobs", "words"),
    [
        ({"superuser": False}, "17.5", 1, "no superuser"),
        ({"standby": True}, "17.5", 1, "standby"),
        ({"number": 160004, "version": "16.4"}, "16.4", 1, "the backup's server is of version 17.6, the server of 16.4"),
        ({}, "15.3", 1, "older than the pg_dump"),
        ({}, "18.0", 1, "pg_restore is of version 18.0"),
        ({"extensions": [["plpgsql", "1.0"], ["timescaledb", "2.20.0"]]}, "17.5", 1, "timescaledb 2.19.3"),
        ({"preloaded": ""}, "17.5", 1, "shared_preload_libraries"),
        ({"roles": ["postgres"]}, "17.5", 1, "signal_owner"),
        ({}, "17.5", 4, "jobs is 4, expected 1"),
    ],
)
def test_what_cannot_be_restored_is_refused_with_its_reason(changes: dict[str, Any], client: str, jobs: int, words: str) -> None:
    assert words in "; ".join(tools.server_problems({**SERVER, **changes}, BACKUP, client, jobs))


def test_a_plain_dump_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "signal.sql").write_text("select 1;")
    with pytest.raises(RolloutError, match="expected the file or folder of a backup"):
        tools.opened(str(tmp_path / "signal.sql"))


def test_a_backup_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "signal.dump").write_bytes(b"abc")
    (tmp_path / "signal.json").write_text(MANIFEST.to_json())
    with pytest.raises(RolloutError, match="SHA-256"):
        tools.opened(str(tmp_path / "signal.dump"))
