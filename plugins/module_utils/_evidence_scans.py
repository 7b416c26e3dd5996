# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What security scanners found, and which of it somebody has accepted until when. Private to this collection. Pure."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import (
    Origin,
    Refused,
    Unusable,
    commit_of,
    digest_of,
    json_document,
    moment_of,
)

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

SEVERITIES = ["critical", "high", "medium", "low", "unknown"]
# The bounds of CVSS, by which every tool that writes security-severity means it.
_SCORES = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.0, "low"))
_LEVELS = {"error": "high", "warning": "medium", "note": "low", "none": ""}


@dataclass(frozen=True)
class Finding:
    id: str
    severity: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.id} ({self.severity}{', ' + self.where if self.where else ''})"


@dataclass(frozen=True)
class Scan:
    """One run of one scanner. ``trouble``: why it was not completed."""

    tool: str
    target: str
    findings: tuple[Finding, ...]
    origin: Origin
    trouble: str = ""

    def __str__(self) -> str:
        return f"{self.tool} of {self.target}" if self.target else self.tool


@dataclass(frozen=True)
class Risk:
    """A finding that somebody has accepted, up to and including a day."""

    id: str
    reason: str
    by: str
    expires: datetime.date


def read_scan(name: str, data: bytes) -> list[Scan]:
    """Read SARIF 2.1.0 or the JSON of Trivy. Raises :class:`Unusable`."""
    document = json_document(name, data)
    if isinstance(document, dict) and isinstance(document.get("runs"), list):
        return _sarif(name, document)
    if isinstance(document, dict) and "ArtifactName" in document and "SchemaVersion" in document:
        return [_trivy(document)]
    raise Unusable(f"{name} is neither SARIF (runs) nor a report of Trivy (SchemaVersion 2, ArtifactName)")


# --- SARIF -----------------------------------------------------------------------------------------------------------


def _sarif(name: str, document: Mapping[str, Any]) -> list[Scan]:
    if str(document.get("version")) != "2.1.0":
        raise Unusable(f"{name} is SARIF {one_line(document.get('version'), 20)}, expected 2.1.0")
    if not document["runs"]:
        raise Unusable(f"{name} holds no run of a scanner")
    try:
        return [_sarif_run(run) for run in document["runs"]]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise Unusable(f"{name} is no valid SARIF: {type(error).__name__} at {one_line(error, 60)}") from None


def _sarif_run(run: Mapping[str, Any]) -> Scan:
    driver = run["tool"]["driver"]
    version = driver.get("semanticVersion") or driver.get("version") or ""
    commits = [commit_of(entry.get("revisionId")) for entry in run.get("versionControlProvenance") or []]
    invocations = run.get("invocations") or []
    trouble = ""
    if any(call.get("executionSuccessful") is False for call in invocations):
        trouble = "it says that its run was not successful"
    elif run.get("results") is None:
        # By the standard a missing list means that nothing was scanned, an empty one that nothing was found.
        trouble = "it has no list of results"
    found = [finding for result in run.get("results") or [] if (finding := _sarif_finding(run, result)) is not None]
    made = next((moment for call in invocations if (moment := moment_of(call.get("endTimeUtc"))) is not None), None)
    origin = Origin(next((commit for commit in commits if commit), ""), (), made)
    return Scan(one_line(f"{driver['name']} {version}".strip(), 60), "", tuple(found), origin, trouble)


def _sarif_finding(run: Mapping[str, Any], result: Mapping[str, Any]) -> Finding | None:
    if result.get("kind", "fail") not in ("fail", "open", "review") or result.get("baselineState") == "absent":
        return None
    rule = _rule(run, result)
    # Suppressions in the file do not count: whoever writes the code would accept the risk, without an end.
    severity = _severity(rule, result)
    name = str(result.get("ruleId") or (result.get("rule") or {}).get("id") or rule.get("id") or "without a rule")
    return Finding(one_line(name, 60), severity, _place(result)) if severity else None


