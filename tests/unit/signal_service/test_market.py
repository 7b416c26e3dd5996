# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's market: the same on every pod, and options valued consistently from quote to Greeks."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from app.instruments import parse_moneyness, parse_option_key
from app.market import Underlying, to_tick, value_moneyness, value_option
from app.pricing import price
from hypothesis import given
from hypothesis import strategies as st

NIFTY = Underlying("NSE", "NIFTY", 21500.0, 0.13, -0.25, 1.5, 0.065, 0.012, 50.0)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(timezone.utc))


@given(MOMENTS)
def test_spot_stays_near_the_base_on_the_price_grid_and_within_a_second(at):
    spot = NIFTY.spot(at.timestamp())
    assert abs(spot / 21500.0 - 1.0) < 0.01
    assert to_tick(spot) == spot
    assert NIFTY.spot(int(at.timestamp())) == spot


def test_spot_moves():
    assert len({NIFTY.spot(1_704_067_200 + second) for second in range(60)}) > 10


@given(MOMENTS, st.integers(-8, 8), st.booleans())
def test_greeks_belong_to_the_quote(at, steps, is_call):
    strike = 21500 + 50 * steps
    value = value_option(NIFTY, parse_option_key(f"NSE@NIFTY@OPTION@{strike}@{'CALL' if is_call else 'PUT'}"), at)
    again = price(is_call, value.spot, value.strike, value.years, value.volatility, NIFTY.rate, NIFTY.dividend)
    assert again == pytest.approx(value.greeks.price)
    # A deep option's quote may be all intrinsic value; everywhere else it is what the model says at the implied volatility.
    if 0.02 < abs(value.greeks.delta) < 0.98:
        assert value.greeks.price == pytest.approx(value.quote, abs=1e-6)
        assert 0.04 < value.volatility < 0.39


def test_a_given_spot_replaces_the_market():
    at = datetime(2024, 1, 2, 12, tzinfo=timezone.utc)
    key = parse_option_key("NSE@NIFTY@OPTION@21500@CALL")
    assert value_option(NIFTY, key, at, 22000.0).spot == 22000.0
    assert value_option(NIFTY, key, at, 22000.0).greeks.delta > value_option(NIFTY, key, at, 21000.0).greeks.delta


@given(MOMENTS, st.booleans())
def test_at_the_money_is_the_spot(at, is_call):
    value = value_moneyness(NIFTY, parse_moneyness("ATM"), is_call, at)
    assert value.strike == value.spot
    assert abs(value.greeks.delta) == pytest.approx(0.5, abs=0.05)


@given(MOMENTS, st.booleans(), st.sampled_from([5, 10, 25, 40]), st.sampled_from(["OTM", "ITM"]))
def test_moneyness_resolves_to_the_named_delta(at, is_call, points, side):
    value = value_moneyness(NIFTY, parse_moneyness(f"{side}{points}delta"), is_call, at)
    target = points / 100.0 if side == "OTM" else 1.0 - points / 100.0
    # The strike is solved on the smile; the quote's rounding to 0.05 moves the delta a little.
    assert abs(value.greeks.delta) == pytest.approx(target, abs=0.003)
    assert (value.strike > value.spot) == (is_call == (side == "OTM"))
