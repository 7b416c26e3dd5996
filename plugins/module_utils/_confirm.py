# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Confirmation of a weight change in the mesh: what the proxies really have. Private to this collection.

In this order: Envoy's route configuration of every ready gateway (and of sampled sidecars) through the API server, by the
pod proxy or by a command in the pod; else the share of the requests that Prometheus has counted since the write; else an
explicit "unconfirmed", which is an error unless it is accepted. A proxy that rejected the configuration ends the wait at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _envoy, _istiod, _kube, _prometheus, _share, _weights
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._fleet import GATEWAY, SIDECAR, Claim, Fleet
from ansible_collections.signal.rollout.plugins.module_utils._rejections import Baseline

SIDECARS_SPEC: dict[str, dict[str, Any]] = {
    "namespace": {"type": "str"},
    "selector": {"type": "str", "required": True},
    "sample": {"type": "int", "default": 3},
}

OBSERVED_SPEC: dict[str, dict[str, Any]] = {
    **_prometheus.ARGUMENT_SPEC,
    "prometheus_url": {"type": "str", "required": True},
    **_prometheus.TLS_SPEC,
    "preset": {"type": "str", "choices": list(_share.PRESETS)},
    "labels": {"type": "dict"},
    "stable_query": {"type": "str"},
    "canary_query": {"type": "str"},
    "minimum_requests": {"type": "int", "default": 100},
    "scrape_interval": {"type": "float", "default": 15.0},
    "timeout": {"type": "float", "default": 120.0},
}

CONFIRM_SPEC: dict[str, dict[str, Any]] = {
    "method": {"type": "str", "default": "auto", "choices": ["auto", "envoy", "exec", "observed", "none"]},
    "namespace": {"type": "str", "default": "istio-system"},
    "selector": {"type": "str", "default": "istio=ingressgateway"},
    "admin_port": {"type": "int", "default": 15000},
    "container": {"type": "str", "default": "istio-proxy"},
    "timeout": {"type": "float", "default": 10.0},
    "sidecars": {"type": "dict", "options": SIDECARS_SPEC},
    "observed": {"type": "dict", "options": OBSERVED_SPEC},
    "istiod": {"type": "dict", "options": _istiod.ISTIOD_SPEC, "apply_defaults": True},
    "accept_unconfirmed": {"type": "bool", "default": False},
}

CONFIRMED, UNCONFIRMED = "confirmed", "unconfirmed"
_SHOWN, _BLIND, _LAGGING = "shown", "blind", "lagging"
_POLL_SECONDS = 0.02
# While the proxies lag, how often the pods are listed again and reasons are looked for.
_RECHECK_SECONDS = 0.5
# A scrape may be answered this much later than it was due.
_SCRAPE_SLACK_SECONDS = 1.0
_QUERY_SECONDS = 5.0
# Seconds between two looks at the share at most, and how soon an interruption is noticed between them.
_LOOK_SECONDS = 5.0
_SLICE_SECONDS = 0.25
_NAMED = 5
_WAYS = {"auto": (_envoy.PROXY, _envoy.EXEC), "envoy": (_envoy.PROXY,), "exec": (_envoy.EXEC,)}


class Unconfirmed(RolloutError):
    """The weights are written, but nothing proves that the mesh has them. ``result["confirmed"]`` says what was seen."""


class Rejected(Unconfirmed):
    """A proxy refused the configuration that carries the weights. Waiting longer would not help."""


def problems_of(confirm: dict[str, Any], routes: int = 1) -> list[str]:
    """Return every mistake in the options ``confirm`` for a change of ``routes`` routes, before anything is sent. Pure."""
    problems = []
    if confirm["timeout"] <= 0:
        problems.append(f"confirm.timeout is {confirm['timeout']:g}, expected seconds above 0")
    sidecars, observed = confirm.get("sidecars"), confirm.get("observed")
    if sidecars and sidecars["sample"] < 1:
        problems.append(f"confirm.sidecars.sample is {sidecars['sample']}, expected at least 1")
    url = (confirm.get("istiod") or {}).get("url")
    trouble = _prometheus.url_problem(url) if url else ""
    if trouble:
        problems.append(f"confirm.istiod.url: {trouble}")
    if confirm["method"] == "observed" and not observed:
        problems.append("confirm.method is observed, but confirm.observed is missing")
    if observed:
        problems.extend(f"confirm.observed.{problem}" for problem in _observed_problems(observed, routes))
    return problems


