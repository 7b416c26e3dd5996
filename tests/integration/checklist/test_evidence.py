# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Code readiness and documentation: reports that real tools write of a small repository, with real defects in it, and the lab's own service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _evidence, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from ..lab.conftest import wait_until

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = ROOT / "lab/signal_service/release"
Ansible = Callable[..., subprocess.CompletedProcess[str]]

CODE = """
def intrinsic(spot: float, strike: float, call: bool) -> float:
    if call:
        return max(0.0, spot - strike)
    return max(0.0, strike - spot)
"""
UNIT_TESTS = """
from pricing import intrinsic

def test_a_call():
    assert intrinsic(110, 100, True) == 10

def test_a_put():
    assert intrinsic(90, 100, False) == 10
"""
# Against a pod of v1.
INTEGRATION_TESTS = """
import urllib.request

def test_the_service_answers_as_version_EXPECTED():
    with urllib.request.urlopen("URL/livez", timeout=30) as answer:
        assert answer.headers["x-signal-version"] == "EXPECTED"
"""
LOAD = """
import http from 'k6/http';
import { check } from 'k6';
export const options = { iterations: 20, vus: 2, thresholds: { checks: ['rate>0.99'] } };
export default function () {
  const answer = http.get('URL');
  check(answer, { 'status is 200': (r) => r.status === 200 });
}
"""
UNSAFE = """
import subprocess

def run(text):
    return subprocess.call(text, shell=True)
"""
BOXES = ("code.unit_tests", "code.integration_tests", "code.benchmarks", "code.security_scan", "code.vulnerabilities")


