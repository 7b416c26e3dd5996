# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether somebody other than the author has approved the very commit that is released. Private to this collection."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable, commit_of

_SIGNER = re.compile(r'Good "git" signature for (\S+) with (\S+) key (\S+)')
# What a repository's own configuration could make git run or believe, and what would let another kind of signature in.
_GIT = (
    "git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gpg.ssh.program=ssh-keygen",
    "-c", "gpg.program=false", "-c", "gpg.openpgp.program=false", "-c", "gpg.x509.program=false",
)  # fmt: skip


# --- a signed tag ----------------------------------------------------------------------------------------------------


def judge_tag(repository: str, name: str, allowed_signers: str, commit: str, timeout: float) -> str:
    """Return the evidence that an allowed signer has tagged ``commit``. Raises :class:`Refused` or :class:`Unusable`."""
    if not commit:
        raise Unusable(f"tag {name}: the option commit is not set, so it is not known what must have been reviewed")
    reference = f"refs/tags/{name}"
    code, said = _git(repository, timeout, "for-each-ref", "--format=%(objecttype)%09%(tag)%09%(*objectname)", reference)
    if code or not said:
        raise Unusable(f"there is no tag {name} in {repository}{': ' + one_line(said, 120) if code else ''}")
    kind, inner, target = (said.split("\t") + ["", ""])[:3]
    if kind != "tag":
        raise Refused(f"tag {name} is not annotated, so nobody can have signed it")
    # A signed tag of another release, filed under this name, has a good signature too.
    if inner != name:
        raise Refused(f"tag {name} holds the signed tag {one_line(inner, 60)}, expected its own")
    if target != commit:
        raise Refused(f"tag {name} is of commit {target[:12]}, expected {commit[:12]}")
    code, said = _git(repository, timeout, "-c", f"gpg.ssh.allowedSignersFile={allowed_signers}", "verify-tag", reference)
    signer = _SIGNER.search(said)
    if code or signer is None:
        raise Refused(f"tag {name} is not signed by anybody in {allowed_signers}: {one_line(said, 120) or 'no signature'}")
    code, author = _git(repository, timeout, "log", "-1", "--format=%ae", commit)
    if code:
        raise Unusable(f"commit {commit[:12]} is not in {repository}: {one_line(author, 120)}")
    if author.lower() == signer[1].lower():
        raise Refused(f"tag {name} was signed by {signer[1]}, who is the author of the commit: expected somebody else")
    return f"tag {name} of commit {commit[:12]} signed by {signer[1]} ({signer[2]} {signer[3][:20]}), author {one_line(author, 60)}"


def _git(repository: str, timeout: float, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1"}
    # A repository is the one that is named, whatever a hook or a wrapper has set.
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(variable, None)
    try:
        done = subprocess.run(
            [*_GIT, "-C", repository, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise Unusable("git is not installed where this task runs") from None
    except subprocess.TimeoutExpired:
        raise Unusable(f"git did not answer within {timeout:g} s in {repository}") from None
    return done.returncode, done.stdout.decode(errors="backslashreplace").strip()


# --- pull and merge requests: pure -----------------------------------------------------------------------------------


def judge_github(request: Any, reviews: Any, commit: str) -> str:
    """Judge a pull request and its reviews, as GitHub's API answers. Raises :class:`Refused` or :class:`Unusable`."""
    name = f"pull request {_number(request, 'number')}"
    author, head = _text(request, "user", "login"), commit_of(_text(request, "head", "sha"))
    if not author or not head:
        raise Unusable(f"{name} has no user.login or head.sha, expected GitHub's answer to GET /repos/OWNER/NAME/pulls/NUMBER")
    if not isinstance(reviews, list):
        raise Unusable(f"{name}: the reviews are no list, expected GitHub's answer to GET .../pulls/NUMBER/reviews")
    merged = commit_of(_text(request, "merge_commit_sha")) if request.get("merged") is True else ""
    _same_commit(name, commit, head, merged)
    last: dict[str, tuple[str, str]] = {}
    for review in reviews:
        who, state = _text(review, "user", "login"), _text(review, "state").upper()
        # A comment takes no approval back.
        if who and state in ("APPROVED", "CHANGES_REQUESTED", "DISMISSED"):
            last[who] = (state, commit_of(_text(review, "commit_id")))
    against = sorted(who for who, (state, _of) in last.items() if state == "CHANGES_REQUESTED")
    if against:
        raise Refused(f"{name}: {', '.join(against)} requested changes and has not approved since")
    stale = sorted(who for who, (state, of) in last.items() if state == "APPROVED" and of != head)
    approved = sorted(who for who, (state, of) in last.items() if state == "APPROVED" and of == head and who.lower() != author.lower())
    if not approved:
        hint = f"; {', '.join(stale)} approved an older commit" if stale else ""
        raise Refused(f"{name}: nobody but its author {author} has approved {head[:12]}{hint}")
    return f"{name} by {author} at {head[:12]} approved by {', '.join(approved)}"


def judge_gitlab(request: Any, approvals: Any, commit: str) -> str:
    """Judge a merge request and its approvals, as GitLab's API answers. Raises :class:`Refused` or :class:`Unusable`."""
    name = f"merge request {_number(request, 'iid')}"
    author, head = _text(request, "author", "username"), commit_of(_text(request, "sha"))
    if not author or not head:
        raise Unusable(f"{name} has no author.username or sha, expected GitLab's answer to GET /projects/ID/merge_requests/IID")
    if not isinstance(approvals, dict) or not isinstance(approvals.get("approved_by"), list):
        raise Unusable(f"{name}: the approvals have no list approved_by, expected GitLab's answer to GET .../merge_requests/IID/approvals")
    state = _text(request, "state")
    merged = [commit_of(_text(request, key)) for key in ("merge_commit_sha", "squash_commit_sha")] if state == "merged" else []
    _same_commit(name, commit, head, *merged)
    left = approvals.get("approvals_left")
    if isinstance(left, int) and left > 0:
        raise Refused(f"{name}: {left} more approvals are required")
    people = {_text(entry, "user", "username") for entry in approvals["approved_by"]}
    approved = sorted(who for who in people if who and who.lower() != author.lower())
    if not approved:
        raise Refused(f"{name}: nobody but its author {author} has approved it")
    return f"{name} by {author} at {head[:12]} approved by {', '.join(approved)}"


def _same_commit(name: str, commit: str, *heads: str) -> None:
    if not commit:
        raise Unusable(f"{name}: the option commit is not set, so it is not known what must have been reviewed")
    if commit not in heads:
        raise Refused(f"{name} is of commit {heads[0][:12]}, expected {commit[:12]}")


def _text(value: Any, *path: str) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return one_line(value, 80) if isinstance(value, str) else ""


def _number(request: Any, key: str) -> str:
    value = request.get(key) if isinstance(request, Mapping) else None
    return str(value) if isinstance(value, int) else "without a number"
