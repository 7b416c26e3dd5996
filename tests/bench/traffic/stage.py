# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab as a measurement sees it: its commands, its playbooks, and three independent views of the weights."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import kubernetes
import yaml

from .results import ROOT

LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
NAMESPACE = "signal"
SERVICE = "signal-service"
ROUTE = "primary"
PROMETHEUS = "http://10.79.0.52:9090"
SINK = "http://10.79.0.53:8080"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def _without_latency(node: Any) -> Any:
    """The same structure without any limit of a latency."""
    if isinstance(node, dict):
        return {key: _without_latency(value) for key, value in node.items() if key != "latency_below_ms"}
    return [_without_latency(value) for value in node] if isinstance(node, list) else node


_VERIFICATION = yaml.safe_load((ROOT / "roles/verification/defaults/main.yml").read_text(encoding="utf-8"))
# As the lab's inventory, only shorter; and without judging the latency, since that is the machine's here, which everything shares.
SHORT: dict[str, Any] = {
    "verification_checks": _without_latency(_VERIFICATION["verification_checks"]),
    "canary_max_p99_ms": 5000,
    "canary_compare": False,
    "canary_hold_seconds": 5,
    "canary_bake_seconds": 5,
    "canary_minimum_requests": 20,
    "blue_green_stable_seconds": 0,
    "rollback_drain_seconds": 2,
    "verification_load_test_script": "",
}
GREEN_TAGS = "database_migration,configuration,blue_green"


class BenchError(Exception):
    """The lab does not do what a measurement needs; the message says what."""


