# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Black-Scholes-Merton prices, Greeks, implied volatility and strikes by delta. Standard library only.

Conventions: European options on an index with continuous dividend yield. Spot and strike are in price
units, time is in years, rates and volatility are decimals per year (0.2 = 20 %). ``is_call`` picks the
option type. Theta is per year, vega per 1.00 of volatility and rho per 1.00 of rate: the partial
derivatives themselves, without rescaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

_SQRT_2 = math.sqrt(2.0)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_INVERSE_NORMAL = NormalDist().inv_cdf
_MIN_VOLATILITY = 1e-6
_MAX_VOLATILITY = 10.0


class PricingError(ValueError):
    """The input has no price, no implied volatility or no strike; the message says why."""


@dataclass(frozen=True, slots=True)
class Greeks:
    """Price of one option and its partial derivatives (units: see the module)."""

    price: float
    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float


def normal_cdf(x: float) -> float:
    """Return P(X <= x) of the standard normal; erfc keeps the far tail exact where 1 - erf would be 0."""
    return 0.5 * math.erfc(-x / _SQRT_2)


def normal_pdf(x: float) -> float:
    """Return the density of the standard normal at x."""
    return _INV_SQRT_2PI * math.exp(-0.5 * x * x)


def _check(spot: float, strike: float, years: float, volatility: float, rate: float, dividend: float) -> None:
    for name, value in (("spot", spot), ("strike", strike), ("time to expiry", years), ("volatility", volatility)):
        if not (math.isfinite(value) and value > 0.0):
            raise PricingError(f"{name} is {value!r}, expected a finite number above 0")
    for name, value in (("rate", rate), ("dividend yield", dividend)):
        if not math.isfinite(value):
            raise PricingError(f"{name} is {value!r}, expected a finite number")


def greeks(is_call: bool, spot: float, strike: float, years: float, volatility: float, rate: float, dividend: float = 0.0) -> Greeks:
    """Return price and Greeks in closed form; raises PricingError for input outside the model's domain."""
    _check(spot, strike, years, volatility, rate, dividend)
    root = math.sqrt(years)
    deviation = volatility * root
    d1 = (math.log(spot / strike) + (rate - dividend + 0.5 * volatility * volatility) * years) / deviation
    d2 = d1 - deviation
    carry = math.exp(-dividend * years)
    discount = math.exp(-rate * years)
    density = normal_pdf(d1)
    sign = 1.0 if is_call else -1.0
    in_d1 = normal_cdf(sign * d1)
    in_d2 = normal_cdf(sign * d2)
    spot_leg = spot * carry * in_d1
    strike_leg = strike * discount * in_d2
    return Greeks(
        price=max(0.0, sign * (spot_leg - strike_leg)),
        delta=sign * carry * in_d1,
        gamma=carry * density / (spot * deviation),
        theta=-spot * carry * density * volatility / (2.0 * root) - sign * (rate * strike_leg - dividend * spot_leg),
        vega=spot * carry * density * root,
        rho=sign * years * strike_leg,
    )


def price(is_call: bool, spot: float, strike: float, years: float, volatility: float, rate: float, dividend: float = 0.0) -> float:
    """Return the option's price."""
    return greeks(is_call, spot, strike, years, volatility, rate, dividend).price


def implied_volatility(is_call: bool, market_price: float, spot: float, strike: float, years: float, rate: float, dividend: float = 0.0) -> float:
    """Return the volatility at which the model gives ``market_price``.

    Newton's method inside a shrinking bracket, so that it converges also where vega vanishes.
    Raises PricingError when the price lies outside the no-arbitrage bounds.
    """
    _check(spot, strike, years, 1.0, rate, dividend)
    forward_leg = spot * math.exp(-dividend * years)
    strike_leg = strike * math.exp(-rate * years)
    floor = max(0.0, forward_leg - strike_leg if is_call else strike_leg - forward_leg)
    ceiling = forward_leg if is_call else strike_leg
    if not (math.isfinite(market_price) and floor < market_price < ceiling):
        raise PricingError(f"price {market_price!r} has no implied volatility, expected above {floor:.6g} and below {ceiling:.6g}")
    low, high = _MIN_VOLATILITY, _MAX_VOLATILITY
    if price(is_call, spot, strike, years, high, rate, dividend) < market_price:
        raise PricingError(f"price {market_price!r} needs a volatility above {high:g}")
    # Manaster and Koehler's start: where the price is steepest in volatility.
    guess = math.sqrt(2.0 * abs(math.log(forward_leg / strike_leg)) / years)
    guess = min(max(guess, 0.05), 2.0)
    tolerance = 1e-12 * spot
    for _attempt in range(200):
        at = greeks(is_call, spot, strike, years, guess, rate, dividend)
        error = at.price - market_price
        if abs(error) <= tolerance or high - low <= 1e-13:
            break
        if error > 0.0:
            high = guess
        else:
            low = guess
        step = guess - error / at.vega if at.vega > 0.0 else math.inf
        guess = step if low < step < high else 0.5 * (low + high)
    return guess


def strike_for_delta(
    is_call: bool,
    delta_magnitude: float,
    spot: float,
    years: float,
    volatility: float,
    rate: float,
    dividend: float = 0.0,
) -> float:
    """Return the strike whose option has |delta| = ``delta_magnitude`` at one flat volatility (closed form)."""
    _check(spot, 1.0, years, volatility, rate, dividend)
    carry = math.exp(-dividend * years)
    if not 0.0 < delta_magnitude < carry:
        raise PricingError(f"|delta| is {delta_magnitude!r}, expected above 0 and below {carry:.6g}")
    d1 = _INVERSE_NORMAL(delta_magnitude / carry)
    if not is_call:
        d1 = -d1
    deviation = volatility * math.sqrt(years)
    return spot * math.exp((rate - dividend + 0.5 * volatility * volatility) * years - d1 * deviation)


def strike_for_delta_on_smile(
    is_call: bool,
    delta_magnitude: float,
    spot: float,
    years: float,
    volatility_at: Callable[[float], float],
    rate: float,
    dividend: float = 0.0,
) -> float:
    """Return the strike with |delta| = ``delta_magnitude`` where volatility depends on the strike.

    ``volatility_at(strike)`` must be positive. Bisection on the logarithm of the strike, bracketed around the
    closed form at the money; raises PricingError when the smile leaves no such strike within a factor of 20.
    """
    start = strike_for_delta(is_call, delta_magnitude, spot, years, volatility_at(spot), rate, dividend)

    def excess(log_strike: float) -> float:
        strike = math.exp(log_strike)
        value = greeks(is_call, spot, strike, years, volatility_at(strike), rate, dividend).delta
        # Falls as the strike rises, for calls and puts alike: |delta| of a put grows with it.
        return value - (delta_magnitude if is_call else -delta_magnitude)

    centre = math.log(start)
    width = 0.01
    while excess(centre - width) < 0.0 or excess(centre + width) > 0.0:
        width *= 2.0
        if width > math.log(20.0):
            raise PricingError(f"no strike has |delta| {delta_magnitude:g} on this volatility smile")
    low, high = centre - width, centre + width
    for _attempt in range(100):
        middle = 0.5 * (low + high)
        if excess(middle) > 0.0:
            low = middle
        else:
            high = middle
        if high - low < 1e-13:
            break
    return math.exp(0.5 * (low + high))
