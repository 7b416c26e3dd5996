# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module workload_scale: sets the number of replicas of a Deployment. Private to this collection.

Going back scales a version at its end, and sometimes starts one before traffic can move. A task of a generic Kubernetes
module costs 0.8-1.0 s for that, one GET and one PATCH over our own connection about 0.03 s.

An autoscaler undoes a number that it did not choose. Its controller takes what the metrics recommend, looks back only at its own
earlier recommendations (the stabilisation window knows nothing of a number set by hand), and so removes added pods at its next
look, 15 s later at most. Between ``minReplicas`` and ``maxReplicas`` without metrics it does nothing; below the minimum it scales
up, above the maximum down, with or without metrics; a Deployment at 0 it leaves alone. Hence the minimum is what holds pods.
"""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _capacity, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "name": {"type": "str", "required": True},
    "replicas": {"type": "int"},
    "direction": {"type": "str", "default": "any", "choices": ["any", "up"]},
    "autoscaler": {"type": "str", "default": "leave", "choices": ["leave", "raise", "restore"]},
    "missing": {"type": "str", "default": "fail", "choices": ["fail", "ignore"]},
}

SUPPORTS_CHECK_MODE = True
# Kept on the autoscaler itself, so that whoever comes later can put its minimum back: another run, another machine, a person.
ANNOTATION = "signal.rollout/raised-min-replicas"
_RACES = 3


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Set ``spec.replicas`` by the scale subresource, under its resourceVersion. Equal numbers cause no write.

    Returns ``changed, exists, before, after`` (replicas) and ``autoscaler``. Raises :class:`RolloutError` for a negative number,
    for a Deployment that does not exist (unless ``missing`` is ignore), for an autoscaler that does not allow so many, and when
    every try met somebody else's write.
    """
    return _Scaling(params, context, _kube.connect(params)).run()


def raised(minimum: int, maximum: int, annotations: dict[str, str], wanted: int) -> tuple[int, str | None]:
    """Return the minimum an autoscaler must have for ``wanted`` pods, and the annotation that remembers the former one.

    A minimum that is high enough stays, and so does the annotation. One that was raised before is remembered as it was at first.
    Raises :class:`RolloutError` when ``maximum`` does not allow so many.
    """
    if wanted > maximum:
        raise RolloutError(f"allows at most {maximum} pods, but {wanted} are needed")
    if wanted <= minimum:
        return minimum, annotations.get(ANNOTATION)
    former = _remembered(annotations)
    first = former["before"] if former and former["set"] == minimum else minimum
    return wanted, json.dumps({"before": first, "set": wanted})


def restored(minimum: int, annotations: dict[str, str]) -> int | None:
    """Return the minimum to put back, or None when none was raised or somebody else has set another one since."""
    former = _remembered(annotations)
    return former["before"] if former and former["set"] == minimum else None


def _remembered(annotations: dict[str, str]) -> dict[str, int] | None:
    try:
        found = json.loads(annotations.get(ANNOTATION, ""))
        return {"before": int(found["before"]), "set": int(found["set"])}
    except (ValueError, TypeError, KeyError):
        return None


