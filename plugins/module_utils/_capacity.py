# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about capacity: how much traffic the ready pods of a version can carry. Private to this collection.

The first half is pure. :func:`survey` reads what the rules need: three LISTs, whatever the number of pods.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import Weights, pod_is_ready

CAPACITY_SPEC: dict[str, dict[str, Any]] = {
    "full": {"type": "int"},
    "disruptions": {"type": "str", "default": "warn", "choices": ["warn", "refuse"]},
}

_PERCENT = 100


class CapacityError(RolloutError):
    """The ready pods cannot carry the wanted share; nothing was written."""


@dataclass(frozen=True)
class Autoscaler:
    """What a HorizontalPodAutoscaler allows. ``disabled`` is true while its Deployment stands at 0: it does not act then."""

    name: str
    deployment: str
    minimum: int
    maximum: int
    disabled: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "min": self.minimum, "max": self.maximum, "disabled": self.disabled}


@dataclass(frozen=True)
class Budget:
    """What a PodDisruptionBudget protects. ``allowed`` pods may be evicted at this moment."""

    name: str
    allowed: int


@dataclass(frozen=True)
class Side:
    """One version as it runs: pods its Deployments want, pods that are ready, and who may change that."""

    name: str
    wanted: int
    ready: int
    deployments: tuple[str, ...] = ()
    autoscaler: Autoscaler | None = None
    budgets: tuple[Budget, ...] = ()

    @property
    def guaranteed(self) -> int | None:
        """Ready pods that evictions leave, or None when no PodDisruptionBudget protects them.

        Of several budgets the strictest counts: the API server asks each of them.
        """
        if not self.budgets:
            return None
        return max(0, self.ready - min(budget.allowed for budget in self.budgets))


@dataclass(frozen=True)
class Survey:
    """Both versions, and how many pods carry all traffic; ``source`` says where that number comes from."""

    full: int
    source: str
    stable: Side
    canary: Side
    warnings: tuple[str, ...] = ()


