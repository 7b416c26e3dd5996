# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a service's answer keeps a contract: version in a range, fields with types, values. Pure, private to this collection."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require

try:
    import packaging.specifiers
    import packaging.version
except ImportError:
    packaging = None  # type: ignore[assignment]

TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
Find = Callable[[str], Any]


def range_problem(text: str) -> str:
    """Why ``text`` is no range of versions, or an empty text."""
    require("packaging", packaging)
    try:
        if not packaging.specifiers.SpecifierSet(text):
            return "it is empty, which every version would keep"
    except packaging.specifiers.InvalidSpecifier:
        return "it is none, expected such as '>=2.1,<3'"
    return ""


def version_breach(seen: Any, allowed: str) -> str:
    """What is wrong with a version, or an empty text. ``1.4.0-rc.1`` comes before ``1.4.0``, and a leading ``v`` does not count."""
    require("packaging", packaging)
    if not isinstance(seen, str):
        return f"version {shown(seen)}, expected a text such as 2.1.0"
    try:
        version = packaging.version.Version(seen)
    except packaging.version.InvalidVersion:
        return f"version {shown(seen)} cannot be compared, expected such as 2.1.0"
    if not packaging.specifiers.SpecifierSet(allowed).contains(version, prereleases=True):
        return f"version {one_line(seen, 40)}, expected {allowed}"
    return ""


def shown(value: Any) -> str:
    """A foreign value as a short text."""
    return "missing" if value is None else one_line(json.dumps(value), 60)


def field_breach(path: str, wanted: str, seen: Any) -> str:
    """What is wrong with the type at ``path``, or an empty text. With a list of several values, all must be of the type."""
    many = "[*]" in path or "[]" in path
    values = seen if many and isinstance(seen, list) else [seen]
    if many and not values:
        return f"{path} is empty, expected at least one {wanted}"
    for value in values:
        if not TYPES[wanted](value):
            return f"{path} is {shown(value)}, expected {wanted}"
    return ""


def _gap(path: str, seen: Any, find: Find) -> str:
    """A projection leaves out the entries in which a field is missing: they are those that matter."""
    whole, star, _rest = path.rpartition("[*]")
    entries = find(whole) if star and whole and "[*]" not in whole else None
    if isinstance(entries, list) and isinstance(seen, list) and len(seen) < len(entries):
        return f"{path} is missing in {len(entries) - len(seen)} of {len(entries)}, expected it in all"
    return ""


def value_breach(path: str, limits: Mapping[str, Any], seen: Any) -> str:
    """What is wrong with a value, or an empty text."""
    if limits.get("equals") is not None and not _same(seen, limits["equals"]):
        return f"{path} is {shown(seen)}, expected {one_line(limits['equals'], 60)}"
    for name, fits in (("at_least", lambda value, limit: value >= limit), ("at_most", lambda value, limit: value <= limit)):
        limit = limits.get(name)
        if limit is None:
            continue
        if not TYPES["number"](seen):
            return f"{path} is {shown(seen)}, expected a number"
        if not fits(seen, limit):
            return f"{path} is {seen:g}, expected {name.replace('_', ' ')} {limit:g}"
    return ""


def _same(seen: Any, wanted: Any) -> bool:
    """Options are texts once they were templated: compared is what they mean."""
    if isinstance(seen, bool) or isinstance(wanted, bool):
        return str(seen).lower() == str(wanted).lower()
    if isinstance(seen, (int, float)):
        try:
            return float(wanted) == float(seen)
        except (TypeError, ValueError):
            return False
    return bool(seen == wanted) or (isinstance(seen, str) and seen == str(wanted))


def breaches(request: Mapping[str, Any], find: Find) -> tuple[list[str], list[str]]:
    """What of a request's demands an answer breaks, and the figures that it keeps, in words. ``find`` gives the value at a path."""
    found: list[str] = []
    kept: list[str] = []

    def judge(breach: str, words: str = "") -> None:
        if breach:
            found.append(breach)
        elif words:
            kept.append(words)

    version = request.get("version")
    if version:
        seen = find(version["json_path"])
        judge(version_breach(seen, version["range"]), f"version {seen}")
    for field in request.get("fields") or []:
        seen = find(field["json_path"])
        judge(field_breach(field["json_path"], field["type"], seen) or _gap(field["json_path"], seen, find))
    for value in request.get("values") or []:
        seen = find(value["json_path"])
        judge(value_breach(value["json_path"], value, seen), f"{value['json_path']} {shown(seen)}")
    fields = len(request.get("fields") or [])
    if fields and not found:
        kept.append(f"{fields} field{'' if fields == 1 else 's'}")
    return found, kept
