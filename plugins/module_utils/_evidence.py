# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module release_evidence: which boxes of the checklist the files of a release prove. Private to this collection.

Here is what is read for which box. What a file says is in the modules ``_evidence_*``, whose decisions are pure.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _evidence_documents as documents
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_review as review
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_scans as scans
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_tests as tests
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import (
    Origin,
    Refused,
    Release,
    Store,
    Unusable,
    commit_of,
    digest_of,
    json_document,
)
from ansible_collections.signal.rollout.plugins.module_utils._http import HttpClient, HttpError, Secrets, Tls, header_problems, url_problem

EVIDENCE_LIMIT = 300
LONGEST_TIMEOUT = 120.0
# Option: box, for the documents that are judged alike.
DOCUMENTS = {
    "runbook": "documentation.runbook",
    "migration_guide": "documentation.migration_guide",
    "release_notes": "documentation.release_notes",
    "diagrams": "documentation.diagrams",
}
PATHS: dict[str, Any] = {"type": "list", "elements": "str", "default": []}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "required": True},
    "version": {"type": "str", "required": True},
    "version_names": {"type": "list", "elements": "str", "default": []},
    "commit": {"type": "str"},
    "image": {"type": "str"},
    "manifest": {"type": "str"},
    "max_age_hours": {"type": "float"},
    "unit_tests": PATHS,
    "coverage": PATHS,
    "coverage_above_percent": {"type": "float"},
    "integration_tests": PATHS,
    "benchmarks": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "limits": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "value": {"type": "str", "required": True},
                    "unit": {"type": "str", "default": ""},
                    **{bound: {"type": "float"} for bound in tests.BOUNDS},
                },
            },
        },
    },
    "scans": PATHS,
    "forbidden_severities": {"type": "list", "elements": "str", "default": [], "choices": scans.SEVERITIES},
    "accepted_risks": {"type": "str"},
    "review": {
        "type": "dict",
        "options": {
            "tag": {"type": "str"},
            "repository": {"type": "path"},
            "allowed_signers": {"type": "path"},
            "provider": {"type": "str", "choices": ["github", "gitlab"]},
            "request": {"type": "str"},
            "reviews": {"type": "str"},
            "token": {"type": "str", "no_log": True},
        },
    },
    "openapi": {
        "type": "dict",
        "options": {"document": {"type": "str", "required": True}, "served": {"type": "str", "required": True}},
    },
    "documents": {"type": "dict", "options": {name: PATHS for name in DOCUMENTS}},
    "timeout": {"type": "float", "default": 10.0},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
}
SUPPORTS_CHECK_MODE = True

T = TypeVar("T")


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    problems = option_problems(params)
    if problems:
        raise RolloutError(f"release_evidence: {'; '.join(problems)}. Nothing was read.")
    began = time.monotonic()
    judge = _Judge(params)
    proofs: dict[str, dict[str, str]] = {}
    undecided: list[str] = []
    for box, decide in judge.boxes():
        if context.cancelled.is_set():
            raise RolloutError(f"release_evidence: cancelled by {context.signal_name}. Nothing was written.")
        try:
            proofs[box] = {"state": "proven", "evidence": one_line(decide(), EVIDENCE_LIMIT)}
        except Refused as error:
            proofs[box] = {"state": "failed", "evidence": one_line(error.message, EVIDENCE_LIMIT)}
            judge.notes += error.result.get("notes", [])
        except (Unusable, HttpError) as error:
            undecided.append(f"{box}: {error.message}")
            judge.notes += error.result.get("notes", [])
        except RecursionError:
            undecided.append(f"{box}: a document is nested too deep to be read")
    return {
        "changed": False,
        "proofs": proofs,
        "undecided": undecided,
        "notes": list(dict.fromkeys(judge.notes)),
        "files": list(judge.store.read_files.values()),
        "seconds": round(time.monotonic() - began, 3),
    }


# --- options: pure, but for looking at the files of certificates -----------------------------------------------------


def option_problems(params: dict[str, Any]) -> list[str]:
    """Return everything that is wrong with the options."""
    problems = []
    if not params["version"].strip() or any(not name.strip() for name in params["version_names"]):
        problems.append("version and version_names: an empty text, expected what documents call the version")
    if not params.get("commit") and not params.get("image") and not _answers_for_itself(params):
        problems.append("commit and image are not set, expected at least one: evidence for any release would be taken")
    if params.get("commit") and not commit_of(params["commit"]):
        problems.append(f"commit is '{one_line(params['commit'], 60)}', expected a full hash of 40 or 64 hexadecimal digits")
    if params.get("image") and not digest_of(params["image"]):
        problems.append(f"image is '{one_line(params['image'], 80)}', expected a digest (sha256:...), alone or after name@")
    problems += _number_problems(params)
    if bool(params["unit_tests"]) != bool(params["coverage"]) or (params["coverage"] and params.get("coverage_above_percent") is None):
        problems.append("unit_tests, coverage and coverage_above_percent belong together: one box needs all of them")
    if params["scans"] and not params["forbidden_severities"]:
        problems.append("forbidden_severities is empty, expected what scans must not find")
    for entry in params["benchmarks"]:
        problems += tests.limit_problems(f"benchmarks, {one_line(entry['path'], 60)}", entry["limits"])
    problems += _review_problems(params.get("review") or {})
    named = {"openapi.served": (params.get("openapi") or {}).get("served"), "openapi.document": (params.get("openapi") or {}).get("document")}
    for kind, places in (params.get("documents") or {}).items():
        named.update({f"documents.{kind}": place for place in places or [] if _is_url(place)})
    problems += [f"{option}: {trouble}" for option, place in named.items() if place and _is_url(place) and (trouble := url_problem(place))]
    problems += Tls(params["validate_certs"], params.get("ca_cert") or "").problems(str)
    return problems


