# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module canary_weight: one weight change, confirmed in the mesh. Private to this collection."""

from __future__ import annotations

import json
import time
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _weights
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

CONFIRM_SPEC: dict[str, dict[str, Any]] = {
    "method": {"type": "str", "default": "auto", "choices": ["auto", "envoy", "none"]},
    "namespace": {"type": "str", "default": "istio-system"},
    "selector": {"type": "str", "default": "istio=ingressgateway"},
    "admin_port": {"type": "int", "default": 15000},
    "timeout": {"type": "float", "default": 10.0},
}

# Everything that names the route, shared with the modules that must be able to put traffic back.
ROUTE_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "route": {"type": "str"},
    "destination_host": {"type": "str"},
    "stable": {"type": "str", "required": True},
    "canary": {"type": "str", "required": True},
    "confirm": {"type": "dict", "options": CONFIRM_SPEC, "apply_defaults": True},
}

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    **ROUTE_SPEC,
    "kind": {"type": "str", "default": "VirtualService", "choices": ["VirtualService"]},
    "weight": {"type": "int", "required": True},
    "expected_weight": {"type": "int"},
    "on_interrupt": {"type": "str", "default": "hold", "choices": ["back", "hold"]},
}

SUPPORTS_CHECK_MODE = True
ISTIO = ("networking.istio.io", "v1")
_POLL_SECONDS = 0.02
# While the gateways lag, how often the API is asked whether somebody else has written meanwhile.
_RECHECK_SECONDS = 0.5
_RACES = 3


class Drift(RolloutError):
    """Somebody else changed the weights or the route. Their change was not overwritten."""


class Unconfirmed(RolloutError):
    """The weights are written, but not every gateway showed them in time."""


class Interrupted(RolloutError):
    """The run was interrupted. The message says whether the weight was written and taken back."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Set the canary's weight by test-and-set and confirm it in Envoy.

    Returns ``changed, before, after, resource_version, confirmed, drift``. Raises :class:`RolloutError` with the same keys.
    """
    return Shift(params, context, _kube.connect(params)).run()


