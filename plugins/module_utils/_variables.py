# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure checks of a release's variables: names, types, ranges. Private to this collection."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

# Nearer than this (difflib's ratio) to a known name counts as a misspelling of it.
NEAR = 0.88
_ROLE_SPEC_KEYS = ("type", "elements", "required", "choices", "no_log", "default", "options", "aliases")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one variable: the rule it breaks and what was seen."""

    variable: str
    rule: str
    seen: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.rule}; seen: {self.seen}"


def misnamed(names: list[str], known: set[str], prefixes: tuple[str, ...]) -> list[Problem]:
    """Return the variables that look like ours but are not: a role's prefix with an unknown rest, or a near misspelling."""
    problems = []
    for name in sorted(set(names) - known):
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=NEAR)
        if not name.startswith(prefixes) and not near:
            continue
        close = near or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
        hint = f"the nearest known name is '{close[0]}'" if close else "no known name is near"
        problems.append(Problem(name, f"unknown variable, {hint}", "set in the inventory or on the command line"))
    return problems


def check_types(role: str, options: dict[str, dict[str, Any]], values: dict[str, Any]) -> tuple[list[Problem], dict[str, Any]]:
    """Validate ``values`` against a role's argument spec, option by option, so that every error is found.

    Returns the problems and the values as their declared types.
    """
    problems: list[Problem] = []
    typed: dict[str, Any] = {}
    for name, option in options.items():
        spec = {name: _for_validator(option)}
        given = {name: values[name]} if name in values else {}
        checked = ArgumentSpecValidator(spec).validate(given)
        for message in checked.error_messages:
            if name not in values:
                problems.append(Problem(name, f"required by role {role}", "not set"))
            else:
                problems.append(Problem(name, _masked(message, values[name], option), _seen(values[name], option)))
        if not checked.error_messages and checked.validated_parameters.get(name) is not None:
            typed[name] = checked.validated_parameters[name]
    return problems, typed


def _for_validator(option: dict[str, Any]) -> dict[str, Any]:
    spec = {key: option[key] for key in _ROLE_SPEC_KEYS if key in option}
    if spec.get("required"):
        spec.pop("default", None)
    if "options" in spec:
        spec["options"] = {name: _for_validator(sub) for name, sub in spec["options"].items()}
    return spec


def _masked(message: str, value: Any, option: dict[str, Any]) -> str:
    text = one_line(message)
    return text.replace(str(value), "********") if option.get("no_log") and value else text


def _seen(value: Any, option: dict[str, Any] | None = None) -> str:
    if option and option.get("no_log"):
        return f"a secret of {len(str(value))} characters"
    return f"{one_line(repr(value), 120)} ({type(value).__name__})"


def check_rules(rules: dict[str, dict[str, Any]], values: dict[str, Any], specs: dict[str, dict[str, Any]]) -> list[Problem]:
    """Apply range and cross-field rules to typed ``values``. Variables that are not set are not judged here."""
    problems: list[Problem] = []
    for name, rule in rules.items():
        if name not in values:
            continue
        because = f" ({rule['because']})" if rule.get("because") else ""
        for words in _broken(rule, values[name], values):
            problems.append(Problem(name, words + because, _seen(values[name], specs.get(name))))
    return problems


def check_text(rules: dict[str, dict[str, Any]], values: dict[str, Any]) -> list[Problem]:
    """Find ``text`` variables that have come as something else, in ``values`` before they are converted.

    Text that looks like a number may have been another one: a survey's "0123" reaches a job as 83, and "1.10" as 1.1.
    """
    return [
        Problem(
            name,
            "expected text; AWX takes the quotes off launch variables, so a version must not look like a number or a boolean: write v2 or r2, "
            "and quote it in an inventory",
            _seen(values[name]),
        )
        for name, rule in rules.items()
        if rule.get("text") and name in values and not isinstance(values[name], str)
    ]


def _broken(rule: dict[str, Any], value: Any, values: dict[str, Any]) -> list[str]:
    broken: list[str] = []
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(item, float) and not math.isfinite(item) for item in numbers):
        return ["expected a finite number"]
    if "minimum" in rule and any(item < rule["minimum"] for item in numbers):
        broken.append(f"expected at least {rule['minimum']}")
    if "maximum" in rule and any(item > rule["maximum"] for item in numbers):
        broken.append(f"expected at most {rule['maximum']}")
    if "above" in rule and any(item <= rule["above"] for item in numbers):
        broken.append(f"expected more than {rule['above']}")
    if rule.get("not_empty") and not value:
        broken.append("expected at least one entry")
    if "together" in rule and any(value.values()) and not all(value.get(key) for key in rule["together"]):
        broken.append(f"expected {' and '.join(rule['together'])}, or none of it")
    if rule.get("strictly_increasing") and any(b <= a for a, b in zip(numbers, numbers[1:])):
        broken.append("expected strictly increasing numbers")
    if "ends_with" in rule and (not numbers or numbers[-1] != rule["ends_with"]):
        broken.append(f"expected the last entry to be {rule['ends_with']}")
    if "pattern" in rule and not all(re.fullmatch(rule["pattern"], str(item)) for item in numbers):
        broken.append(f"expected text like {rule['pattern']}")
    if "url" in rule:
        broken += [words for item in numbers for words in _broken_url(str(item), rule["url"])]
    if "differs_from" in rule and value == values.get(rule["differs_from"]):
        broken.append(f"expected another value than {rule['differs_from']} has")
    if "one_of_variable" in rule and value not in (values.get(rule["one_of_variable"]) or [value]):
        broken.append(f"expected one of {rule['one_of_variable']} = {', '.join(map(str, values[rule['one_of_variable']]))}")
    if "contacts" in rule and values.get("rollout_environment") in rule["contacts"]["environments"]:
        broken += _broken_contacts(rule["contacts"]["roles"], numbers)
    if "at_least_variable" in rule:
        other = rule["at_least_variable"]
        bound = values.get(other["name"])
        if bound is not None and value < bound * other.get("times", 1):
            broken.append(f"expected at least {other.get('times', 1)} x {other['name']} = {bound * other.get('times', 1)}")
    return broken


def _broken_contacts(roles: list[str], contacts: list[Any]) -> list[str]:
    """Each role needs somebody who can be reached: a placeholder is nobody."""
    entries = [{key: str(value).strip() for key, value in contact.items()} for contact in contacts if isinstance(contact, dict)]
    known = {entry.get("role", ""): entry for entry in entries}
    broken = [f"expected a contact with role {role}" for role in roles if role not in known]
    for role, entry in known.items():
        empty = [key for key in ("name", "contact") if not entry.get(key) or entry[key].lower() in ("tbd", "todo", "email/phone", "n/a", "?")]
        if empty:
            broken.append(f"expected {' and '.join(empty)} of {role or 'a contact without role'} instead of a placeholder")
    return broken


def _broken_url(text: str, schemes: list[str]) -> list[str]:
    if any(ord(ch) < 33 for ch in text):
        return ["expected a URL without spaces or control characters"]
    try:
        url = urlsplit(text)
        port_ok = url.port is None or 0 < url.port < 65536
    except ValueError:
        port_ok, url = False, urlsplit("")
    if not port_ok or url.scheme not in schemes or not url.hostname:
        return [f"expected a URL with scheme {' or '.join(schemes)} and a host"]
    if url.username or url.password:
        return ["expected a URL without user and password (they have options of their own)"]
    return []
