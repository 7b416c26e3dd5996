# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest of a backup: whole after reading it again, and every difference of a restored database named."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests

TICKS = manifests.Table(
    "public",
    "ticks",
    manifests.HYPERTABLE,
    50,
    "time",
    "2026-01-01 00:00:00+00",
    "2026-01-02 00:00:00+00",
    2,
    ("time timestamp with time zone not null", "price double precision"),
    {"ticks_time_idx": "aaaa", "ticks_price_idx": "bbbb"},
    {"ticks_price_check": "cccc"},
    4,
    2,
)
PLAIN = manifests.Table("public", "alembic_version", rows=1, columns=("version_num character varying(32) not null",))
INVENTORY = manifests.Inventory(
    "signal_db",
    "17.6",
    "7000000000000000000",
    "UTF8",
    {"provider": "c", "collate": "C.UTF-8", "ctype": "C.UTF-8", "locale": ""},
    ("0001",),
    {"plpgsql": "1.0", "timescaledb": "2.19.3"},
    "700:702:701",
    (PLAIN, TICKS),
    ("signal_owner", "signal_user"),
    {"views": 1},
)
MANIFEST = manifests.Manifest("a.dump", "custom", "zstd:3", 1234, "ab" * 32, "2026-01-02T03:04:05Z", "17.6", INVENTORY)


def test_a_manifest_read_again_is_the_same():
    assert manifests.Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert INVENTORY.rows == 51


def test_the_manifest_is_one_flat_object_with_its_version():
    shown = json.loads(MANIFEST.to_json())
    assert shown["version"] == 1
    assert shown["tables"][1]["kind"] == "hypertable"
    assert shown == MANIFEST.to_dict()


def test_every_changed_byte_of_a_manifest_is_noticed():
    text = MANIFEST.to_json().encode()
    for place in range(len(text) - 1):
        damaged = bytearray(text)
        damaged[place] ^= 1
        try:
            read = manifests.Manifest.from_json(bytes(damaged))
        except manifests.ManifestError:
            continue
        # White space may change without a change of what it says.
        assert read == MANIFEST, f"byte {place}"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', MANIFEST.to_json()[:-30]])
def test_what_is_no_manifest_is_refused_by_name(text):
    with pytest.raises(manifests.ManifestError, match=r"a\.json: .*Next: "):
        manifests.Manifest.from_json(text, "a.json")


def test_another_version_is_refused():
    fields = {**MANIFEST.to_dict(), "version": 2}
    with pytest.raises(manifests.ManifestError, match="of version 2, expected 1"):
        manifests.Manifest.from_json(json.dumps(fields))


@pytest.mark.parametrize("change", [{"surplus": 1}, {"tables": [{"schema": "public"}]}, {"tables": [1]}])
def test_other_fields_under_a_right_checksum_are_refused(change):
    fields = {**MANIFEST.to_dict(), **change}
    fields.pop("checksum")
    fields["checksum"] = manifests._checksum(fields)
    with pytest.raises(manifests.ManifestError, match="not those of a manifest"):
        manifests.Manifest.from_json(json.dumps(fields))


def test_equal_databases_have_no_problem_whatever_they_are_called():
    seen = dataclasses.replace(INVENTORY, database="scratch", snapshot="9:9:", system_identifier="1", server_version="18.0")
    assert manifests.compare(MANIFEST, seen) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 0}, "public.ticks: rows 0; expected 50"),
        ({"rows": 100}, "public.ticks: rows 100; expected 50"),
        ({"kind": "table"}, "public.ticks: kind 'table'; expected 'hypertable'"),
        ({"chunks": 1}, "public.ticks: chunks 1; expected 2"),
        ({"max_time": ""}, "public.ticks: max time ''; expected '2026-01-02 00:00:00+00'"),
        ({"chunk_constraints": 0}, "public.ticks: chunk constraints 0; expected 2"),
        ({"columns": ("a int",)}, "public.ticks: columns a int; expected time timestamp with time zone not null, price double precision"),
        ({"indexes": {"ticks_time_idx": "aaaa"}}, "public.ticks: indexes missing: ticks_price_idx"),
        ({"indexes": {**TICKS.indexes, "more": "x"}}, "public.ticks: indexes not in the backup: more"),
        ({"constraints": {"ticks_price_check": "other"}}, "public.ticks: constraints of another definition: ticks_price_check"),
    ],
)
def test_a_table_that_differs_is_named_with_both_values(change, words):
    seen = dataclasses.replace(INVENTORY, tables=(PLAIN, dataclasses.replace(TICKS, **change)))
    assert manifests.compare(MANIFEST, seen) == [words]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tables": (PLAIN,)}, "public.ticks: missing"),
        ({"tables": (PLAIN, TICKS, dataclasses.replace(PLAIN, name="more"))}, "public.more: not in the backup"),
        ({"alembic": ("0001", "0002")}, "alembic revision: 0001, 0002; expected 0001"),
        ({"alembic": ()}, "alembic revision: none; expected 0001"),
        ({"encoding": "LATIN1"}, "encoding: LATIN1; expected UTF8"),
        ({"extensions": {"plpgsql": "1.0"}}, "extensions: plpgsql 1.0; expected plpgsql 1.0, timescaledb 2.19.3"),
        ({"objects": {}}, "objects: none; expected views 1"),
    ],
)
def test_a_database_that_differs_is_named_with_both_values(change, words):
    assert manifests.compare(MANIFEST, dataclasses.replace(INVENTORY, **change)) == [words]


def test_of_many_missing_indexes_only_the_first_are_named():
    expected = dataclasses.replace(
        MANIFEST, inventory=dataclasses.replace(INVENTORY, tables=(dataclasses.replace(PLAIN, indexes={f"i{n}": "x" for n in range(8)}),))
    )
    assert manifests.compare(expected, dataclasses.replace(INVENTORY, tables=(PLAIN,))) == [
        "public.alembic_version: indexes missing: i0, i1, i2, i3, i4 and 3 more"
    ]


def test_the_digest_of_a_folder_depends_on_names_and_contents_not_on_order():
    digest = manifests.tree_digest({"a": "1", "b": "2"})
    assert digest == manifests.tree_digest({"b": "2", "a": "1"})
    assert len({digest, manifests.tree_digest({"a": "2", "b": "1"}), manifests.tree_digest({"a": "1"})}) == 3