class Shift:
    """One weight change of one VirtualService."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.namespace: str = params["namespace"]
        self.path = _kube.path_of(*ISTIO, "virtualservices", self.namespace, params["name"])
        self.target = _weights.wanted(params["weight"])
        self.result: dict[str, Any] = {
            "changed": False,
            "before": None,
            "after": None,
            "resource_version": None,
            "confirmed": None,
            "drift": None,
        }

    def run(self) -> dict[str, Any]:
        handle = None
        if self._goes_back and not self.context.check_mode:
            handle = self.context.on_interrupt(self._go_back)
        try:
            return self._run()
        except RolloutError as error:
            raise _with(error, self.result) from None
        finally:
            if handle is not None:
                handle.remove()

    @property
    def _goes_back(self) -> bool:
        # Modules that put traffic back with this engine have no such option: weight 0 is where they go.
        return self.params.get("on_interrupt") == "back" and self.target.canary > 0

    def _go_back(self) -> None:
        """Send all traffic to stable, over a connection of its own: the interrupted code may be using the first one."""
        params = {**self.params, "weight": 0, "expected_weight": None, "confirm": {**self.params["confirm"], "method": "none"}}
        Shift(params, Context(), self.kube.clone()).run()

    def _stop_if_interrupted(self, written: bool) -> None:
        if not self.context.cancelled.is_set() or not self.target.canary:
            return
        what = "before the weight was written. Nothing was written"
        if written and self._goes_back:
            # Once more: the handler may have run while our own write was still on its way.
            self._go_back()
            self.result["after"] = {"stable": 100, "canary": 0}
            what = "after the weight was written. All traffic is back on stable"
        elif written:
            what = "after the weight was written. It stays"
        raise Interrupted(f"{self._title()}: interrupted by {self.context.signal_name} {what}.")

    def _run(self) -> dict[str, Any]:
        first = self._read()
        route = self._route(first)
        self.result["before"] = self.result["after"] = route.weights.as_dict()
        self.result["resource_version"] = first["metadata"]["resourceVersion"]
        if route.weights != self.target:
            self._refuse_drift(first, route)
            self._refuse_unready(route)
            if not self.context.check_mode:
                self._write(first, route)
            self.result["changed"] = True
            self.result["after"] = self.target.as_dict()
        if self.context.diff:
            self.result["diff"] = {
                "before": _as_text(self.result["before"]),
                "after": _as_text(self.result["after"]),
                "before_header": f"{self._title()} weights",
                "after_header": f"{self._title()} weights",
            }
        if not self.context.check_mode:
            self._stop_if_interrupted(written=True)
            self._confirm(route)
        return self.result

    def _title(self) -> str:
        return f"VirtualService {self.namespace}/{self.params['name']}"

    def _read(self) -> dict[str, Any]:
        found = self.kube.find(self.path)
        if found is None:
            raise _weights.WeightError(
                f"{self._title()} does not exist. Next: create it with both subsets, or check the options name and namespace."
            )
        return found

    def _route(self, virtual_service: dict[str, Any]) -> _weights.Route:
        names = self.params
        return _weights.read_route(
            virtual_service, names["route"], names.get("destination_host"), names["stable"], names["canary"]
        )

    def _refuse_drift(self, virtual_service: dict[str, Any], route: _weights.Route) -> None:
        expected = self.params.get("expected_weight")
        if expected is None or route.weights.canary == expected:
            return
        self._drift(virtual_service, expected, route.weights.canary)

    def _drift(self, virtual_service: dict[str, Any], expected: int, seen: int) -> None:
        writer = _weights.last_writer(virtual_service)
        self.result["drift"] = {"field": "weight of the canary", "expected": expected, "seen": seen, **writer}
        raise Drift(
            f"{self._title()}: the canary's weight is {seen}, expected {expected} from this release. Last written by "
            f"'{writer['manager']}' at {writer['time'] or 'an unknown time'}. It was not overwritten. "
            "Next: find out who changed it, then run playbooks/rollback.yml or set the weight back by hand."
        )

    def _refuse_unready(self, route: _weights.Route) -> None:
        """Every subset that would get traffic must exist in a DestinationRule and have a ready pod."""
        rules = self.kube.list(_kube.path_of(*ISTIO, "destinationrules", self.namespace))
        labels = _weights.subset_labels(rules, route.stable.host, self.namespace)
        shares = {self.params["stable"]: self.target.stable, self.params["canary"]: self.target.canary}
        for subset, share in shares.items():
            if not share:
                continue
            if subset not in labels:
                known = ", ".join(sorted(labels)) or "none"
                raise _weights.WeightError(
                    f"{self._title()}: no DestinationRule in namespace {self.namespace} defines subset '{subset}' of host "
                    f"{route.stable.host} (subsets there: {known}). Next: add the subset first; Envoy answers 503 without it."
                )
            if not self._ready_pods(labels[subset]):
                raise _weights.WeightError(
                    f"{self._title()}: no ready pod for subset '{subset}' (labels {_as_text(labels[subset])}), "
                    f"which would get {share} % of the traffic. Nothing was written. "
                    "Next: see why its pods are not ready (playbooks/status.yml)."
                )

    def _ready_pods(self, labels: dict[str, str]) -> int:
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        if not selector:
            return 0
        pods = self.kube.list(_kube.path_of("", "v1", "pods", self.namespace), {"labelSelector": selector})
        return sum(_weights.pod_is_ready(pod) for pod in pods)

    def _write(self, virtual_service: dict[str, Any], route: _weights.Route) -> None:
        for attempt in range(1, _RACES + 1):
            self._stop_if_interrupted(written=False)
            try:
                answer = self.kube.patch(self.path, _weights.patch_operations(virtual_service, route, self.target))
                self.result["resource_version"] = answer["metadata"]["resourceVersion"]
                return
            except _kube.KubeError as error:
                lost_race = error.status == 409 or (error.status == 422 and not error.causes)
                if not (lost_race or error.outcome_unknown) or attempt == _RACES:
                    raise
            # A lost race or a lost answer: only reading tells which of the two worlds this is.
            virtual_service = self._read()
            current = self._route(virtual_service)
            if current.weights == self.target and not lost_race:
                self.result["resource_version"] = virtual_service["metadata"]["resourceVersion"]
                return
            if current.weights != route.weights:
                self._drift(virtual_service, route.weights.canary, current.weights.canary)
            route = current

    def _confirm(self, route: _weights.Route) -> None:
        confirm = self.params["confirm"]
        if confirm["method"] == "none":
            self.result["confirmed"] = {"method": "none", "seconds": 0.0, "proxies": 0}
            return
        started = time.monotonic()
        deadline = started + confirm["timeout"]
        pending = self._gateways(confirm)
        proxies = len(pending)
        seen: dict[str, str] = {}
        recheck = started + _RECHECK_SECONDS
        while pending:
            pending = {name: path for name, path in pending.items() if not self._shows(name, path, route, seen)}
            if not pending:
                break
            self._stop_if_interrupted(written=True)
            if time.monotonic() >= min(recheck, deadline):
                recheck = time.monotonic() + _RECHECK_SECONDS
                self._refuse_overwritten()
            if time.monotonic() >= deadline:
                listed = "; ".join(f"{name}: {seen[name]}" for name in sorted(pending))
                raise Unconfirmed(
                    f"{self._title()}: weights {_as_text(self.target.as_dict())} are in the API, but after {confirm['timeout']:g} s "
                    f"{len(pending)} of {proxies} gateways do not have them ({listed}). "
                    "Next: see istiod's log and its counter pilot_total_xds_rejects, then playbooks/rollback.yml."
                )
            time.sleep(_POLL_SECONDS)
        seconds = round(time.monotonic() - started, 3)
        self.result["confirmed"] = {"method": "envoy", "seconds": seconds, "proxies": proxies}

    def _refuse_overwritten(self) -> None:
        """Gateways that never show our weights may be showing somebody else's."""
        virtual_service = self._read()
        weights = self._route(virtual_service).weights
        if weights != self.target:
            self.result["after"] = weights.as_dict()
            self._drift(virtual_service, self.target.canary, weights.canary)

    def _gateways(self, confirm: dict[str, Any]) -> dict[str, str]:
        base = _kube.path_of("", "v1", "pods", confirm["namespace"])
        pods = [pod for pod in self.kube.list(base, {"labelSelector": confirm["selector"]}) if _weights.pod_is_ready(pod)]
        if not pods:
            raise Unconfirmed(
                f"No ready gateway pod in namespace {confirm['namespace']} with labels {confirm['selector']}: "
                "the weights cannot be confirmed. Next: check confirm.namespace and confirm.selector."
            )
        names = [pod["metadata"]["name"] for pod in pods]
        return {name: f"{base}/{name}:{confirm['admin_port']}/proxy/config_dump" for name in names}

    def _shows(self, name: str, path: str, route: _weights.Route, seen: dict[str, str]) -> bool:
        try:
            text = self.kube.get_text(path, {"resource": "dynamic_route_configs"}, timeout=2.0)
            dump = json.loads(text)
        except (_kube.KubeError, ValueError) as error:
            seen[name] = one_line(error, 120)
            return False
        shown = _weights.envoy_weights(
            dump,
            self.params["name"],
            self.namespace,
            route.name,
            route.stable.host,
            self.params["stable"],
            self.params["canary"],
        )
        seen[name] = ", ".join(_as_text(w.as_dict()) for w in shown) or "no such route"
        return bool(shown) and all(weights == self.target for weights in shown)


def _as_text(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _with(error: RolloutError, result: dict[str, Any]) -> RolloutError:
    error.result = {**result, **error.result}
    return error
