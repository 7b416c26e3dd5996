# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Configuration that proxies have refused since a weight was written, by Envoy's own count and by istiod's. Private."""

from __future__ import annotations

import threading
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _envoy, _istiod, _kube
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


class Baseline:
    """How often configuration had been rejected before the write, read beside it by a thread with a connection of its own."""

    def __init__(self, kube: _kube.Kube, istiod: dict[str, Any], admin_port: int, proxies: list[_envoy.Proxy]) -> None:
        self._kube = kube
        self._istiod = istiod
        self._port = admin_port
        self._proxies = proxies
        self._done = threading.Event()
        self._counts: _istiod.Counts | None = None
        self._envoys: dict[str, dict[str, int]] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name="rejections", daemon=True).start()

    def _run(self) -> None:
        try:
            admin = _envoy.Admin(self._kube, self._port, "", (_envoy.PROXY,))
            for proxy in self._proxies:
                # A copy: the waiting thread changes its own.
                copy = _envoy.Proxy(proxy.namespace, proxy.name, proxy.kind, _envoy.PROXY)
                self._envoys[proxy.node] = self._rejections(admin, copy)
            self._counts = _counts(self._kube, self._istiod)
        finally:
            self._kube.close()
            self._done.set()

    @staticmethod
    def _rejections(admin: _envoy.Admin, proxy: _envoy.Proxy) -> dict[str, int]:
        try:
            return admin.rejections(proxy)
        except RolloutError:
            return {}

    def grown_at(self, admin: _envoy.Admin, proxy: _envoy.Proxy) -> list[str]:
        """The kinds of updates that ``proxy`` itself has rejected since, such as "rds http.8080"."""
        before = self._envoys.get(proxy.node) if self._done.is_set() else None
        if not before:
            return []
        after = self._rejections(admin, proxy)
        return [kind for kind, number in after.items() if number > before.get(kind, 0)]

    def grown_at_istiod(self, kube: _kube.Kube) -> _istiod.Counts | None:
        """What istiod has counted since; None when that is not known."""
        if not self._done.is_set() or self._counts is None:
            return None
        after = _counts(kube, self._istiod)
        return _istiod.grown(self._counts, after) if after is not None else None

    def told(self, kube: _kube.Kube) -> str:
        """The kinds that istiod has counted since, for a message; empty when none or not known."""
        more = self.grown_at_istiod(kube)
        totals = sorted(more.totals.items()) if more is not None else []
        return ", ".join(f"{number} x {kind}" for kind, number in totals if number)


def _counts(kube: _kube.Kube, options: dict[str, Any]) -> _istiod.Counts | None:
    """istiod's counts; None when there is no istiod to ask or it does not answer, which is no reason to fail."""
    try:
        return _istiod.read(kube, options)
    except RolloutError:
        return None
