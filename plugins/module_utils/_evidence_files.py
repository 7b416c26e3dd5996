# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of evidence: found, read within limits, and bound to the release they speak of. Private to this collection.

A file proves nothing about a release unless it says, or a manifest says of its very bytes, which commit or which image it was made from.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from xml.parsers import expat

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

LARGEST_FILE = 64 * 1024 * 1024
MOST_FILES = 2000
DEEPEST_XML = 200
_CHUNK = 1 << 16
# Clocks differ, and some tools write local time without its zone.
_AHEAD = timedelta(days=1)
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Unusable(RolloutError):
    """Nothing can be judged by this: missing, unreadable, or of no known release. The box stays open."""


class Refused(RolloutError):
    """It was judged, and is bad: of another release, too old, or changed since. The box fails."""


@dataclass(frozen=True)
class Release:
    """What is released: evidence for anything else is refused. ``names`` are the ways in which documents may name the version."""

    version: str
    names: tuple[str, ...]
    commit: str = ""
    digest: str = ""
    max_age_hours: float | None = None
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass(frozen=True)
class Origin:
    """What a file says about where it comes from. Empty: it says nothing."""

    commit: str = ""
    digests: tuple[str, ...] = ()
    made: datetime | None = None


@dataclass(frozen=True)
class Manifest:
    """One commit, one image, and the hashes of the files that were made from them; ``files`` by absolute path."""

    path: str
    origin: Origin
    files: Mapping[str, str]


def commit_of(text: Any) -> str:
    """Return ``text`` as a full commit hash, or an empty text."""
    found = str(text or "").strip().lower()
    return found if _COMMIT.fullmatch(found) else ""


def digest_of(text: Any) -> str:
    """Return the digest in an image reference (``name@sha256:...``) or in a bare digest, or an empty text."""
    found = _DIGEST.search(str(text or "").strip().lower())
    return found.group() if found else ""


def moment_of(text: Any) -> datetime | None:
    """Return an ISO 8601 time, or one in milliseconds since 1970, as UTC; None for anything else."""
    shown = str(text or "").strip()
    try:
        if shown.isdigit():
            return datetime.fromtimestamp(int(shown) / (1000 if len(shown) > 11 else 1), timezone.utc)
        # Go writes nine digits of a second, which older Pythons do not read.
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", shown).replace("Z", "+00:00"))
    except (ValueError, OverflowError, OSError):
        return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def check_origin(name: str, said: Origin, release: Release) -> None:
    """Raise :class:`Refused` for another release or too old, :class:`Unusable` when nothing says which release it is. Pure."""
    if release.commit and said.commit and said.commit != release.commit:
        raise Refused(f"{name} was made from commit {said.commit[:12]}, expected {release.commit[:12]}")
    if release.digest and said.digests and release.digest not in said.digests:
        raise Refused(f"{name} is for image {said.digests[0][:19]}, expected {release.digest[:19]}")
    if not (release.commit and said.commit) and not (release.digest and said.digests):
        wanted = " or ".join(word for word, there in (("commit", release.commit), ("image digest", release.digest)) if there)
        raise Unusable(f"nothing says which {wanted} {name} is for. Next: list it in an evidence manifest")
    if said.made is not None and said.made > release.now + _AHEAD:
        raise Refused(f"{name} was made at {said.made:%Y-%m-%dT%H:%MZ}, which is in the future")
    if release.max_age_hours is not None:
        if said.made is None:
            raise Unusable(f"nothing says when {name} was made, expected at most {release.max_age_hours:g} h ago")
        age = (release.now - said.made).total_seconds() / 3600
        if age > release.max_age_hours:
            raise Refused(f"{name} is {age:.0f} h old (made {said.made:%Y-%m-%dT%H:%MZ}), expected at most {release.max_age_hours:g} h")


def read_manifest(path: str, data: bytes) -> Manifest:
    """Read an evidence manifest. Raises :class:`Unusable`."""
    document = json_document(path, data)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not all(re.fullmatch(r"[0-9a-f]{64}", str(value)) for value in files.values()):
        raise Unusable(f"{path} is no evidence manifest, expected an object with commit, image, created, and files as {{path: sha256}}")
    commit, digest = commit_of(document.get("commit")), digest_of(document.get("image"))
    if not commit and not digest:
        raise Unusable(f"{path} names neither a full commit hash nor an image digest, expected one of them")
    folder = os.path.dirname(os.path.abspath(path))
    origin = Origin(commit, (digest,) if digest else (), moment_of(document.get("created")))
    return Manifest(path, origin, {os.path.normpath(os.path.join(folder, str(name))): value for name, value in files.items()})


