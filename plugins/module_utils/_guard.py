# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module traffic_guard: puts traffic back when ansible-playbook dies in a canary. Private to this collection.

The gate puts traffic back itself while its task runs. Between two tasks nobody would: this process does. It waits for the end of one
ansible-playbook and then believes nothing but the cluster: the Lease (is it still this run's?), the record (is a canary in progress?)
and the live weight (is it one that this release has set?).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import (
    _canary_weight,
    _cluster_guard_script,
    _confirm,
    _daemon,
    _events,
    _kube,
    _metric_gate,
    _processes,
    _record,
)
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
    "service": {"type": "str", "required": True},
    "holder": {"type": "str"},
    "watch": {
        "type": "dict",
        "options": {"pid": {"type": "int", "required": True}, "started": {"type": "str", "required": True}},
    },
    "abort_route": {"type": "dict"},
    "on_interrupt": {"type": "str", "default": "back", "choices": ["back", "hold"]},
    "state_dir": {"type": "path"},
    "start_timeout": {"type": "float", "default": 10.0},
    "abort_timeout": {"type": "float", "default": 600.0},
    "lifetime": {"type": "float", "default": 86400.0},
}
SPEC_RULES: dict[str, Any] = {"required_if": [["state", "started", ["holder", "watch", "abort_route"]], ["state", "stopped", ["holder"]]]}
SUPPORTS_CHECK_MODE = True
# The route's options are those of the gate, which would put the same traffic back; the connection is the task's own.
ROUTE_OPTIONS = {
    name: rule
    for name, rule in _metric_gate.ARGUMENT_SPEC["abort_route"]["options"].items()
    if name not in _kube.CONNECTION_OPTIONS and name != "namespace"
}
# One rule of what a canary in progress is, for this guard and for the one in the cluster.
progress_of = _cluster_guard_script.progress_of

TITLE = "signal-rollout-guard"
_STATE_FILE, _LOG_FILE = "guard.json", "guard.log"
# Folders of ended guards that are kept, for their logs.
_KEPT = 20
_STOP_SECONDS = 3.0
# While nothing happens, how often the Lease is looked at, in seconds and as a part of what it lasts: a guard whose release has ended is
# of no use, and a task that waits for pods or people for minutes renews nothing itself.
_LOOK_SECONDS = 15.0
_LOOK_PART = 3
_RETRY_PAUSE = 0.25
_RACE_PAUSE = 0.02
# How long ansible-playbook may take to end once it was interrupted. It may hang for ever, waiting for a worker.
_HANG_SECONDS = 1.0
# How long the gate, which dies with the same run, is given to tell what it did.
_GATE_SECONDS = 2.0


class GuardError(RolloutError):
    """The guard cannot do its work here. No guard is running."""


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Start or stop the guard of one release. Returns ``changed, running, pid, log, words``."""
    folder = Folder(params)
    if params["state"] == "stopped":
        return _stop(folder, context)
    params = {**params, "abort_route": route_of(params)}
    if params["on_interrupt"] == "hold":
        return _stand_down(params, folder, context)
    return _start(params, folder, context)


def route_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return the complete options of the route that traffic is put back on. Raises :class:`GuardError` naming every mistake."""
    validation = ArgumentSpecValidator(ROUTE_OPTIONS).validate(params["abort_route"])
    if validation.error_messages:
        raise GuardError(f"abort_route: {'; '.join(validation.error_messages)}. No guard is running. Next: correct the options.")
    connection = {name: params.get(name) for name in _kube.ARGUMENT_SPEC}
    # Nobody is left who would add pods: nothing but the route itself decides.
    return {**validation.validated_parameters, **connection, "capacity": None, "on_interrupt": "hold"}


