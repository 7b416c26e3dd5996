# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reviews: the right commit, somebody else, and a signature that is real."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_review as review
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable

COMMIT, OTHER, MERGE = "3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2", "0" * 40, "a" * 40

# --- GitHub ----------------------------------------------------------------------------------------------------------


def pull(**more: Any) -> dict[str, Any]:
    return {"number": 412, "user": {"login": "ann"}, "head": {"sha": COMMIT}, "merged": False, "merge_commit_sha": MERGE, **more}


def says(who: str, state: str, commit: str = COMMIT) -> dict[str, Any]:
    return {"user": {"login": who}, "state": state, "commit_id": commit}


def test_an_approval_by_somebody_else_counts() -> None:
    said = review.judge_github(pull(), [says("bob", "APPROVED"), says("bob", "COMMENTED")], COMMIT)
    assert said == "pull request 412 by ann at 3f6c1a2090b1 approved by bob"


@pytest.mark.parametrize(
    ("reviews", "said"),
    [
        ([], "nobody but its author ann has approved"),
        ([says("Ann", "APPROVED")], "nobody but its author ann has approved"),
        ([says("bob", "COMMENTED")], "nobody but its author"),
        ([says("bob", "APPROVED", OTHER)], "bob approved an older commit"),
        ([says("bob", "APPROVED"), says("bob", "DISMISSED")], "nobody but its author"),
        ([says("bob", "APPROVED"), says("eve", "CHANGES_REQUESTED")], "eve requested changes"),
    ],
)
def test_what_is_no_approval_of_this_commit_does_not_count(reviews: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(Refused, match=said):
        review.judge_github(pull(), reviews, COMMIT)


def test_a_merge_commit_counts_once_it_is_merged() -> None:
    approved = [says("bob", "APPROVED")]
    assert review.judge_github(pull(merged=True), approved, MERGE)
    with pytest.raises(Refused, match="is of commit 3f6c1a2090b1, expected aaaaaaaaaaaa"):
        review.judge_github(pull(), approved, MERGE)


# --- GitLab ----------------------------------------------------------------------------------------------------------


def merge_request(**more: Any) -> dict[str, Any]:
    return {"iid": 7, "author": {"username": "ann"}, "sha": COMMIT, "state": "opened", "merge_commit_sha": None, **more}


def approvals(*people: str, left: int = 0) -> dict[str, Any]:
    return {"approvals_left": left, "approved_by": [{"user": {"username": who}} for who in people]}


def test_gitlab_approvals_count() -> None:
    assert review.judge_gitlab(merge_request(), approvals("ann", "bob"), COMMIT) == "merge request 7 by ann at 3f6c1a2090b1 approved by bob"
    assert review.judge_gitlab(merge_request(state="merged", squash_commit_sha=MERGE), approvals("bob"), MERGE)


@pytest.mark.parametrize(
    ("request_", "answer", "said"),
    [
        (merge_request(), approvals("ann"), "nobody but its author ann"),
        (merge_request(), approvals("bob", left=1), "1 more approvals are required"),
        (merge_request(sha=OTHER), approvals("bob"), "is of commit 000000000000, expected 3f6c1a2090b1"),
    ],
)
def test_gitlab_refusals(request_: dict[str, Any], answer: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        review.judge_gitlab(request_, answer, COMMIT)


@pytest.mark.parametrize("decide", [review.judge_github, review.judge_gitlab])
@pytest.mark.parametrize("answer", [{}, [], None, {"message": "Not Found"}])
def test_another_answer_is_not_judged(decide: Any, answer: Any) -> None:
    with pytest.raises(Unusable):
        decide(answer, answer, COMMIT)


def test_without_a_commit_nothing_is_reviewed() -> None:
    with pytest.raises(Unusable, match="the option commit is not set"):
        review.judge_github(pull(), [says("bob", "APPROVED")], "")


# --- a signed tag: real git, real keys -------------------------------------------------------------------------------


class Repository:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "repository"
        self.signers = folder / "allowed_signers"
        self.keys = folder
        self.path.mkdir()
        self.git("init", "-q")
        self.commit = self.commit_by("ann@example.com")
        allowed = []
        for who in ("ann", "bob", "eve"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / who)], check=True, timeout=30)
            if who != "eve":
                allowed.append(f'{who}@example.com namespaces="git" {(folder / f"{who}.pub").read_text()}')
        self.signers.write_text("".join(allowed))

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), "-c", "user.name=x", "-c", "gpg.format=ssh", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def commit_by(self, author: str) -> str:
        self.git("-c", f"user.email={author}", "commit", "-q", "--allow-empty", "-m", "change")
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, who: str) -> None:
        self.git("-c", f"user.email={who}@example.com", "-c", f"user.signingkey={self.keys / who}.pub", "tag", "-s", "-m", "reviewed", name)

    def judge(self, name: str = "v2") -> str:
        return review.judge_tag(str(self.path), name, str(self.signers), self.commit, 20)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_tag_signed_by_an_allowed_reviewer_counts(repository: Repository) -> None:
    repository.tag("v2", "bob")
    assert f"tag v2 of commit {repository.commit[:12]} signed by bob@example.com (ED25519 SHA256:" in repository.judge()


@pytest.mark.parametrize(
    ("who", "said"), [("eve", "is not signed by anybody in"), ("ann", "who is the author of the commit"), ("", "is not signed by anybody in")]
)
def test_a_tag_of_a_stranger_of_the_author_or_of_nobody_is_refused(repository: Repository, who: str, said: str) -> None:
    if who:
        repository.tag("v2", who)
    else:
        repository.git("-c", "user.email=bob@example.com", "tag", "-a", "-m", "x", "v2")
    with pytest.raises(Refused, match=said):
        repository.judge()


def test_a_signed_tag_of_another_commit_or_under_another_name_is_refused(repository: Repository) -> None:
    repository.tag("v2", "bob")
    repository.git("update-ref", "refs/tags/v3", "refs/tags/v2")
    with pytest.raises(Refused, match="tag v3 holds the signed tag v2"):
        repository.judge("v3")
    repository.commit = repository.commit_by("ann@example.com")
    with pytest.raises(Refused, match="expected " + repository.commit[:12]):
        repository.judge()


def test_a_tag_without_a_tag_object_is_refused_and_a_missing_one_not_judged(repository: Repository) -> None:
    repository.git("tag", "v2")
    with pytest.raises(Refused, match="not annotated"):
        repository.judge()
    with pytest.raises(Unusable, match="no tag v9"):
        repository.judge("v9")


def test_the_repository_cannot_say_what_verifies_its_signatures(repository: Repository) -> None:
    """Its own configuration names a program that finds every signature good."""
    program = repository.keys / "good.sh"
    program.write_text("#!/bin/sh\necho 'Good \"git\" signature for bob@example.com with ED25519 key SHA256:x' >&2\ntouch \"$0.ran\"\n")
    program.chmod(0o755)
    repository.tag("v2", "eve")
    repository.git("config", "gpg.ssh.program", str(program))
    with pytest.raises(Refused, match="is not signed by anybody"):
        repository.judge()
    assert not Path(f"{program}.ran").exists()