class Store:
    """Finds and reads the files of one release, and keeps account of what was read."""

    def __init__(self, root: str, release: Release, manifest: str = "") -> None:
        self.root = root
        self.release = release
        self.read_files: dict[str, dict[str, Any]] = {}
        self._manifest_path = self.path(manifest) if manifest else ""
        self._manifest: Manifest | None = None

    def path(self, name: str) -> str:
        return os.path.normpath(os.path.join(self.root, os.path.expanduser(name)))

    def shown(self, path: str) -> str:
        """How messages call ``path``."""
        inside = os.path.relpath(path, self.root)
        # Of a file outside, what tells it from others; evidence is one short line.
        return os.path.join(*path.split(os.sep)[-2:]) if inside.startswith("..") else inside

    def find(self, patterns: list[str]) -> list[str]:
        """Return the files that ``patterns`` mean, each once. Raises :class:`Unusable` when one of them means none."""
        found: dict[str, None] = {}
        for pattern in patterns:
            matches = sorted(name for name in glob.glob(self.path(pattern), recursive=True) if os.path.isfile(name))
            if not matches:
                raise Unusable(f"{pattern}: there is no such file in {self.root}")
            found.update(dict.fromkeys(os.path.normpath(name) for name in matches))
        if len(found) > MOST_FILES:
            raise Unusable(f"{', '.join(patterns)}: {len(found)} files, expected at most {MOST_FILES}")
        return list(found)

    def read(self, path: str) -> bytes:
        """Return what is in the file. Raises :class:`Unusable`."""
        name = self.shown(path)
        try:
            # A pipe or a device would never end.
            if not os.path.isfile(path):
                raise Unusable(f"{name}: there is no such file")
            with open(path, "rb") as file:
                data = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise Unusable(f"{name} cannot be read: {error.strerror or type(error).__name__}") from None
        if len(data) > LARGEST_FILE:
            raise Unusable(f"{name} is larger than {LARGEST_FILE // 1024 // 1024} MiB")
        if not data.strip():
            raise Unusable(f"{name} is empty")
        return data

    def bind(self, path: str, data: bytes, said: Origin) -> None:
        """Accept the file as evidence for the release. Raises :class:`Refused` or :class:`Unusable`."""
        name, digest = self.shown(path), hashlib.sha256(data).hexdigest()
        listed = self.manifest.files.get(path) if self.manifest else None
        entry = {"path": path, "sha256": digest, "bound_by": "manifest" if listed else "file"}
        if listed and self.manifest:
            if listed != digest:
                raise Refused(f"{name} has sha256 {digest[:12]}, expected {listed[:12]} as the manifest says: it was changed since")
            check_origin(self.shown(self.manifest.path), self.manifest.origin, self.release)
            own = self.manifest.origin
            said = Origin(said.commit or own.commit, said.digests or own.digests, said.made or own.made)
        check_origin(name, said, self.release)
        self.read_files[path] = entry

    def bind_if_listed(self, path: str, data: bytes) -> None:
        """The same for files that need not be listed, such as documents, which name the version themselves."""
        if self.manifest and path in self.manifest.files:
            self.bind(path, data, Origin())
        else:
            self.read_files[path] = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bound_by": "version"}

    @property
    def manifest(self) -> Manifest | None:
        if self._manifest is None and self._manifest_path:
            self._manifest = read_manifest(self._manifest_path, self.read(self._manifest_path))
        return self._manifest


def json_document(name: str, data: bytes) -> Any:
    """Return JSON as Python values. Raises :class:`Unusable`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{name} is not JSON: {one_line(error, 120)}") from None


def xml_events(name: str, data: bytes) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield ``("start" | "end", element, attributes)``. Raises :class:`Unusable`.

    A document type is let through, since Cobertura writes one, and never fetched; a declaration of an entity is refused: no report needs
    one, and a few lines of them grow to gigabytes.
    """
    events: list[tuple[str, str, dict[str, str]]] = []
    depth = 0

    def start(element: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST_XML:
            raise Unusable(f"{name} nests elements deeper than {DEEPEST_XML}")
        events.append(("start", element.rpartition(":")[2], attributes))

    def end(element: str) -> None:
        nonlocal depth
        depth -= 1
        events.append(("end", element.rpartition(":")[2], {}))

    def refuse(*unused: object) -> None:
        raise Unusable(f"{name} declares an entity, which a report has no use for")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = refuse
    parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        for position in range(0, len(data), _CHUNK):
            parser.Parse(data[position : position + _CHUNK], False)
            yield from events
            events.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise Unusable(f"{name} is not XML: {one_line(error, 120)}") from None
    yield from events