@dataclass
class Verdict:
    """``refusal`` is empty when the ready pods can carry the shares. ``report`` is the task's result key ``capacity``."""

    refusal: str = ""
    warnings: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def needed_pods(full: int, share: int) -> int:
    """Return how many pods carry ``share`` percent when ``full`` carry everything: rounded up, at least 1 above 0 %."""
    return max(1, -(-full * share // _PERCENT)) if share > 0 else 0


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a label selector (``matchLabels``, ``matchExpressions``) selects ``labels``.

    As the API server has it for policy/v1: an empty selector selects everything, none selects nothing.
    """
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(entry, labels) for entry in selector.get("matchExpressions") or [])


def _expression(entry: dict[str, Any], labels: dict[str, str]) -> bool:
    key, operator, values = entry.get("key"), entry.get("operator"), entry.get("values") or []
    if operator == "In":
        return labels.get(str(key)) in values
    if operator == "NotIn":
        return labels.get(str(key)) not in values
    return (str(key) in labels) == (operator == "Exists")


def read_autoscaler(autoscaler: dict[str, Any], replicas: int) -> Autoscaler:
    """Return what a HorizontalPodAutoscaler (autoscaling/v2) says about its Deployment of ``replicas`` pods."""
    spec = autoscaler.get("spec") or {}
    return Autoscaler(
        name=str(autoscaler["metadata"]["name"]),
        deployment=str((spec.get("scaleTargetRef") or {}).get("name") or ""),
        minimum=spec.get("minReplicas", 1),
        maximum=spec.get("maxReplicas", 0),
        # The controller leaves a Deployment at 0 alone unless the minimum is 0 too.
        disabled=replicas == 0 and spec.get("minReplicas", 1) > 0,
    )


def targets(autoscaler: dict[str, Any], deployment: str) -> bool:
    """Whether ``autoscaler`` scales the Deployment of that name."""
    target = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
    group = str(target.get("apiVersion") or "").partition("/")[0]
    return target.get("kind") == "Deployment" and group == "apps" and target.get("name") == deployment


def read_side(
    name: str,
    labels: dict[str, str],
    pods: list[dict[str, Any]],
    deployments: list[dict[str, Any]],
    autoscalers: list[dict[str, Any]],
    budgets: list[dict[str, Any]],
) -> Side:
    """Return one version: ``labels`` are those every pod of it carries, ``pods`` what runs with them.

    ``deployments``, ``autoscalers`` and ``budgets`` are all of the namespace.
    """
    own = [entry for entry in deployments if labels and carries((entry.get("spec") or {}).get("template") or {}, labels)]
    wanted = {str(entry["metadata"]["name"]): (entry.get("spec") or {}).get("replicas", 1) for entry in own}
    scalers = [
        read_autoscaler(entry, replicas) for deployment, replicas in wanted.items() for entry in autoscalers if targets(entry, deployment)
    ]
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    protecting = [
        Budget(str(entry["metadata"]["name"]), int((entry.get("status") or {}).get("disruptionsAllowed") or 0))
        for entry in budgets
        if any(selects((entry.get("spec") or {}).get("selector"), pod["metadata"].get("labels") or {}) for pod in living)
    ]
    return Side(
        name=name,
        # Pods that no Deployment of this namespace makes are what they are.
        wanted=sum(wanted.values()) if own else len(living),
        ready=sum(pod_is_ready(pod) for pod in living),
        deployments=tuple(sorted(wanted)),
        autoscaler=scalers[0] if scalers else None,
        budgets=tuple(protecting),
    )


def carries(entry: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether an object, or the template of one, carries all ``labels``."""
    own = (entry.get("metadata") or {}).get("labels") or {}
    return all(own.get(key) == value for key, value in labels.items())


def full_pods(stable: Side, canary: Side, weight: int) -> tuple[int, str]:
    """Return how many pods carry all traffic, by what runs, and where the number comes from. ``weight`` is the canary's now.

    The version that serves is the measure: what its Deployment wants, or what its autoscaler keeps at least. A stable version
    that has lost its traffic, or stands at 0, may have been made smaller since; then the canary's number counts too.
    """
    numbers = [_kept(stable)]
    if weight == _PERCENT or not numbers[0][0]:
        numbers.append(_kept(canary))
    full, source = max(numbers, key=lambda entry: entry[0])
    return (full, source) if full else (0, "no pod is wanted by either version")


def _kept(side: Side) -> tuple[int, str]:
    scaler = side.autoscaler
    if scaler is not None and not scaler.disabled and scaler.minimum > side.wanted:
        return scaler.minimum, f"minReplicas of HorizontalPodAutoscaler {scaler.name}"
    return side.wanted, f"pods wanted by {_deployments(side)}"


def _deployments(side: Side) -> str:
    if not side.deployments:
        return f"destination {side.name}"
    return ("Deployment " if len(side.deployments) == 1 else "Deployments ") + ", ".join(side.deployments)


def judge(survey: Survey, before: Weights, after: Weights, disruptions: str = "warn") -> Verdict:
    """Decide whether the ready pods can carry ``after``, coming from ``before``.

    Refused is only a share that grows: moving traffic away from a version that is too small makes nothing worse. The way to
    weight 0 is never refused: too few pods of the stable version serve better than a canary that somebody wants to leave, and
    whoever calls has made sure that at least one is ready. ``disruptions`` is ``refuse`` when pods that an eviction may take do
    not count.
    """
    verdict = Verdict(warnings=list(survey.warnings))
    sides = {"stable": (survey.stable, before.stable, after.stable), "canary": (survey.canary, before.canary, after.canary)}
    shown: dict[str, Any] = {}
    for role, (side, old, new) in sides.items():
        needed = needed_pods(survey.full, new)
        shown[role] = _report(side, new, needed)
        shortages = _shortages(side, new, needed, survey)
        hard = [text for text, always in shortages if always or disruptions == "refuse"]
        if hard and new > old and after.canary > 0:
            verdict.refusal = verdict.refusal or hard[0]
        else:
            verdict.warnings += [text for text, _always in shortages]
        if new:
            verdict.warnings += _hints(side, needed)
    verdict.report = {"full": survey.full, "source": survey.source, **shown, "warnings": verdict.warnings}
    return verdict


def _report(side: Side, share: int, needed: int) -> dict[str, Any]:
    return {
        "share": share,
        "needed": needed,
        "wanted": side.wanted,
        "ready": side.ready,
        "guaranteed": side.guaranteed,
        "deployments": list(side.deployments),
        "hpa": side.autoscaler.as_dict() if side.autoscaler else None,
        "pdb": [asdict(budget) for budget in side.budgets],
    }


def _shortages(side: Side, share: int, needed: int, survey: Survey) -> list[tuple[str, bool]]:
    """Why ``side`` cannot carry its share, and whether that counts also where evictions are accepted."""
    if not needed:
        return []
    load = f"{share} % of the traffic needs {needed} of the {survey.full} pods that carry all of it ({survey.source})"
    scaler = side.autoscaler
    if scaler is not None and not scaler.disabled and needed > scaler.maximum:
        return [
            (
                f"destination '{side.name}': HorizontalPodAutoscaler {scaler.name} allows at most {scaler.maximum} pods, but {load}. "
                f"Next: raise its maxReplicas to {needed} or more.",
                True,
            )
        ]
    if side.ready < needed:
        return [(f"destination '{side.name}' has {_count(side.ready, 'ready pod')}, but {load}. Next: {_remedy(side, needed)}.", True)]
    if side.guaranteed is None:
        return []
    if side.guaranteed < needed:
        names = ", ".join(budget.name for budget in side.budgets)
        return [
            (
                f"destination '{side.name}' has {_count(side.ready, 'ready pod')}, of which evictions may leave {side.guaranteed} "
                f"(PodDisruptionBudget {names}), but {load}. Next: run more pods, or have the budget keep {needed} of this version.",
                False,
            )
        ]
    return []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _remedy(side: Side, needed: int) -> str:
    if side.wanted >= needed:
        return f"see why only {side.ready} of {side.wanted} are ready (playbooks/status.yml)"
    scaler = side.autoscaler
    if scaler is not None and not scaler.disabled:
        return f"raise minReplicas of HorizontalPodAutoscaler {scaler.name} to {needed}"
    return f"scale {_deployments(side)} to {needed} and wait until they are ready"


def _hints(side: Side, needed: int) -> list[str]:
    hints = []
    scaler = side.autoscaler
    if scaler is not None and not scaler.disabled and scaler.minimum < needed <= scaler.maximum:
        hints.append(
            f"destination '{side.name}': HorizontalPodAutoscaler {scaler.name} may scale down to {scaler.minimum}, "
            f"which is less than the {needed} pods that its share needs."
        )
    hints += [
        f"destination '{side.name}': PodDisruptionBudget {budget.name} allows no eviction now, so that draining a node would wait."
        for budget in side.budgets
        if not budget.allowed
    ]
    return hints


# ------------------------------------------------------------------------------------------------------- the cluster


def survey(
    kube: _kube.Kube,
    namespace: str,
    options: dict[str, Any],
    sides: dict[str, tuple[str, dict[str, str], list[dict[str, Any]]]],
    weight: int,
) -> Survey:
    """Read how both versions run. ``weight`` is the canary's now, in percent.

    ``sides`` has, for ``stable`` and ``canary``: the name of the destination, the labels of its pods, and the pods. ``options`` is the
    module's option ``capacity``. Lists that may not be read are told as warnings.
    """
    warnings: list[str] = []

    def everything(group: str, version: str, plural: str, lost: str) -> list[dict[str, Any]]:
        try:
            return kube.list(_kube.path_of(group, version, plural, namespace))
        except _kube.KubeError as error:
            if error.status not in (403, 404):
                raise
            warnings.append(f"no right to list {plural} in namespace {namespace}: {lost}.")
            return []

    deployments = everything("apps", "v1", "deployments", "the pods that are wanted are taken to be those that run")
    autoscalers = everything("autoscaling", "v2", "horizontalpodautoscalers", "whether one would change the number of pods is not known")
    budgets = everything("policy", "v1", "poddisruptionbudgets", "how many pods evictions leave is not known")
    found = {role: read_side(*side, deployments, autoscalers, budgets) for role, side in sides.items()}
    full, source = full_pods(found["stable"], found["canary"], weight)
    if options.get("full") is not None:
        full, source = options["full"], "option capacity.full"
    return Survey(full, source, found["stable"], found["canary"], tuple(warnings))


def problems_of(options: dict[str, Any] | None) -> list[str]:
    """What is wrong with the option ``capacity``."""
    full = (options or {}).get("full")
    if full is not None and full < 1:
        return [f"capacity.full is {full}, expected a number of pods of at least 1"]
    return []
