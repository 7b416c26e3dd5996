# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pure rules about weights that hold for every kind of route. Private to this collection.

Nothing here talks to a server. Objects are the plain dictionaries the API returns.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

FULL = 100


class WeightError(RolloutError):
    """The object does not allow the wanted change; nothing was written."""


@dataclass(frozen=True)
class Weights:
    """Shares of one route in percent. ``stable + canary`` is 100 less what kept destinations have."""

    stable: int
    canary: int

    def as_dict(self) -> dict[str, int]:
        return {"stable": self.stable, "canary": self.canary}


@dataclass(frozen=True)
class Destination:
    """One weighted destination of a route.

    ``index`` is its place in the list, ``name`` what the options call it, ``host`` the object's own words, ``service`` the full
    name that Envoy's cluster carries, ``subset`` may be empty. ``weight`` is what it counts as, ``written`` what is written.
    ``port`` is the Service's port, None when the object leaves it to Istio.
    """

    index: int
    name: str
    host: str
    service: str
    subset: str
    weight: int
    written: int | None
    port: int | None = None


@dataclass(frozen=True)
class Route:
    """The managed rule of a route object, with the two destinations whose weights may change.

    ``kept`` is what further destinations have, in percent.
    """

    index: int
    name: str
    stable: Destination
    canary: Destination
    kept: int = 0

    @property
    def weights(self) -> Weights:
        return Weights(self.stable.weight, self.canary.weight)

    @property
    def identity(self) -> tuple[str, ...]:
        """What must not have changed when a write is repeated on a newer version of the object."""
        return (self.name, self.stable.service, self.stable.subset, self.canary.service, self.canary.subset, str(self.kept))


def wanted(weight: int, kept: int = 0) -> Weights:
    """Return the weights for ``weight`` percent on the canary when other destinations keep ``kept`` percent.

    Raises :class:`WeightError` outside 0 to what is left.
    """
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= FULL:
        raise WeightError(f"weight is {weight!r}, expected an integer from 0 to 100 (percent of requests for the canary).")
    if weight > FULL - kept:
        raise WeightError(f"weight is {weight}, but other destinations keep {kept} %: expected at most {FULL - kept}.")
    return Weights(FULL - kept - weight, weight)


def only_index(title: str, kind: str, names: list[str], wanted_name: str | None) -> int:
    """Return the index of the rule called ``wanted_name``, or of the only one when no name is given.

    ``kind`` is how the object calls its rules. Raises :class:`WeightError` when the name is not there exactly once.
    """
    listed = ", ".join(f"'{name}'" for name in names) or "none"
    if wanted_name:
        hits = [index for index, name in enumerate(names) if name == wanted_name]
        if len(hits) == 1:
            return hits[0]
        seen = "it is there more than once" if hits else f"its {kind}s are {listed}"
        raise WeightError(f"{title}: expected exactly one {kind} named '{wanted_name}', but {seen}.")
    if len(names) != 1:
        raise WeightError(f"{title}: has {len(names)} {kind}s ({listed}), expected one. Next: set the option route.")
    return 0


def two_of(where: str, what: str, hits: dict[str, list[Destination]], destinations: list[Destination]) -> tuple[Destination, Destination]:
    """Return the stable and the canary destination.

    ``hits`` is ``{name: the destinations that the options mean by it}``, stable first; ``what`` is how the object calls them. Raises
    :class:`WeightError` when one of them is not there exactly once.
    """
    words = _words(destinations)
    for name, found in hits.items():
        if len(found) != 1:
            count = "more than once" if found else "not at all"
            raise WeightError(
                f"{where}: expected {what} '{name}' exactly once, found {count} (destinations: {words}). "
                f"Next: give the route both in Git, with weight 0 for the new one."
            )
    stable, canary = hits.values()
    return stable[0], canary[0]


def kept_share(where: str, destinations: list[Destination], stable: Destination, canary: Destination, extra: str) -> int:
    """Return what further destinations have, in percent.

    Raises :class:`WeightError` when the weights are no whole numbers that sum to 100, or when a further destination has a weight and
    ``extra`` is not ``keep``.
    """
    values = [d.weight for d in destinations]
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in values) or sum(values) != FULL:
        raise WeightError(f"{where}: weights are {_words(destinations)}, expected whole numbers that sum to 100.")
    others = [d for d in destinations if d.index not in (stable.index, canary.index) and d.weight]
    if others and extra != "keep":
        raise WeightError(
            f"{where}: other destinations carry traffic ({_words(others)}), expected only stable and canary. "
            "Next: set extra_destinations to keep, or take them out."
        )
    return sum(d.weight for d in others)


def _words(destinations: list[Destination]) -> str:
    shown = [f"{d.name}={'absent' if d.written is None else d.written}" for d in destinations]
    return ", ".join(shown) or "no destination"


