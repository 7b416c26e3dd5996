# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API answers: JSON bodies made of market, pricing, cache and history."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

from .cache import Cache
from .config import Settings
from .instruments import KeyFormatError, OptionKey, parse_moneyness, parse_option_key
from .market import Underlying, Valuation, value_moneyness, value_option
from .metrics import Metrics
from .pricing import PricingError
from .requests import RequestError
from .storage import DatabaseUnavailable, Storage

_POINT_LIMIT = 2000


def dumps(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def stamp(moment: datetime) -> str:
    """Return a UTC time as the API writes it."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


class Answers:
    """Builds and caches the answers; raises RequestError for what a caller did wrong or cannot have now."""

    def __init__(self, settings: Settings, storage: Storage, cache: Cache, metrics: Metrics) -> None:
        self._settings = settings
        self._storage = storage
        self._cache = cache
        self._metrics = metrics

    def _underlying(self, exchange: str | None, name: str) -> Underlying:
        known = self._storage.underlyings
        if not known:
            raise RequestError(503, "instruments are not loaded yet")
        for under in known.values():
            if under.name == name and exchange in (None, under.exchange):
                return under
        label = name if exchange is None else f"{exchange}@{name}"
        raise RequestError(404, f"no underlying {label[:60]!r}")

    def option(self, text: str) -> tuple[OptionKey, Underlying]:
        """Return the parsed key and the underlying it names."""
        try:
            key = parse_option_key(text)
        except KeyFormatError as error:
            raise RequestError(422, str(error)) from error
        return key, self._underlying(key.exchange, key.underlying)

    def _body(self, value: Valuation, at: datetime) -> dict[str, object]:
        return {
            "version": self._settings.version,
            "spot": value.spot,
            "strike": round(value.strike, 4),
            "expiry": stamp(value.expiry),
            "iv": value.volatility,
            "price": value.quote,
            "greeks": {name: number for name, number in asdict(value.greeks).items() if name != "price"},
            "time": stamp(at),
        }

    def _row(self, value: Valuation) -> tuple[float, ...]:
        greek = value.greeks
        return (
            value.spot,
            value.strike,
            value.volatility,
            value.quote,
            greek.delta,
            greek.gamma,
            greek.theta,
            greek.vega,
            greek.rho,
        )

    def tick(self, text: str, at: datetime) -> dict[str, object]:
        """Value one option for a subscription, past the cache: a stream must not repeat an old value."""
        key, under = self.option(text)
        started = time.perf_counter()
        value = value_option(under, key, at)
        self._metrics.computed("tick", started)
        return {"type": "greeks", "instrument": str(key), **self._body(value, at)}

    async def realtime(self, text: str) -> tuple[bytes, bool]:
        """Return the Greeks of one option now, and whether they came from the cache."""
        key, under = self.option(text)

        async def compute() -> bytes:
            at = datetime.now(timezone.utc)
            started = time.perf_counter()
            value = value_option(under, key, at)
            self._metrics.computed("greeks", started)
            if self._settings.is_v2:
                self._storage.queue("signal_greeks", (at, str(key), *self._row(value)))
            return dumps({"instrument": str(key), **self._body(value, at)})

        return await self._cache.get_or_compute(f"rt:{key}", self._settings.cache_ttl, compute)

    async def moneyness(self, underlying: str, name: str, option_type: str) -> tuple[bytes, bool]:
        """Return the Greeks of the option that has this moneyness now."""
        try:
            moneyness = parse_moneyness(name)
        except KeyFormatError as error:
            raise RequestError(422, str(error)) from error
        if option_type not in ("CALL", "PUT"):
            raise RequestError(422, "option_type is neither CALL nor PUT")
        under = self._underlying(None, underlying)

        async def compute() -> bytes:
            at = datetime.now(timezone.utc)
            started = time.perf_counter()
            try:
                value = value_moneyness(under, moneyness, option_type == "CALL", at)
            except PricingError as error:
                raise RequestError(422, str(error)) from error
            self._metrics.computed("moneyness", started)
            self._storage.queue("signal_moneyness_greeks", (at, under.name, moneyness.name, option_type, *self._row(value)))
            return dumps(
                {
                    "underlying": under.name,
                    "moneyness": moneyness.name,
                    "option_type": option_type,
                    "listed_strike": round(value.strike / under.strike_step) * under.strike_step,
                    **self._body(value, at),
                }
            )

        key = f"mn:{under.exchange}:{under.name}:{moneyness.name}:{option_type}"
        return await self._cache.get_or_compute(key, self._settings.cache_ttl, compute)

    async def historical(self, text: str, start: datetime, end: datetime, timeframe: timedelta) -> tuple[bytes, bool]:
        """Return one point per bucket of ``timeframe`` over [start, end) that has data.

        v2 takes stored Greeks where there are any; every other bucket is valued from the index's ticks.
        """
        key, under = self.option(text)
        if (end - start) / timeframe > _POINT_LIMIT:
            raise RequestError(422, f"the range has more than {_POINT_LIMIT} points, choose a longer timeframe")

        async def compute() -> bytes:
            points: dict[datetime, dict[str, object]] = {}
            try:
                ticks = await self._storage.tick_history(under.index_key(), start, end, timeframe, _POINT_LIMIT + 1)
                stored = []
                if self._settings.is_v2:
                    stored = await self._storage.greeks_history(str(key), start, end, timeframe, _POINT_LIMIT + 1)
            except DatabaseUnavailable as error:
                raise RequestError(503, "the database cannot answer now") from error
            for row in stored:
                points[row["bucket"]] = {
                    "time": stamp(row["bucket"]),
                    "source": "stored",
                    "spot": row["spot"],
                    "iv": row["iv"],
                    "price": row["price"],
                    "greeks": {name: row[name] for name in ("delta", "gamma", "theta", "vega", "rho")},
                }
            for bucket, spot in ticks:
                if bucket in points:
                    continue
                started = time.perf_counter()
                value = value_option(under, key, bucket, spot)
                self._metrics.computed("historical", started)
                body = self._body(value, bucket)
                points[bucket] = {
                    "time": stamp(bucket),
                    "source": "ticks",
                    "spot": value.spot,
                    "iv": value.volatility,
                    "price": value.quote,
                    "greeks": body["greeks"],
                }
            return dumps(
                {
                    "version": self._settings.version,
                    "instrument": str(key),
                    "from": stamp(start),
                    "to": stamp(end),
                    "timeframe_minutes": int(timeframe.total_seconds() // 60),
                    "count": len(points),
                    "points": [points[bucket] for bucket in sorted(points)],
                }
            )

        seconds = int(timeframe.total_seconds())
        cache_key = f"hi:{key}:{int(start.timestamp())}:{int(end.timestamp())}:{seconds}"
        return await self._cache.get_or_compute(cache_key, self._settings.history_cache_ttl, compute)