class Folder:
    """Where one guard of one run keeps its state and its log: only its user may read it."""

    def __init__(self, params: dict[str, Any]) -> None:
        server = f"{params.get('kubeconfig')}|{params.get('context')}|{params.get('host')}"
        key = hashlib.sha256(f"{server}|{params['namespace']}|{params['holder']}".encode()).hexdigest()[:12]
        self.root = Path(params["state_dir"] or _default_state_dir())
        self.path = self.root / f"{params['namespace']}-{params['service']}-{key}"
        self.log = self.path / _LOG_FILE
        self.state = self.path / _STATE_FILE

    def make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.log.touch(mode=0o600)
        except OSError as error:
            raise self._unwritable(one_line(error)) from None

    def refuse_unwritable(self) -> None:
        """What :meth:`make` would refuse, without a write."""
        there = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise self._unwritable(f"{there} cannot be written")

    def _unwritable(self, reason: str) -> GuardError:
        return GuardError(
            f"The guard cannot keep its state in {self.path}: {reason}. No guard is running. "
            "Next: set state_dir (variable canary_guard_dir) to a folder that this user may write."
        )

    def write(self, state: dict[str, Any]) -> None:
        partial = self.state.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(state, stream)
        partial.replace(self.state)

    def guard(self) -> _processes.Process | None:
        """The guard that runs for this folder, or None."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            process = _processes.Process(int(state["pid"]), str(state["started"]))
        except (OSError, ValueError, KeyError):
            return None
        return process if state.get("boot") == _boot() and process.alive() else None

    def forget(self) -> None:
        """Remove the folder of a guard that did not start, unless its log has something to say."""
        with contextlib.suppress(OSError):
            if not self.state.exists() and not self.log.stat().st_size:
                self.log.unlink()
                self.path.rmdir()

    def prune(self) -> None:
        """Remove the oldest folders of guards that have ended."""
        with contextlib.suppress(OSError):
            folders = sorted(self.root.glob(f"*/{_STATE_FILE}"), key=lambda file: file.stat().st_mtime)
            for state in folders[:-_KEPT]:
                if "ended" in json.loads(state.read_text(encoding="utf-8")):
                    for file in state.parent.iterdir():
                        file.unlink()
                    state.parent.rmdir()


def _default_state_dir() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "signal.rollout", "guard")


def _boot() -> str:
    """Name this start of the machine: process ids and start times begin again with the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _answer(folder: Folder, changed: bool, process: _processes.Process | None, words: str) -> dict[str, Any]:
    return {
        "changed": changed,
        "running": process is not None,
        "pid": process.pid if process else None,
        "log": str(folder.log),
        "words": words,
    }


def _stop(folder: Folder, context: Context) -> dict[str, Any]:
    process = folder.guard()
    if process is None:
        return _answer(folder, False, None, "no guard of this run is running")
    if context.check_mode:
        return _answer(folder, True, process, "would be stopped")
    _processes.tell(process, _daemon.STOP)
    if not _processes.wait_gone(process, _STOP_SECONDS):
        # It may hang in a call to a server that does not answer; its work is over either way.
        _processes.tell(process, signal.SIGKILL)
        _processes.wait_gone(process, _STOP_SECONDS)
    return _answer(folder, True, None, "stopped")


def _stand_down(params: dict[str, Any], folder: Folder, context: Context) -> dict[str, Any]:
    """Run no guard, and say so in the record."""
    words = "no guard: on an interruption the weight stays, as on_interrupt=hold says"
    if context.check_mode:
        return _answer(folder, False, None, words)
    note = _note_guard(_kube.connect(params), params, {"running": False, "words": words})
    return _answer(folder, True, None, words + (f" (not noted in the record: {note})" if note else ""))


def _note_guard(kube: _kube.Kube, params: dict[str, Any], guard: dict[str, Any]) -> str:
    """Write into the record which guard there is; returns '' or why that was not possible."""

    def change(record: dict[str, Any]) -> bool:
        record["guard"] = {"time": _events.now(), "holder": params["holder"], **guard}
        return True

    return _events.amend(kube, params["namespace"], _record.record_name(params["service"]), change, 5.0)


def _start(params: dict[str, Any], folder: Folder, context: Context) -> dict[str, Any]:
    watched = _processes.Process(int(params["watch"]["pid"]), str(params["watch"]["started"]))
    if not watched.alive():
        raise GuardError(
            f"The guard cannot see ansible-playbook (process {watched.pid}) on {socket.gethostname()}, where this task runs; it watches a "
            "process of its own machine only. No guard is running. Next: run this task with connection local on the machine of "
            "ansible-playbook, or without a guard (variable canary_guard: false)."
        )
    running = folder.guard()
    if running is not None:
        return _answer(folder, False, running, "was running already")
    if context.check_mode:
        folder.refuse_unwritable()
        return _answer(folder, True, None, "would be started")
    kube = _kube.connect(params)
    folder.make()
    folder.prune()

    def job(daemon: _daemon.Daemon) -> None:
        Guard(params, kube, watched, folder, daemon).run()

    try:
        pid = _daemon.start(job, TITLE, folder.log, params["start_timeout"])
    except _daemon.StartError:
        folder.forget()
        raise
    return _answer(folder, True, _processes.Process(pid, ""), f"watches ansible-playbook (process {watched.pid})")


