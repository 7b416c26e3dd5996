# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The deployment log, and what makes two plans the same."""

from __future__ import annotations

from ansible_collections.signal.rollout.plugins.module_utils import _log, _record

DOCUMENT = [
    "Start deployment",
    "Database migration",
    "Deploy green",
    "Route 10% traffic",
    "Route 50% traffic",
    "Route 100% traffic",
    "Remove blue",
    "Deployment complete",
]


def test_empty_record_shows_the_documents_table_unfilled() -> None:
    rows = _log.rows({})
    assert [row["action"] for row in rows] == DOCUMENT
    assert all(row["time"] == row["status"] == row["notes"] == "" for row in rows)


def test_filled_table_keeps_the_documents_rows_and_adds_other_steps_after_them() -> None:
    record = {
        "started": "2026-11-24T12:00:00.123456Z",
        "finished": "2026-11-24T12:30:00.000000Z",
        "outcome": "complete",
        "version": "v2",
        "order": ["configuration", "canary_10", "canary_25"],
        "steps": {
            "configuration": {"status": "done", "finished": "2026-11-24T12:01:00.5Z"},
            "canary_10": {"status": "done", "finished": "2026-11-24T12:10:00.5Z", "notes": "0.00 % < 0.1 | p99"},
            "canary_25": {"status": "failed", "finished": "2026-11-24T12:20:00.5Z"},
        },
    }
    rows = _log.rows(record)
    assert [row["action"] for row in rows] == [*DOCUMENT, "Configuration updates", "Route 25% traffic"]
    assert rows[3]["time"] == "2026-11-24 12:10:00" and rows[3]["status"] == "done"
    assert rows[7]["status"] == "done"
    text = _log.table(rows)
    assert "0.00 % < 0.1 / p99" in text, "a bar inside a cell would break the table"
    assert len({len(line) for line in text.splitlines()}) == 1


def test_rolled_back_release_is_not_shown_as_complete() -> None:
    rows = _log.rows({"started": "2026-11-24T12:00:00Z", "finished": "2026-11-24T12:30:00Z", "outcome": "rolled_back"})
    assert rows[7]["status"] == "not complete"


def test_plan_hash_ignores_the_order_of_keys_and_nothing_else() -> None:
    one = _record.plan_hash({"steps": [10, 50, 100], "image": "a"})
    assert one == _record.plan_hash({"image": "a", "steps": [10, 50, 100]})
    assert one != _record.plan_hash({"image": "a", "steps": [50, 10, 100]})
    assert one != _record.plan_hash({"image": "b", "steps": [10, 50, 100]})


def test_evidence_too_large_for_a_config_map_is_replaced_by_its_digest() -> None:
    assert _record._bounded({"a": 1}) == {"a": 1}
    large = _record._bounded({"series": ["x" * 100] * 1000})
    assert large["truncated"] is True and len(large["sha256"]) == 64
