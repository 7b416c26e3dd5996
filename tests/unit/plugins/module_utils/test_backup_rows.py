# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of a dump's script, however it is cut into pieces, against a manifest."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.signal.rollout.plugins.module_utils import _backup_rows as rows

SCRIPT = rb"""SET x;
COPY public.plain (id, v) FROM stdin;
1	a\nb
2	COPY public.fake (x) FROM stdin;
3	\\.
\.


COPY public."odd ""name" (id) FROM stdin;
\.
COPY _timescaledb_internal._hyper_1_2_chunk ("time", v) FROM stdin;
a
b
\.
COPY public.none FROM stdin;

\.
SELECT 1;
"""
COUNTED = {
    ("public", "plain"): 3,
    ("public", 'odd "name'): 0,
    ("_timescaledb_internal", "_hyper_1_2_chunk"): 2,
    ("public", "none"): 1,
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10000])
def test_rows_are_counted_however_the_script_is_cut(size):
    counter = rows.RowCounter()
    for at in range(0, len(SCRIPT), size):
        counter.feed(SCRIPT[at : at + size])
    assert counter.rows == COUNTED


def manifest(*tables):
    inventory = manifests.Inventory("db", "17", "7", "UTF8", {}, (), {}, "1:1:", tables)
    return manifests.Manifest("a", "custom", "", 1, "", "", "17", inventory)


PLAIN = manifests.Table("public", "plain", rows=3)
TICK = manifests.Table("public", "tick", manifests.HYPERTABLE, 5)
CHUNKS = {("_timescaledb_internal", "_hyper_1_1_chunk"): 2, ("_timescaledb_internal", "_hyper_1_2_chunk"): 3}
GOOD = {("public", "plain"): 3, ("public", "tick"): 0, **CHUNKS}


def test_a_whole_dump_has_no_difference():
    assert rows.differences(manifest(PLAIN, TICK), GOOD) == []
    assert rows.differences(manifest(PLAIN, TICK), {**GOOD, ("_timescaledb_config", "bgw_job"): 4, ("public", "of_an_extension"): 9}) == []


def test_rows_that_are_missing_are_named():
    assert rows.differences(manifest(PLAIN), {("public", "plain"): 2}) == ["public.plain: 2 rows; expected 3"]
    assert rows.differences(manifest(PLAIN), {}) == ["partitioned and missing tables: 0 rows; expected 3"]
    assert rows.differences(manifest(TICK), {("_timescaledb_internal", "_hyper_1_1_chunk"): 2}) == ["chunks of all hypertables: 2 rows; expected 5"]


def test_a_partitioned_table_has_its_rows_in_its_leaves():
    assert rows.differences(manifest(PLAIN), {("public", "plain_2025"): 1, ("public", "plain_2026"): 2}) == []


def test_compressed_chunks_are_not_compared():
    packed = {("_timescaledb_internal", "compress_hyper_2_9_chunk"): 1, ("_timescaledb_internal", "_hyper_1_1_chunk"): 0}
    assert rows.differences(manifest(TICK), packed) == []
