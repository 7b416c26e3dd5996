# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folder of backups: names, what a killed run leaves, damage of every kind, and what retention may never remove."""

from __future__ import annotations

import dataclasses
import stat
from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils import _backup_store as stores

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
INVENTORY = manifests.Inventory("db", "17.6", "7", "UTF8", {}, (), {}, "1:1:", ())


def manifest_of(path, created="2026-01-01T00:00:00Z", **changes):
    sha256, files = stores.digests(path)
    kind = manifests.DIRECTORY if path.is_dir() else manifests.CUSTOM
    made = manifests.Manifest(path.name, kind, "zstd:3", stores.size_of(path), sha256, created, "17.6", INVENTORY, files=files, verified="read")
    return dataclasses.replace(made, **changes)


@pytest.fixture
def store(tmp_path):
    store = stores.Store(str(tmp_path / "backups"))
    store.make()
    return store


def backup(store, name="a", content=b"x" * 64, folder=False, **changes):
    """Publish a backup as a run does."""
    final = store.folder / f"{name}{'.dir' if folder else '.dump'}"
    partial = final.with_name(final.name + stores.PARTIAL)
    if folder:
        partial.mkdir()
        (partial / "toc.dat").write_bytes(content)
        (partial / "1.dat.zst").write_bytes(content * 2)
    else:
        partial.write_bytes(content)
    store.publish(partial, final, dataclasses.replace(manifest_of(partial, **changes), file=final.name))
    return final


def test_the_folder_and_what_is_in_it_are_for_the_owner_only(store):
    store.folder.chmod(0o755)
    store.make()
    backup(store)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.folder / "a.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("folder", [False, True])
def test_a_published_backup_is_whole_and_listed(store, folder):
    final = backup(store, folder=folder)
    (entry,) = store.entries()
    assert (entry.name, entry.path, entry.problem) == ("a", final, "")
    assert stores.check(entry).file == final.name
    assert entry.shown()["database"] == "db"


def test_a_name_with_dots_is_found_again(store):
    backup(store, "db-1.2")
    backup(store, "db-1")
    assert {entry.name for entry in store.entries()} == {"db-1.2", "db-1"}


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_append(path):
    path.write_bytes(path.read_bytes() + b"\0")


def damage_empty(path):
    path.write_bytes(b"")


def damage_zero(path):
    path.write_bytes(bytes(len(path.read_bytes())))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_append, damage_empty, damage_zero])
def test_every_damaged_byte_is_found(store, damage, folder):
    final = backup(store, folder=folder)
    damage(final / "1.dat.zst" if folder else final)
    with pytest.raises(stores.StoreError, match=r"Next: take another backup"):
        stores.check(store.entry("a"))


def test_a_file_more_or_less_or_by_another_name_in_a_folder_is_found(store):
    final = backup(store, folder=True)
    (final / "1.dat.zst").rename(final / "2.dat.zst")
    with pytest.raises(stores.StoreError, match=r"2 files are not those that were written: 1\.dat\.zst, 2\.dat\.zst"):
        stores.check(store.entry("a"))


def test_a_backup_without_its_manifest_or_with_a_damaged_one_is_listed_with_the_reason(store):
    backup(store, "a")
    backup(store, "b")
    (store.folder / "a.json").unlink()
    (store.folder / "b.json").write_text("{}")
    assert [(entry.name, bool(entry.problem)) for entry in store.entries()] == [("b", True), ("a", True)]
    with pytest.raises(stores.StoreError, match="of version None, expected 1"):
        stores.check(store.entry("b"))


def test_a_manifest_whose_backup_is_gone_is_found(store):
    backup(store).unlink()
    assert "cannot be read" in store.entry("a").problem


def test_what_a_killed_run_left_is_removed_and_nothing_else(store):
    backup(store)
    foreign = store.folder / "settings.json"
    foreign.write_text('{"mine": 1}')
    (store.folder / "notes.partial").write_text("mine")
    (store.folder / "b.dump.partial").write_text("half")
    (store.folder / "c.dir.partial").mkdir()
    (store.folder / "c.dir.partial" / "toc.dat").write_text("half")
    (store.folder / "d.json").write_text((store.folder / "a.json").read_text())
    with store.alone() as left:
        assert left == ["b.dump.partial", "c.dir.partial", "d.json"]
    assert {path.name for path in store.folder.iterdir()} == {".lock", "a.dump", "a.json", "settings.json", "notes.partial"}


def test_two_runs_do_not_share_a_folder(store):
    with store.alone(), pytest.raises(stores.StoreError, match="another run is making a backup"), stores.Store(str(store.folder)).alone():
        pass


def test_a_link_for_a_folder_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(stores.StoreError, match="a link"):
        stores.Store(str(tmp_path / "link")).make()


def entry(day, problem="", database="db", verified="read"):
    seen = manifests.Manifest(
        f"{day}.dump", "custom", "", 1, "", f"2026-01-{day:02d}T00:00:00Z", "17", dataclasses.replace(INVENTORY, database=database), verified=verified
    )
    return stores.Entry(f"{database}{day}", None, seen, problem)


def removed(entries, count=0, days=0):
    return [item.name for item in stores.superseded(entries, "db", count, days, NOW)]


def test_without_limits_nothing_is_removed():
    assert removed([entry(1), entry(2)]) == []


def test_beyond_the_count_the_oldest_go_first():
    assert removed([entry(4), entry(1), entry(3), entry(2)], count=2) == ["db1", "db2"]


def test_what_is_younger_than_the_days_stays_whatever_the_count():
    assert removed([entry(10), entry(28), entry(29), entry(30)], count=1, days=7) == ["db10"]
    assert removed([entry(10), entry(28), entry(30)], days=7) == ["db10"]


def test_the_last_whole_backup_is_never_removed():
    assert removed([entry(1)], count=1, days=1) == []
    assert removed([entry(1), entry(2, problem="it has 0 bytes")], days=1) == []


def test_the_last_verified_backup_stays_when_newer_ones_were_not():
    assert removed([entry(1), entry(2), entry(3, verified="none"), entry(4, verified="none")], count=1) == ["db1", "db3"]


def test_backups_of_other_databases_and_damaged_ones_are_left_alone():
    assert removed([entry(1, database="other"), entry(2, problem="cut"), entry(3), entry(4)], count=1) == ["db3"]


def test_a_removed_backup_is_gone_with_its_manifest(store):
    backup(store, "a", folder=True)
    backup(store, "b")
    store.forget(store.entry("a"))
    assert {path.name for path in store.folder.iterdir()} == {"b.dump", "b.json"}


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a", "-f", "a b", "x.partial", "x.json", "ä"])
def test_names_that_no_backup_may_have(name):
    assert stores.name_problem(name)


def test_the_default_name_is_a_valid_one_for_any_database():
    for database in ("signal_db", "we ird/Näme", "...", "-x"):
        assert not stores.name_problem(stores.default_name(database, NOW + timedelta(seconds=1)))
