# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the files of a release prove, and what binds them to it."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _evidence
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

COMMIT, OTHER = "3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2", "0" * 40
DIGEST, OTHER_DIGEST = "sha256:" + "9f" * 32, "sha256:" + "00" * 32
GOOD = '<testsuite name="pytest" tests="2"><testcase name="a"/><testcase name="b"/></testsuite>'
COVERAGE = json.dumps({"files": {"a.py": {"executed_lines": list(range(95)), "missing_lines": [95, 96, 97, 98, 99]}}, "totals": {}})
CLEAN = json.dumps({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "Bandit", "version": "1.9.4"}}, "results": []}]})


class ReleaseFolder:
    """Evidence as a pipeline leaves it, with its manifest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = datetime.now(timezone.utc)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.root / name.replace("__", ".")).write_text(text)

    def manifest(self, commit: str = COMMIT, image: str = f"r.example/s@{DIGEST}", made: datetime | None = None) -> None:
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.root.iterdir() if path.name != "evidence.json"}
        document = {"commit": commit, "image": image, "created": (made or self.made).isoformat(), "files": files}
        (self.root / "evidence.json").write_text(json.dumps(document))

    def ask(self, **options: Any) -> dict[str, Any]:
        given = {"root": str(self.root), "version": "v2", "commit": COMMIT, "image": DIGEST, "manifest": "evidence.json", **options}
        validated = ArgumentSpecValidator(_evidence.ARGUMENT_SPEC).validate({name: value for name, value in given.items() if value is not None})
        assert not validated.error_messages
        return _evidence.run(validated.validated_parameters, Context())


UNIT = {"unit_tests": ["unit*.xml"], "coverage": ["coverage.json"], "coverage_above_percent": 90}


@pytest.fixture
def folder(tmp_path: Path) -> ReleaseFolder:
    made = ReleaseFolder(tmp_path)
    made.write(unit__xml=GOOD, it__xml=GOOD, coverage__json=COVERAGE, bandit__sarif=CLEAN)
    made.manifest()
    return made


def failed(answer: dict[str, Any], box: str) -> str:
    assert answer["proofs"][box]["state"] == "failed", answer
    return answer["proofs"][box]["evidence"]


def undecided(answer: dict[str, Any], box: str) -> str:
    assert box not in answer["proofs"]
    return next(text for text in answer["undecided"] if text.startswith(f"{box}: "))


# --- proven ----------------------------------------------------------------------------------------------------------


def test_evidence_of_the_release_proves_its_boxes(folder: ReleaseFolder) -> None:
    answer = folder.ask(**UNIT, integration_tests=["it.xml"], scans=["bandit.sarif"], forbidden_severities=["critical", "high"])
    assert answer["changed"] is False and answer["undecided"] == []
    assert {box: proof["state"] for box, proof in answer["proofs"].items()} == dict.fromkeys(
        ["code.unit_tests", "code.integration_tests", "code.security_scan", "code.vulnerabilities"], "proven"
    )
    said = "unit tests: 2 tests, 0 failures, 0 errors, 0 skipped; 95.00 % of lines covered (95 of 100), > 90 %"
    assert answer["proofs"]["code.unit_tests"]["evidence"] == said
    assert {file["bound_by"] for file in answer["files"]} == {"manifest"}


def test_what_is_not_asked_for_is_not_judged(folder: ReleaseFolder) -> None:
    assert folder.ask()["proofs"] == {}


def test_evidence_fits_into_the_record(folder: ReleaseFolder) -> None:
    names = {f"unit{number}.xml": GOOD for number in range(30)}
    for name, text in names.items():
        (folder.root / name).write_text(text.replace("<testcase name=\"a\"/>", f"<testcase name='{'x' * 200}'><failure/></testcase>"))
    folder.manifest()
    assert len(failed(folder.ask(**UNIT), "code.unit_tests")) <= 300


# --- bound to the release --------------------------------------------------------------------------------------------


def test_evidence_of_another_commit_is_refused_with_both_named(folder: ReleaseFolder) -> None:
    folder.manifest(commit=OTHER)
    # Said once, though both reports of the box are bound by it.
    assert failed(folder.ask(**UNIT), "code.unit_tests") == "evidence.json was made from commit 000000000000, expected 3f6c1a2090b1"


def test_evidence_for_another_image_is_refused_with_both_named(folder: ReleaseFolder) -> None:
    folder.manifest(image=OTHER_DIGEST)
    assert f"is for image {OTHER_DIGEST[:19]}, expected {DIGEST[:19]}" in failed(folder.ask(**UNIT), "code.unit_tests")


def test_a_file_that_was_changed_since_is_refused(folder: ReleaseFolder) -> None:
    folder.write(coverage__json=COVERAGE.replace("95, ", "", 1))
    assert "coverage.json has sha256" in failed(folder.ask(**UNIT), "code.unit_tests")


def test_what_a_file_says_of_itself_counts_more_than_the_manifest(folder: ReleaseFolder) -> None:
    folder.write(it__xml=GOOD.replace("<testcase", f'<properties><property name="commit" value="{OTHER}"/></properties><testcase', 1))
    folder.manifest()
    assert "it.xml was made from commit 000000000000" in failed(folder.ask(integration_tests=["it.xml"]), "code.integration_tests")


def test_a_file_may_say_itself_where_it_comes_from(folder: ReleaseFolder) -> None:
    folder.write(own__xml=GOOD.replace("<testcase", f'<properties><property name="commit" value="{COMMIT}"/></properties><testcase', 1))
    answer = folder.ask(integration_tests=["own.xml"])
    assert answer["proofs"]["code.integration_tests"]["state"] == "proven"
    assert answer["files"][0]["bound_by"] == "file"


def test_a_file_that_nothing_binds_leaves_the_box_open(folder: ReleaseFolder) -> None:
    folder.write(loose__xml=GOOD)
    said = undecided(folder.ask(integration_tests=["loose.xml"]), "code.integration_tests")
    assert "nothing says which commit or image digest loose.xml is for" in said


@pytest.mark.parametrize(("hours", "state"), [(23, "proven"), (25, "failed")])
def test_evidence_ages(folder: ReleaseFolder, hours: int, state: str) -> None:
    folder.manifest(made=folder.made - timedelta(hours=hours))
    answer = folder.ask(integration_tests=["it.xml"], max_age_hours=24)
    assert answer["proofs"]["code.integration_tests"]["state"] == state


def test_evidence_from_the_future_is_refused(folder: ReleaseFolder) -> None:
    folder.manifest(made=folder.made + timedelta(days=3))
    assert "in the future" in failed(folder.ask(integration_tests=["it.xml"]), "code.integration_tests")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"commit": "v2", "files": {}}', '{"commit": "x", "files": {"a": "b"}}'])
def test_a_manifest_that_says_nothing_leaves_boxes_open(folder: ReleaseFolder, text: str) -> None:
    folder.write(evidence__json=text)
    assert "evidence.json" in undecided(folder.ask(integration_tests=["it.xml"]), "code.integration_tests")


# --- what cannot be judged -------------------------------------------------------------------------------------------


def test_a_missing_file_leaves_its_box_open_and_the_others_judged(folder: ReleaseFolder) -> None:
    answer = folder.ask(**UNIT, integration_tests=["gone/*.xml"])
    assert "gone/*.xml: there is no such file in" in undecided(answer, "code.integration_tests")
    assert answer["proofs"]["code.unit_tests"]["state"] == "proven"


def test_tests_that_fail_count_more_than_coverage_that_is_missing(folder: ReleaseFolder) -> None:
    folder.write(unit__xml=GOOD.replace('<testcase name="a"/>', '<testcase name="a"><error/></testcase>'))
    folder.manifest()
    (folder.root / "coverage.json").unlink()
    assert "1 errors, 0 skipped: a" in failed(folder.ask(**UNIT), "code.unit_tests")


def test_a_pipe_is_not_read(folder: ReleaseFolder) -> None:
    os.mkfifo(folder.root / "pipe.xml")
    assert "there is no such file" in undecided(folder.ask(integration_tests=["pipe.xml"]), "code.integration_tests")


# --- documents and addresses -----------------------------------------------------------------------------------------


def test_documents_by_path_and_by_address(folder: ReleaseFolder, server: Any) -> None:
    folder.write(notes__md="Release notes of v2: [runbook](runbook.md)", runbook__md="Runbook of v1")
    server.respond = lambda handler, _query: server.send(handler, "Migration guide to v2")
    answer = folder.ask(
        documents={"release_notes": ["notes.md"], "runbook": ["runbook.md"], "migration_guide": [f"{server.url}/guide"], "diagrams": ["*.svg"]}
    )
    assert answer["proofs"]["documentation.release_notes"]["state"] == "proven"
    assert answer["proofs"]["documentation.migration_guide"]["state"] == "proven"
    assert "runbook.md does not name v2" in failed(answer, "documentation.runbook")
    assert "*.svg: there is no such file" in undecided(answer, "documentation.diagrams")


def api(version: str = "v2", **paths: Any) -> str:
    return json.dumps({"openapi": "3.1.0", "info": {"title": "s", "version": version}, "paths": {f"/{name}": {"get": {}} for name in paths or ("a",)}})


def test_the_served_api_is_compared_with_its_document(folder: ReleaseFolder, server: Any) -> None:
    folder.write(openapi__json=api())
    options = {"openapi": {"document": "openapi.json", "served": f"{server.url}/openapi.json"}}
    server.respond = lambda handler, _query: server.send(handler, api())
    assert folder.ask(**options)["proofs"]["documentation.api_docs"]["state"] == "proven"
    server.respond = lambda handler, _query: server.send(handler, api(a=1, b=1))
    assert "paths > /b is served and not documented" in failed(folder.ask(**options), "documentation.api_docs")
    server.respond = lambda handler, _query: server.send(handler, "gone", 404)
    assert "HTTP 404, expected 200" in undecided(folder.ask(**options), "documentation.api_docs")


def test_the_api_of_a_running_service_needs_neither_commit_nor_image_and_everything_beside_it_does(folder: ReleaseFolder, server: Any) -> None:
    folder.write(openapi__json=api())
    server.respond = lambda handler, _query: server.send(handler, api())
    alone = {"commit": None, "image": None, "manifest": None, "openapi": {"document": "openapi.json", "served": f"{server.url}/openapi.json"}}
    assert folder.ask(**alone)["proofs"]["documentation.api_docs"]["state"] == "proven"
    for more in ({"scans": ["bandit.sarif"], "forbidden_severities": ["high"]}, {"openapi": {"document": "openapi.json", "served": "openapi.json"}}):
        with pytest.raises(RolloutError, match="commit and image are not set"):
            folder.ask(**{**alone, **more})


def test_what_was_served_once_must_belong_to_the_release(folder: ReleaseFolder) -> None:
    folder.write(openapi__json=api(), served__json=api())
    options = {"openapi": {"document": "openapi.json", "served": "served.json"}}
    assert "nothing says which" in undecided(folder.ask(**options), "documentation.api_docs")
    folder.manifest()
    assert folder.ask(**options)["proofs"]["documentation.api_docs"]["state"] == "proven"


def test_the_answers_of_a_git_provider_are_asked_for_with_the_token(folder: ReleaseFolder, server: Any, other_server: Any) -> None:
    pull = {"number": 1, "user": {"login": "ann"}, "head": {"sha": COMMIT}}
    approved = [{"user": {"login": "bob"}, "state": "APPROVED", "commit_id": COMMIT}]
    server.respond = lambda handler, _query: server.send(handler, approved if "reviews" in handler.path else pull)
    other_server.respond = lambda handler, _query: other_server.send(handler, "Runbook of v2")
    review = {"provider": "github", "request": f"{server.url}/pulls/1", "reviews": f"{server.url}/pulls/1/reviews", "token": "t0ken-of-the-test"}
    answer = folder.ask(review=review, documents={"runbook": [f"{other_server.url}/runbook"]})
    assert answer["proofs"]["code.review"]["evidence"].endswith("approved by bob")
    assert [headers.get("Authorization") for _path, headers, _who in server.requests] == ["Bearer t0ken-of-the-test"] * 2
    assert [headers.get("Authorization") for _path, headers, _who in other_server.requests] == [None]


def test_a_page_of_reviews_is_not_taken_for_all(folder: ReleaseFolder, server: Any) -> None:
    server.respond = lambda handler, _query: server.send(handler, [], Link='<http://x/?page=2>; rel="next"')
    review = {"provider": "github", "request": f"{server.url}/pulls/1", "reviews": f"{server.url}/pulls/1/reviews"}
    assert "has further pages" in undecided(folder.ask(review=review), "code.review")


# --- options ---------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"commit": None, "image": None}, "commit and image are not set"),
    ({"commit": "3f6c1a2"}, "expected a full hash"),
    ({"image": "signal-service:v2"}, "expected a digest"),
    ({"unit_tests": ["a.xml"]}, "belong together"),
    ({**UNIT, "coverage_above_percent": None}, "belong together"),
    ({**UNIT, "coverage_above_percent": 120}, "expected 0 to 100"),
    ({"scans": ["a.sarif"]}, "forbidden_severities is empty"),
    ({"max_age_hours": -1}, "max_age_hours is -1.0"),
    ({"review": {"tag": "v2"}}, "allowed_signers, repository not set"),
    ({"review": {"tag": "--help", "repository": "/x", "allowed_signers": "/y"}}, "begins with a dash"),
    ({"review": {"tag": "v2", "provider": "github"}}, "expected one of them"),
    ({"review": {"provider": "github", "request": "ftp://x/1", "reviews": "http://u:p@x/"}}, "review.reviews: it holds a user or a password"),
    ({"openapi": {"document": "a.json", "served": "file:///etc/passwd"}}, "openapi.served: its scheme is 'file'"),
    ({"documents": {"runbook": ["http://"]}}, "documents.runbook: it has no host"),
    ({"benchmarks": [{"path": "k6.json", "limits": [{"name": "p99", "value": "a"}]}]}, "0 bounds"),
    ({"ca_cert": "/nowhere.pem"}, "/nowhere.pem cannot be read"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_wrong_options_are_refused_before_anything_is_read(folder: ReleaseFolder, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RolloutError) as caught:
        folder.ask(**options)
    assert said in caught.value.message and caught.value.message.endswith("Nothing was read.")


def test_all_mistakes_are_named_at_once(folder: ReleaseFolder) -> None:
    with pytest.raises(RolloutError) as caught:
        folder.ask(commit="x", image="y", scans=["z"], max_age_hours=0)
    assert len(caught.value.message.split("; ")) == 4


def test_a_cancelled_run_proves_nothing(folder: ReleaseFolder) -> None:
    context = Context()
    context.interrupt("SIGTERM")
    options: dict[str, Any] = {"root": str(folder.root), "version": "v2", "commit": COMMIT, "integration_tests": ["it.xml"]}
    validated = ArgumentSpecValidator(_evidence.ARGUMENT_SPEC).validate(options)
    with pytest.raises(RolloutError, match="cancelled by SIGTERM"):
        _evidence.run(validated.validated_parameters, context)
