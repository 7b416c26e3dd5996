# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Black-Scholes against published values, against itself by finite differences, and against identities."""

from __future__ import annotations

import math

import pytest
from app.pricing import (
    PricingError,
    greeks,
    implied_volatility,
    normal_cdf,
    price,
    strike_for_delta,
    strike_for_delta_on_smile,
)
from hypothesis import given, settings
from hypothesis import strategies as st

OPTIONS = st.fixed_dictionaries(
    {
        "is_call": st.booleans(),
        "spot": st.floats(50.0, 50_000.0),
        "strike": st.just(1.0),
        "years": st.floats(0.005, 3.0),
        "volatility": st.floats(0.05, 0.8),
        "rate": st.floats(-0.02, 0.12),
        "dividend": st.floats(0.0, 0.06),
    }
)
# Strike over spot.
RATIOS = st.floats(0.7, 1.4)


def _option(base: dict, ratio: float) -> dict:
    return base | {"strike": base["spot"] * ratio}


@pytest.mark.parametrize(
    ("is_call", "spot", "strike", "years", "volatility", "rate", "dividend", "expected", "digits"),
    [
        # Hull, Options, Futures and Other Derivatives, example 15.6.
        (True, 42, 40, 0.5, 0.2, 0.10, 0.0, 4.76, 2),
        (False, 42, 40, 0.5, 0.2, 0.10, 0.0, 0.81, 2),
        # Hull, example 17.1: European call on the S&P 500 with a dividend yield.
        (True, 930, 900, 2 / 12, 0.2, 0.08, 0.03, 51.83, 2),
        # Haug, The Complete Guide to Option Pricing Formulas, section 1.1.1: generalised formula.
        (True, 60, 65, 0.25, 0.3, 0.08, 0.0, 2.1334, 4),
        (False, 100, 95, 0.5, 0.2, 0.10, 0.05, 2.4648, 4),
        (True, 100, 100, 1.0, 0.2, 0.05, 0.0, 10.450583572185565, 12),
        (False, 100, 100, 1.0, 0.2, 0.05, 0.0, 5.573526022256971, 12),
    ],
)
def test_published_prices(is_call, spot, strike, years, volatility, rate, dividend, expected, digits):
    assert round(price(is_call, spot, strike, years, volatility, rate, dividend), digits) == pytest.approx(expected, abs=1e-12)


def test_published_greeks():
    # Hull, examples 19.1, 19.2, 19.4, 19.6 and 19.7: one option throughout the chapter.
    values = greeks(True, 49, 50, 0.3846, 0.2, 0.05)
    assert values.delta == pytest.approx(0.522, abs=5e-4)
    assert values.theta == pytest.approx(-4.31, abs=5e-3)
    assert values.gamma == pytest.approx(0.066, abs=5e-4)
    assert values.vega == pytest.approx(12.1, abs=5e-2)
    assert values.rho == pytest.approx(8.91, abs=5e-3)


def test_normal_distribution_reaches_into_the_tail():
    assert normal_cdf(0.0) == 0.5
    assert normal_cdf(1.959963984540054) == pytest.approx(0.975, abs=1e-15)
    # 1 - erf would give 0 here.
    assert normal_cdf(-10.0) == pytest.approx(7.619853024160527e-24, rel=1e-12)


@given(OPTIONS, RATIOS)
def test_put_call_parity(base, ratio):
    option = _option(base, ratio) | {"is_call": True}
    call, put = price(**option), price(**option | {"is_call": False})
    forward = option["spot"] * math.exp(-option["dividend"] * option["years"])
    bond = option["strike"] * math.exp(-option["rate"] * option["years"])
    assert call - put == pytest.approx(forward - bond, abs=1e-9 * option["spot"])


@given(OPTIONS, RATIOS)
def test_price_lies_within_the_bounds_of_no_arbitrage(base, ratio):
    option = _option(base, ratio)
    forward = option["spot"] * math.exp(-option["dividend"] * option["years"])
    bond = option["strike"] * math.exp(-option["rate"] * option["years"])
    low, high = (max(0.0, forward - bond), forward) if option["is_call"] else (max(0.0, bond - forward), bond)
    slack = 1e-12 * option["spot"]
    assert low - slack <= price(**option) <= high + slack


