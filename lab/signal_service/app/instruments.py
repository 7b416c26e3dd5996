# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instrument keys, moneyness names and expiries. Pure functions, standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

_NAME = re.compile(r"[A-Z][A-Z0-9&-]{0,19}")
_STRIKE = re.compile(r"[0-9]{1,8}(?:\.[0-9]{1,4})?")
_MONEYNESS = re.compile(r"(?P<side>OTM|ITM)(?P<delta>[0-9]{1,2}(?:\.[0-9]{1,2})?)delta", re.IGNORECASE)

SECONDS_PER_YEAR = 365.0 * 86400.0
_THURSDAY = 3
_EXPIRY_HOUR_UTC = 10


class KeyFormatError(ValueError):
    """An instrument key or a moneyness name is malformed; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class OptionKey:
    """One option: ``NSE@NIFTY@OPTION@21500@CALL``. The strike is in price units."""

    exchange: str
    underlying: str
    strike: float
    is_call: bool

    def __str__(self) -> str:
        return f"{self.exchange}@{self.underlying}@OPTION@{self.strike:g}@{'CALL' if self.is_call else 'PUT'}"


def parse_option_key(text: str) -> OptionKey:
    """Parse ``EXCHANGE@UNDERLYING@OPTION@STRIKE@CALL|PUT``; raises KeyFormatError."""
    example = "expected EXCHANGE@UNDERLYING@OPTION@STRIKE@CALL or ...@PUT, like NSE@NIFTY@OPTION@21500@CALL"
    parts = text.split("@")
    if len(parts) != 5:
        raise KeyFormatError(f"instrument key has {len(parts)} parts, {example}")
    exchange, underlying, kind, strike, side = parts
    if not (_NAME.fullmatch(exchange) and _NAME.fullmatch(underlying)):
        raise KeyFormatError(f"exchange or underlying is not an upper-case name, {example}")
    if kind != "OPTION":
        raise KeyFormatError(f"kind is not OPTION, {example}")
    if not _STRIKE.fullmatch(strike) or float(strike) <= 0.0:
        raise KeyFormatError(f"strike is not a number above 0, {example}")
    if side not in ("CALL", "PUT"):
        raise KeyFormatError(f"option type is neither CALL nor PUT, {example}")
    return OptionKey(exchange, underlying, float(strike), side == "CALL")


@dataclass(frozen=True, slots=True)
class Moneyness:
    """How far an option is in or out of the money.

    ``delta`` is the target |delta| of the option as a decimal, or None for at the money (strike = spot).
    """

    name: str
    delta: float | None


def parse_moneyness(text: str) -> Moneyness:
    """Parse ``ATM``, ``OTM<d>delta`` or ``ITM<d>delta`` with 0 < d < 50; raises KeyFormatError.

    OTM25delta is the option with |delta| 0.25. ITM25delta is the one as far in the money, |delta| 0.75: its
    strike is that of the other type's 25-delta option.
    """
    if text.upper() == "ATM":
        return Moneyness("ATM", None)
    match = _MONEYNESS.fullmatch(text)
    if match is None:
        raise KeyFormatError("moneyness is not ATM, OTM<d>delta or ITM<d>delta, like OTM5delta")
    points = float(match["delta"])
    if not 0.0 < points < 50.0:
        raise KeyFormatError(f"moneyness delta is {points:g}, expected above 0 and below 50")
    side = match["side"].upper()
    return Moneyness(f"{side}{points:g}delta", points / 100.0 if side == "OTM" else 1.0 - points / 100.0)


def next_expiry(at: datetime) -> datetime:
    """Return the weekly expiry that an option without a date means at ``at`` (aware).

    It is the first Thursday, 10:00 UTC, that is at least a day away: on the last day gamma and theta
    diverge and would dominate every number shown.
    """
    earliest = at.astimezone(timezone.utc) + timedelta(days=1)
    expiry = earliest.replace(hour=_EXPIRY_HOUR_UTC, minute=0, second=0, microsecond=0)
    expiry += timedelta(days=(_THURSDAY - expiry.weekday()) % 7)
    return expiry if expiry >= earliest else expiry + timedelta(days=7)


def years_between(start: datetime, end: datetime) -> float:
    """Return the time from start to end in years of 365 days."""
    return (end - start).total_seconds() / SECONDS_PER_YEAR
