# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instrument keys, moneyness names and expiries."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from app.instruments import KeyFormatError, next_expiry, parse_moneyness, parse_option_key, years_between
from hypothesis import given
from hypothesis import strategies as st


def test_the_key_of_the_checklist():
    key = parse_option_key("NSE@NIFTY@OPTION@21500@CALL")
    assert (key.exchange, key.underlying, key.strike, key.is_call) == ("NSE", "NIFTY", 21500.0, True)
    assert str(key) == "NSE@NIFTY@OPTION@21500@CALL"


@given(
    st.from_regex(r"[A-Z][A-Z0-9&-]{0,19}", fullmatch=True),
    st.integers(1, 999_999),
    st.sampled_from(["CALL", "PUT"]),
)
def test_keys_survive_a_round_trip(name, strike, side):
    text = f"NSE@{name}@OPTION@{strike}@{side}"
    assert str(parse_option_key(text)) == text


def test_equal_strikes_have_one_spelling():
    assert str(parse_option_key("NSE@NIFTY@OPTION@21500.00@PUT")) == "NSE@NIFTY@OPTION@21500@PUT"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "1 parts"),
        ("NSE@NIFTY@OPTION@21500", "4 parts"),
        ("NSE@NIFTY@OPTION@21500@CALL@X", "6 parts"),
        ("NSE@NIFTY@FUTURE@21500@CALL", "kind"),
        ("NSE@nifty@OPTION@21500@CALL", "upper-case"),
        ("@NIFTY@OPTION@21500@CALL", "upper-case"),
        ("NSE@NIFTY@OPTION@0@CALL", "strike"),
        ("NSE@NIFTY@OPTION@-5@CALL", "strike"),
        ("NSE@NIFTY@OPTION@1e5@CALL", "strike"),
        ("NSE@NIFTY@OPTION@nan@CALL", "strike"),
        ("NSE@NIFTY@OPTION@٣@CALL", "strike"),
        ("NSE@NIFTY@OPTION@21500@call", "neither CALL nor PUT"),
    ],
)
def test_malformed_keys_are_refused_with_the_rule(text, rule):
    with pytest.raises(KeyFormatError, match=rule):
        parse_option_key(text)


@pytest.mark.parametrize(
    ("text", "name", "delta"),
    [
        ("ATM", "ATM", None),
        ("atm", "ATM", None),
        ("OTM5delta", "OTM5delta", 0.05),
        ("OTM25delta", "OTM25delta", 0.25),
        ("ITM25delta", "ITM25delta", 0.75),
        ("otm2.5DELTA", "OTM2.5delta", 0.025),
        ("OTM05delta", "OTM5delta", 0.05),
    ],
)
def test_moneyness_names(text, name, delta):
    moneyness = parse_moneyness(text)
    assert moneyness.name == name
    assert moneyness.delta == (None if delta is None else pytest.approx(delta))


@pytest.mark.parametrize("text", ["", "OTM", "OTMdelta", "OTM0delta", "OTM50delta", "ITM99delta", "OTM-5delta", "ATM5delta", "OTM5deltas"])
def test_malformed_moneyness_is_refused(text):
    with pytest.raises(KeyFormatError, match="moneyness"):
        parse_moneyness(text)


@pytest.mark.parametrize(
    ("at", "expiry"),
    [
        ("2024-01-01T00:00:00+00:00", "2024-01-04T10:00:00+00:00"),
        ("2024-01-03T10:00:00+00:00", "2024-01-04T10:00:00+00:00"),
        ("2024-01-03T10:00:01+00:00", "2024-01-11T10:00:00+00:00"),
        ("2024-01-04T10:00:00+00:00", "2024-01-11T10:00:00+00:00"),
        # The same moment as 10:00 UTC on the third.
        ("2024-01-03T15:30:00+05:30", "2024-01-04T10:00:00+00:00"),
    ],
)
def test_expiries(at, expiry):
    assert next_expiry(datetime.fromisoformat(at)) == datetime.fromisoformat(expiry)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(timezone.utc)))
def test_an_expiry_is_a_thursday_one_to_eight_days_away(at):
    expiry = next_expiry(at)
    assert expiry.weekday() == 3
    assert timedelta(days=1) <= expiry - at < timedelta(days=8)
    assert 0.0 < years_between(at, expiry) < 0.022