def weight_operations(base: str, destination: Destination, weight: int) -> list[dict[str, Any]]:
    """Return the JSON Patch that changes one weight below ``base``, if it still is what was read."""
    path = f"{base}/weight"
    if destination.written is None:
        # A weight that is not written cannot be tested; the object's version is what guards it.
        return [{"op": "add", "path": path, "value": weight}]
    return [
        {"op": "test", "path": path, "value": destination.written},
        {"op": "replace", "path": path, "value": weight},
    ]


def break_glass(resource: str, document: dict[str, Any], route: Route, tests: list[dict[str, Any]], places: tuple[str, str]) -> str:
    """Return a kubectl line that puts all traffic back to stable and needs nothing of this collection.

    ``tests`` are JSON Patch tests that the destinations are still where they were, ``places`` the JSON pointers of stable and canary.
    No old weight is tested: the line must work whatever the weights are when it is pasted.
    """
    back = wanted(0, route.kept)
    operations = [
        *tests,
        {"op": "add", "path": f"{places[0]}/weight", "value": back.stable},
        {"op": "add", "path": f"{places[1]}/weight", "value": back.canary},
    ]
    metadata = document["metadata"]
    patch = json.dumps(operations, separators=(",", ":"))
    return f"kubectl -n {metadata['namespace']} patch {resource} {metadata['name']} --type=json -p {shlex.quote(patch)}"


def last_writer(document: dict[str, Any], field: str) -> dict[str, str]:
    """Return ``{manager, time}`` of the newest writer of ``spec.<field>``, from managedFields.

    A manager's name is a claim of the client, not an identity; the user's name is only in the audit log.
    """
    newest: dict[str, str] = {"manager": "unknown", "time": ""}
    for entry in (document.get("metadata") or {}).get("managedFields") or []:
        if f"f:{field}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            when = str(entry.get("time") or "")
            if when >= newest["time"]:
                newest = {"manager": str(entry.get("manager") or "unknown"), "time": when}
    return newest


def full_host(host: str, namespace: str) -> str:
    """Return the fully qualified service name that Istio makes of ``host``."""
    if "." in host or not host:
        return host
    return f"{host}.{namespace}.svc.cluster.local"


def envoy_weights(config_dump: dict[str, Any], route: Route, is_ours: Callable[[str], bool], name: str) -> list[Weights]:
    """Return what one Envoy has for ``route``, one entry per virtual host it appears in.

    ``config_dump`` is the admin interface's ``/config_dump?resource=dynamic_route_configs``. ``is_ours(origin)`` says whether an entry was
    made of the managed object, by the object's name that istiod notes with it; ``name`` is the entry's own, empty for any. A weight of 0
    is absent from Envoy's config, and 100/0 shows as a plain ``cluster``. Shares are given out of 100 whatever the total is.
    """
    shown: list[Weights] = []
    for config in config_dump.get("configs") or []:
        for virtual_host in (config.get("route_config") or {}).get("virtual_hosts") or []:
            for entry in virtual_host.get("routes") or []:
                if name and entry.get("name") != name:
                    continue
                istio = ((entry.get("metadata") or {}).get("filter_metadata") or {}).get("istio") or {}
                if not is_ours(str(istio.get("config") or "")):
                    continue
                shares = _envoy_shares(entry.get("route") or {})
                shown.append(Weights(_share(shares, route.stable), _share(shares, route.canary)))
    return shown


def _envoy_shares(action: dict[str, Any]) -> dict[str, int]:
    if action.get("cluster"):
        return {str(action["cluster"]): FULL}
    clusters = (action.get("weighted_clusters") or {}).get("clusters") or []
    total = sum(int(entry.get("weight") or 0) for entry in clusters) or 1
    return {str(entry.get("name")): round(int(entry.get("weight") or 0) * FULL / total) for entry in clusters}


def _share(shares: dict[str, int], destination: Destination) -> int:
    # Istio's cluster names read "outbound|80|v1|service.namespace.svc.cluster.local".
    return sum(
        value
        for name, value in shares.items()
        if name.split("|")[2:4] == [destination.subset, destination.service]
    )


def pod_is_ready(pod: dict[str, Any]) -> bool:
    """Whether ``pod`` is ready and not being deleted."""
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def ready_endpoints(slices: list[dict[str, Any]]) -> set[str]:
    """Return what is ready in the EndpointSlices of one Service: names of pods, or addresses of what is no pod.

    An absent condition means ready.
    """
    ready: set[str] = set()
    for found in slices:
        for endpoint in found.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            target = endpoint.get("targetRef") or {}
            names = [target["name"]] if target.get("kind") == "Pod" else endpoint.get("addresses") or []
            ready.update(str(name) for name in names)
    return ready


def as_text(values: dict[str, Any]) -> str:
    """Return ``values`` as ``key=value`` words for a message."""
    return " ".join(f"{key}={value}" for key, value in values.items())
