# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL: instruments and history are read from it, requests, logs, ticks and Greeks are written in batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from .config import Settings
from .market import Underlying
from .metrics import Metrics

log = logging.getLogger("signal.storage")

_CONNECT_TIMEOUT = 3.0
_QUERY_TIMEOUT = 5.0
_HEALTH_TIMEOUT = 1.0
_FLUSH_SECONDS = 1.0
_QUEUE_ROWS = 10_000
_RECONNECT_SECONDS = 1.0
_INSTRUMENT_REFRESH_SECONDS = 30.0

# What a pool or a connection raises when the server is away, restarting, or refuses. InternalClientError is what
# asyncpg says when the server ends the session in the middle of its own bookkeeping; OSError includes TimeoutError.
DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class DatabaseUnavailable(Exception):
    """The database could not answer; the request that needed it cannot be served now."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where a kind of row goes. ``unique`` tables may meet rows that another pod has already written."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    unique: bool = False

    def insert(self) -> str:
        """Return an INSERT that takes one array per column: one round trip for a whole batch."""
        arrays = ", ".join(f"${index}::{kind}[]" for index, kind in enumerate(self.types, 1))
        tail = " ON CONFLICT DO NOTHING" if self.unique else ""
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) SELECT * FROM unnest({arrays}){tail}"


def _tables(is_v2: bool) -> dict[str, Table]:
    time_zone, text, number = "timestamptz", "text", "double precision"
    # v1 names its columns, so it runs unchanged on v2's wider tables.
    log_columns = ("timestamp", "service", "level", "error_type", "message")
    log_types = (time_zone, text, text, text, text)
    request_columns = ("timestamp", "service", "endpoint", "method", "code", "duration")
    request_types = (time_zone, text, text, text, "int", number)
    if is_v2:
        log_columns, log_types = (*log_columns, "version"), (*log_types, text)
        request_columns, request_types = (*request_columns, "version"), (*request_types, text)
    tables = {
        "logs": Table("logs", log_columns, log_types),
        "api_requests": Table("api_requests", request_columns, request_types),
        "signal_ticks": Table("signal_ticks", ("time", "instrument", "price"), (time_zone, text, number), unique=True),
    }
    if is_v2:
        values = ("spot", "strike", "iv", "price", "delta", "gamma", "theta", "vega", "rho")
        tables["signal_greeks"] = Table("signal_greeks", ("time", "instrument", *values), (time_zone, text, *(number,) * len(values)))
        tables["signal_moneyness_greeks"] = Table(
            "signal_moneyness_greeks",
            ("time", "underlying", "moneyness", "option_type", *values),
            (time_zone, text, text, text, *(number,) * len(values)),
        )
        tables["signal_subscriptions"] = Table(
            "signal_subscriptions",
            ("session", "instrument", "pod", "subscribed_at", "ended_at"),
            ("uuid", text, text, time_zone, time_zone),
        )
    return tables


class Storage:
    """The connection pool, the write queue and the queries."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._pool: asyncpg.Pool | None = None
        self._tables = _tables(settings.is_v2)
        self._queues: dict[str, deque[tuple[object, ...]]] = {name: deque() for name in self._tables}
        self._health: asyncio.Future[str] | None = None
        self.underlyings: dict[tuple[str, str], Underlying] = {}
        self.listed: list[str] = []

    async def connect_forever(self) -> None:
        """Open the pool, trying until the database lets us in; then keep the instruments fresh."""
        while self._pool is None:
            try:
                self._pool = await asyncpg.create_pool(
                    **self._settings.database,
                    min_size=1,
                    max_size=self._settings.db_pool_max,
                    timeout=_CONNECT_TIMEOUT,
                    command_timeout=_QUERY_TIMEOUT,
                    # A pooled session must not go stale behind a database that was replaced by a reset.
                    max_inactive_connection_lifetime=60.0,
                    server_settings={"application_name": f"signal-service-{self._settings.version}"},
                )
            except DATABASE_ERRORS as error:
                self._failed("connect", error)
                await asyncio.sleep(_RECONNECT_SECONDS)
        while True:
            try:
                await self._load_instruments()
            except DatabaseUnavailable:
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                await asyncio.sleep(_INSTRUMENT_REFRESH_SECONDS)

    async def close(self) -> None:
        """Write what is queued, within two seconds, and close the pool."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._flush(), 2.0)
            await asyncio.wait_for(self._pool.close(), 1.0)
        except (DatabaseUnavailable, *DATABASE_ERRORS):
            self._pool.terminate()

    def _failed(self, what: str, error: BaseException) -> None:
        self._metrics.db_errors.inc()
        log.error("database failed", extra={"error_type": type(error).__name__, "operation": what})

    @asynccontextmanager
    async def _connection(self, query: str, timeout: float) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection, time the query and turn every failure into DatabaseUnavailable."""
        if self._pool is None:
            raise DatabaseUnavailable("no connection to the database yet")
        started = time.perf_counter()
        try:
            async with self._pool.acquire(timeout=timeout) as connection:
                yield connection
        except DATABASE_ERRORS as error:
            self._failed(query, error)
            raise DatabaseUnavailable(f"{query}: {type(error).__name__}") from error
        self._metrics.queries[query].observe(time.perf_counter() - started)

    # -- reading ---------------------------------------------------------------------------------

    async def health(self) -> str:
        """Return "ok", or what is wrong. Simultaneous callers share one query."""
        if self._health is None:
            self._health = asyncio.ensure_future(self._check())
            self._health.add_done_callback(lambda _done: setattr(self, "_health", None))
        return await asyncio.shield(self._health)

    async def _check(self) -> str:
        # v2 without its tables would answer some requests and fail others: it is not ready then.
        needed = list(self._tables)
        try:
            async with self._connection("health", _HEALTH_TIMEOUT) as connection:
                missing = await connection.fetchval(
                    "SELECT string_agg(name, ', ' ORDER BY name) FROM unnest($1::text[]) AS wanted(name) WHERE to_regclass('public.' || name) IS NULL",
                    needed,
                    timeout=_HEALTH_TIMEOUT,
                )
        except DatabaseUnavailable:
            return "down"
        if missing:
            return f"tables missing: {missing}"
        return "ok" if self.underlyings else "instruments not loaded yet"

    async def _load_instruments(self) -> None:
        async with self._connection("instruments", _QUERY_TIMEOUT) as connection:
            rows = await connection.fetch(
                "SELECT instrument, exchange, underlying, kind, base_price, volatility, skew, curvature, rate, dividend,"
                " strike_step FROM instruments ORDER BY instrument"
            )
        self.underlyings = {
            (row["exchange"], row["underlying"]): Underlying(
                row["exchange"],
                row["underlying"],
                *(row[name] for name in ("base_price", "volatility", "skew", "curvature", "rate", "dividend")),
                row["strike_step"],
            )
            for row in rows
            if row["kind"] == "INDEX"
        }
        self.listed = [row["instrument"] for row in rows if row["kind"] == "OPTION"]

    async def tick_history(self, instrument: str, start: datetime, end: datetime, step: timedelta, limit: int) -> list[tuple[datetime, float]]:
        """Return (bucket start, last price in it) of an index over [start, end), oldest first."""
        async with self._connection("history", _QUERY_TIMEOUT) as connection:
            rows = await connection.fetch(
                "SELECT time_bucket($4::interval, time) AS bucket, last(price, time) AS price FROM signal_ticks"
                " WHERE instrument = $1 AND time >= $2 AND time < $3 GROUP BY bucket ORDER BY bucket LIMIT $5",
                instrument,
                start,
                end,
                step,
                limit,
            )
        return [(row["bucket"], row["price"]) for row in rows]

    async def greeks_history(self, instrument: str, start: datetime, end: datetime, step: timedelta, limit: int) -> list[asyncpg.Record]:
        """Return the last stored Greeks of each bucket over [start, end), oldest first."""
        async with self._connection("history", _QUERY_TIMEOUT) as connection:
            return await connection.fetch(
                "SELECT time_bucket($4::interval, time) AS bucket, last(spot, time) AS spot, last(iv, time) AS iv,"
                " last(price, time) AS price, last(delta, time) AS delta, last(gamma, time) AS gamma,"
                " last(theta, time) AS theta, last(vega, time) AS vega, last(rho, time) AS rho FROM signal_greeks"
                " WHERE instrument = $1 AND time >= $2 AND time < $3 GROUP BY bucket ORDER BY bucket LIMIT $5",
                instrument,
                start,
                end,
                step,
                limit,
            )

    # -- writing ---------------------------------------------------------------------------------

    def queue(self, table: str, row: tuple[object, ...]) -> None:
        """Queue one row; never blocks. When the queue is full the oldest row is given up and counted."""
        rows = self._queues[table]
        if len(rows) >= _QUEUE_ROWS:
            rows.popleft()
            self._metrics.rows_dropped.inc()
        rows.append(row)

    async def write_forever(self) -> None:
        """Write the queues once a second; rows of a failed batch go back to the front of their queue."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self._flush()
            except DatabaseUnavailable:
                continue

    async def _flush(self) -> None:
        for name, rows in self._queues.items():
            if not rows:
                continue
            batch = [rows.popleft() for _row in range(len(rows))]
            try:
                async with self._connection("write", _QUERY_TIMEOUT) as connection:
                    await connection.execute(self._tables[name].insert(), *_columns(batch))
            except BaseException:
                # Also on cancellation: nothing is known to be written. Newer rows than the queue holds win.
                space = _QUEUE_ROWS - len(rows)
                kept = batch[max(0, len(batch) - space) :]
                self._metrics.rows_dropped.inc(len(batch) - len(kept))
                rows.extendleft(reversed(kept))
                raise


def _columns(batch: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*batch, strict=True)]
