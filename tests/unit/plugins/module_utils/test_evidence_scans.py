# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What scanners found, and which of it is accepted until when."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_scans as scans
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable

COMMIT = "3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2"
DIGEST = "sha256:" + "9f" * 32
TODAY = datetime.date(2026, 11, 28)
FORBIDDEN = ["critical", "high"]


def result(rule: str, **more: Any) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": "app/web.py"}, "region": {"startLine": 7}}}
    return {"ruleId": rule, "message": {"text": "x"}, "locations": [place], **more}


def sarif(*results: dict[str, Any], rules: tuple[dict[str, Any], ...] = (), **run: Any) -> bytes:
    """In the shape that Bandit writes."""
    driver = {"name": "Bandit", "semanticVersion": "1.9.4", "rules": list(rules)}
    invocation = {"executionSuccessful": True, "endTimeUtc": "2026-11-28T09:34:27Z"}
    return json.dumps(
        {"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "invocations": [invocation], "results": list(results), **run}]}
    ).encode()


def trivy(*vulnerabilities: dict[str, Any], **more: Any) -> bytes:
    results = [{"Target": "debian 13", "Class": "os-pkgs", "Type": "debian", "Vulnerabilities": list(vulnerabilities) or None}]
    document = {
        "SchemaVersion": 2,
        "CreatedAt": "2026-11-28T09:34:26.667853123Z",
        "ArtifactName": "registry.example.com/signal-service:v2",
        "ArtifactType": "container_image",
        "Metadata": {"ImageID": "sha256:" + "00" * 32, "RepoDigests": [f"registry.example.com/signal-service@{DIGEST}"]},
        "Results": results,
    }
    return json.dumps({**document, **more}).encode()


def cve(name: str, severity: str) -> dict[str, Any]:
    return {"VulnerabilityID": name, "PkgName": "openssl", "InstalledVersion": "3.5.0-1", "Severity": severity}


def severities(data: bytes) -> list[str]:
    return [finding.severity for scan in scans.read_scan("s", data) for finding in scan.findings]


def judge(data: bytes, risks: str = "[]") -> tuple[str, list[str]]:
    accepted, problems = scans.read_risks("risks.yml", risks.encode())
    evidence, notes = scans.judge_findings(scans.read_scan("s", data), accepted, FORBIDDEN, TODAY)
    return evidence, problems + notes


# --- SARIF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "severity"), [("error", "high"), ("warning", "medium"), ("note", "low"), (None, "medium")])
def test_a_level_is_a_severity(level: str | None, severity: str) -> None:
    assert severities(sarif(result("B602", **({"level": level} if level else {})))) == [severity]


@pytest.mark.parametrize(("score", "severity"), [("9.0", "critical"), ("8.9", "high"), ("7.0", "high"), ("6.9", "medium"), ("3.9", "low")])
def test_the_score_of_a_rule_counts_more_than_the_level(score: str, severity: str) -> None:
    rule = {"id": "js/xss", "properties": {"security-severity": score}}
    assert severities(sarif(result("js/xss", level="note", ruleIndex=0), rules=(rule,))) == [severity]
    assert severities(sarif(result("js/xss", level="note"), rules=(rule,))) == [severity]


def test_the_level_of_a_rule_counts_where_a_result_has_none() -> None:
    rule = {"id": "B602", "defaultConfiguration": {"level": "error"}}
    assert severities(sarif(result("B602"), rules=(rule,))) == ["high"]


def test_a_suppression_in_the_report_does_not_count() -> None:
    data = sarif(result("B602", level="error", suppressions=[{"kind": "inSource", "status": "accepted"}]))
    with pytest.raises(Refused, match=r"1 critical or high: B602 \(high, app/web.py:7\)\. Scanned by Bandit 1\.9\.4"):
        judge(data)


@pytest.mark.parametrize("more", [{"kind": "pass"}, {"kind": "notApplicable"}, {"baselineState": "absent"}, {"level": "none"}])
def test_what_is_no_finding_is_not_counted(more: dict[str, Any]) -> None:
    assert severities(sarif(result("B602", **more))) == []


def test_a_report_without_findings_is_clean() -> None:
    evidence, _notes = judge(sarif(result("B104", level="warning"), result("B311", level="note")))
    assert evidence == "no critical or high; 1 medium, 1 low. Scanned by Bandit 1.9.4"


def test_a_scan_says_its_commit_and_when_it_ended() -> None:
    (scan,) = scans.read_scan("s", sarif(versionControlProvenance=[{"repositoryUri": "https://git.example.com/s", "revisionId": COMMIT}]))
    assert scan.origin.commit == COMMIT
    assert scan.origin.made is not None and scan.origin.made.hour == 9


@pytest.mark.parametrize("run", [{"results": None}, {"invocations": [{"executionSuccessful": False}]}])
def test_a_scan_that_was_not_completed_fails_its_box_and_proves_no_other(run: dict[str, Any]) -> None:
    found = scans.read_scan("s", sarif(**run))
    with pytest.raises(Refused):
        scans.judge_completed(found)
    with pytest.raises(Unusable):
        scans.judge_findings(found, [], FORBIDDEN, TODAY)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "neither SARIF"),
        (b'{"version": "2.0.0", "runs": [{}]}', "SARIF 2.0.0, expected 2.1.0"),
        (b'{"version": "2.1.0", "runs": []}', "no run"),
        (b'{"version": "2.1.0", "runs": [{}]}', "no valid SARIF"),
        (sarif(result("x", properties={"security-severity": "bad"})), "no valid SARIF"),
    ],
)
def test_what_is_no_report_of_a_scanner_is_not_judged(data: bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        scans.read_scan("s", data)


# --- Trivy -----------------------------------------------------------------------------------------------------------


def test_trivy_names_package_and_image() -> None:
    with pytest.raises(Refused, match=r"CVE-2026-1 \(critical, openssl 3\.5\.0-1\).*Trivy of registry\.example\.com/signal-service:v2"):
        judge(trivy(cve("CVE-2026-1", "CRITICAL"), cve("CVE-2026-2", "LOW")))


def test_trivy_says_which_image_it_has_scanned() -> None:
    (scan,) = scans.read_scan("s", trivy())
    assert scan.origin.digests == (DIGEST,)
    assert scan.origin.made is not None and scan.origin.made.year == 2026
    assert judge(trivy())[0].startswith("no critical or high.")


def test_trivy_that_recognised_nothing_has_scanned_nothing() -> None:
    with pytest.raises(Refused, match="nothing in the image was recognised"):
        scans.judge_completed(scans.read_scan("s", trivy(Results=None)))


def test_misconfigurations_and_secrets_count_and_no_secret_is_shown() -> None:
    found = (("DS002", "FAIL"), ("DS001", "PASS"))
    results = [
        {"Target": "Dockerfile", "Misconfigurations": [{"ID": name, "Severity": "HIGH", "Status": status} for name, status in found]},
        {"Target": "app/.env", "Secrets": [{"RuleID": "aws-access-key-id", "Severity": "CRITICAL", "Match": "AKIA-the-secret"}]},
    ]
    with pytest.raises(Refused) as caught:
        judge(trivy(Results=results))
    assert "2 critical or high: DS002 (high, Dockerfile), aws-access-key-id (critical, app/.env)" in caught.value.message
    assert "the-secret" not in caught.value.message


# --- accepted risks --------------------------------------------------------------------------------------------------


def risk(until: str, name: str = "CVE-2026-1") -> str:
    return f"- {{id: {name}, reason: not reachable, by: security@example.com, expires: {until}}}\n"


def test_an_accepted_risk_holds_through_its_last_day() -> None:
    evidence, _notes = judge(trivy(cve("CVE-2026-1", "HIGH")), risk("2026-11-28"))
    assert evidence.startswith("no critical or high but accepted CVE-2026-1 by security@example.com until 2026-11-28.")


def test_an_accepted_risk_that_has_expired_counts_again() -> None:
    with pytest.raises(Refused, match=r"CVE-2026-1 .* accepted by security@example\.com only until 2026-11-27"):
        judge(trivy(cve("CVE-2026-1", "HIGH")), risk("2026-11-27"))


def test_an_accepted_risk_covers_no_other_finding() -> None:
    with pytest.raises(Refused, match="1 critical or high: CVE-2026-2"):
        judge(trivy(cve("CVE-2026-1", "HIGH"), cve("CVE-2026-2", "HIGH")), risk("2027-01-01"))


def test_an_accepted_risk_that_nothing_finds_is_said() -> None:
    assert judge(trivy(), risk("2027-01-01"))[1] == ["accepted risk CVE-2026-1 is found by no scan: it can be removed"]


def test_an_entry_without_reason_person_or_end_does_not_count() -> None:
    text = "- {id: CVE-2026-1}\n- {id: CVE-2026-2, reason: x, by: y, expires: someday}\n"
    text += "- {id: CVE-2026-3, reason: x, by: y, expires: 2027-01-01, until: x}\n- text\n"
    accepted, problems = scans.read_risks("risks.yml", text.encode())
    assert accepted == []
    assert "entry 1 CVE-2026-1 lacks reason, by, expires" in problems[0]
    assert "entry 2 CVE-2026-2 lacks expires" in problems[1]
    assert "entry 3 CVE-2026-3 has unknown until" in problems[2]
    assert "entry 4" in problems[3]


def test_a_risk_that_is_there_twice_counts_once_as_first_written() -> None:
    accepted, problems = scans.read_risks("risks.yml", (risk("2026-11-27") + risk("2099-01-01")).encode())
    assert [found.expires.year for found in accepted] == [2026]
    assert "is there already" in problems[0]


@pytest.mark.parametrize("text", ["{}", "x: [", "!!python/object/apply:os.system ['true']"])
def test_a_file_of_risks_that_cannot_be_read_is_not_an_empty_one(text: str) -> None:
    with pytest.raises(Unusable):
        scans.read_risks("risks.yml", text.encode())