class Pipeline:
    """A repository with one commit, and what a pipeline makes of it."""

    def __init__(self, folder: Path, ansible: Ansible) -> None:
        self.source, self.reports, self.ansible = folder / "source", folder / "reports", ansible
        self.source.mkdir()
        self.git("init", "-q")

    def git(self, *arguments: str, email: str = "ann@example.com") -> str:
        command = ["git", "-C", str(self.source), "-c", "user.name=x", "-c", f"user.email={email}", "-c", "gpg.format=ssh", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            (self.source / f"{name}.py").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change")
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def tool(self, *command: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run(command, cwd=self.source, env=environment, capture_output=True, timeout=120, check=False)

    def unit(self) -> None:
        shutil.rmtree(self.reports, ignore_errors=True)
        self.reports.mkdir()
        python, data = sys.executable, f"--data-file={self.reports.parent / 'coverage'}"
        pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pricing.py", f"--junitxml={self.reports / 'unit.xml'}"]
        self.tool(python, "-m", "coverage", "run", data, "--include=pricing.py", *pytest_)
        self.tool(python, "-m", "coverage", "xml", data, "-o", str(self.reports / "coverage.xml"))

    def others(self, url: str) -> None:
        python = sys.executable
        self.tool(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_service.py", f"--junitxml={self.reports / 'integration.xml'}")
        self.tool(python, "-m", "bandit", "-q", "-r", "pricing.py", "-f", "sarif", "-o", str(self.reports / "bandit.sarif"))
        script = self.reports.parent / "load.js"
        script.write_text(LOAD.replace("URL", url))
        self.tool(str(Path(sys.executable).with_name("k6")), "run", "-q", f"--summary-export={self.reports / 'k6.json'}", str(script))

    def bind(self) -> None:
        done = self.ansible(
            "ansible-playbook", str(ROOT / "playbooks/evidence_manifest.yml"), "-e", f"evidence_dir={self.reports}", "-e", f"evidence_commit={self.head}"
        )
        assert done.returncode == 0, done.stdout[-3000:]

    def ask(self, **options: Any) -> dict[str, Any]:
        reports: dict[str, Any] = {
            "unit_tests": ["unit.xml"], "coverage": ["coverage.xml"], "coverage_above_percent": 90, "integration_tests": ["integration.xml"],
            "benchmarks": [{"path": "k6.json", "limits": [{"name": "latency p95", "value": 'metrics.http_req_duration."p(95)"', "below": 60000}]}],
            "scans": ["bandit.sarif"], "forbidden_severities": ["critical", "high"],
        }  # fmt: skip
        return ask(**{"root": str(self.reports), "commit": self.head, "manifest": "evidence.json", **reports, **options})


def ask(**options: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(_evidence.ARGUMENT_SPEC).validate({"version": "v2", **options})
    assert not checked.error_messages, checked.error_messages
    return _evidence.run(checked.validated_parameters, Context())


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {box: proof["state"] for box, proof in answer["proofs"].items()}


def evidence(answer: dict[str, Any], box: str) -> str:
    return answer["proofs"][box]["evidence"]


@pytest.fixture(scope="module")
def service(kube: _kube.Kube) -> Iterator[dict[str, str]]:
    """Addresses of a pod of each version, which need no database to show their API."""
    namespace = f"evidence-{uuid.uuid4().hex[:8]}"
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    pods = _kube.path_of("", "v1", "pods", namespace)
    nowhere = {"PGHOST": "127.0.0.1", "PGUSER": "x", "PGDATABASE": "x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    try:
        for version in ("v1", "v2"):
            container = {
                "name": "app", "image": f"localhost/signal-service:{version}", "imagePullPolicy": "Never", "workingDir": "/opt/signal-service",
                "command": ["python3", "-m", "app"], "env": [{"name": name, "value": value} for name, value in nowhere.items()],
                "readinessProbe": {"httpGet": {"path": "/livez", "port": 8080}, "periodSeconds": 1},
            }  # fmt: skip
            spec = {"automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
            kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": version}, "spec": spec})
        wait_until("both are ready", lambda: all(pod_is_ready(kube.get(f"{pods}/{version}")) for version in ("v1", "v2")), 60)
        yield {version: f"http://{kube.get(f'{pods}/{version}')['status']['podIP']}:8080" for version in ("v1", "v2")}
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, ansible: Ansible, service: dict[str, str]) -> Pipeline:
    made = Pipeline(tmp_path_factory.mktemp("good"), ansible)
    made.commit(pricing=CODE, test_pricing=UNIT_TESTS, test_service=INTEGRATION_TESTS.replace("EXPECTED", "v1").replace("URL", service["v1"]))
    made.unit()
    made.others(f"{service['v1']}/livez")
    made.bind()
    return made


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, ansible: Ansible, service: dict[str, str]) -> Pipeline:
    """A sign is wrong, the version that runs is not the expected one, the load test meets 404, and a shell is called with foreign text."""
    made = Pipeline(tmp_path_factory.mktemp("bad"), ansible)
    tests = INTEGRATION_TESTS.replace("EXPECTED", "v2").replace("URL", service["v1"])
    made.commit(pricing=CODE.replace("strike - spot", "spot - strike") + UNSAFE, test_pricing=UNIT_TESTS, test_service=tests)
    made.unit()
    made.others(f"{service['v1']}/nothing-here")
    made.bind()
    return made


# --- reports of the pipeline -----------------------------------------------------------------------------------------


@pytest.mark.box(*BOXES)
def test_reports_of_a_good_commit_prove_five_boxes(good: Pipeline) -> None:
    answer = good.ask()
    assert states(answer) == dict.fromkeys(BOXES, "proven"), answer
    assert evidence(answer, "code.unit_tests").startswith("unit tests: 2 tests, 0 failures, 0 errors, 0 skipped; 100.00 % of lines covered")
    assert "1 thresholds of k6 held" in evidence(answer, "code.benchmarks")
    assert evidence(answer, "code.vulnerabilities").startswith("no critical or high")


@pytest.mark.box("code.unit_tests", "code.integration_tests", "code.benchmarks", "code.vulnerabilities")
def test_defects_that_the_tools_find_fail_four_boxes(bad: Pipeline) -> None:
    answer = bad.ask()
    assert states(answer) == {**dict.fromkeys(BOXES, "failed"), "code.security_scan": "proven"}, answer
    assert "test_a_put" in evidence(answer, "code.unit_tests")
    assert "test_the_service_answers_as_version_v2" in evidence(answer, "code.integration_tests")
    assert "k6 threshold checks rate>0.99 was crossed" in evidence(answer, "code.benchmarks")
    assert "B602 (high, pricing.py:" in evidence(answer, "code.vulnerabilities")


@pytest.mark.box("code.unit_tests")
def test_tests_that_leave_a_branch_out_fail_the_box(tmp_path: Path, ansible: Ansible) -> None:
    half = Pipeline(tmp_path, ansible)
    half.commit(pricing=CODE, test_pricing=UNIT_TESTS.replace("def test_a_put", "def a_put"))
    half.unit()
    half.bind()
    answer = half.ask()
    assert states(answer)["code.unit_tests"] == "failed"
    assert "75.00 % of lines covered (3 of 4), expected > 90 %" in evidence(answer, "code.unit_tests")


@pytest.mark.box(*BOXES)
def test_reports_of_the_commit_before_fail_every_box(good: Pipeline) -> None:
    answer = good.ask(commit=bytes(20).hex())
    assert states(answer) == dict.fromkeys(BOXES, "failed"), answer
    assert all(f"made from commit {good.head[:12]}, expected 000000000000" in evidence(answer, box) for box in BOXES)


@pytest.mark.box("code.security_scan", "code.vulnerabilities")
def test_no_scan_leaves_both_boxes_open(good: Pipeline) -> None:
    answer = good.ask(scans=["semgrep.sarif"])
    assert states(answer).keys() == {"code.unit_tests", "code.integration_tests", "code.benchmarks"}


@pytest.mark.box("code.vulnerabilities")
@pytest.mark.parametrize(("expires", "state"), [("2099-12-31", "proven"), ("2026-01-01", "failed")])
def test_an_accepted_finding_counts_again_after_its_last_day(bad: Pipeline, tmp_path: Path, expires: str, state: str) -> None:
    risks = tmp_path / "risks.yml"
    risks.write_text(f"- {{id: B602, reason: only text of our own, by: security@example.com, expires: {expires}}}\n")
    answer = bad.ask(accepted_risks=str(risks))
    assert states(answer)["code.vulnerabilities"] == state, answer
    assert "security@example.com" in evidence(answer, "code.vulnerabilities")


@pytest.mark.box("code.review")
def test_only_the_tag_of_somebody_else_is_a_review(good: Pipeline, tmp_path: Path) -> None:
    signers = tmp_path / "allowed_signers"
    for who in ("ann", "bob"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / who)], check=True, timeout=30)
        with signers.open("a") as file:
            file.write(f'{who}@example.com namespaces="git" {(tmp_path / f"{who}.pub").read_text()}')
        good.git("-c", f"user.signingkey={tmp_path / who}.pub", "tag", "-s", "-m", "reviewed", f"by-{who}", email=f"{who}@example.com")
    answers = {
        who: good.ask(review={"tag": f"by-{who}", "repository": str(good.source), "allowed_signers": str(signers)}) for who in ("ann", "bob")
    }
    assert {who: states(answer)["code.review"] for who, answer in answers.items()} == {"ann": "failed", "bob": "proven"}
    assert "signed by bob@example.com" in evidence(answers["bob"], "code.review")


# --- documents of the lab's own release ------------------------------------------------------------------------------

NAMED = {name: [f"docs/{name}.md"] for name in ("runbook", "migration_guide", "release_notes")} | {"diagrams": ["docs/architecture.md"]}
ABOUT = {name: f"documentation.{name}" for name in NAMED}


def documents(root: Path) -> dict[str, Any]:
    return ask(root=str(root), commit=bytes(20).hex(), documents=NAMED)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(DOCUMENTS, tmp_path / "release")
    return tmp_path / "release"


@pytest.mark.box(*ABOUT.values())
def test_the_documents_of_the_labs_release_prove_four_boxes(copied: Path) -> None:
    assert states(documents(copied)) == dict.fromkeys(ABOUT.values(), "proven")


@pytest.mark.box(*ABOUT.values())
@pytest.mark.parametrize("name", NAMED)
def test_a_document_of_the_version_before_fails_its_box(copied: Path, name: str) -> None:
    file = copied / NAMED[name][0]
    file.write_text(file.read_text().replace("v2", "v1"))
    answer = documents(copied)
    assert states(answer) == {**dict.fromkeys(ABOUT.values(), "proven"), ABOUT[name]: "failed"}
    assert "does not name v2" in evidence(answer, ABOUT[name])


@pytest.mark.box("documentation.runbook", "documentation.release_notes")
def test_a_document_that_is_gone_leaves_its_box_open_and_fails_those_that_link_to_it(copied: Path) -> None:
    (copied / "docs/migration_guide.md").unlink()
    answer = documents(copied)
    assert "documentation.migration_guide" not in answer["proofs"]
    assert states(answer) == {"documentation.diagrams": "proven", "documentation.runbook": "failed", "documentation.release_notes": "failed"}


# --- the API of the lab's own service --------------------------------------------------------------------------------


@pytest.mark.box("documentation.api_docs")
@pytest.mark.parametrize(
    ("version", "said"), [("v2", "API document v2, 8 operations, equal to"), ("v1", "paths > /api/v2/status is documented and not served")]
)
def test_the_api_document_is_proven_by_the_version_that_serves_it(service: dict[str, str], version: str, said: str) -> None:
    served = f"{service[version]}/openapi.json"
    answer = ask(root=str(DOCUMENTS), commit=bytes(20).hex(), openapi={"document": "docs/openapi.json", "served": served})
    assert states(answer) == {"documentation.api_docs": "proven" if version == "v2" else "failed"}
    assert said in evidence(answer, "documentation.api_docs")
