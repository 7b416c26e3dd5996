# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guard against a real ansible-playbook that is really killed, between two tasks, on a mesh of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _record

from .conftest import LAB, Mesh, wait_until

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
SERVICE = "echo"
BLUE = [100, 0]


class Playbook:
    """ansible-playbook in the middle of a canary: 10 % on v2, a guard if that was asked for, and a task that takes its time."""

    def __init__(self, mesh: Mesh, folder: Path, tasks: list[dict[str, Any]], door: str) -> None:
        self.mesh = mesh
        self.state_dir = folder / "state"
        self.log = folder / "playbook.log"
        play = {
            "name": "A canary",
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"signal_rollout_door": door, "ansible_python_interpreter": "{{ ansible_playbook_python }}"},
            "module_defaults": {
                "group/signal.rollout.kubernetes": {"kubeconfig": str(LAB / "kubeconfig" / "admin"), "namespace": mesh.namespace},
                "signal.rollout.rollout_record": {"service": SERVICE},
            },
            "tasks": tasks,
        }
        path = folder / "playbook.yml"
        path.write_text(yaml.safe_dump([play]), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
        with self.log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [str(PLAYBOOK), "-i", "localhost,", str(path)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for_task(self, name: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None or f"TASK [{name}]" in self.output(), self.output()
            return f"TASK [{name}]" in self.output()

        wait_until(f"task {name}", there, 30)

    def guard(self) -> dict[str, Any]:
        """What the guard keeps about itself."""
        (file,) = self.state_dir.glob("*/guard.json")
        return json.loads(file.read_text(encoding="utf-8"))

    def wait_for_end_of_guard(self) -> str:
        wait_until("the guard ends", lambda: "ended" in self.guard(), 30)
        return str(self.guard()["ended"]["why"])

    def record(self) -> dict[str, Any]:
        found = self.mesh.kube.get(_kube.path_of("", "v1", "configmaps", self.mesh.namespace, _record.record_name(SERVICE)))
        return json.loads(found["data"][_record.RECORD_KEY])

    def events(self) -> list[dict[str, Any]]:
        return self.record()["events"]


def route_of(mesh: Mesh | None) -> dict[str, Any]:
    if mesh is None:
        return {"name": "echo", "stable": "v1", "canary": "v2"}
    return {"kind": mesh.kind, "name": "echo", **mesh.destinations}


def guard_task(folder: Path, mesh: Mesh | None = None, **options: Any) -> dict[str, Any]:
    task = {"state": "started", "service": SERVICE, "abort_route": route_of(mesh), "state_dir": str(folder / "state"), **options}
    return {"name": "Start the guard", "signal.rollout.traffic_guard": task, "register": "guard"}


def canary_tasks(folder: Path, weight: int = 10, guard: dict[str, Any] | None = None, mesh: Mesh | None = None) -> list[dict[str, Any]]:
    begin = {"state": "begin", "version": "v2", "plan": {"stable_version": "v1"}, "lease_duration": 5}
    return [
        {"name": "Begin", "signal.rollout.rollout_record": begin},
        guard if guard is not None else guard_task(folder, mesh),
        {"name": "Begin a step", "signal.rollout.rollout_record": {"state": "step", "step": f"canary_{weight}", "status": "started"}},
        {"name": "Shift", "signal.rollout.canary_weight": {**route_of(mesh), "weight": weight}},
        {"name": "Something slow", "ansible.builtin.command": "sleep 60", "changed_when": False},
    ]


Starter = Callable[..., Playbook]


@pytest.fixture
def start(mesh: Mesh, tmp_path: Path) -> Iterator[Starter]:
    """Return ``start(tasks, door=...)``; whatever is left of it is ended, and its lock and record removed."""
    started: list[Playbook] = []

    def run(tasks: list[dict[str, Any]], door: str = "auto") -> Playbook:
        started.append(Playbook(mesh, tmp_path, tasks, door))
        return started[-1]

    yield run
    for playbook in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(playbook.process.pid, signal.SIGKILL)
        playbook.process.wait(10)
    for state in tmp_path.glob("state/*/guard.json"):
        folder = Path(f"/proc/{json.loads(state.read_text(encoding='utf-8'))['pid']}")
        wait_until("the guard ends", lambda folder=folder: not folder.exists(), 30)
    for group, version, plural, name in (
        ("coordination.k8s.io", "v1", "leases", _record.lease_name(SERVICE)),
        ("", "v1", "configmaps", _record.record_name(SERVICE)),
    ):
        path = _kube.path_of(group, version, plural, mesh.namespace, name)
        if mesh.kube.find(path) is not None:
            mesh.kube.delete(path)


@pytest.mark.parametrize(
    ("name", "door", "kind"),
    [
        ("SIGINT", "auto", "VirtualService"),
        ("SIGTERM", "module", "VirtualService"),
        ("SIGHUP", "auto", "HTTPRoute"),
        ("SIGKILL", "auto", "VirtualService"),
        ("SIGKILL", "module", "HTTPRoute"),
    ],
)
def test_traffic_is_back_when_ansible_playbook_is_killed_between_two_tasks(
    name: str, door: str, kind: str, start: Starter, mesh: Mesh, tmp_path: Path
) -> None:
    mesh = mesh.of(kind)
    playbook = start(canary_tasks(tmp_path, mesh=mesh), door)
    playbook.wait_for_task("Something slow")
    assert mesh.weights() == [90, 10]
    os.killpg(playbook.process.pid, getattr(signal, name))
    wait_until("traffic is back", lambda: mesh.weights() == BLUE, 10)
    why = playbook.wait_for_end_of_guard()
    assert f"all traffic is back on {mesh.destinations['stable']}, confirmed by" in why
    (event,) = playbook.events()
    assert (event["kind"], event["by"], event["before"], event["after"]) == ("guard", "guard", 10, 0)
    assert event["holder"] == playbook.record()["holder"]
    assert playbook.record()["guard"]["running"] is True


def test_traffic_is_back_when_ansible_playbook_is_interrupted_and_hangs(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    main = playbook.process.pid
    workers = [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii").split()]
    try:
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        os.kill(main, signal.SIGINT)
        wait_until("traffic is back", lambda: mesh.weights() == BLUE, 10)
        assert playbook.process.poll() is None
        assert "ansible-playbook was interrupted and does not end (step 10 % is started); all traffic is back" in playbook.wait_for_end_of_guard()
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def test_no_pipe_of_the_run_is_held_and_no_name_of_it_is_carried(start: Starter, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    pid = playbook.guard()["pid"]
    folder = Path(f"/proc/{pid}")
    shown = (folder / "cmdline").read_bytes().rstrip(b"\0")
    assert shown == b"signal-rollout-guard" and b"ansible" not in (folder / "comm").read_bytes()
    targets = {os.readlink(entry) for entry in (folder / "fd").iterdir()}
    assert str(playbook.log) not in targets
    own = {target for target in targets if not target.startswith(("pipe:", "socket:", "anon_inode:[pidfd]")) and target != os.devnull}
    assert [Path(target).name for target in own] == ["guard.log"]
    # One pipe of its own, both ends, and one connection to the API server.
    assert len({target for target in targets if target.startswith("pipe:")}) == 1
    assert len({target for target in targets if target.startswith("socket:")}) == 1
    log = Path(next(iter(own)))
    assert stat.S_IMODE(log.stat().st_mode) == 0o600 and stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert os.getsid(pid) != os.getsid(playbook.process.pid)


def test_guard_outlives_what_ends_the_run_by_its_name_and_its_group(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    pid = playbook.guard()["pid"]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    os.killpg(playbook.process.pid, signal.SIGKILL)
    wait_until("traffic is back", lambda: mesh.weights() == BLUE, 10)
    assert "all traffic is back" in playbook.wait_for_end_of_guard()


def test_lock_is_renewed_while_the_run_lives_and_no_longer(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    path = _kube.path_of("coordination.k8s.io", "v1", "leases", mesh.namespace, _record.lease_name(SERVICE))

    def renewed() -> str:
        return _record.read_lease(mesh.kube.get(path)).renewed

    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    for _time in range(2):
        before = renewed()
        wait_until("the lock is renewed in the middle of a task that does not", lambda before=before: renewed() != before, 5)
    playbook.process.kill()
    playbook.wait_for_end_of_guard()
    last = renewed()
    # The lock lasts 5 s in these tests: a guard that went on would have renewed it by then.
    time.sleep(4)
    assert renewed() == last


def test_run_that_stops_its_guard_may_end_with_traffic_on_green(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    tasks = [*canary_tasks(tmp_path)[:-1], guard_task(tmp_path), guard_task(tmp_path, state="stopped")]
    tasks[-2]["name"], tasks[-1]["name"] = "Start it again", "Stop it"
    playbook = start(tasks)
    assert playbook.process.wait(60) == 0, playbook.output()
    assert "changed: [localhost]" in playbook.output() and playbook.output().count("ok: [localhost]") == 1
    assert playbook.wait_for_end_of_guard() == "it was stopped"
    assert mesh.weights() == [90, 10] and playbook.events() == []


def test_run_that_ended_by_giving_up_the_lock_is_left_alone(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    release = {"name": "Give up the lock", "signal.rollout.rollout_record": {"state": "release"}}
    playbook = start([*canary_tasks(tmp_path)[:-1], release])
    assert playbook.process.wait(60) == 0, playbook.output()
    assert "held by 'nobody'" in playbook.wait_for_end_of_guard()
    assert mesh.weights() == [90, 10] and playbook.events() == []


def test_lock_that_has_gone_to_somebody_else_is_respected(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    path = _kube.path_of("coordination.k8s.io", "v1", "leases", mesh.namespace, _record.lease_name(SERVICE))
    lease = mesh.kube.get(path)
    lease["spec"]["holderIdentity"] = "somebody else"
    mesh.kube.put(path, lease)
    playbook.process.kill()
    assert "held by 'somebody else'" in playbook.wait_for_end_of_guard()
    assert mesh.weights() == [90, 10] and playbook.events() == []


def test_weight_of_a_stranger_is_left_and_noted(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path))
    playbook.wait_for_task("Something slow")
    mesh.edit(mesh.foreign(60, 40))
    playbook.process.kill()
    assert "this release did not set" in playbook.wait_for_end_of_guard()
    assert mesh.weights() == [60, 40]
    (event,) = playbook.events()
    assert (event["kind"], event["after"]) == ("drift", 40) and "kubectl-edit" in event["words"]


def test_last_step_that_has_passed_keeps_its_traffic_and_the_end_is_noted(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    tasks = canary_tasks(tmp_path, 100)
    done = {"state": "step", "step": "canary_100", "status": "done", "weight": 100}
    tasks.insert(-1, {"name": "It has passed", "signal.rollout.rollout_record": done})
    playbook = start(tasks)
    playbook.wait_for_task("Something slow")
    playbook.process.kill()
    playbook.wait_for_end_of_guard()
    assert mesh.weights() == [0, 100]
    (event,) = playbook.events()
    assert event["kind"] == "interrupted" and "stays on the new version" in event["words"]


def test_on_interrupt_hold_starts_no_guard_and_says_so_in_the_record(start: Starter, mesh: Mesh, tmp_path: Path) -> None:
    playbook = start(canary_tasks(tmp_path, guard=guard_task(tmp_path, on_interrupt="hold")))
    playbook.wait_for_task("Something slow")
    assert list(tmp_path.glob("state/*")) == []
    assert playbook.record()["guard"]["running"] is False and "hold" in playbook.record()["guard"]["words"]
    playbook.process.kill()
    time.sleep(1)
    assert mesh.weights() == [90, 10]


@pytest.mark.parametrize("door", ["auto", "module"])
def test_guard_that_could_not_help_is_refused(door: str, start: Starter, tmp_path: Path) -> None:
    cases = {
        "a process that is gone": ({"watch": {"pid": 2**22, "started": "1"}}, "cannot see ansible-playbook"),
        "a process id that came back": ({"watch": {"pid": os.getpid(), "started": "1"}}, "cannot see ansible-playbook"),
        "a lock of somebody else": ({"holder": "somebody else"}, "expected 'somebody else'"),
        "a folder that cannot be written": ({"state_dir": "/proc/nowhere"}, "state_dir"),
        "a route that is not described": ({"abort_route": {"name": "echo", "stabel": "v1"}}, "stabel"),
    }
    tasks = [canary_tasks(tmp_path)[0], {**guard_task(tmp_path), "name": "Only a plan", "check_mode": True}]
    for name, (options, _words) in cases.items():
        tasks.append({**guard_task(tmp_path, **options), "name": name, "ignore_errors": True})
    playbook = start(tasks, door)
    assert playbook.process.wait(90) == 0, playbook.output()
    assert not list(tmp_path.glob("state/*"))
    flat = " ".join(playbook.output().split())
    for name, (_options, words) in cases.items():
        assert words in flat.partition(f"TASK [{name}]")[2].partition("TASK [")[0], name
    assert list(tmp_path.glob("state/*/guard.json")) == []
    assert "Traceback" not in flat
