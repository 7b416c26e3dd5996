# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module canary_weight: the weights of one or several routes, confirmed in the mesh. Private to this collection."""

from __future__ import annotations

from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _capacity, _confirm, _kube, _move, _route, _weights
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._move import Move

# What is missing in one of these is taken from the main route.
OTHER_SPEC: dict[str, dict[str, Any]] = {
    "kind": {"type": "str", "choices": list(_route.KINDS)},
    "namespace": {"type": "str"},
    "name": {"type": "str"},
    "route": {"type": "str"},
    "destination_host": {"type": "str"},
    "stable": {"type": "str"},
    "canary": {"type": "str"},
}

# Everything that names the routes, shared with the modules that must be able to put traffic back.
ROUTE_SPEC: dict[str, dict[str, Any]] = {
    "kind": {"type": "str", "default": _route.KINDS[0], "choices": list(_route.KINDS)},
    "name": {"type": "str", "required": True},
    "route": {"type": "str"},
    "destination_host": {"type": "str"},
    "stable": {"type": "str", "required": True},
    "canary": {"type": "str", "required": True},
    "extra_destinations": {"type": "str", "default": "refuse", "choices": ["refuse", "keep"]},
    "others": {"type": "list", "elements": "dict", "options": OTHER_SPEC},
    "confirm": {"type": "dict", "options": _confirm.CONFIRM_SPEC, "apply_defaults": True},
    "capacity": {"type": "dict", "options": _capacity.CAPACITY_SPEC},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **ROUTE_SPEC,
    "weight": {"type": "int", "required": True},
    "expected_weight": {"type": "int"},
    "on_interrupt": {"type": "str", "default": "hold", "choices": ["back", "hold"]},
}

SUPPORTS_CHECK_MODE = True
# Part of this engine's face: its callers tell somebody else's edit from every other failure by it.
Drift = _move.Drift
# Keys that the result takes over from the main route's entry in ``routes``.
_OF_MAIN = ("before", "after", "resource_version", "confirmed", "drift", "writer", "capacity")


class Interrupted(RolloutError):
    """The run was interrupted. The message says whether the weight was written and taken back."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Set the canary's weight by test-and-set and confirm it in Envoy.

    Returns ``changed, before, after, resource_version, confirmed, drift, writer, break_glass, capacity, routes``. Raises
    :class:`RolloutError` with the same keys.
    """
    return Shift(params, context, _kube.connect(params)).run()