class Guard:
    """The process itself."""

    def __init__(
        self, params: dict[str, Any], kube: _kube.Kube, watched: _processes.Process, folder: Folder, daemon: _daemon.Daemon
    ) -> None:
        self.params = params
        self.kube = kube
        self.watched = watched
        self.folder = folder
        self.daemon = daemon
        self.namespace: str = params["namespace"]
        self.name = _record.record_name(params["service"])
        self.holder: str = params["holder"]
        self.lease_path = _kube.path_of("coordination.k8s.io", "v1", "leases", self.namespace, _record.lease_name(params["service"]))
        self.record_path = _kube.path_of("", "v1", "configmaps", self.namespace, self.name)
        self.route: dict[str, Any] = params["abort_route"]
        self.state: dict[str, Any] = {}
        self.renewed = ""
        self.fate = "was gone"

    def run(self) -> None:
        self._prove_ready()
        try:
            why = self._watch()
        except Exception as error:
            self.daemon.log(traceback.format_exc())
            why = f"internal error: {type(error).__name__}: {error}"
        self.daemon.log(f"ends: {why}")
        self.state["ended"] = {"time": _events.now(), "why": why}
        with contextlib.suppress(OSError):
            self.folder.write(self.state)

    def _prove_ready(self) -> None:
        """Read what will have to be read, with the credentials and the connection that will be used."""
        holder = self._holder()
        if holder != self.holder:
            raise GuardError(
                f"Lease {self.namespace}/{_record.lease_name(self.params['service'])} is held by '{holder or 'nobody'}', expected "
                f"'{self.holder}' (this run). No guard is running. Next: run the playbook from its begin, which takes the lock."
            )
        pid = os.getpid()
        self.state = {
            "pid": pid,
            "started": _processes.start_time(pid),
            "boot": _boot(),
            "watched": {"pid": self.watched.pid, "started": self.watched.started},
            "holder": self.holder,
            "since": _events.now(),
        }
        self.folder.write(self.state)
        guard = {"running": True, "host": socket.gethostname(), "pid": pid, "log": str(self.folder.log)}
        note = _note_guard(self.kube, self.params, guard)
        self.daemon.log(f"watches process {self.watched.pid} for '{self.holder}'" + (f"; not noted: {note}" if note else ""))
        self.daemon.ready()

    def _watch(self) -> str:
        """Wait until the run ends, is told off, or has lost the release; returns why the guard is over."""
        end = time.monotonic() + self.params["lifetime"]
        watch = _processes.Watch(self.watched, _HANG_SECONDS)
        pause = 0.0
        while True:
            gone, stopped = watch.wait(min(pause, end - time.monotonic()), self.daemon.stop)
            if gone:
                if watch.hangs:
                    self.fate = "was interrupted and does not end"
                return self._react(time.monotonic(), _events.now())
            if stopped:
                return "it was stopped"
            if time.monotonic() >= end:
                return f"its lifetime of {self.params['lifetime']:g} s is over"
            with contextlib.suppress(RolloutError):
                lease = _record.read_lease(self.kube.find(self.lease_path))
                pause = min(_LOOK_SECONDS, max(1, lease.duration) / _LOOK_PART)
                if lease.holder != self.holder:
                    return f"the release is held by '{lease.holder or 'nobody'}' now"
                self._keep_alive(lease)

    def _keep_alive(self, lease: _record.Lease) -> None:
        """Renew the Lease for a run that lives and has not done so since the last look."""
        unchanged, self.renewed = lease.renewed == self.renewed, lease.renewed
        if unchanged and self.watched.alive():
            _record.renew(self.kube, self.namespace, _record.lease_name(self.params["service"]), self.holder)

    def _react(self, began: float, died: str) -> str:
        """Put traffic back, trying again until it is or until that is not this run's to do any more."""
        self.daemon.log(f"process {self.watched.pid} {self.fate}, and has not stopped the guard")
        deadline = began + self.params["abort_timeout"]
        told = ""
        while True:
            try:
                return self._settle(began, died)
            except RolloutError as error:
                if error.message != told:
                    told = error.message
                    self.daemon.log(f"not yet: {told}")
                # A lost race is over at once; a server that is away needs a moment.
                pause = _RACE_PAUSE if isinstance(error, _canary_weight.Drift) else _RETRY_PAUSE
            if time.monotonic() + pause >= deadline:
                words = f"TRAFFIC IS NOT BACK after {self.params['abort_timeout']:g} s: {told}"
                self._tell(_events.GUARD, words, died, None, None)
                return words
            time.sleep(pause)

    def _settle(self, began: float, died: str) -> str:
        holder = self._holder()
        if holder != self.holder:
            return f"the release is held by '{holder or 'nobody'}': nothing to do"
        progress = progress_of(self._record())
        if not progress.going_on:
            self._tell(_events.INTERRUPTED, f"ansible-playbook {self.fate} before the release ended; {progress.words}", died, None, None)
            return f"nothing to put back: {progress.words}"
        answer = self._zero(progress.weights)
        if answer.get("drift"):
            seen = answer["drift"]
            words = (
                f"ansible-playbook {self.fate} ({progress.words}); the canary has {seen['seen']} %, which this release did not set; last written by "
                f"'{seen['manager']}' at {seen['time'] or 'an unknown time'}. It was not overwritten"
            )
            self._tell(_events.DRIFT, words, died, seen["seen"], seen["seen"])
            return words
        before = answer["before"]["canary"]
        if before == 0:
            return self._already_back(died, progress)
        seconds = time.monotonic() - began
        words = (
            f"ansible-playbook {self.fate} ({progress.words}); all traffic is back on {self.route['stable']}, "
            f"{_proof(answer)} after {seconds:.2f} s"
        )
        self.daemon.log(words)
        self._tell(_events.GUARD, words, died, before, 0)
        return words

    def _zero(self, weights: tuple[int, ...]) -> dict[str, Any]:
        """Set the canary to 0 from one of ``weights``; ``drift`` in the answer says that it had another one.

        Raises :class:`RolloutError` when it has to be tried again.
        """
        drift: dict[str, Any] = {}
        for expected in weights:
            shift = _canary_weight.Shift({**self.route, "weight": 0, "expected_weight": expected}, Context(), self.kube)
            try:
                return shift.run()
            except RolloutError as error:
                routes = error.result.get("routes") or [error.result]
                if isinstance(error, _canary_weight.Drift):
                    if error.result["drift"]["seen"] == 0:
                        raise
                    drift = error.result["drift"]
                    continue
                if error.result.get("changed") and all((route.get("after") or {}).get("canary") == 0 for route in routes):
                    return {**error.result, "unconfirmed": error.message}
                raise
        return {"drift": drift}

    def _already_back(self, died: str, progress: _cluster_guard_script.Progress) -> str:
        """Tell of the death unless the gate, which put traffic back, does so itself."""
        deadline = time.monotonic() + _GATE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(RolloutError):
                if any(str(entry.get("time")) >= died for entry in self._record().get("events") or []):
                    return "the weight was 0 already, and what happened is noted"
            time.sleep(0.2)
        words = f"ansible-playbook {self.fate} ({progress.words}); the canary had no traffic"
        self._tell(_events.INTERRUPTED, words, died, 0, 0)
        return words

    def _tell(self, kind: str, words: str, died: str, before: int | None, after: int | None) -> None:
        entry = _events.event(kind, words, "guard", self.holder, before=before, after=after, when=died)
        note = _events.add(self.kube, self.namespace, self.name, entry, 30.0)
        if note:
            self.daemon.log(f"not noted in the record: {note}")

    def _holder(self) -> str:
        return _record.read_lease(self.kube.find(self.lease_path)).holder

    def _record(self) -> dict[str, Any]:
        text = ((self.kube.find(self.record_path) or {}).get("data") or {}).get(_events.RECORD_KEY) or "{}"
        try:
            return json.loads(text)
        except ValueError:
            raise GuardError(f"the record in ConfigMap {self.namespace}/{self.name} is not JSON") from None


def _proof(answer: dict[str, Any]) -> str:
    if "unconfirmed" in answer:
        return f"not confirmed ({one_line(answer['unconfirmed'], 120)})"
    return _confirm.words(answer.get("confirmed"))
