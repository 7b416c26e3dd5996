# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One route on its way to new weights: look, check, write by test-and-set, settle what is unclear. Private to this collection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _capacity, _confirm, _fleet, _kube, _route, _weights
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

# How long one write is tried while the API server is in trouble, in seconds, and how often a lost race is run again.
_WRITE_SECONDS = 10.0
_RACES = 3
_FIRST_PAUSE = 0.1
# How long pods that are ready may be missing among the endpoints: the controller that writes those comes after the kubelet.
_ENDPOINTS_SECONDS = 5.0


class Drift(RolloutError):
    """Somebody else changed the weights or the route. Their change was not overwritten."""


class _Unready(_weights.WeightError):
    """Nothing is ready behind a destination that would get a share."""


class Move:
    """One route object, from the weights it has to the weights it is to have.

    ``params`` are the options of canary_weight for this one route. ``report`` is its entry in the result's ``routes``.
    """

    def __init__(self, params: dict[str, Any], kube: _kube.Kube, context: Context) -> None:
        self.kube = kube
        self.context = context
        self._params = params
        self.object = _route.of(params, kube)
        self.title = self.object.title
        self.weight: int = params["weight"]
        self.expected: int | None = params.get("expected_weight")
        self.capacity: dict[str, Any] | None = params.get("capacity")
        self.options: dict[str, Any] = params["confirm"]
        self.namespace: str = params["namespace"]
        self._confirmation: _confirm.Confirmation | None = None
        self.document: dict[str, Any] = {}
        self.route: _weights.Route | None = None
        self.before: _weights.Weights | None = None
        self.target = _weights.wanted(self.weight)
        self.report: dict[str, Any] = {
            "kind": params["kind"],
            "namespace": params["namespace"],
            "name": params["name"],
            "route": params.get("route"),
            "changed": False,
            "before": None,
            "after": None,
            "resource_version": None,
            "confirmed": None,
            "drift": None,
            "writer": None,
            "break_glass": None,
            "capacity": None,
        }

    # ------------------------------------------------------------------------------------------------ before the write

    def look(self) -> None:
        """Read the route; raises :class:`_weights.WeightError` when it cannot be managed, or the weight does not fit."""
        self._take(_route.read(self.object, self.kube))
        self.before = self._rule.weights
        self.report["before"] = self.before.as_dict()
        self.report["writer"] = self.object.writer(self.document)
        self.report["break_glass"] = self.object.break_glass(self.document, self._rule)

    def _take(self, document: dict[str, Any]) -> None:
        self.document = document
        self.route = self.object.rule(document)
        self._note(document, self.route.weights)
        try:
            self.target = _weights.wanted(self.weight, self.route.kept)
        except _weights.WeightError as error:
            raise _weights.WeightError(f"{self.title}: {error.message}") from None

    def _note(self, document: dict[str, Any], weights: _weights.Weights) -> None:
        self.report["after"] = weights.as_dict()
        self.report["resource_version"] = document["metadata"]["resourceVersion"]

    @property
    def _rule(self) -> _weights.Route:
        if self.route is None:
            raise RuntimeError("the route was not read")
        return self.route

    @property
    def differs(self) -> bool:
        """Whether anything is to be written."""
        return self._rule.weights != self.target

    def check(self) -> None:
        """Raise unless the weights are this release's and everything that would get a share can take it."""
        if self.differs:
            self._refuse_drift()
            if self.target.canary > self._rule.weights.canary:
                # On the way down the object's health is no reason to leave traffic where it is.
                self.object.refuse_unusable(self.document)
        try:
            with self.kube.lists_from_cache():
                self._refuse_unable()
        except (_weights.WeightError, _capacity.CapacityError):
            self._check_afresh()

    def _check_afresh(self) -> None:
        """The cache may lag, and endpoints may lag behind their pods: neither is a reason to refuse."""
        deadline = time.monotonic() + _ENDPOINTS_SECONDS
        while True:
            # What the adapter has seen so far is old, so it begins anew.
            self.object = _route.of(self._params, self.kube)
            try:
                self._refuse_unable()
                return
            except _Unready:
                if time.monotonic() >= deadline or not self._endpoints_lag() or self.context.sleep(_FIRST_PAUSE):
                    raise

    def _endpoints_lag(self) -> bool:
        """Whether every destination that would get a share has ready pods, whatever the endpoints say."""
        behind = [self.object.behind(self.document, destination).pods for destination, _share in self._shares()]
        return all(any(map(_weights.pod_is_ready, pods)) for pods in behind)

    def _shares(self) -> list[tuple[_weights.Destination, int]]:
        """The destinations that are to get a share, each with its percent."""
        shares = [(self._rule.stable, self.target.stable), (self._rule.canary, self.target.canary)]
        return [(destination, share) for destination, share in shares if share]

    def _refuse_unable(self) -> None:
        if self.differs:
            self._refuse_unready()
        self._refuse_overload()

    def _refuse_drift(self) -> None:
        seen = self._rule.weights.canary
        if self.expected is not None and seen != self.expected:
            raise self._drift("weight of the canary", self.expected, seen, self.document)

    def _refuse_unready(self) -> None:
        for destination, share in self._shares():
            if not self.object.ready_endpoints(self.document, destination):
                what = f"subset '{destination.subset}' of " if destination.subset else ""
                raise _Unready(
                    f"{self.title}: no ready pod for {what}{destination.host}, which would get {share} % of the traffic. "
                    "Nothing was written. Next: see why its pods are not ready (playbooks/status.yml)."
                )

    def _refuse_overload(self) -> None:
        """No share may be more than its ready pods can carry."""
        if self.capacity is None:
            return
        sides = {}
        for role, destination in (("stable", self._rule.stable), ("canary", self._rule.canary)):
            behind = self.object.behind(self.document, destination)
            sides[role] = (destination.name, behind.labels, behind.pods)
        survey = _capacity.survey(self.kube, behind.namespace, self.capacity, sides, self._rule.weights.canary)
        verdict = _capacity.judge(survey, self._rule.weights, self.target, self.capacity["disruptions"])
        self.report["capacity"] = verdict.report
        if verdict.refusal:
            raise _capacity.CapacityError(f"{self.title}: {verdict.refusal} Nothing was written.")

    def prepare(self) -> None:
        """Get ready to confirm what is about to be written; raises :class:`_confirm.Unconfirmed` when nothing could be, on the way up."""
        self._confirmation = self._new_confirmation()
        self._confirmation.prepare(rising=self.target.canary > self._rule.weights.canary)

    def _new_confirmation(self) -> _confirm.Confirmation:
        document, rule = self.document, self._rule
        on_gateways, in_mesh = self.object.carriers(document, rule)
        claim = _fleet.Claim(
            self.title,
            self.target,
            lambda dump: self.object.shown(dump, document, rule),
            self.before,
            (rule.stable.service, rule.stable.subset),
            (rule.canary.service, rule.canary.subset),
            on_gateways,
            in_mesh,
        )
        return _confirm.Confirmation(self.options, self.kube, self.namespace, claim)

    def predict(self) -> None:
        """Note what :meth:`write` would do."""
        self.report.update(changed=True, after=self.target.as_dict())

    def diff(self) -> dict[str, str]:
        """Return the two weights before and after, as Ansible shows differences."""
        header = f"{self.title} weights"
        before, after = _weights.as_text(self.report["before"]), _weights.as_text(self.report["after"])
        return {"before": before, "after": after, "before_header": header, "after_header": header}

    # ------------------------------------------------------------------------------------------------ the write

    def write(self, stop: Callable[[], None]) -> None:
        """Write the target; ``stop`` is called before every try and may raise.

        Raises :class:`Drift` when somebody else was faster, :class:`_kube.KubeError` when the server refuses or stays away.
        """
        # A weight that nobody expects anything of is put back whatever it is: that is the way back.
        self._set(self.target, stop, yields=self.weight > 0 or self.expected is not None)

    def undo(self) -> None:
        """Go back to what was found, if the route still has what this run wrote. Raises as :meth:`write` does."""
        if self.before is None:
            return
        mine = self.target
        self._take(_route.read(self.object, self.kube))
        if self._rule.weights == self.before:
            self.report["changed"] = False
            return
        if self._rule.weights != mine:
            raise self._drift("weight of the canary", mine.canary, self._rule.weights.canary, self.document)
        self._set(self.before, lambda: None, yields=True)
        self.report["changed"] = False

    def _set(self, target: _weights.Weights, stop: Callable[[], None], yields: bool) -> None:
        deadline = time.monotonic() + _WRITE_SECONDS
        races = tries = 0
        unknown = False
        while True:
            stop()
            try:
                answer = self.kube.patch(self.object.path, self.object.operations(self.document, self._rule, target))
                self._note(answer, target)
                self.report["changed"] = True
                return
            except _kube.KubeError as error:
                tries += 1
                races += error.lost_race
                # A write of unknown outcome counts as done until reading says otherwise: traffic may have moved. It may also arrive
                # after that reading, and then it is what the next try loses its race to.
                unknown = unknown or error.outcome_unknown
                self.report["changed"] = unknown
                pause = 0.0 if error.lost_race else error.pause(_FIRST_PAUSE * 2**tries)
                if not (error.lost_race or error.transient) or races > _RACES or time.monotonic() + pause >= deadline:
                    raise
            self._wait(pause)
            if self._look_again(target, unknown, yields):
                return
            target = target if yields else self.target

    def note_return(self) -> None:
        """Note that another connection has sent everything to stable."""
        self.report["after"] = _weights.wanted(0, self._rule.kept).as_dict()

    def _wait(self, pause: float) -> None:
        if self.weight:
            self.context.sleep(pause)
        else:
            # An interruption does not shorten the way back's pauses: it is what made it necessary.
            time.sleep(pause)

    def _look_again(self, target: _weights.Weights, unknown: bool, yields: bool) -> bool:
        """Read after a lost race or a lost answer; True when the route has ``target``, so that nothing is left to write.

        Raises :class:`Drift` when weights or route are not what they were.
        """
        old_document, old = self.document, self._rule
        newer = _route.read(self.object, self.kube)
        self.report["changed"] = False
        try:
            self._take(newer)
        except _weights.WeightError as error:
            raise self._drift("route", f"route '{old.name or old.index}' as it was read", error.message, newer) from None
        if self._rule.weights == target and (unknown or not yields):
            self.report["changed"] = unknown
            return True
        if not yields:
            return False
        if newer["metadata"].get("uid") != old_document["metadata"].get("uid"):
            raise self._drift("object", "the object that was read", "another object of this name", newer)
        if self._rule.identity != old.identity:
            raise self._drift("route", " ".join(old.identity), " ".join(self._rule.identity), newer)
        if self._rule.weights != old.weights:
            raise self._drift("weight of the canary", old.weights.canary, self._rule.weights.canary, newer)
        return False

    def _drift(self, field: str, expected: Any, seen: Any, document: dict[str, Any]) -> Drift:
        writer = self.object.writer(document)
        self.report["drift"] = {
            "object": self.title,
            "field": field,
            "expected": expected,
            "seen": seen,
            "before": self.report["before"],
            "after": self._rule.weights.as_dict(),
            **writer,
        }
        what = "the canary's weight" if field.startswith("weight") else f"the {field}"
        return Drift(
            f"{self.title}: {what} is {seen}, expected {expected} from this release. Last written by "
            f"'{writer['manager']}' at {writer['time'] or 'an unknown time'}. It was not overwritten. "
            "Next: find out who changed it, then run playbooks/rollback.yml or set the weight back by hand."
        )

    # ------------------------------------------------------------------------------------------------ after the write

    def confirm(self, on_poll: Callable[[], None]) -> None:
        """Wait until the mesh shows the target; see :class:`_confirm.Confirmation` for what it raises."""
        confirmation = self._confirmation
        if confirmation is None or confirmation.claim.target != self.target:
            confirmation = self._new_confirmation()
        try:
            self.report["confirmed"] = confirmation.run(on_poll, self._refuse_overwritten)
        except _confirm.Unconfirmed as error:
            self.report["confirmed"] = error.result["confirmed"]
            raise

    def _refuse_overwritten(self) -> None:
        """Proxies that never show our weights may be showing somebody else's."""
        target = self.target
        self._take(_route.read(self.object, self.kube))
        if self._rule.weights != target:
            raise self._drift("weight of the canary", target.canary, self._rule.weights.canary, self.document)