class _Scaling:
    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.title = f"Deployment {params['namespace']}/{params['name']}"
        self.path = _kube.path_of("apps", "v1", "deployments", params["namespace"], params["name"]) + "/scale"
        self.result: dict[str, Any] = {"changed": False, "exists": True, "before": None, "after": None, "autoscaler": None, "warnings": []}

    def run(self) -> dict[str, Any]:
        self._refuse_nonsense()
        scale = self.kube.find(self.path)
        if scale is None:
            return self._missing()
        before = int((scale.get("spec") or {}).get("replicas") or 0)
        self.result.update(before=before, after=self._target(before))
        # First the minimum: pods that are added before it may be removed again at once.
        self._autoscaler()
        if self.params["replicas"] is not None:
            self._scale(scale)
        if self.context.diff and self.result["changed"]:
            self.result["diff"] = self._diff()
        return self.result

    def _refuse_nonsense(self) -> None:
        replicas, autoscaler = self.params["replicas"], self.params["autoscaler"]
        if replicas is not None and replicas < 0:
            self._fail(f"replicas is {replicas}, expected 0 or more. Nothing was written.")
        if replicas is None and autoscaler != "restore":
            self._fail(f"replicas is missing, expected a number (autoscaler is {autoscaler}). Nothing was written.")

    def _fail(self, message: str) -> None:
        raise RolloutError(message, **self.result)

    def _missing(self) -> dict[str, Any]:
        self.result["exists"] = False
        if self.params["missing"] == "fail":
            wanted = "scaled" if self.params["replicas"] is None else f"scaled to {self.params['replicas']}"
            self._fail(
                f"{self.title} does not exist, so it cannot be {wanted}. Expected it to be there. "
                f"Next: kubectl -n {self.params['namespace']} get deployments"
            )
        return self.result

    def _target(self, seen: int) -> int:
        replicas = self.params["replicas"]
        if replicas is None:
            return seen
        return max(seen, replicas) if self.params["direction"] == "up" else replicas

    def _diff(self) -> dict[str, str]:
        scaler = self.result["autoscaler"]
        words = {key: f"replicas={self.result[key]}" + (f" minReplicas={scaler[key]}" if scaler else "") for key in ("before", "after")}
        return {**words, "before_header": self.title, "after_header": self.title}

    def _scale(self, scale: dict[str, Any]) -> None:
        for attempt in range(1, _RACES + 1):
            seen = int((scale.get("spec") or {}).get("replicas") or 0)
            target = self._target(seen)
            # After a write whose answer was lost, the first number seen is still the one from before.
            self.result["after"] = target
            self.result["changed"] = self.result["changed"] or target != self.result["before"]
            if seen == target or self.context.check_mode:
                return
            body = {"metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]}, "spec": {"replicas": target}}
            try:
                self.kube.patch(self.path, body, _kube.MERGE_PATCH)
                return
            except _kube.KubeError as error:
                # A status update moves the resourceVersion too; a lost answer is settled by reading again.
                if not (error.status == 409 or error.outcome_unknown) or attempt == _RACES:
                    error.result = {**self.result, **error.result}
                    raise
            scale = self.kube.get(self.path)

    def _autoscaler(self) -> None:
        if self.params["autoscaler"] == "leave":
            return
        collection = _kube.path_of("autoscaling", "v2", "horizontalpodautoscalers", self.params["namespace"])
        try:
            found = [entry for entry in self.kube.list(collection) if _capacity.targets(entry, self.params["name"])]
        except _kube.KubeError as error:
            if error.status not in (403, 404):
                raise
            self.result["warnings"].append(f"{self.title}: no right to list its autoscaler, so it is not known whether one undoes this.")
            return
        if found:
            self._hold(found[0], f"{collection}/{found[0]['metadata']['name']}")

    def _hold(self, scaler: dict[str, Any], path: str) -> None:
        """Raise or put back the minimum, and its annotation with it, in one write."""
        title = f"HorizontalPodAutoscaler {self.params['namespace']}/{scaler['metadata']['name']}"
        for attempt in range(1, _RACES + 1):
            spec, annotations = scaler["spec"], scaler["metadata"].get("annotations") or {}
            before, maximum = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
            after, note = self._minimum(title, before, maximum, annotations)
            self.result["autoscaler"] = {"name": scaler["metadata"]["name"], "before": before, "after": after, "max": maximum}
            if (before, annotations.get(ANNOTATION)) == (after, note):
                return
            self.result["changed"] = True
            if self.context.check_mode:
                return
            version = scaler["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version, "annotations": {ANNOTATION: note}}, "spec": {"minReplicas": after}}
            try:
                self.kube.patch(path, body, _kube.MERGE_PATCH)
                return
            except _kube.KubeError as error:
                # Its controller writes the status every 15 s, which moves the resourceVersion too.
                if not (error.status == 409 or error.outcome_unknown) or attempt == _RACES:
                    error.result = {**self.result, **error.result}
                    raise
            scaler = self.kube.get(path)

    def _minimum(self, title: str, before: int, maximum: int, annotations: dict[str, str]) -> tuple[int, str | None]:
        if self.params["autoscaler"] == "restore":
            former = restored(before, annotations)
            if former is None and ANNOTATION in annotations:
                self.result["warnings"].append(f"{title}: its minReplicas was set to {before} by somebody else meanwhile, and stays.")
            return before if former is None else former, None
        try:
            return raised(before, maximum, annotations, self.params["replicas"])
        except RolloutError as error:
            self.result["autoscaler"] = None
            self._fail(f"{title}: {error.message}. Nothing was written. Next: raise its maxReplicas to {self.params['replicas']} or more.")
            raise AssertionError("unreachable") from error