@given(OPTIONS, RATIOS)
@settings(max_examples=300)
def test_greeks_are_the_derivatives_of_the_price(base, ratio):
    option = _option(base, ratio)
    values = greeks(**option)

    def slope(name: str, step: float, of: str = "price") -> float:
        up, down = option | {name: option[name] + step}, option | {name: option[name] - step}
        return (getattr(greeks(**up), of) - getattr(greeks(**down), of)) / (2.0 * step)

    spot, years = option["spot"], option["years"]
    step = 1e-4 * spot * min(1.0, option["volatility"] * math.sqrt(years) * 5.0)
    assert values.delta == pytest.approx(slope("spot", step), abs=2e-5)
    assert values.gamma * spot == pytest.approx(slope("spot", step, "delta") * spot, rel=1e-3, abs=1e-3)
    assert values.vega == pytest.approx(slope("volatility", 1e-5), rel=1e-4, abs=1e-6 * spot)
    assert values.rho == pytest.approx(slope("rate", 1e-6), rel=1e-4, abs=1e-6 * spot)
    # Theta is against the passing of time: minus the derivative by the time left.
    assert values.theta == pytest.approx(-slope("years", 1e-4 * years), rel=1e-4, abs=1e-5 * spot)


@given(OPTIONS, st.floats(0.9, 1.1))
def test_implied_volatility_inverts_the_price(base, ratio):
    option = _option(base, ratio)
    values = greeks(**option)
    arguments = {name: value for name, value in option.items() if name != "volatility"}
    forward = option["spot"] * math.exp(-option["dividend"] * option["years"])
    bond = option["strike"] * math.exp(-option["rate"] * option["years"])
    intrinsic = max(0.0, forward - bond if option["is_call"] else bond - forward)
    if values.price - intrinsic < 1e-6 * option["spot"]:
        # All of the price is intrinsic: it says nothing of volatility beyond rounding.
        return
    found = implied_volatility(market_price=values.price, **arguments)
    assert price(**arguments, volatility=found) == pytest.approx(values.price, abs=1e-10 * option["spot"])
    assert found == pytest.approx(option["volatility"], abs=1e-8)


@pytest.mark.parametrize("market_price", [0.0, -1.0, 100.0, 150.0, 4.0, math.nan, math.inf])
def test_implied_volatility_refuses_prices_outside_the_bounds(market_price):
    # A call with spot 100 and strike 95: worth at least 100 - 95 * exp(-0.05), at most 100.
    with pytest.raises(PricingError, match="no implied volatility"):
        implied_volatility(True, market_price, 100.0, 95.0, 1.0, 0.05)


@given(OPTIONS, st.floats(0.02, 0.9))
def test_strike_for_delta_gives_that_delta(base, share):
    target = share * math.exp(-base["dividend"] * base["years"])
    arguments = {name: base[name] for name in ("is_call", "spot", "years", "volatility", "rate", "dividend")}
    strike = strike_for_delta(delta_magnitude=target, **arguments)
    assert abs(greeks(**base | {"strike": strike}).delta) == pytest.approx(target, abs=1e-9)


@given(OPTIONS, st.floats(0.03, 0.85), st.floats(-0.15, 0.15), st.floats(0.0, 0.5))
def test_strike_for_delta_on_a_smile_gives_that_delta_there(base, share, skew, curvature):
    target = share * math.exp(-base["dividend"] * base["years"])

    def volatility_at(strike: float) -> float:
        distance = math.log(strike / base["spot"])
        return max(0.05, base["volatility"] + skew * distance + curvature * distance * distance)

    arguments = {name: base[name] for name in ("is_call", "spot", "years", "rate", "dividend")}
    try:
        strike = strike_for_delta_on_smile(delta_magnitude=target, volatility_at=volatility_at, **arguments)
    except PricingError as error:
        assert "no strike" in str(error)
        return
    found = greeks(**base | {"strike": strike, "volatility": volatility_at(strike)}).delta
    assert abs(found) == pytest.approx(target, abs=1e-6)


def test_strike_on_a_flat_smile_is_the_closed_form():
    flat = strike_for_delta(True, 0.25, 21500.0, 0.02, 0.13, 0.065, 0.012)
    assert strike_for_delta_on_smile(True, 0.25, 21500.0, 0.02, lambda _strike: 0.13, 0.065, 0.012) == pytest.approx(flat)


@pytest.mark.parametrize(
    "change",
    [{"spot": 0.0}, {"spot": -1.0}, {"strike": 0.0}, {"years": 0.0}, {"volatility": 0.0}, {"rate": math.nan}, {"spot": math.inf}],
)
def test_input_outside_the_model_is_refused_by_name(change):
    arguments = {"is_call": True, "spot": 100.0, "strike": 100.0, "years": 1.0, "volatility": 0.2, "rate": 0.05} | change
    name = {"years": "time to expiry"}.get(next(iter(change)), next(iter(change)))
    with pytest.raises(PricingError, match=name):
        greeks(**arguments)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.2, 1.5])
def test_impossible_delta_is_refused(delta):
    with pytest.raises(PricingError, match="delta"):
        strike_for_delta(True, delta, 100.0, 1.0, 0.2, 0.05)
