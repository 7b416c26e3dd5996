# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module network_check: declared connections against NetworkPolicies, and against the network itself. Private to this collection."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _network_rules, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

CONNECTION_SPEC: dict[str, dict[str, Any]] = {
    "direction": {"type": "str", "required": True, "choices": [_network_rules.INGRESS, _network_rules.EGRESS]},
    "namespace": {"type": "str"},
    "labels": {"type": "dict", "default": {}},
    "ip": {"type": "str"},
    "port": {"type": "int", "required": True},
    "protocol": {"type": "str", "default": "TCP", "choices": ["TCP", "UDP"]},
    "address": {"type": "str"},
    "allowed": {"type": "bool", "default": True},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "labels": {"type": "dict", "required": True},
    "named_ports": {"type": "dict", "default": {}},
    "isolated": {"type": "list", "elements": "str", "choices": [_network_rules.INGRESS, _network_rules.EGRESS], "default": []},
    "connections": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": CONNECTION_SPEC,
        "mutually_exclusive": [["namespace", "ip"]],
        "required_one_of": [["namespace", "ip"]],
    },
    "connect": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 3.0},
    "box": {"type": "str", "default": "dependencies.network_policies"},
}
SUPPORTS_CHECK_MODE = True

# All targets at once, each with its own time; what the far side would not answer is told apart from what it refuses.
_SCRIPT = """
import json, socket, sys, threading
seconds, targets = float(sys.argv[1]), json.loads(sys.argv[2])
found = [None] * len(targets)
def connect(place, host, port):
    try:
        socket.create_connection((host, port), seconds).close()
        found[place] = "connected"
    except ConnectionRefusedError:
        found[place] = "refused"
    except socket.gaierror:
        found[place] = "unknown name"
    except OSError as error:
        found[place] = "blocked"
threads = [threading.Thread(target=connect, args=(place, *target)) for place, target in enumerate(targets)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(found))
"""
_LARGEST = 64 * 1024


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Hold declared connections against the policies and, with ``connect``, against the network. See the module's RETURN.

    Raises :class:`RolloutError` with the same keys when one is otherwise than declared.
    """
    problems = _mistakes(params)
    if problems:
        raise RolloutError(f"network_check: {'; '.join(problems)}. Nothing was read. Next: correct the options.")
    return _Check(params, _kube.connect(params)).run()


def _mistakes(params: dict[str, Any]) -> list[str]:
    problems = [] if params["labels"] else ["labels is empty, expected those of the pods"]
    if not params["connections"]:
        problems.append("connections is empty, expected at least one")
    if not 0 < params["timeout"] <= 60:
        problems.append(f"timeout is {params['timeout']} s, expected a number above 0 and at most 60")
    for number, entry in enumerate(params["connections"], 1):
        if not 0 < entry["port"] < 65536:
            problems.append(f"connections[{number}].port is {entry['port']}, expected 1 to 65535")
        try:
            ipaddress.ip_address(entry["ip"] or "127.0.0.1")
        except ValueError:
            problems.append(f"connections[{number}].ip is '{one_line(entry['ip'], 40)}', expected an address")
    return problems


class _Check:
    """One look at the policies, and at most one command in a pod."""

    def __init__(self, params: dict[str, Any], kube: _kube.Kube) -> None:
        self.params = params
        self.kube = kube
        self.namespace = params["namespace"]
        self.unknown: list[str] = []

    def run(self) -> dict[str, Any]:
        labels = {str(key): str(value) for key, value in self.params["labels"].items()}
        wishes = [self._wish(entry) for entry in self.params["connections"]]
        policies = self._policies()
        named = {str(key): int(value) for key, value in self.params["named_ports"].items()}
        problems = [] if policies is None else _network_rules.breaches(policies, self.namespace, labels, wishes, self.params["isolated"], named)
        tried = self._connect(labels, problems) if self.params["connect"] else []
        return self._result(problems, tried, policies, labels, wishes)

    def _wish(self, entry: dict[str, Any]) -> _network_rules.Wish:
        peer = _network_rules.Peer(ip=entry["ip"] or "")
        if entry["namespace"]:
            labels = {str(key): str(value) for key, value in entry["labels"].items()}
            peer = _network_rules.Peer(entry["namespace"], self._namespace_labels(entry["namespace"]), labels)
        return _network_rules.Wish(entry["direction"], peer, entry["port"], entry["protocol"], entry["allowed"])

    def _namespace_labels(self, name: str) -> dict[str, str]:
        # The one label that every namespace has, for who may not read it.
        known = {"kubernetes.io/metadata.name": name}
        try:
            found = self.kube.find(_kube.path_of("", "v1", "namespaces", None, name))
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            return known
        return {**(((found or {}).get("metadata") or {}).get("labels") or {}), **known}

    def _policies(self) -> list[dict[str, Any]] | None:
        try:
            return self.kube.list(_kube.path_of("networking.k8s.io", "v1", "networkpolicies", self.namespace))
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            self.unknown.append(f"no right to list networkpolicies in namespace {self.namespace}")
            return None

    def _connect(self, labels: dict[str, str], problems: list[str]) -> list[dict[str, Any]]:
        """Try the connections that go out of a pod with ``labels``."""
        entries = [entry for entry in self.params["connections"] if entry["direction"] == _network_rules.EGRESS and entry["protocol"] == "TCP"]
        entries = [entry for entry in entries if entry["address"] or entry["ip"]]
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        pods = [pod for pod in self.kube.list(_kube.path_of("", "v1", "pods", self.namespace), {"labelSelector": selector}) if pod_is_ready(pod)]
        if not pods or not entries:
            self.unknown.append("no pod with these labels is ready" if entries else "no connection to try has an address")
            return []
        pod = pods[0]
        targets = [[entry["address"] or entry["ip"], entry["port"]] for entry in entries]
        command = ["python3", "-c", _SCRIPT, str(self.params["timeout"]), json.dumps(targets)]
        name, container = str(pod["metadata"]["name"]), str(pod["spec"]["containers"][0]["name"])
        try:
            done = _pod_exec.run(self.kube, self.namespace, name, container, command, self.params["timeout"] + 10, _LARGEST)
            answers = json.loads(done.stdout) if done.code == 0 else None
        except _kube.KubeError as error:
            if error.status != 403:
                raise
            self.unknown.append(f"no right to run a command in the pods of namespace {self.namespace} (pods/exec)")
            return []
        except (_pod_exec.ExecError, ValueError) as error:
            self.unknown.append(f"the connections could not be tried: {one_line(error, 160)}")
            return []
        if not isinstance(answers, list) or len(answers) != len(targets):
            self.unknown.append(f"the connections could not be tried: {one_line(done.stderr, 160)}")
            return []
        tried = []
        for entry, (host, port), answer in zip(entries, targets, answers, strict=True):
            tried.append({"address": host, "port": port, "allowed": entry["allowed"], "seen": str(answer)})
            if entry["allowed"] and answer != "connected":
                problems.append(f"tried from pod {name}: {host} port {port} is {answer}, expected connected")
            elif not entry["allowed"] and answer == "connected":
                problems.append(f"tried from pod {name}: {host} port {port} is connected, expected blocked")
            elif not entry["allowed"] and answer != "blocked":
                # Nobody may listen there: that says nothing of the network.
                self.unknown.append(f"{host} port {port} is {answer}, which does not show that it is blocked")
        return tried

    def _result(
        self, problems: list[str], tried: list[dict[str, Any]], policies: list[dict[str, Any]] | None, labels: dict[str, str], wishes: list[Any]
    ) -> dict[str, Any]:
        verdict = "fail" if problems else "unknown" if self.unknown else "pass"
        selecting = [
            str(policy["metadata"]["name"])
            for policy in policies or []
            if any(policy in _network_rules.selecting([policy], labels, direction) for direction in (_network_rules.INGRESS, _network_rules.EGRESS))
        ]
        line = "; ".join(problems) or (
            f"NetworkPolicy {', '.join(selecting) or 'none'}: {len(wishes)} connections as declared"
            + (f", {len(tried)} tried from a running pod" if tried else "")
        )
        result = {
            "changed": False,
            "verdict": verdict,
            "policies": selecting,
            "tried": tried,
            "problems": problems,
            "warnings": [f"{text}, so the network is not proven." for text in self.unknown],
            "proofs": {} if verdict == "unknown" else {self.params["box"]: {"state": "proven" if verdict == "pass" else "failed", "evidence": one_line(line)}},
        }
        if problems:
            raise RolloutError(
                f"network_check: {one_line('; '.join(problems), 1000)}. Next: correct the NetworkPolicy where it is kept, or what is declared.", **result
            )
        return result