def _rule(run: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = result.get("rule") or {}
    component = reference.get("toolComponent") or {}
    extensions = run["tool"].get("extensions") or []
    owner = extensions[component["index"]] if component.get("index", -1) >= 0 else run["tool"]["driver"]
    rules = owner.get("rules") or []
    index = result.get("ruleIndex", reference.get("index", -1))
    if isinstance(index, int) and 0 <= index < len(rules):
        return rules[index]
    wanted = result.get("ruleId") or reference.get("id")
    return next((rule for rule in rules if wanted and rule.get("id") == wanted), {})


def _severity(rule: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    for properties in (result.get("properties") or {}, rule.get("properties") or {}):
        score = properties.get("security-severity")
        if score is not None:
            value = float(score)
            return next((word for bound, word in _SCORES if value >= bound), "unknown")
    level = result.get("level") or (rule.get("defaultConfiguration") or {}).get("level") or "warning"
    return _LEVELS.get(str(level), "unknown")


def _place(result: Mapping[str, Any]) -> str:
    for location in result.get("locations") or []:
        physical = location.get("physicalLocation") or {}
        file = (physical.get("artifactLocation") or {}).get("uri")
        if file:
            line = (physical.get("region") or {}).get("startLine")
            return one_line(f"{file}:{line}" if line else file, 80)
    return ""


# --- Trivy -----------------------------------------------------------------------------------------------------------


def _trivy(document: Mapping[str, Any]) -> Scan:
    metadata = document.get("Metadata") or {}
    references = [document.get("ArtifactName"), *(metadata.get("RepoDigests") or [])]
    digests = tuple(dict.fromkeys(digest for digest in map(digest_of, references) if digest))
    results = document.get("Results") or []
    found = []
    for result in results:
        for vulnerability in result.get("Vulnerabilities") or []:
            where = f"{vulnerability.get('PkgName', '')} {vulnerability.get('InstalledVersion', '')}".strip()
            found.append(_trivy_finding(vulnerability, "VulnerabilityID", where))
        for problem in result.get("Misconfigurations") or []:
            if problem.get("Status", "FAIL") == "FAIL":
                found.append(_trivy_finding(problem, "ID", result.get("Target", "")))
        for secret in result.get("Secrets") or []:
            # Never the match itself: it is the secret.
            found.append(_trivy_finding(secret, "RuleID", result.get("Target", "")))
    version = (document.get("Trivy") or {}).get("Version", "")
    origin = Origin(commit_of(metadata.get("Commit") or metadata.get("CommitHash")), digests, moment_of(document.get("CreatedAt")))
    trouble = "" if results else "it has no results: nothing in the image was recognised"
    return Scan(f"Trivy {version}".strip(), one_line(document["ArtifactName"], 80), tuple(found), origin, trouble)


def _trivy_finding(entry: Mapping[str, Any], key: str, where: str) -> Finding:
    severity = str(entry.get("Severity", "")).lower()
    return Finding(one_line(entry.get(key) or "without an id", 60), severity if severity in SEVERITIES else "unknown", one_line(where, 80))


# --- accepted risks --------------------------------------------------------------------------------------------------


def read_risks(name: str, data: bytes) -> tuple[list[Risk], list[str]]:
    """Return the accepted risks of a YAML file, and what is wrong with the others, which do not count. Raises :class:`Unusable`."""
    require("PyYAML", yaml)
    try:
        entries = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"{name} is not YAML: {one_line(error, 120)}") from None
    if not isinstance(entries, list):
        raise Unusable(f"{name} is no list, expected entries of id, reason, by and expires")
    risks: list[Risk] = []
    problems = []
    for number, entry in enumerate(entries, 1):
        fields = entry if isinstance(entry, dict) else {}
        expires = fields.get("expires")
        if isinstance(expires, datetime.datetime) or not isinstance(expires, datetime.date):
            expires = None
        missing = [key for key in ("id", "reason", "by") if not str(fields.get(key) or "").strip()]
        missing += ["expires (a date such as 2026-12-31)"] if expires is None else []
        unknown = sorted(set(map(str, fields)) - {"id", "reason", "by", "expires"})
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
            problems.append(f"{name}, entry {number} {one_line(fields.get('id') or '', 60)} {' and '.join(wrong)}: it does not count")
        elif str(fields["id"]) in {risk.id for risk in risks}:
            problems.append(f"{name}, entry {number}: {fields['id']} is there already: it does not count")
        else:
            risks.append(Risk(str(fields["id"]), one_line(fields["reason"], 120), one_line(fields["by"], 60), expires))  # type: ignore[arg-type]
    return risks, problems


# --- decisions -------------------------------------------------------------------------------------------------------


def judge_completed(scans: Iterable[Scan]) -> str:
    """Return the evidence that the scans were completed. Raises :class:`Refused`."""
    scans = list(scans)
    troubles = [f"{scan}: {scan.trouble}" for scan in scans if scan.trouble]
    if troubles:
        raise Refused("; ".join(troubles))
    return f"{'; '.join(map(str, scans))}: completed"


def judge_findings(scans: Iterable[Scan], risks: Iterable[Risk], forbidden: list[str], today: datetime.date) -> tuple[str, list[str]]:
    """Return the evidence that no finding is of a ``forbidden`` severity, and notes about accepted risks. Raises :class:`Refused`."""
    scans = list(scans)
    findings = [finding for scan in scans for finding in scan.findings]
    by_id = {risk.id: risk for risk in risks}
    seen = {finding.id for finding in findings}
    notes = [f"accepted risk {risk.id} is found by no scan: it can be removed" for risk in by_id.values() if risk.id not in seen]
    words = " or ".join(forbidden)
    bad: dict[str, str] = {}
    accepted: dict[str, Risk] = {}
    for finding in findings:
        if finding.severity not in forbidden:
            continue
        risk = by_id.get(finding.id)
        if risk is None:
            bad.setdefault(str(finding), str(finding))
        elif risk.expires < today:
            bad.setdefault(str(finding), f"{finding} accepted by {risk.by} only until {risk.expires}")
        else:
            accepted[risk.id] = risk
    tools = "; ".join(map(str, scans))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise Refused(f"{len(bad)} {words}: {', '.join(list(bad.values())[:3])}{more}. Scanned by {tools}", notes=notes)
    if any(scan.trouble for scan in scans):
        raise Unusable("a scan was not completed", notes=notes)
    counts = Counter(finding.severity for finding in findings)
    others = ", ".join(f"{counts[word]} {word}" for word in SEVERITIES if word not in forbidden and counts[word])
    taken = ", ".join(f"{risk.id} by {risk.by} until {risk.expires}" for risk in accepted.values())
    text = f"no {words}" + (f" but accepted {taken}" if taken else "") + (f"; {others}" if others else "")
    return f"{text}. Scanned by {tools}", notes
