# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents of a release: they exist, their links lead somewhere, they name the version; the API is the documented one. Private to this collection."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

# Files that no text can be read from, with how each of them begins.
_BINARY = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".pdf": b"%PDF-", ".webp": b"RIFF"}
_MARKDOWN = (".md", ".markdown")
_CODE = re.compile(r"^(?P<fence> {0,3}(?:```+|~~~+))[^\n]*\n.*?^ {0,3}(?:```+|~~~+)[ \t]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*(?:<([^>\n]*)>|([^)\s]+))|^ {0,3}\[[^\]\n]+\]:\s*(?:<([^>\n]*)>|(\S+))|(?:src|href)=[\"']([^\"'\n]+)[\"']", re.MULTILINE)


# --- documents: pure, but for looking whether a linked file is there --------------------------------------------------


def names_version(text: str, names: tuple[str, ...]) -> bool:
    """Whether ``text`` names the version as a word of its own: v2 is neither in v20, nor in v2.1, nor in /api/v2/."""
    return any(re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/]|\.\d|-\d|-?(?:rc|alpha|beta)\d*\b)", text, re.IGNORECASE) for name in names)


def judge_document(name: str, data: bytes, names: tuple[str, ...], path: str = "") -> str:
    """Return the evidence that the document is one of this version. Raises :class:`Refused` or :class:`Unusable`."""
    ending = os.path.splitext(name.partition("?")[0])[1].lower()
    wanted = " or ".join(names)
    if ending in _BINARY:
        if not data.startswith(_BINARY[ending]):
            raise Refused(f"{name} is no {ending[1:].upper()} file")
        if not names_version(os.path.basename(name).replace("_", " "), names):
            raise Refused(f"{name} does not name {wanted} in its file name, and no text can be read from it")
        return f"{name} ({len(data)} bytes)"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable(f"{name} is neither text in UTF-8 nor a picture or PDF by its name") from None
    if ending in _MARKDOWN and not has_text(text):
        raise Refused(f"{name} has headings only")
    if not names_version(text, names):
        raise Refused(f"{name} does not name {wanted}: it is of another version")
    links = list(relative_links(text)) if ending in _MARKDOWN and path else []
    dead = [link for link in links if not os.path.exists(os.path.join(os.path.dirname(path), link))]
    if dead:
        more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
        raise Refused(f"{name} links to {', '.join(one_line(link, 60) for link in dead[:3])}{more}, which is not there")
    resolved = f", {len(links)} links resolve" if links else ""
    return f"{name} ({len(text.split())} words{resolved})"


def has_text(text: str) -> bool:
    """Whether a Markdown text says anything beside its headings, rules and empty lines."""
    return any(line.strip() and not re.match(r"\s*(#|=+\s*$|-+\s*$|<!--)", line) for line in text.splitlines())


def relative_links(text: str) -> Iterator[str]:
    """Yield the files that a Markdown text links to, relative to its own folder; code is no link."""
    for match in _LINK.finditer(_CODE.sub("", text)):
        target = next((group for group in match.groups() if group is not None), "")
        try:
            parts = urlsplit(target)
        except ValueError:
            yield target
            continue
        # Nothing of another host or scheme is fetched: only named addresses are.
        if not parts.scheme and not parts.netloc and parts.path and not parts.path.startswith("/"):
            yield unquote(parts.path)


# --- the API: pure ---------------------------------------------------------------------------------------------------

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def read_openapi(name: str, data: bytes) -> dict[str, Any]:
    """Return an OpenAPI document from JSON or YAML. Raises :class:`Unusable`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = _yaml(name, data)
    version = document.get("openapi") or document.get("swagger") if isinstance(document, dict) else None
    if not isinstance(version, str) or not isinstance(document.get("paths"), dict) or not isinstance(document.get("info"), dict):
        raise Unusable(f"{name} is no OpenAPI document, expected an object with openapi, info and paths")
    return document


def _yaml(name: str, data: bytes) -> Any:
    require("PyYAML", yaml)
    try:
        # JSON types only: a date would not be equal to the text that the service sends.
        return yaml.load(data.decode(), _JsonLoader)  # noqa: S506 (of the safe family)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"{name} is neither JSON nor YAML: {one_line(error, 120)}") from None


if yaml is not None:

    class _JsonLoader(yaml.SafeLoader):
        """The safe loader without dates and aliases: a few lines of these stand for a document of gigabytes."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it uses an alias (*name), expected plain YAML")
            return super().compose_node(parent, index)

    _JsonLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def normalised(document: Any, key: str = "") -> Any:
    """Return what matters of an OpenAPI document: not where it is served, nor the order of what has none."""
    if isinstance(document, dict):
        # At the top, on a path and on an operation, servers are those of one environment; elsewhere it is a name like any other.
        skipped = {"servers"} if key in ("", "/path", "/operation") else set()
        found = {str(name): normalised(value, _place(key, str(name))) for name, value in document.items() if name not in skipped}
        if isinstance(found.get("parameters"), list):
            found["parameters"] = sorted(found["parameters"], key=lambda item: json.dumps(item, sort_keys=True, default=str))
        return found
    if isinstance(document, list):
        items = [normalised(item, "/item") for item in document]
        return sorted(items) if key in ("required", "tags") and all(isinstance(item, str) for item in items) else items
    return "\n".join(line.rstrip() for line in document.strip().splitlines()) if isinstance(document, str) else document


def _place(key: str, name: str) -> str:
    if key == "" and name == "paths":
        return "/paths"
    if key == "/paths":
        return "/path"
    if key == "/path" and name in _METHODS:
        return "/operation"
    return name or "/empty"


def differences(documented: Any, served: Any, where: str = "") -> Iterator[str]:
    """Yield where two normalised documents differ, in the order of the documented one."""
    if isinstance(documented, dict) and isinstance(served, dict):
        for name in [*documented, *(name for name in served if name not in documented)]:
            place = f"{where} > {name}" if where else name
            if name not in served:
                yield f"{place} is documented and not served"
            elif name not in documented:
                yield f"{place} is served and not documented"
            else:
                yield from differences(documented[name], served[name], place)
    elif isinstance(documented, list) and isinstance(served, list) and len(documented) == len(served):
        for number, (one, other) in enumerate(zip(documented, served)):
            yield from differences(one, other, f"{where} > {number}")
    # True equals 1 in Python, and not in JSON.
    elif documented != served or isinstance(documented, bool) != isinstance(served, bool):
        yield f"{where} is {_short(served)}, documented as {_short(documented)}"


def _short(value: Any) -> str:
    return one_line(json.dumps(value, default=str), 50)


def judge_openapi(documented: dict[str, Any], served: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """Return the evidence that the served API is the documented one. Raises :class:`Refused`."""
    version = str(documented["info"].get("version", ""))
    if not names_version(version, names):
        raise Refused(f"the API document is of version '{one_line(version, 40)}', expected {' or '.join(names)}")
    found = list(differences(normalised(documented), normalised(served)))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Refused(f"the API served at {where} differs from its document: {'; '.join(one_line(text, 110) for text in found[:3])}{more}")
    operations = sum(method in path for path in documented["paths"].values() if isinstance(path, dict) for method in _METHODS)
    return f"API document {version}, {operations} operations, equal to what is served at {where}"
