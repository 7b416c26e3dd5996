# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The market that the demo prices against: a stand-in for the ticker service. Pure functions.

Spot follows a fixed sum of waves of the clock, so that every pod of every version sees the same price at the
same second and a comparison between versions compares code, not luck.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from .instruments import Moneyness, OptionKey, next_expiry, years_between
from .pricing import Greeks, greeks, implied_volatility, price, strike_for_delta_on_smile

_WAVES = ((86400.0, 0.006), (3600.0, 0.002), (300.0, 0.0007), (47.0, 0.0002))
_PRICE_TICK = 0.05


@dataclass(frozen=True, slots=True)
class Underlying:
    """Pricing parameters of one index, as the ``instruments`` table holds them.

    ``base_price`` in price units; ``volatility`` at the money, ``rate``, ``dividend`` per year as decimals;
    ``skew`` and ``curvature`` shape the smile over ln(strike / forward); ``strike_step`` in price units.
    """

    exchange: str
    name: str
    base_price: float
    volatility: float
    skew: float
    curvature: float
    rate: float
    dividend: float
    strike_step: float

    def index_key(self) -> str:
        """Return the instrument name under which the index's own ticks are stored."""
        return f"{self.exchange}@{self.name}@INDEX"

    def spot(self, epoch: float) -> float:
        """Return the index level at ``epoch`` (seconds since 1970), rounded to the price tick."""
        phase = zlib.crc32(self.name.encode()) % 6283 / 1000.0
        second = math.floor(epoch)
        move = sum(share * math.sin(2.0 * math.pi * second / period + phase) for period, share in _WAVES)
        return to_tick(self.base_price * (1.0 + move))

    def smile(self, spot: float, years: float) -> Callable[[float], float]:
        """Return volatility as a function of the strike, kept within 0.3 and 3 times the one at the money."""
        forward = spot * math.exp((self.rate - self.dividend) * years)
        floor, ceiling = 0.3 * self.volatility, 3.0 * self.volatility

        def volatility_at(strike: float) -> float:
            distance = math.log(strike / forward)
            value = self.volatility + self.skew * distance + self.curvature * distance * distance
            return min(max(value, floor), ceiling)

        return volatility_at


def to_tick(value: float) -> float:
    """Round to the exchange's price tick of 0.05."""
    return round(round(value / _PRICE_TICK) * _PRICE_TICK, 2)


@dataclass(frozen=True, slots=True)
class Valuation:
    """One option valued at one moment: what was quoted, the volatility that implies, and the Greeks at it."""

    spot: float
    strike: float
    expiry: datetime
    years: float
    quote: float
    volatility: float
    greeks: Greeks


def _value(under: Underlying, is_call: bool, strike: float, spot: float, at: datetime) -> Valuation:
    expiry = next_expiry(at)
    years = years_between(at, expiry)
    model_volatility = under.smile(spot, years)(strike)
    quote = to_tick(price(is_call, spot, strike, years, model_volatility, under.rate, under.dividend))
    try:
        volatility = implied_volatility(is_call, quote, spot, strike, years, under.rate, under.dividend)
    except ValueError:
        # A quote rounded to the intrinsic value, or to nothing, implies no volatility: use the surface's.
        volatility = model_volatility
    values = greeks(is_call, spot, strike, years, volatility, under.rate, under.dividend)
    return Valuation(spot, strike, expiry, years, quote, volatility, values)


def value_option(under: Underlying, key: OptionKey, at: datetime, spot: float | None = None) -> Valuation:
    """Value an option at ``at`` (aware), at the given spot or at the market's own of that second."""
    level = under.spot(at.timestamp()) if spot is None else spot
    return _value(under, key.is_call, key.strike, level, at)


def value_moneyness(under: Underlying, moneyness: Moneyness, is_call: bool, at: datetime) -> Valuation:
    """Value the option that the moneyness name stands for; its strike is exact, not a listed one."""
    spot = under.spot(at.timestamp())
    if moneyness.delta is None:
        return _value(under, is_call, spot, spot, at)
    years = years_between(at, next_expiry(at))
    strike = strike_for_delta_on_smile(is_call, moneyness.delta, spot, years, under.smile(spot, years), under.rate, under.dividend)
    return _value(under, is_call, strike, spot, at)