def each_route(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the options of every route that moves, the main one first, each complete.

    Raises :class:`_weights.WeightError` when one is named twice.
    """
    main = {key: value for key, value in params.items() if key != "others"}
    found = [main]
    for other in params.get("others") or []:
        given = {key: value for key, value in other.items() if value is not None}
        route = {**main, **given}
        if route["kind"] != main["kind"]:
            # The Gateway API names no hosts.
            route["destination_host"] = given.get("destination_host")
        found.append(route)
    names = [(route["kind"], route["namespace"], route["name"], route.get("route")) for route in found]
    doubles = sorted({"/".join(map(str, name)) for name in names if names.count(name) > 1})
    if doubles:
        raise _weights.WeightError(f"others: {', '.join(doubles)} is named more than once, expected every route once.")
    return found


class Shift:
    """One weight change of one route, or of several that move together."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.canary: int = _weights.wanted(params["weight"]).canary
        mistakes = [*_capacity.problems_of(params.get("capacity")), *_confirm.problems_of(params["confirm"], 1 + len(params.get("others") or []))]
        if mistakes:
            raise _weights.WeightError(f"{'; '.join(mistakes)}. Nothing was written.")
        self.moves = [Move(route, kube, context) for route in each_route(params)]
        self._written = False
        self.result: dict[str, Any] = {"changed": False, **dict.fromkeys(_OF_MAIN), "routes": [move.report for move in self.moves]}

    def run(self) -> dict[str, Any]:
        handle = None
        if self._goes_back and not self.context.check_mode:
            handle = self.context.on_interrupt(self._go_back)
        try:
            if self.canary:
                self._move()
            else:
                self._return()
        except RolloutError as error:
            self._sum_up()
            raise _with(error, self.result) from None
        finally:
            if handle is not None:
                handle.remove()
        self._sum_up()
        return self.result

    def _sum_up(self) -> None:
        main = self.moves[0].report
        self.result.update({key: main[key] for key in _OF_MAIN})
        confirmations = [move.report["confirmed"] for move in self.moves]
        # One route without a proof leaves the whole change without one.
        unproven = next((one for one in confirmations if one and one["state"] == _confirm.UNCONFIRMED), None)
        self.result["confirmed"] = unproven or main["confirmed"]
        lines = [move.report["break_glass"] for move in self.moves]
        # Each of them is worth trying, whatever becomes of the others.
        self.result["break_glass"] = "; ".join(lines) if all(lines) else None
        self.result["drift"] = next((move.report["drift"] for move in self.moves if move.report["drift"]), None)
        self.result["changed"] = any(move.report["changed"] for move in self.moves)
        if self.context.diff and main["before"]:
            diffs = [move.diff() for move in self.moves if move.report["before"]]
            self.result["diff"] = diffs if len(self.moves) > 1 else diffs[0]

    # ------------------------------------------------------------------------------------------------ interruption

    @property
    def _goes_back(self) -> bool:
        # Modules that put traffic back with this engine have no such option: weight 0 is where they go.
        return self.params.get("on_interrupt") == "back" and self.canary > 0

    def _go_back(self) -> None:
        """Send all traffic to stable, over a connection of its own: the interrupted code may be using the first one."""
        params = {
            **self.params,
            "weight": 0,
            "expected_weight": None,
            "confirm": {**self.params["confirm"], "method": "none"},
            # Nothing may delay this way back.
            "capacity": None,
        }
        Shift(params, Context(), self.kube.clone()).run()

    def _stop_if_interrupted(self) -> None:
        if not self.context.cancelled.is_set() or not self.canary:
            return
        what = "before the weight was written. Nothing was written"
        if self._written or any(move.report["changed"] for move in self.moves):
            what = "after the weight was written. It stays"
            if self._goes_back:
                # Once more: the handler may have run while our own write was still on its way.
                self._go_back()
                for move in self.moves:
                    move.note_return()
                what = "after the weight was written. All traffic is back on stable"
        raise Interrupted(f"{self.moves[0].title}: interrupted by {self.context.signal_name} {what}.")

    # ------------------------------------------------------------------------------------------------ the way up

    def _move(self) -> None:
        """Everything is read and checked before the first write; when a later write fails, the earlier ones are taken back."""
        for move in self.moves:
            move.look()
        todo = [move for move in self.moves if move.differs]
        for move in self.moves:
            move.check()
        if self.context.check_mode:
            for move in todo:
                move.predict()
            return
        for move in todo:
            move.prepare()
        for place, move in enumerate(todo):
            try:
                move.write(self._stop_if_interrupted)
            except RolloutError as error:
                if not (isinstance(error, Interrupted) and self._goes_back):
                    self._take_back(error, todo[: place + 1])
                raise
        self._written = True
        self._stop_if_interrupted()
        for move in self.moves:
            move.confirm(self._stop_if_interrupted)

    def _take_back(self, error: RolloutError, moves: list[Move]) -> None:
        """Undo what this run wrote; the error that is on its way says what became of it."""
        told = []
        for move in reversed([move for move in moves if move.report["changed"]]):
            try:
                move.undo()
                told.append(f"{move.title} is back at {_weights.as_text(move.report['before'])}.")
            except RolloutError as trouble:
                told.append(f"{move.title} is NOT back: {trouble.message}")
        error.reword(" ".join([error.message, *told]))

    # ------------------------------------------------------------------------------------------------ the way back

    def _return(self) -> None:
        """Every route is tried, whatever becomes of the others. Raises one error that says which are back and which are not."""
        failed: dict[int, RolloutError] = {}
        for step in (self._return_one, self._confirm_one):
            for place, move in enumerate(self.moves):
                if place in failed:
                    continue
                try:
                    step(move)
                except RolloutError as error:
                    failed[place] = error
        if not failed:
            return
        # A transient error decides how the caller goes on: it tries again.
        errors = sorted(failed.values(), key=lambda error: not (isinstance(error, _kube.KubeError) and error.transient))
        if len(self.moves) > 1:
            fine = [move.title for place, move in enumerate(self.moves) if place not in failed]
            told = " ".join(error.message for error in failed.values())
            errors[0].reword(f"Back and confirmed: {', '.join(fine) or 'no route'}. Not so, {len(failed)} of {len(self.moves)}: {told}")
        raise errors[0]

    def _return_one(self, move: Move) -> None:
        move.look()
        move.check()
        if not move.differs:
            return
        if self.context.check_mode:
            move.predict()
        else:
            move.prepare()
            move.write(self._stop_if_interrupted)

    def _confirm_one(self, move: Move) -> None:
        if not self.context.check_mode:
            move.confirm(self._stop_if_interrupted)


def _with(error: RolloutError, result: dict[str, Any]) -> RolloutError:
    error.result = {**result, **error.result}
    return error