def _observed_problems(observed: dict[str, Any], routes: int) -> list[str]:
    problems = _prometheus.problems_of(observed)
    queries = [name for name in ("stable_query", "canary_query") if observed.get(name)]
    if bool(observed.get("preset")) == bool(queries) or len(queries) == 1:
        problems.append("preset: expected either a preset or both stable_query and canary_query")
    elif queries and routes > 1:
        problems.append(f"stable_query: two queries stand for one route, but {routes} routes move; use a preset")
    for name in ("minimum_requests", "scrape_interval", "timeout"):
        if observed[name] <= 0:
            problems.append(f"{name} is {observed[name]:g}, expected a number above 0")
    if observed["timeout"] <= 2 * (observed["scrape_interval"] + _SCRAPE_SLACK_SECONDS):
        problems.append(
            f"timeout is {observed['timeout']:g} s, expected more than two scrapes of {observed['scrape_interval']:g} s and {_SCRAPE_SLACK_SECONDS:g} s each"
        )
    return problems


def words(confirmed: dict[str, Any] | None) -> str:
    """Return a confirmation's outcome as a phrase, such as "confirmed by 2 gateways in 0.12 s". Pure."""
    if not confirmed or confirmed.get("method") == "none":
        return "not confirmed, as confirm.method says"
    seconds = f"in {confirmed['seconds']:.2f} s"
    if confirmed["state"] != CONFIRMED:
        return f"UNCONFIRMED: {confirmed['reason']}"
    if confirmed["method"] == "observed":
        return f"confirmed by {confirmed['share']:.1f} % of {confirmed['requests']} requests {seconds}"
    proxies = [_count(confirmed[f"{kind}s"], kind) for kind in (GATEWAY, SIDECAR) if confirmed.get(f"{kind}s")]
    return f"confirmed by {' and '.join(proxies)} {seconds}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Confirmation:
    """Waits until the mesh has the weights of one route."""

    def __init__(self, options: dict[str, Any], kube: _kube.Kube, namespace: str, claim: Claim) -> None:
        self.options = options
        self.kube = kube
        self.namespace = namespace
        self.claim = claim
        self._method: str = options["method"]
        self._fleet = Fleet(options, kube, namespace, claim, _WAYS.get(self._method, (_envoy.PROXY,)))
        self._baseline: Baseline | None = None
        self._writes = False
        self._started = 0.0
        self._title = claim.title
        self._wanted = _weights.as_text(claim.target.as_dict())

    @property
    def _may_observe(self) -> bool:
        return self._method == "auto" and bool(self.options.get("observed"))

    def prepare(self, rising: bool) -> None:
        """Call before the write. ``rising`` when the canary is to get more traffic, which may be refused; less never is.

        Raises :class:`Unconfirmed` when it is clear already that nothing could be confirmed.
        """
        self._writes = True
        if self._method not in _WAYS or not rising:
            # Nothing may come before the write that takes traffic away.
            return
        gap = self._list()
        if gap and not self.options["accept_unconfirmed"] and not self._may_observe:
            raise Unconfirmed(f"{self._title}: the weights could not be confirmed. {gap} Nothing was written.")
        self._count_rejections()

    def _count_rejections(self) -> None:
        self._baseline = Baseline(self.kube.clone(), self.options["istiod"], self.options["admin_port"], self._fleet.proxies)
        self._baseline.start()

    def _list(self) -> str:
        """List the proxies; return why there is nothing to confirm by, or an empty text."""
        try:
            self._fleet.list()
        except _kube.KubeError as error:
            return f"The proxies cannot be listed: {error.message}"
        return self._fleet.gap()

    def run(self, on_poll: Callable[[], None], while_lagging: Callable[[], None]) -> dict[str, Any]:
        """Return how the weights were confirmed: ``method, state, seconds, proxies, gateways, sidecars, requests, share, reason``.

        ``on_poll`` is called before each wait, ``while_lagging`` every now and then while there is no proof; both may raise to
        give up. Raises :class:`Unconfirmed` when there is no proof in time, unless that is accepted; :class:`Rejected` always.
        """
        self._started = time.monotonic()
        if self._method == "none":
            return self._outcome("none", "confirm.method is none")
        if self._method == "observed":
            return self._observe(on_poll, while_lagging)
        state, reason = self._wait(on_poll, while_lagging)
        if state == _BLIND and self._may_observe:
            return self._observe(on_poll, while_lagging)
        if state != _SHOWN:
            return self._unconfirmed(self._outcome(self._way(), reason))
        return self._outcome(self._way())

    def _wait(self, on_poll: Callable[[], None], while_lagging: Callable[[], None]) -> tuple[str, str]:
        """Wait for the proxies. Returns whether they show the weights, cannot be read, or lag; and the reason for the last two."""
        fleet = self._fleet
        deadline = self._started + self.options["timeout"]
        recheck = self._started + _RECHECK_SECONDS
        gap = fleet.gap() if fleet.listed else self._list()
        if self._writes and self._baseline is None:
            # Still in time: istiod collects changes for a while before it pushes them.
            self._count_rejections()
        while True:
            blind = fleet.look(deadline)
            if blind:
                return _BLIND, f"{blind}. Next: allow pods/proxy or pods/exec there (verb get, exec also create), or set confirm.observed"
            if not fleet.pending and not gap:
                if fleet.is_current:
                    return _SHOWN, ""
                gap = self._list()
                continue
            on_poll()
            now = time.monotonic()
            if now >= min(recheck, deadline):
                recheck = now + _RECHECK_SECONDS
                while_lagging()
                gap = self._list()
                self._refuse_rejected()
            if now >= deadline:
                return (_LAGGING, self._lag()) if fleet.pending else (_BLIND, gap)
            time.sleep(_POLL_SECONDS)

    def _lag(self) -> str:
        fleet = self._fleet
        lagging = fleet.pending
        listed = "; ".join(f"{proxy.name}: {proxy.seen}" for proxy in lagging[:_NAMED])
        more = f" and {len(lagging) - _NAMED} more" if len(lagging) > _NAMED else ""
        reason = f"after {self.options['timeout']:g} s {len(lagging)} of {len(fleet.proxies)} proxies do not have them ({listed}{more})"
        rejected = self._baseline.told(self.kube) if self._baseline is not None else ""
        return f"{reason}; meanwhile istiod has counted rejected configuration: {rejected}" if rejected else reason

    def _way(self) -> str:
        return _envoy.EXEC if any(proxy.way == _envoy.EXEC for proxy in self._fleet.proxies) else _envoy.PROXY

    def _refuse_rejected(self) -> None:
        """End the wait when a proxy that lags has refused what was sent to it."""
        lagging = self._fleet.pending
        if self._baseline is None or not lagging:
            return
        admin = self._fleet.admin
        at_istiod = self._baseline.grown_at_istiod(self.kube)
        since = time.monotonic() - self._started
        for proxy in lagging:
            kinds = [kind for kind in self._baseline.grown_at(admin, proxy) if _concerns(kind, proxy)]
            errors = at_istiod.errors("rds", proxy.node) if at_istiod is not None else []
            # An istiod that counts nothing new has nothing to find in logs.
            suspicious = kinds or at_istiod is None or at_istiod.totals.get("rds")
            logged = admin.logged_reason(proxy, since) if suspicious else ""
            broken = [] if proxy.routes_seen else self._broken_listeners(proxy)
            if not (kinds or errors or logged or broken):
                continue
            witnesses = [f"Envoy counts it ({', '.join(kinds)})"] if kinds else []
            witnesses += [f"istiod counts it (pilot_xds_rds_reject, node {proxy.node}, {', '.join(errors)})"] if errors else []
            witnesses += ["its log says so"] if logged else []
            witnesses += ["Envoy shows it in error_state"] if broken else []
            reason = "; ".join([*broken, *filter(None, [logged])]) or "the reason is in the logs of the proxy and of istiod"
            raise Rejected(
                f"{self._title}: weights {self._wanted} are in the API, but {proxy.kind} {proxy.namespace}/{proxy.name} REJECTED its new "
                f"configuration and keeps the old one ({proxy.seen}): {reason} ({'; '.join(witnesses)}). "
                "Next: correct what the reason names (an EnvoyFilter, most often); playbooks/rollback.yml until then.",
                confirmed=self._outcome(self._way(), f"rejected by {proxy.name}: {reason}"),
            )

    def _broken_listeners(self, proxy: _envoy.Proxy) -> list[str]:
        try:
            return self._fleet.admin.broken_listeners(proxy)
        except RolloutError:
            return []

    def _outcome(self, method: str, reason: str = "", **observed: Any) -> dict[str, Any]:
        """The result: confirmed without a reason, unconfirmed with one."""
        fleet = self._fleet
        return {
            "method": method,
            "state": UNCONFIRMED if reason else CONFIRMED,
            "seconds": round(time.monotonic() - self._started, 3),
            "proxies": fleet.count(GATEWAY) + fleet.count(SIDECAR),
            "gateways": fleet.count(GATEWAY),
            "sidecars": fleet.count(SIDECAR),
            "requests": 0,
            "share": None,
            "reason": reason,
            **observed,
        }

    def _unconfirmed(self, outcome: dict[str, Any]) -> dict[str, Any]:
        if self.options["accept_unconfirmed"]:
            return outcome
        raise Unconfirmed(
            f"{self._title}: weights {self._wanted} are in the API, but UNCONFIRMED in the mesh: {_sentence(outcome['reason'])} "
            "Next: see istiod's log and the proxies' logs, then playbooks/rollback.yml.",
            confirmed=outcome,
        )

    # ------------------------------------------------------------------------------------------------ the observed share

    def _observe(self, on_poll: Callable[[], None], while_lagging: Callable[[], None]) -> dict[str, Any]:
        """Wait until the canary's share of the requests counted since the write agrees with its weight."""
        observed = self.options["observed"]
        client = _prometheus.Prometheus(observed, _QUERY_SECONDS)
        query, watch = self._query(), self._watch()
        deadline = self._started + observed["timeout"]
        # A value that is looked at now may be one scrape old: the first look is where every value is from after the write.
        due = self._started + observed["scrape_interval"] + _SCRAPE_SLACK_SECONDS
        while True:
            while time.monotonic() < due:
                on_poll()
                time.sleep(min(_SLICE_SECONDS, max(0.0, due - time.monotonic())))
            while_lagging()
            trouble = ""
            try:
                answer = client.ask("/api/v1/query", {"query": query, "partial_response": "false"})
                watch.look(time.monotonic(), *_share.sides_of(answer))
            except (RolloutError, ValueError) as error:
                trouble = f"Prometheus: {one_line(error, 160)}"
            window = watch.window()
            seen = {
                "requests": round(window.requests if window else watch.requests),
                "share": round(100 * window.share, 2) if window else None,
                "query": query,
            }
            if window and not trouble and window.agrees(watch.target):
                return self._outcome("observed", **seen)
            if time.monotonic() >= deadline:
                reason = f"after {observed['timeout']:g} s {trouble or _disagreement(window, watch)}"
                return self._unconfirmed(self._outcome("observed", reason, **seen))
            due = min(deadline, time.monotonic() + min(_LOOK_SECONDS, observed["scrape_interval"]))

    def _query(self) -> str:
        observed = self.options["observed"]
        stable, canary = (
            observed.get(f"{side}_query")
            or _share.counters(observed["preset"], host, subset, observed.get("labels") or {}, self.namespace)
            for side, (host, subset) in (("stable", self.claim.stable), ("canary", self.claim.canary))
        )
        return _share.query_of(stable, canary)

    def _watch(self) -> _share.Watch:
        target = _share.share_of(self.claim.target)
        before = _share.share_of(self.claim.before) if self.claim.before is not None else None
        return _share.Watch(target, _share.requests_needed(before, target, self.options["observed"]["minimum_requests"]))


def _concerns(kind: str, proxy: _envoy.Proxy) -> bool:
    """Whether a rejected update of ``kind``, such as "rds http.8080", can be the one with the weights."""
    name = kind.removeprefix("rds ")
    return kind.startswith("rds ") and (not proxy.configs or name in proxy.configs)


def _disagreement(window: _share.Window | None, watch: _share.Watch) -> str:
    if window is None:
        return f"Prometheus has counted {watch.requests:.0f} requests since the write, and {watch.needed} are needed to tell the weights apart"
    low, high = _share.band(watch.target, window.requests)
    return (
        f"the canary has {100 * window.share:.2f} % of the last {window.requests:.0f} requests, "
        f"expected {100 * low:.2f} to {100 * high:.2f} % at {100 * watch.target:g} %"
    )


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
