# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings from the environment, read once at start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

SERVICE = "signal-service"


class ConfigurationError(Exception):
    """An environment variable has a value that the service cannot run with; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Times are in seconds unless the name says otherwise.

    ``database`` holds the keyword arguments of asyncpg.connect that name the database; it contains the password.
    """

    version: str
    port: int
    pod: str
    database: dict[str, object]
    db_pool_max: int
    redis_url: str
    cache_ttl: float
    history_cache_ttl: float
    tick_interval: float
    max_timeframe_minutes: int
    knobs_dir: str
    leak_cap_mb: float
    disk_dir: str
    log_level: str

    @property
    def is_v2(self) -> bool:
        """Tell whether the features of v2 are on."""
        return self.version == "v2"

    def __repr__(self) -> str:
        return f"Settings(version={self.version!r}, port={self.port}, pod={self.pod!r})"


def _number(env: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = env.get(name, "") or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigurationError(f"{name} is {text!r}, expected a number from {low:g} to {high:g}")
    return value


def _database(env: Mapping[str, str]) -> dict[str, object]:
    if env.get("DATABASE_URL"):
        url = env["DATABASE_URL"]
        # SQLAlchemy's spelling of the same address, as the migrations may use it.
        for prefix in ("postgresql+psycopg2://", "postgresql+asyncpg://", "postgres://"):
            if url.startswith(prefix):
                url = "postgresql://" + url[len(prefix) :]
        if not url.startswith("postgresql://"):
            raise ConfigurationError("DATABASE_URL does not start with postgresql://")
        return {"dsn": url}
    missing = [name for name in ("PGHOST", "PGUSER", "PGDATABASE") if not env.get(name)]
    if missing:
        raise ConfigurationError(f"set DATABASE_URL, or PGHOST, PGUSER and PGDATABASE; missing: {', '.join(missing)}")
    settings: dict[str, object] = {
        "host": env["PGHOST"],
        "port": int(_number(env, "PGPORT", 5432, 1, 65535)),
        "user": env["PGUSER"],
        "database": env["PGDATABASE"],
    }
    if env.get("PGPASSWORD"):
        settings["password"] = env["PGPASSWORD"]
    return settings


def load(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; raises ConfigurationError naming the variable that is wrong."""
    env = os.environ if env is None else env
    version = env.get("SIGNAL_VERSION", "")
    if version not in ("v1", "v2"):
        raise ConfigurationError(f"SIGNAL_VERSION is {version!r}, expected v1 or v2")
    return Settings(
        version=version,
        port=int(_number(env, "PORT", 8080, 1, 65535)),
        pod=env.get("POD_NAME") or socket.gethostname(),
        database=_database(env),
        db_pool_max=int(_number(env, "DB_POOL_MAX", 4, 2, 50)),
        redis_url=env.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
        cache_ttl=_number(env, "CACHE_TTL_SECONDS", 5, 0.05, 86400),
        history_cache_ttl=_number(env, "HISTORY_CACHE_TTL_SECONDS", 60, 0.05, 86400),
        tick_interval=_number(env, "TICK_INTERVAL_SECONDS", 1, 0.05, 3600),
        max_timeframe_minutes=int(_number(env, "MAX_TIMEFRAME_MINUTES", 10080, 1, 525600)),
        knobs_dir=env.get("KNOBS_DIR", "/knobs"),
        leak_cap_mb=_number(env, "LEAK_CAP_MB", 1024, 1, 65536),
        disk_dir=env.get("DISK_DIR", "/dev/shm"),
        log_level=env.get("LOG_LEVEL", "INFO").upper(),
    )