def _answers_for_itself(params: dict[str, Any]) -> bool:
    """Whether all that is asked is what a running service serves: nothing in that could be of another release."""
    others = ("manifest", "unit_tests", "integration_tests", "benchmarks", "scans", "review", "documents")
    return _is_url((params.get("openapi") or {}).get("served") or "") and not any(params.get(name) for name in others)


def _number_problems(params: dict[str, Any]) -> list[str]:
    ranges = {"coverage_above_percent": (0.0, 100.0), "max_age_hours": (0.01, 87600.0), "timeout": (0.1, LONGEST_TIMEOUT)}
    return [
        f"{name} is {params[name]}, expected {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if params.get(name) is not None and not (math.isfinite(params[name]) and low <= params[name] <= high)
    ]


def _review_problems(options: dict[str, Any]) -> list[str]:
    given = {name for name, value in options.items() if value}
    if not given:
        return []
    by_tag, by_provider = {"tag", "repository", "allowed_signers"}, {"provider", "request", "reviews"}
    if given & by_tag and given & by_provider:
        return ["review: a tag and a provider are set, expected one of them"]
    wanted = by_tag if given & by_tag else by_provider
    problems = []
    if wanted - given:
        problems.append(f"review: {', '.join(sorted(wanted - given))} not set, expected all of {', '.join(sorted(wanted))}")
    if str(options.get("tag") or "").startswith("-"):
        problems.append("review.tag begins with a dash, expected the name of a tag")
    for name in ("request", "reviews"):
        trouble = url_problem(options[name]) if options.get(name) and _is_url(options[name]) else ""
        if trouble:
            problems.append(f"review.{name}: {trouble}")
    return problems + header_problems("review.token", {"Authorization": options.get("token") or ""})


def _is_url(place: str) -> bool:
    return "://" in place


# --- reading and judging ---------------------------------------------------------------------------------------------


