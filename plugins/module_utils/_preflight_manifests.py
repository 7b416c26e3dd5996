# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: what the release brings, and what that needs in the cluster. Private to this collection."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _manifests
from ansible_collections.signal.rollout.plugins.module_utils._errors import require
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import Ask, NotApplicable, Problem, Site

_PATHS = {"ConfigMap": "configmaps", "Secret": "secrets"}


def check_manifests(site: Site, problem: Ask) -> Iterator[Problem]:
    require("PyYAML", _manifests.yaml)
    manifests, findings = _manifests.read(site.params["manifests"])
    site.facts["manifests"] = manifests
    rules = _manifests.Rules(
        namespace=site.namespace,
        kinds=tuple(site.params["allowed_kinds"]),
        version=site.params["version"] or "",
        stable_name=site.params["deployment"] or "",
    )
    for found in [*findings, *_manifests.check(manifests, rules)]:
        yield problem("manifests", found.object, found.rule, found.seen, found.expected, found.next)


def check_files(site: Site, problem: Ask) -> Iterator[Problem]:
    """Whether the files that later phases read are there, so that none is missed after something was changed."""
    for name, path in sorted(site.params["files"].items()):
        seen = _unreadable(str(path))
        if seen:
            yield problem(f"files.{name}", f"file {path}", "later phases can read it", seen, "a file with something in it", "correct the name, or add the file")


def _unreadable(path: str) -> str:
    if not os.path.isabs(path):
        return "a relative path"
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "no file, but a folder or a device"
    if not os.access(path, os.R_OK):
        return "no right to read it"
    return "" if status.st_size else "an empty file"


def check_references(site: Site, problem: Ask) -> Iterator[Problem]:
    """What the manifests need in the cluster, and what they must not share with the stable Deployment there."""
    if "manifests" not in site.facts:
        raise NotApplicable("the manifests could not be read")
    deployments = [manifest for manifest in site.facts["manifests"] if manifest.kind == "Deployment"]
    brought = {(manifest.kind, manifest.name) for manifest in site.facts["manifests"]}
    for manifest in deployments:
        yield from _shared_selector(site, manifest, problem)
        for needed in _manifests.references(manifest):
            if (needed.kind, needed.name) not in brought and not _exists(site, needed):
                yield problem(
                    "manifests",
                    needed.needed_by,
                    "what the pods refer to exists",
                    f"no {needed.kind} {needed.name} in namespace {site.namespace} or among the manifests",
                    "that object, since the pods do not start without it",
                    "add it to the release, or correct the reference",
                )


def _shared_selector(site: Site, manifest: _manifests.Manifest, problem: Ask) -> Iterator[Problem]:
    stable_name = site.params["deployment"]
    if not stable_name:
        return
    stable = site.kube().find(_kube.path_of("apps", "v1", "deployments", site.namespace, stable_name))
    theirs = (((stable or {}).get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    labels = ((manifest.pod_template.get("metadata") or {}).get("labels")) or {}
    if theirs and all(labels.get(key) == value for key, value in theirs.items()):
        yield problem(
            "manifests",
            manifest.title,
            "green's pods are not blue's",
            f"its pods match the selector of Deployment {stable_name}",
            "a label that tells them apart",
            "correct the labels: both Deployments would claim the same pods",
        )


def _exists(site: Site, needed: _manifests.Reference) -> bool:
    try:
        return site.kube().find(_kube.path_of("", "v1", _PATHS[needed.kind], site.namespace, needed.name)) is not None
    except _kube.KubeError as error:
        if error.status != 403:
            raise
        site.warnings.append(f"{needed.kind} {needed.name}: no right to read it, so it is not known whether it exists.")
        return True
