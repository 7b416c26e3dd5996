# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings from the environment, knobs from files, and what a request's query means."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from app.config import ConfigurationError, load
from app.knobs import Knobs, Values, read
from app.requests import RequestError, parse_range, parse_timeframe

SERVICE = Path(__file__).resolve().parents[3] / "lab" / "signal_service"
MINIMUM = {"SIGNAL_VERSION": "v2", "PGHOST": "db", "PGUSER": "signal_user", "PGDATABASE": "signal_db"}
NOW = datetime(2026, 11, 24, 13, 0, tzinfo=timezone.utc)


def test_the_smallest_environment():
    settings = load(MINIMUM)
    assert settings.is_v2
    assert settings.database == {"host": "db", "port": 5432, "user": "signal_user", "database": "signal_db"}
    assert (settings.port, settings.cache_ttl, settings.db_pool_max) == (8080, 5.0, 4)


@pytest.mark.parametrize("prefix", ["postgresql://", "postgres://", "postgresql+psycopg2://", "postgresql+asyncpg://"])
def test_a_database_url_in_any_spelling(prefix):
    settings = load({"SIGNAL_VERSION": "v1", "DATABASE_URL": f"{prefix}signal_user:secret@db:5432/signal_db"})
    assert settings.database == {"dsn": "postgresql://signal_user:secret@db:5432/signal_db"}


def test_the_password_is_not_shown():
    assert "hunter2hunter2" not in repr(load(MINIMUM | {"PGPASSWORD": "hunter2hunter2"}))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"SIGNAL_VERSION": ""}, "SIGNAL_VERSION"),
        ({"SIGNAL_VERSION": "v3"}, "SIGNAL_VERSION"),
        ({"PGHOST": ""}, "PGHOST"),
        ({"PGPORT": "five"}, "PGPORT"),
        ({"PGPORT": "70000"}, "PGPORT"),
        ({"CACHE_TTL_SECONDS": "nan"}, "CACHE_TTL_SECONDS"),
        ({"TICK_INTERVAL_SECONDS": "0"}, "TICK_INTERVAL_SECONDS"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
    ],
)
def test_wrong_settings_are_refused_by_name(change, name):
    with pytest.raises(ConfigurationError, match=name):
        load(MINIMUM | change)


def test_a_wrong_setting_ends_the_start_with_a_plain_message():
    environment = {"PATH": os.environ["PATH"], "SIGNAL_VERSION": "v9", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "app"], cwd=SERVICE, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr == "signal-service: SIGNAL_VERSION is 'v9', expected v1 or v2\n"


def test_no_knobs_folder_means_no_fault(tmp_path):
    assert read(str(tmp_path / "missing")) == Values()


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("error_ratio", "0.05\n", Values(error_ratio=0.05)),
        ("error_ratio", "7", Values(error_ratio=1.0)),
        ("error_ratio", "-1", Values()),
        ("error_ratio", "nan", Values()),
        ("error_ratio", "inf", Values()),
        ("error_ratio", "a lot", Values()),
        ("latency_ms", "400", Values(latency_seconds=0.4)),
        ("crash", "1", Values(crash=True)),
        ("crash", "true", Values(crash=True)),
        ("crash", "0", Values()),
        ("crash", " False ", Values()),
        ("crash", "", Values()),
        ("unready", "yes", Values(unready=True)),
        ("held_mb", "150", Values(held_mb=150.0)),
        ("disk_percent", "250", Values(disk_percent=99.0)),
        ("leak_mb_per_s", "2.5", Values(leak_mb_per_s=2.5)),
    ],
)
def test_knobs(tmp_path, name, content, values):
    (tmp_path / name).write_text(content)
    assert read(str(tmp_path)) == values


def test_knobs_follow_their_files(tmp_path):
    knobs = Knobs(str(tmp_path), 64.0, str(tmp_path))
    knobs.refresh()
    assert knobs.values.error_ratio == 0.0
    (tmp_path / "error_ratio").write_text("0.5")
    knobs.refresh()
    assert knobs.values.error_ratio == 0.5
    (tmp_path / "error_ratio").unlink()
    knobs.refresh()
    assert knobs.values == Values()


def test_the_crash_knob_ends_the_start_at_once(tmp_path):
    (tmp_path / "crash").write_text("1")
    environment = MINIMUM | {"PATH": os.environ["PATH"], "KNOBS_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "app"], cwd=SERVICE, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "crash knob" in done.stderr


def test_the_range_of_the_checklist_includes_its_last_day():
    start, end = parse_range("2024-01-01", "2024-01-07", NOW)
    assert start == datetime(2024, 1, 1, tzinfo=timezone.utc)
    assert end == datetime(2024, 1, 8, tzinfo=timezone.utc)


def test_times_with_and_without_an_offset():
    start, end = parse_range("2024-01-01T15:30:00+05:30", "2024-01-01T11:00:00", NOW)
    assert start == datetime(2024, 1, 1, 10, tzinfo=timezone.utc)
    assert end == datetime(2024, 1, 1, 11, tzinfo=timezone.utc)


def test_without_a_range_it_is_the_last_day():
    assert parse_range(None, None, NOW) == (NOW - timedelta(days=1), NOW)


@pytest.mark.parametrize(
    ("start", "end", "rule"),
    [
        ("yesterday", None, "from is not a date"),
        ("2024-13-01", None, "from is not a date"),
        ("2024-01-01", "x", "to is not a date"),
        ("2024-01-02", "2024-01-01", "not before"),
        ("2024-01-01T10:00:00", "2024-01-01T10:00:00", "not before"),
        ("2020-01-01", "2024-01-01", "longer than 366 days"),
    ],
)
def test_impossible_ranges_are_refused(start, end, rule):
    with pytest.raises(RequestError, match=rule) as refused:
        parse_range(start, end, NOW)
    assert refused.value.code == 422


@pytest.mark.parametrize(("text", "minutes"), [(None, 60), ("1", 1), ("7", 7), ("10080", 10080)])
def test_timeframes(text, minutes):
    assert parse_timeframe(text, 10080) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "10081", "5m", "٣", "99999999999"])
def test_impossible_timeframes_are_refused(text):
    with pytest.raises(RequestError, match="whole number of minutes"):
        parse_timeframe(text, 10080)
