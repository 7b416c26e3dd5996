# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who acts, as the API server has authenticated them: never what a variable says. Private to this collection."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


@dataclass(frozen=True)
class Caller:
    """An authenticated user with its groups."""

    name: str
    groups: tuple[str, ...] = ()


def caller(kube: _kube.Kube) -> Caller:
    """Return whom the credentials of ``kube`` stand for. Raises :class:`RolloutError` when the API server does not say."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = kube.post(_kube.path_of("authentication.k8s.io", "v1", "selfsubjectreviews"), body)
    user = (answer.get("status") or {}).get("userInfo") or {}
    if not user.get("username"):
        raise RolloutError(
            "The API server does not say who the caller is, expected a user name. Nothing was written. Next: kubectl auth whoami with the same kubeconfig"
        )
    return Caller(str(user["username"]), tuple(str(group) for group in user.get("groups") or []))
