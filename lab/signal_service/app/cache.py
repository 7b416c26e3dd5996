# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Redis cache. It may fail at any time: the service then computes every answer and says so in /health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from .metrics import Metrics

_TIMEOUT = 0.25
_CONNECTIONS = 16
_POOL_WAIT = 2.0
_PROBE_SECONDS = 0.5

# OSError includes TimeoutError.
REDIS_ERRORS = (RedisError, OSError)

log = logging.getLogger("signal.cache")


class Cache:
    """Get-or-compute with a time to live.

    After a failure requests go past Redis at once, and one task asks it until it answers again: an outage must
    cost the requests in flight a timeout, not each later one.
    """

    def __init__(self, url: str, version: str, metrics: Metrics) -> None:
        # The version is part of every key: the two colours must never read each other's answers.
        self._prefix = f"signal:{version}:"
        self._metrics = metrics
        # A burst waits for a connection: to be refused one would turn every request of it into a computation.
        self._redis = aioredis.Redis(
            connection_pool=aioredis.BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=_POOL_WAIT,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
            )
        )
        self._in_flight: dict[str, asyncio.Future[bytes]] = {}
        self._probe: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Tell whether Redis answered the last time."""
        return self._probe is None

    async def close(self) -> None:
        """Close the connections."""
        if self._probe is not None:
            self._probe.cancel()
        await self._redis.aclose(close_connection_pool=True)

    async def check(self) -> bool:
        """Ask Redis now, unless it is known to be away."""
        if self.available:
            try:
                await self._redis.ping()
            except REDIS_ERRORS as error:
                self._failed(error)
        return self.available

    def _failed(self, error: Exception) -> None:
        self._metrics.redis_errors.inc()
        if self._probe is None:
            log.error("redis failed", extra={"error_type": type(error).__name__})
            self._probe = asyncio.create_task(self._probe_until_back())

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                await self._redis.ping()
            except REDIS_ERRORS:
                self._metrics.redis_errors.inc()
            else:
                log.info("redis answers again")
                self._probe = None
                return

    async def _read(self, key: str) -> bytes | None:
        if not self.available:
            return None
        try:
            return await self._redis.get(key)
        except REDIS_ERRORS as error:
            self._failed(error)
            return None

    async def _write(self, key: str, value: bytes, ttl: float) -> None:
        if not self.available:
            return
        try:
            await self._redis.set(key, value, px=max(1, int(ttl * 1000)))
        except REDIS_ERRORS as error:
            self._failed(error)

    async def get_or_compute(self, key: str, ttl: float, compute: Callable[[], Awaitable[bytes]]) -> tuple[bytes, bool]:
        """Return the answer for ``key`` and whether it came from the cache; ``ttl`` in seconds.

        Simultaneous misses of one key share one computation. Errors of ``compute`` pass through.
        """
        full = self._prefix + key
        found = await self._read(full)
        if found is not None:
            self._metrics.cache_hits.inc()
            return found, True
        self._metrics.cache_misses.inc()
        waiting = self._in_flight.get(full)
        if waiting is not None:
            return await asyncio.shield(waiting), False
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._in_flight[full] = future
        try:
            value = await compute()
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else RuntimeError("computation was cancelled"))
            # Read it here, or asyncio would complain when nobody else waited.
            future.exception()
            raise
        finally:
            del self._in_flight[full]
        future.set_result(value)
        await self._write(full, value, ttl)
        return value, False