class _Judge:
    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        names = tuple(dict.fromkeys([params["version"].strip(), *(name.strip() for name in params["version_names"])]))
        self.release = Release(
            params["version"], names, commit_of(params.get("commit")), digest_of(params.get("image")), params.get("max_age_hours")
        )
        self.store = Store(os.path.abspath(params["root"]), self.release, params.get("manifest") or "")
        self.notes: list[str] = []
        self._scans: list[scans.Scan] | RolloutError | None = None

    def boxes(self) -> Iterable[tuple[str, Callable[[], str]]]:
        """Yield the boxes that the options speak of, in the order of the document."""
        params = self.params
        given = {name for name, value in (params.get("review") or {}).items() if value}
        if given:
            yield "code.review", self._review
        if params["unit_tests"]:
            yield "code.unit_tests", self._unit_tests
        if params["integration_tests"]:
            yield "code.integration_tests", lambda: tests.judge_tests("integration", self._junit(params["integration_tests"]))
        if params["benchmarks"]:
            yield "code.benchmarks", lambda: "; ".join(self._each(params["benchmarks"], self._benchmark))
        if params["scans"]:
            yield "code.security_scan", lambda: scans.judge_completed(self._scanned())
            yield "code.vulnerabilities", self._vulnerabilities
        if params.get("openapi"):
            yield "documentation.api_docs", self._openapi
        for kind in ("diagrams", "runbook", "migration_guide", "release_notes"):
            places = (params.get("documents") or {}).get(kind)
            if places:
                yield DOCUMENTS[kind], lambda places=places: "; ".join(self._each(self._places(places), self._document))

    @staticmethod
    def _each(items: Iterable[T], decide: Callable[[T], Any]) -> list[Any]:
        """Return the answers for all ``items``; what is bad counts more than what cannot be read, and all of it is named."""
        answers, bad, unusable = [], [], []
        for item in items:
            try:
                answers.append(decide(item))
            except Refused as error:
                bad.append(error.message)
            except (Unusable, HttpError) as error:
                unusable.append(error.message)
        if bad:
            raise Refused("; ".join(dict.fromkeys(bad)))
        if unusable:
            raise Unusable("; ".join(dict.fromkeys(unusable)))
        return answers

    def _bound(self, patterns: list[str], read: Callable[[str, bytes], tuple[T, Any]]) -> list[T]:
        def one(path: str) -> T:
            data = self.store.read(path)
            found, origin = read(self.store.shown(path), data)
            self.store.bind(path, data, origin)
            return found

        return self._each(self.store.find(patterns), one)

    def _junit(self, patterns: list[str]) -> tests.Tests:
        total = tests.Tests()
        for found in self._bound(patterns, tests.read_junit):
            total.add(found)
        return total

    def _unit_tests(self) -> str:
        def coverage(_part: str) -> str:
            total = tests.Coverage()
            for found in self._bound(self.params["coverage"], tests.read_coverage):
                total.add(found)
            return tests.judge_coverage(total, self.params["coverage_above_percent"])

        parts = {"tests": lambda _part: tests.judge_tests("unit", self._junit(self.params["unit_tests"])), "coverage": coverage}
        return "; ".join(self._each(parts, lambda part: parts[part](part)))

    def _benchmark(self, entry: dict[str, Any]) -> str:
        def one(path: str) -> str:
            data = self.store.read(path)
            name = self.store.shown(path)
            document, origin = tests.read_benchmark(name, data)
            self.store.bind(path, data, origin)
            return tests.judge_benchmark(name, document, entry["limits"])

        return "; ".join(self._each(self.store.find([entry["path"]]), one))

    def _scanned(self) -> list[scans.Scan]:
        # Two boxes rest on the same files.
        if self._scans is None:
            try:
                self._scans = self._read_scans()
            except RolloutError as error:
                self._scans = error
        if isinstance(self._scans, RolloutError):
            raise self._scans
        return self._scans

    def _read_scans(self) -> list[scans.Scan]:
        def one(path: str) -> list[scans.Scan]:
            data = self.store.read(path)
            found = scans.read_scan(self.store.shown(path), data)
            for scan in found:
                self.store.bind(path, data, scan.origin)
            return found

        return [scan for found in self._each(self.store.find(self.params["scans"]), one) for scan in found]

    def _vulnerabilities(self) -> str:
        found = self._scanned()
        risks: list[scans.Risk] = []
        if self.params.get("accepted_risks"):
            path = self.store.path(self.params["accepted_risks"])
            risks, problems = scans.read_risks(self.store.shown(path), self.store.read(path))
            self.notes += problems
        evidence, notes = scans.judge_findings(found, risks, self.params["forbidden_severities"], self.release.now.date())
        self.notes += notes
        return evidence

    def _review(self) -> str:
        options, commit = self.params["review"], self.release.commit
        if options.get("tag"):
            return review.judge_tag(options["repository"], options["tag"], options["allowed_signers"], commit, self.params["timeout"])
        token = options.get("token") or ""
        request, reviews = (json_document(options[name], self._get(options[name], token)) for name in ("request", "reviews"))
        decide = review.judge_github if options["provider"] == "github" else review.judge_gitlab
        return decide(request, reviews, commit)

    def _openapi(self) -> str:
        options = self.params["openapi"]
        document = documents.read_openapi(options["document"], self._get(options["document"]))
        served = self._get(options["served"])
        if not _is_url(options["served"]):
            # What was served once, in a run of this image; an address answers for itself.
            self.store.bind(self.store.path(options["served"]), served, Origin())
        where = options["served"].partition("?")[0] if _is_url(options["served"]) else self.store.shown(self.store.path(options["served"]))
        return documents.judge_openapi(document, documents.read_openapi(where, served), self.release.names, where)

    def _places(self, places: list[str]) -> list[str]:
        urls = [place for place in places if _is_url(place)]
        files = [place for place in places if not _is_url(place)]
        return [*(self.store.find(files) if files else []), *urls]

    def _document(self, place: str) -> str:
        data = self._get(place)
        if _is_url(place):
            return documents.judge_document(urlsplit(place)._replace(query="", fragment="").geturl(), data, self.release.names)
        return documents.judge_document(self.store.shown(place), data, self.release.names, place)

    def _get(self, place: str, token: str = "") -> bytes:
        """Return the file, or the answer of the address. Raises :class:`Unusable` or :class:`HttpError`."""
        if not _is_url(place):
            path = self.store.path(place)
            data = self.store.read(path)
            self.store.bind_if_listed(path, data)
            return data
        client = HttpClient(Tls(self.params["validate_certs"], self.params.get("ca_cert") or ""), Secrets([token]))
        headers = {"User-Agent": "signal.rollout", **({"Authorization": f"Bearer {token}"} if token else {})}
        shown = place.partition("?")[0]
        answer = client.send("GET", place, self.params["timeout"], headers)
        if answer.status != 200:
            raise Unusable(f"{shown} answered HTTP {answer.status}, expected 200")
        if 'rel="next"' in answer.headers.get("link", ""):
            raise Unusable(f"{shown} has further pages. Next: ask for more at once, such as by ?per_page=100")
        if not answer.body.strip():
            raise Unusable(f"{shown} answered with nothing")
        return answer.body
