# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a gate keeps an eye on beside the figures, each in a thread of its own: its Lease, its route and the version
that traffic goes back to. Private to this collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _events, _kube, _record
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

# A note may take a moment, since traffic is where it belongs by then, but the run is about to end.
_NOTE_SECONDS = 5.0


class LeaseKeeper:
    """Renews the Lease from a thread of its own, so that a slow API server does not delay the polls."""

    def __init__(self, lease: dict[str, Any], connect: Callable[[], _kube.Kube]) -> None:
        self._lease = lease
        self._connect = connect
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self.lost: str | None = None

    def start(self) -> None:
        """Renew once now, then go on in the background.

        Raises :class:`_record.LostLock` when somebody else holds it, and :class:`_kube.KubeError` without credentials.
        """
        kube = self._connect()
        self._renew(kube)
        threading.Thread(target=self._run, args=(kube.clone(),), name="lease", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def may_write(self) -> bool:
        """Whether this run still holds the Lease; asks the server when the last renewal is older than the Lease lasts."""
        if self.lost is None and time.monotonic() - self._renewed > self._lease["duration"]:
            try:
                self._renew(self._connect())
            except _record.LostLock as error:
                self.lost = error.message
        return self.lost is None

    def note(self, kind: str, words: str, **known: Any) -> str:
        """Add an event to the release's record, which has the Lease's name; returns '' or why that was not possible."""
        try:
            kube = self._connect()
        except RolloutError as error:
            return error.message
        entry = _events.event(kind, words, "metric_gate", self._lease["holder"], **known)
        return _events.add(kube, self._lease["namespace"], self._lease["name"], entry, _NOTE_SECONDS)

    def _run(self, kube: _kube.Kube) -> None:
        pause = self._lease["duration"] / 3
        while not self._stop.wait(pause):
            try:
                fine = self._renew(kube)
            except _record.LostLock as error:
                self.lost = error.message
                return
            pause = self._lease["duration"] / 3 if fine else min(1.0, self._lease["duration"] / 3)

    def _renew(self, kube: _kube.Kube) -> bool:
        """True when renewed, False when the server gave no proper answer."""
        try:
            _record.renew(kube, self._lease["namespace"], self._lease["name"], self._lease["holder"])
        except _kube.KubeError:
            return False
        self._renewed = time.monotonic()
        return True


class RouteWatch:
    """Looks at the held weight from a thread of its own, so that somebody else's edit is seen within an interval."""

    def __init__(self, route: dict[str, Any], interval: float) -> None:
        self._route = {**route, "confirm": {**route["confirm"], "method": "none"}, "capacity": None}
        self._interval = interval
        self._stop = threading.Event()
        self.foreign: RolloutError | None = None

    def start(self, weight: int) -> None:
        """Begin to watch; ``weight`` is what the canary has and must keep."""
        self._route.update(weight=weight, expected_weight=weight)
        threading.Thread(target=self._run, name="route", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        kube: _kube.Kube | None = None
        while not self._stop.wait(self._interval):
            try:
                kube = kube or _kube.connect(self._route)
                # Check mode only reads: an equal weight is one GET, another one is drift.
                _canary_weight.Shift(self._route, Context(check_mode=True), kube).run()
            except _kube.KubeError:
                # An API server that does not answer says nothing about the weight; the hold goes on.
                continue
            except RolloutError as error:
                if not self._stop.is_set():
                    self.foreign = error
                return


class StandbyWatch:
    """Looks from a thread of its own whether the stable version can still take traffic back: at its Deployment's ready pods."""

    def __init__(self, standby: dict[str, Any], interval: float, connect: Callable[[], _kube.Kube]) -> None:
        self._standby = standby
        self._interval = max(1.0, interval)
        self._connect = connect
        self._stop = threading.Event()
        # All in words, and empty while that is not so: fewer ready pods than would be enough for all traffic; fewer than must be;
        # none at all; none, and none that would come back by itself.
        self.short = ""
        self.weak = ""
        self.empty = ""
        self.gone = ""

    def start(self) -> None:
        """Look once now, then go on in the background. Raises :class:`_kube.KubeError` without credentials."""
        kube = self._connect()
        self._look(kube)
        threading.Thread(target=self._run, args=(kube.clone(),), name="standby", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self, kube: _kube.Kube) -> None:
        while not self._stop.wait(self._interval):
            self._look(kube)

    def _look(self, kube: _kube.Kube) -> None:
        namespace, name, wanted = self._standby["namespace"], self._standby["name"], self._standby["at_least"]
        what = f"Deployment {namespace}/{name}"
        try:
            found = kube.get(_kube.path_of("apps", "v1", "deployments", namespace, name))
        except _kube.KubeError as error:
            if error.status == 404:
                self.weak = self.gone = self.empty = f"{what}, which traffic would go back to, does not exist any more"
            # An API server that does not answer says nothing about the pods.
            return
        ready = (found.get("status") or {}).get("readyReplicas") or 0
        asked = (found.get("spec") or {}).get("replicas", 1)
        words = f"{what}, which traffic would go back to, has {ready} ready pods, expected at least {wanted}"
        self.gone = f"{words}: it was scaled to 0" if asked == 0 and ready == 0 else ""
        self.empty = words if ready == 0 else ""
        self.weak = words if ready < wanted else ""
        enough = self._standby["enough"] or 0
        self.short = f"{what}, which traffic would go back to, has {ready} ready pods of the {enough} that all traffic needs" if ready < enough else ""
