# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard that runs in the cluster, for the death of the machine that runs the release. Private to this collection.

This file is the whole program: it is sent into a pod as it stands, so it imports the standard library only and runs from Python 3.9 on.
It watches the Lease of a release. When nobody has renewed it for longer than it lasts and a grace beside that, while the record says that
a canary goes on, it puts all traffic back, says so, and ends. It acts once at most.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
RECORD_KEY, GUARD_KEY = "record.json", "guard.json"
WATCHING, ACTING, MOVED, DRIFT, ENDED = "watching", "acting", "moved", "drift", "ended"
# What a guard says of itself once it has nothing left to do.
FINAL = (MOVED, DRIFT, ENDED)
FULL = 100
_LOG = logging.getLogger("signal.rollout.guard")
_CALL_SECONDS = 5.0
_RETRY_PAUSE = 1.0
# A release whose API server is away for longer is looked at by people.
_ACT_SECONDS = 600.0


@dataclass(frozen=True)
class Progress:
    """What a record says of the canary.

    ``going_on`` is true from the begin of its first step until its last one has passed. ``weights`` are those that this release may have
    left in the route, the likeliest first, without 0.
    """

    going_on: bool
    weights: tuple[int, ...]
    words: str


def progress_of(record: dict[str, Any]) -> Progress:
    """Return how far the canary of ``record`` is."""
    if record.get("outcome"):
        return Progress(False, (), f"the release is closed as {record['outcome']}")
    steps = {
        int(name[7:]): entry
        for name, entry in (record.get("steps") or {}).items()
        if name.startswith("canary_") and name[7:].isdigit() and isinstance(entry, dict)
    }
    if not steps:
        return Progress(False, (), "no step of the canary has begun")
    newest = max(steps, key=lambda weight: str(steps[weight].get("started") or ""))
    if newest == FULL and steps[newest].get("status") == "done":
        return Progress(False, (), "the canary has passed its last step: all traffic stays on the new version")
    noted = [int(entry["weight"]) for entry in (record.get("weights") or [])[-1:]]
    # While a step's weight is not written yet, the one before it stands.
    weights = tuple(dict.fromkeys(weight for weight in (newest, *noted) if weight))
    return Progress(True, weights, f"step {newest} % is {steps[newest].get('status')}")


class Silence:
    """For how long a Lease has not been renewed, by this machine's own clock: those of two machines may differ.

    While the API server could not be read the holder could not renew either, so that the count begins anew after ``longest_gap`` seconds
    without an answer.
    """

    def __init__(self, longest_gap: float) -> None:
        self._longest_gap = longest_gap
        self._renewed: str | None = None
        self._since = self._seen = 0.0

    def look(self, now: float, renewed: str) -> float:
        """Note that the Lease says ``renewed`` at ``now``; returns the seconds of silence so far."""
        if renewed != self._renewed or now - self._seen > self._longest_gap:
            self._renewed, self._since = renewed, now
        self._seen = now
        return now - self._since


@dataclass(frozen=True)
class Decision:
    """What one route object asks for: a patch to send (``operations``), or why there is none. Weights are the canary's, in percent."""

    operations: list[dict[str, Any]] | None
    before: int | None
    drift: str


def decide(document: dict[str, Any], route: dict[str, Any], weights: tuple[int, ...]) -> Decision:
    """Return what puts all traffic of ``document`` back, if it still is what this release knows and has one of ``weights``.

    ``route`` names the rule by its name or place, and both destinations by ``{path below it: value, or None for absent}``.
    """
    field, entries = route["rules"], route["entries"]
    rules = (document.get("spec") or {}).get(field) or []
    name = route["rule"]["name"]
    places = [place for place, rule in enumerate(rules) if rule.get("name") == name] if name else [route["rule"]["index"]]
    if len(places) != 1 or places[0] >= len(rules):
        return _left(document, route, None, f"rule '{name or places[0]}' is there {len(places) if name else 0} times, expected once")
    found = rules[places[0]].get(entries) or []
    base = f"/spec/{field}/{places[0]}"
    operations: list[dict[str, Any]] = [_test(f"/metadata/{key}", document["metadata"][key]) for key in ("uid", "generation")]
    operations += [_test(f"{base}/name", name)] if name else []
    hits = {}
    for side in ("stable", "canary"):
        meant = [place for place, entry in enumerate(found) if all(_below(entry, path) == value for path, value in route[side].items())]
        if len(meant) != 1:
            return _left(document, route, None, f"the {side} destination is there {len(meant)} times, expected once")
        hits[side] = meant[0]
        operations += [_test(f"{base}/{entries}/{meant[0]}/{path}", value) for path, value in route[side].items() if value is not None]
    shares = [entry.get("weight", route["without"]) for entry in found]
    stable, canary = shares[hits["stable"]], shares[hits["canary"]]
    kept = sum(share for place, share in enumerate(shares) if place not in hits.values())
    if kept != route["kept"] or stable + canary + kept != FULL or canary not in (0, *weights):
        return _left(document, route, canary, f"the canary has {canary} % and stable {stable} %, which this release did not set")
    if canary == 0:
        return Decision(None, 0, "")
    for side, weight in (("stable", FULL - kept), ("canary", 0)):
        path = f"{base}/{entries}/{hits[side]}/weight"
        if "weight" in found[hits[side]]:
            operations.append(_test(path, found[hits[side]]["weight"]))
        operations.append({"op": "add", "path": path, "value": weight})
    return Decision(operations, canary, "")


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _below(entry: dict[str, Any], path: str) -> Any:
    value: Any = entry
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _left(document: dict[str, Any], route: dict[str, Any], canary: int | None, why: str) -> Decision:
    newest = {"manager": "unknown", "time": ""}
    for entry in document["metadata"].get("managedFields") or []:
        wrote = f"f:{route['rules']}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
        if wrote and str(entry.get("time") or "") >= newest["time"]:
            newest = {"manager": str(entry.get("manager") or "unknown"), "time": str(entry.get("time") or "")}
    writer = f"last written by '{newest['manager']}' at {newest['time'] or 'an unknown time'}"
    return Decision(None, canary, f"{route['title']}: {why}; {writer}. It was not overwritten")