@dataclass(frozen=True)
class Kind:
    """A kind of route, as the lab has it. ``stable`` and ``canary`` are what the route calls blue and green."""

    name: str
    group: str
    version: str
    plural: str
    resource: str
    host: str
    stable: str
    canary: str
    variables: dict[str, Any] = field(default_factory=dict)

    def entries(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """What the split consists of, as it stands in ``document``."""
        rules, entries = ("http", "route") if self.name == "VirtualService" else ("rules", "backendRefs")
        return next(rule for rule in document["spec"][rules] if rule.get("name") == ROUTE)[entries]

    def called(self, entry: dict[str, Any]) -> str:
        return entry["destination"].get("subset", "") if self.name == "VirtualService" else entry["name"]

    def green(self, document: dict[str, Any]) -> int:
        """Percent of green."""
        return sum(entry.get("weight", 0) for entry in self.entries(document) if self.called(entry) == self.canary)

    def is_green(self, cluster: str) -> bool:
        """Whether Envoy's ``cluster`` is green. Istio names it "outbound|<port>|<subset>|<host>"."""
        _direction, _port, subset, host = (cluster.split("|") + [""] * 4)[:4]
        service = SERVICE if self.name == "VirtualService" else self.canary
        # Other tests may have routes to other services in the same gateways.
        return host.startswith(f"{service}.{NAMESPACE}.") and (self.name != "VirtualService" or subset == self.canary)


KINDS = {
    "VirtualService": Kind("VirtualService", "networking.istio.io", "v1", "virtualservices", SERVICE, "signal-service.lab", "v1", "v2"),
    "HTTPRoute": Kind(
        "HTTPRoute",
        "gateway.networking.k8s.io",
        "v1",
        "httproutes",
        SERVICE,
        "signal-service-gwapi.lab",
        f"{SERVICE}-v1",
        f"{SERVICE}-v2",
        {
            "rollout_route_kind": "HTTPRoute",
            "rollout_stable_destination": f"{SERVICE}-v1",
            "rollout_canary_destination": f"{SERVICE}-v2",
            "rollout_host_header": "signal-service-gwapi.lab",
        },
    ),
}


def labctl(*arguments: str) -> str:
    """Run one command of the lab."""
    done = subprocess.run([sys.executable, str(ROOT / "lab" / "labctl"), *arguments], capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise BenchError(f"labctl {' '.join(arguments)} failed: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout


def fetch(url: str, timeout: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def samples(selector: str, seconds: float) -> list[dict[str, Any]]:
    """Raw samples of the last ``seconds``: ``[{metric, values: [[unix time of the scrape, text], ...]}, ...]``."""
    query = urllib.parse.urlencode({"query": f"{selector}[{max(1, round(seconds))}s]"})
    return fetch(f"{PROMETHEUS}/api/v1/query?{query}")["data"]["result"]


class Watcher(threading.Thread):
    """Every weight of green that the API server ever shows, with the moment it was seen."""

    def __init__(self, client: Any, kind: Kind) -> None:
        super().__init__(name="watcher", daemon=True)
        self._api = kubernetes.client.CustomObjectsApi(client)
        self._kind = kind
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self.events: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                stream = kubernetes.watch.Watch().stream(
                    self._api.list_namespaced_custom_object,
                    self._kind.group,
                    self._kind.version,
                    NAMESPACE,
                    self._kind.plural,
                    field_selector=f"metadata.name={self._kind.resource}",
                    timeout_seconds=60,
                )
                for event in stream:
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._note(time.time(), self._kind.green(event["object"]))
                    if self._ended.is_set():
                        return
            except Exception:
                # Whatever ended the stream, the next one begins with the state as it is.
                time.sleep(0.2)

    def _note(self, when: float, weight: int) -> None:
        with self._changed:
            if not self.events or self.events[-1][1] != weight:
                self.events.append((when, weight))
                self._changed.notify_all()

    @property
    def weight(self) -> int:
        with self._changed:
            return self.events[-1][1] if self.events else -1

    def until(self, weight: int, since: float, seconds: float) -> float | None:
        """When green first had ``weight`` at or after ``since``; None when that did not happen within ``seconds`` from now."""
        deadline = time.time() + seconds
        with self._changed:
            while True:
                for when, seen in self.events:
                    if when >= since and seen == weight:
                        return when
                left = deadline - time.time()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def stop(self) -> None:
        self._ended.set()


class Gateways:
    """What the gateways themselves say, by their administration interface."""

    def __init__(self, addresses: list[str], kind: Kind) -> None:
        self._kind = kind
        self._connections = [http.client.HTTPConnection(address, 15000, timeout=3) for address in addresses]

    def green(self) -> list[int]:
        """Percent that each gateway sends to green, on the route where that is most."""
        return [self._share(connection) for connection in self._connections]

    def until(self, weight: int, seconds: float) -> float | None:
        """When all gateways had ``weight``; None when that did not happen within ``seconds``."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            if all(share == weight for share in self.green()):
                return time.time()
            time.sleep(0.01)
        return None

    def _share(self, connection: http.client.HTTPConnection) -> int:
        try:
            connection.request("GET", "/config_dump?resource=dynamic_route_configs")
            dump = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        most = 0
        for config in dump.get("configs") or []:
            for host in (config.get("route_config") or {}).get("virtual_hosts") or []:
                for route in host.get("routes") or []:
                    # A route for requests with a certain header is not part of the split.
                    if not (route.get("match") or {}).get("headers"):
                        most = max(most, self._route_share(route.get("route") or {}))
        return most

    def _route_share(self, action: dict[str, Any]) -> int:
        if action.get("cluster"):
            return 100 if self._kind.is_green(action["cluster"]) else 0
        clusters = (action.get("weighted_clusters") or {}).get("clusters") or []
        shares = {entry["name"]: int(entry.get("weight") or 0) for entry in clusters}
        whole = sum(shares.values()) or 1
        return round(100 * sum(weight for name, weight in shares.items() if self._kind.is_green(name)) / whole)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


class Play:
    """One playbook in a process of its own; every line it prints is stamped."""

    def __init__(self, playbook: str, variables: dict[str, Any], tags: str, log: Path) -> None:
        command = [str(PLAYBOOK), f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]
        command += ["--tags", tags] if tags else []
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name = playbook
        self.log = log
        self.started = time.time()
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, name="play", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("w", encoding="utf-8") as log:
            for line in self.process.stdout:
                stamped = (time.time(), line.rstrip("\n"))
                log.write(f"{stamped[0]:.3f} {stamped[1]}\n")
                log.flush()
                self.lines.append(stamped)

    def when(self, *words: str) -> float | None:
        """When the first line with all ``words`` was printed."""
        return next((moment for moment, line in list(self.lines) if all(word in line for word in words)), None)

    def count(self, since: float, *words: str) -> int:
        """How many lines with all ``words`` were printed after ``since``."""
        return sum(all(word in line for word in words) for moment, line in list(self.lines) if moment > since)

    def until(self, seconds: float, *words: str) -> float:
        """Wait for a line with all ``words``; raises BenchError when it does not come, or the playbook ends without it."""
        deadline = time.time() + seconds
        while (seen := self.when(*words)) is None:
            if time.time() > deadline or self.process.poll() is not None:
                time.sleep(0.2)
                seen = self.when(*words)
                if seen is not None:
                    break
                raise BenchError(f"{self.name} never said {' '.join(words)!r} (log: {self.log})\n{self.tail()}")
            time.sleep(0.01)
        return seen

    def end(self, seconds: float) -> int:
        """Wait for the end; returns the exit code. Raises BenchError when it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(f"{self.name} did not end within {seconds:g} s (log: {self.log})\n{self.tail()}") from None

    def tail(self) -> str:
        return "\n".join(line for _moment, line in self.lines[-15:])

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


class Stage:
    """The lab during one turn. Leaving it stops the traffic, ends what was started, and sets the lab back, whatever happened."""

    def __init__(self, kind: Kind, logs: Path) -> None:
        self.kind = kind
        self._logs = logs
        self._client = kubernetes.config.new_client_from_config(str(LAB / "kubeconfig" / "admin"))
        self._core = kubernetes.client.CoreV1Api(self._client)
        self._plays: list[Play] = []
        self.watcher = Watcher(self._client, kind)
        self.gateways: Gateways | None = None

    def __enter__(self) -> Stage:
        self.start_over()
        self.gateways = Gateways(self.addresses("istio-system", "istio=ingressgateway"), self.kind)
        self.watcher.start()
        if self.watcher.until(0, 0.0, 15) is None:
            raise BenchError(f"{self.kind.name} {NAMESPACE}/{self.kind.resource} is not at 0 % after a reset")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.watcher.stop()
        for play in self._plays:
            play.kill()
        if self.gateways is not None:
            self.gateways.close()
        for arguments in (("traffic", "stop"), ("heal",), ("reset",)):
            try:
                labctl(*arguments)
            except (BenchError, subprocess.TimeoutExpired) as problem:
                print(f"the lab could not be set back: {problem}", file=sys.stderr)

    # --- the service ---

    def pods(self, namespace: str, selector: str) -> list[Any]:
        return self._core.list_namespaced_pod(namespace, label_selector=selector).items

    def addresses(self, namespace: str, selector: str) -> list[str]:
        """Of the pods that are ready."""
        found = []
        for pod in self.pods(namespace, selector):
            conditions = pod.status.conditions or []
            if pod.metadata.deletion_timestamp is None and any(c.type == "Ready" and c.status == "True" for c in conditions):
                found.append(pod.status.pod_ip)
        return found

    def document(self) -> dict[str, Any]:
        api = kubernetes.client.CustomObjectsApi(self._client)
        return api.get_namespaced_custom_object(self.kind.group, self.kind.version, NAMESPACE, self.kind.plural, self.kind.resource)

    def free_lock(self) -> None:
        """Take away the lock of a run that was killed; the next one would watch it for a minute first."""
        api = kubernetes.client.CoordinationV1Api(self._client)
        name = f"signal-rollout-{SERVICE}"
        try:
            if api.read_namespaced_lease(name, NAMESPACE).spec.holder_identity:
                api.patch_namespaced_lease(name, NAMESPACE, {"spec": {"holderIdentity": ""}})
        except kubernetes.client.ApiException as error:
            if error.status != 404:
                raise

    def reset(self) -> None:
        labctl("reset")

    def start_over(self) -> None:
        """The lab as it was on entering, after a trial that went wrong."""
        for play in self._plays:
            play.kill()
        labctl("traffic", "stop")
        labctl("heal")
        labctl("reset")

    # --- playbooks ---

    def play(self, playbook: str, tags: str = "", **variables: Any) -> Play:
        given = {**SHORT, **self.kind.variables, **variables}
        play = Play(playbook, given, tags, self._logs / f"{len(self._plays):03d}-{playbook}.log")
        self._plays.append(play)
        return play

    def canary(self, **variables: Any) -> Play:
        """Start the canary of green, which stands at 0 %."""
        self.free_lock()
        return self.play("canary", **variables)

    def deploy_green(self) -> None:
        """Everything of a release up to the canary: green runs, without traffic."""
        play = self.play("deploy_v2", GREEN_TAGS)
        if play.end(180):
            raise BenchError(f"green was not deployed (log: {play.log})\n{play.tail()}")
        if len(self.addresses(NAMESPACE, f"app={SERVICE},version=v2")) < 2:
            raise BenchError("green has no two ready pods")

    def put_back(self) -> None:
        """All traffic on blue, without the code that is measured."""
        document = self.document()
        for entry in self.kind.entries(document):
            entry["weight"] = 100 if self.kind.called(entry) == self.kind.stable else 0
        api = kubernetes.client.CustomObjectsApi(self._client)
        api.replace_namespaced_custom_object(self.kind.group, self.kind.version, NAMESPACE, self.kind.plural, self.kind.resource, document)

    # --- traffic ---

    def start_traffic(self, rate: int, websockets: int = 20) -> None:
        labctl("traffic", "start", "--rate", str(rate), "--websockets", str(websockets), "--duration", "3600", "--host", self.kind.host)

    def stop_traffic(self) -> dict[str, Any]:
        """Returns the books of the whole run."""
        labctl("traffic", "stop")
        return self.books(0.0, time.time())

    def books(self, since: float, until: float) -> dict[str, Any]:
        """The books of the seconds from ``since`` to ``until``; those of the last second are complete a second later."""
        report = json.loads((LAB / "traffic.json").read_text(encoding="utf-8"))
        inside = [second for second in report["seconds"] if int(since) <= second["t"] <= until]
        found: dict[str, Any] = {"sent": 0, "failed": 0, "causes": {}, "failed_versions": {}, "failed_at": {}, "closed": {}, "opened": {}, "open_failures": {}}
        for second in inside:
            found["sent"] += second["sent"]
            found["failed"] += second["failed"]
            if second["failed"]:
                # Epoch seconds, as in the log of the playbook: what went on when requests failed.
                found["failed_at"][str(second["t"])] = second["failed"]
            socket = second["websocket"]
            parts = [(name, second[name]) for name in ("causes", "failed_versions")] + [(name, socket[name]) for name in ("closed", "opened", "open_failures")]
            for name, counts in parts:
                for key, count in counts.items():
                    found[name][key] = found[name].get(key, 0) + count
        return found

    def messages(self) -> int:
        """How many messages the sink has got by its web hook."""
        return sum(message["channel"] == "http" for message in fetch(f"{SINK}/messages"))
