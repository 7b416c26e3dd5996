# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a value of an answer must be: rules, and where in a document a value is. Pure, private to this collection.

Answers are data; nothing in them is ever evaluated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

# Stands for a value that is not there, which is another thing than null.
MISSING = object()
SHOWN_CHARACTERS = 160


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _compiles(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return isinstance(pattern, str)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def same(expected: Any, seen: Any) -> bool:
    """Compare two JSON values strictly: true is not 1, a text is never a number; 1 and 1.0 are the same number."""
    if isinstance(expected, bool) or isinstance(seen, bool):
        return isinstance(expected, bool) and isinstance(seen, bool) and expected == seen
    if isinstance(expected, dict) and isinstance(seen, dict):
        return expected.keys() == seen.keys() and all(same(expected[key], seen[key]) for key in expected)
    if isinstance(expected, list) and isinstance(seen, list):
        return len(expected) == len(seen) and all(same(left, right) for left, right in zip(expected, seen))
    if isinstance(expected, (int, float)) and isinstance(seen, (int, float)):
        return expected == seen
    return type(expected) is type(seen) and expected == seen


def _length_at_least(limit: int, seen: Any) -> bool:
    return isinstance(seen, (str, list, dict)) and len(seen) >= limit


def _matches(pattern: str, seen: Any) -> bool:
    return isinstance(seen, str) and re.search(pattern, seen[:10_000]) is not None


# What each rule demands of its own argument, in words and as a test; and what it says about a value.
_RULES: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any, Any], bool]]] = {
    "above": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen > limit),
    "at_least": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen >= limit),
    "below": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen < limit),
    "at_most": ("a number", _is_number, lambda limit, seen: _is_number(seen) and seen <= limit),
    "equals": ("any value", lambda argument: True, same),
    "one_of": (
        "a list with at least one value",
        lambda argument: isinstance(argument, list) and bool(argument),
        lambda values, seen: any(same(value, seen) for value in values),
    ),
    "exists": (
        "a boolean",
        lambda argument: isinstance(argument, bool),
        lambda wanted, seen: (seen is not MISSING) is wanted,
    ),
    "type": (
        f"one of {', '.join(_TYPES)}",
        lambda argument: isinstance(argument, str) and argument in _TYPES,
        lambda name, seen: _TYPES[name](seen),
    ),
    "length_at_least": (
        "an integer of 0 or more",
        lambda argument: _TYPES["integer"](argument) and argument >= 0,
        _length_at_least,
    ),
    "matches": ("a regular expression", _compiles, _matches),
}


def rule_problems(rule: Any) -> list[str]:
    """Return why ``rule`` is no usable rule. A value that is no dictionary is one: it must be equal."""
    if not isinstance(rule, dict):
        return []
    if not rule:
        return ["an empty rule, expected at least one of " + ", ".join(_RULES)]
    problems = []
    for name, argument in rule.items():
        if name not in _RULES:
            problems.append(f"unknown rule '{one_line(name, 40)}', expected {', '.join(_RULES)} (a dictionary: use equals)")
        elif not _RULES[name][1](argument):
            problems.append(f"rule {name} has {shown(argument)}, expected {_RULES[name][0]}")
    return problems


def broken_rules(rule: Any, seen: Any) -> list[str]:
    """Return in words the rules that ``seen`` does not keep; ``MISSING`` stands for a value that is not there."""
    if not isinstance(rule, dict):
        rule = {"equals": rule}
    broken = []
    for name, argument in rule.items():
        absent = seen is MISSING and name != "exists"
        if absent or not _RULES[name][2](argument, seen):
            broken.append(_rule_text(name, argument))
    return broken


def _rule_text(name: str, argument: Any) -> str:
    if name == "exists":
        return "present" if argument else "absent"
    if name == "equals":
        return shown(argument)
    return f"{name.replace('_', ' ')} {shown(argument)}"


def lookup(document: Any, path: str) -> Any:
    r"""Return the value at a dotted path (``checks.database``, ``data.0.delta``), or ``MISSING``.

    Numbers count list elements from 0. A dot that belongs to a key is written ``\.``. An empty path, or ``$``, is the whole.
    """
    if path in ("", "$"):
        return document
    value = document
    for part in re.split(r"(?<!\\)\.", path):
        key = part.replace("\\.", ".")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


def subset(expected: Any, seen: Any, top: bool = True) -> bool:
    """Tell whether a received message holds all that ``expected`` names.

    Dictionaries may have more keys than expected, lists must be as long; inside a message a dictionary of rules
    (``{"above": 0}``) applies to the value. The message itself is never read as rules, so that its keys may be called ``type``.
    """
    if isinstance(expected, dict):
        if not top and is_rule(expected):
            return not broken_rules(expected, seen)
        return isinstance(seen, dict) and all(
            subset(value, seen.get(key, MISSING), top=False) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(seen, list)
            and len(expected) == len(seen)
            and all(subset(left, right, top=False) for left, right in zip(expected, seen))
        )
    return seen is not MISSING and same(expected, seen)


def is_rule(value: Any) -> bool:
    """Tell whether a dictionary inside an expected message is meant as rules."""
    return isinstance(value, dict) and bool(value) and not rule_problems(value)


def shown(value: Any) -> str:
    """Return a value for a message: as JSON, on one line, shortened."""
    if value is MISSING:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return one_line(text, SHOWN_CHARACTERS)


def read_json(text: str) -> Any:
    """Return the JSON document ``text``. Raises ValueError, also for what Python reads but JSON does not know, and RecursionError."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    # Python would read NaN and Infinity, which are no JSON and compare false with everything.
    raise ValueError(name)