class ApiError(Exception):
    """The API server refused a call (``status``), or did not answer (0)."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Api:
    """The API server as a pod reaches it."""

    def __init__(self, host: str, port: int, account: str = ACCOUNT) -> None:
        self.host, self.port, self.account = host, port, account
        self.tls = ssl.create_default_context(cafile=f"{account}/ca.crt")
        # Certificates of many clusters lack fields that Python 3.13 asks for by default.
        self.tls.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        # Read each time: the kubelet renews it.
        with open(f"{self.account}/token", encoding="ascii") as stream:
            token = stream.read().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "signal.rollout-guard"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), kind
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=_CALL_SECONDS, context=self.tls)
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            if 200 <= answer.status < 300:
                return json.loads(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ApiError(0, f"no answer to {method} {path}: {error}") from None
        finally:
            connection.close()
        words = " ".join(content.decode(errors="replace").split())[:300]
        raise ApiError(answer.status, f"{method} {path} answered {answer.status}: {words}")

    def get(self, path: str) -> dict[str, Any]:
        return self.call("GET", path)

    def patch(self, path: str, operations: list[dict[str, Any]], dry: bool = False) -> dict[str, Any]:
        query = "?fieldManager=signal.rollout-guard" + ("&dryRun=All" if dry else "")
        return self.call("PATCH", path + query, operations, "application/json-patch+json")

    def merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.call("PATCH", path + "?fieldManager=signal.rollout-guard", body, "application/merge-patch+json")


class Guard:
    """One guard of one run. ``settings`` is what the release has written for it."""

    def __init__(self, settings: dict[str, Any], api: Api) -> None:
        self.settings = settings
        self.api = api
        self.holder: str = settings["holder"]
        self.told = ""
        # The canary's weight of each route that was written to, perhaps in vain, perhaps with an answer that was lost.
        self.tried: dict[str, int | None] = {}

    def run(self) -> str:
        """Watch until there is nothing left to do; returns why."""
        over = self._prepare()
        if over:
            return over
        silence: Silence | None = None
        while True:
            try:
                lease = self._lease()
                if lease["holder"] != self.holder:
                    return self._end(f"the release is held by '{lease['holder'] or 'nobody'}' now")
                silence = silence or Silence(max(lease["duration"] / 3, 3 * self.settings["poll"]))
                silent = silence.look(time.monotonic(), lease["renewed"])
                limit = lease["duration"] + self.settings["grace"]
                if silent > limit:
                    over = self._stale(lease["renewed"], silent)
                    if over:
                        return over
                self.told = ""
            except ApiError as error:
                self._say(f"not yet: {error}")
            time.sleep(self.settings["poll"])

    def _prepare(self) -> str:
        """Prove, with the rights that will be used, that everything can be read and written; returns why there is nothing to do, or ''."""
        while True:
            try:
                said = self._said()
                if said.get("holder") == self.holder and said.get("state") in FINAL:
                    return f"it has done its work already: {said.get('words')}"
                for route in self.settings["routes"]:
                    document = self.api.get(route["path"])
                    self.api.patch(route["path"], [_test("/metadata/uid", document["metadata"]["uid"])], dry=True)
                self._lease()
                if said.get("holder") == self.holder and said.get("state") == ACTING:
                    # An earlier pod of this guard ended in the middle of it, and what it wrote is not known.
                    self.tried = {route["title"]: None for route in self.settings["routes"]}
                self._write(WATCHING, f"watches the lock of '{self.holder}'")
                return ""
            except ApiError as error:
                self._say(f"cannot watch yet: {error}")
            time.sleep(_RETRY_PAUSE)

    def _stale(self, renewed: str, silent: float) -> str:
        """Do what a Lease that was renewed last at ``renewed`` asks for; returns why the guard is over, or '' when the run came back."""
        record = self._record()
        progress = progress_of(record)
        if record.get("id") != self.settings["release"]:
            return self._end("the record is another release's")
        if not progress.going_on:
            return self._end(f"nothing to put back: {progress.words}")
        since = f"the lock was not renewed for {silent:.0f} s ({progress.words})"
        self._write(ACTING, since)
        deadline = time.monotonic() + _ACT_SECONDS
        done: dict[str, Decision] = {}
        while True:
            try:
                lease = self._lease()
                if lease["holder"] != self.holder:
                    return self._end(f"the release is held by '{lease['holder'] or 'nobody'}' now")
                if lease["renewed"] != renewed and not done:
                    self._write(WATCHING, "the run has come back")
                    return ""
                for route in self.settings["routes"]:
                    if route["title"] not in done:
                        done[route["title"]] = self._put_back(route, progress.weights)
                return self._tell(since, done)
            except ApiError as error:
                self._say(f"not yet: {error}")
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY_PAUSE)

    def _put_back(self, route: dict[str, Any], weights: tuple[int, ...]) -> Decision:
        """Write one route. Raises :class:`ApiError` when it has to be looked at again, also after an answer that was lost."""
        decision = decide(self.api.get(route["path"]), route, weights)
        if decision.operations:
            self.tried[route["title"]] = decision.before
            self.api.patch(route["path"], decision.operations)
        return decision

    def _tell(self, since: str, done: dict[str, Decision]) -> str:
        moved = [title for title, decision in done.items() if decision.operations or (title in self.tried and not decision.drift)]
        drifts = [decision.drift for decision in done.values() if decision.drift]
        if not moved and not drifts:
            return self._end(f"{since}; the canary had no traffic")
        parts = [since]
        if moved:
            parts.append(f"all traffic of {', '.join(moved)} is back on {self.settings['stable']}, not confirmed in the gateways")
        words = "; ".join([*parts, *drifts])
        title, main = next(iter(done.items()))
        before = self.tried.get(title, main.before) if title in moved else main.before
        self._event("TrafficLeft" if drifts else "TrafficPutBack", words)
        self._insist(DRIFT if drifts else MOVED, words, before=before, after=0 if title in moved else main.before)
        return words

    def _end(self, words: str) -> str:
        # Another run's guard may watch by now: its word stays.
        try:
            if self._said().get("holder") == self.holder:
                self._write(ENDED, words)
        except ApiError as error:
            self._say(f"not noted: {error}")
        return words

    def _insist(self, state: str, words: str, **known: Any) -> None:
        deadline = time.monotonic() + _ACT_SECONDS
        while True:
            try:
                return self._write(state, words, **known)
            except ApiError as error:
                self._say(f"not noted yet: {error}")
                if time.monotonic() >= deadline:
                    return None
            time.sleep(_RETRY_PAUSE)

    def _write(self, state: str, words: str, **known: Any) -> None:
        entry = {"state": state, "time": _now(), "holder": self.holder, "release": self.settings["release"], "words": words, **known}
        self.api.merge(self.settings["record"], {"data": {GUARD_KEY: json.dumps(entry)}})
        _LOG.info("%s: %s", state, words)

    def _event(self, reason: str, words: str) -> None:
        """Tell the cluster's own log; what was done does not depend on it."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = self.settings["namespace"]
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "signal-rollout-guard-", "namespace": namespace},
            "involvedObject": self.settings["involved"],
            "reason": reason,
            "message": words[:1000],
            "type": "Warning",
            "source": {"component": "signal-rollout-guard"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self.api.call("POST", f"/api/v1/namespaces/{namespace}/events", body)
        except ApiError as error:
            self._say(f"no event: {error}")

    def _lease(self) -> dict[str, Any]:
        spec = self._found(self.settings["lease"]).get("spec") or {}
        return {
            "holder": str(spec.get("holderIdentity") or ""),
            "renewed": str(spec.get("renewTime") or ""),
            "duration": float(spec.get("leaseDurationSeconds") or 60),
        }

    def _record(self) -> dict[str, Any]:
        return _parsed(self._found(self.settings["record"]), RECORD_KEY)

    def _said(self) -> dict[str, Any]:
        return _parsed(self._found(self.settings["record"]), GUARD_KEY)

    def _found(self, path: str) -> dict[str, Any]:
        """The object at ``path``, empty when it was deleted."""
        try:
            return self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return {}
            raise

    def _say(self, words: str) -> None:
        # The same trouble every second is one line.
        bare = re.sub(r"[0-9]+", "", words)
        if bare != self.told:
            self.told = bare
            _LOG.info(words)


def _parsed(document: dict[str, Any], key: str) -> dict[str, Any]:
    try:
        found = json.loads((document.get("data") or {}).get(key) or "{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Run the guard that the settings file describes."""
    # The first process of a container gets no default handlers.
    signal.signal(signal.SIGTERM, _end)
    with open(sys.argv[1], encoding="utf-8") as stream:
        settings = json.load(stream)
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    api = Api(os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"]))
    _LOG.info("ends: %s", Guard(settings, api).run())


if __name__ == "__main__":
    main()
