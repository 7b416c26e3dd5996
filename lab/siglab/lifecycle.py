# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Up, down and reset of the lab."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import breaks, builds, cache, cgroups, checks, containerd, database, network, pki, processes, traffic
from .cache import Cache
from .cluster import NAMESPACE, PLATFORM, Cluster
from .daemons import Node
from .parallel import Background, in_parallel
from .progress import Progress
from .settings import HOST_LINK, LAB_SOURCE, NETNS, LabError, Paths

SHIM = "containerd-shim-runc-v2"


class Lab:
    def __init__(self, paths: Paths, progress: Progress) -> None:
        self.paths = paths
        self.progress = progress
        self.node = Node(paths)

    @property
    def _marker(self) -> Path:
        """Written when a start has come to its end; says from which parts and in which boot of the machine."""
        return self.paths.run / "up.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One lifecycle command at a time per state folder."""
        self.paths.state.mkdir(parents=True, exist_ok=True)
        with (self.paths.state / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.progress.say(f"waiting for another labctl that works on {self.paths.state}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    # Up

    def up(self) -> None:
        builder = builds.Builder(Cache(self.paths.cache), self.progress)
        missing = builder.missing()
        if not missing and self._already_up(builder.parts()):
            self.progress.say("lab is up already")
            return
        # A lab that runs owns its addresses; the checks are about what is not there yet.
        checks.require(self.paths, build_needed=bool(builds.LARGE.intersection(missing)))
        with self.locked():
            lacking = builds.missing_host_packages()
            if lacking:
                builds.install_host_packages(lacking, self.progress)
            parts = builder.build()
            if self._repairable(parts):
                try:
                    self._repair(parts)
                    return
                except LabError as error:
                    self.progress.say(f"repair did not succeed, starting anew: {str(error).splitlines()[0]}")
            if self.paths.holds_lab:
                self._down()
            self._start(parts)

    def _state(self, parts: builds.Parts) -> dict[str, str]:
        own = cache.digest(LAB_SOURCE / "manifests", LAB_SOURCE / "templates", LAB_SOURCE / "siglab" / "daemons.py")
        return {"core": parts.core_key(), "manifests": own, "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}

    def _recorded(self) -> dict[str, str]:
        try:
            return json.loads(self._marker.read_text())
        except (OSError, ValueError):
            return {}

    def _already_up(self, parts: builds.Parts) -> bool:
        if os.geteuid() != 0:
            return False
        if self._recorded() != {**self._state(parts), "images": parts.service_images.name}:
            return False
        if self.node.dead() or not network.complete():
            return False
        try:
            cluster = Cluster(self.paths)
            return self._data_complete() and not cluster.not_ready() and cluster.has_service()
        except (LabError, OSError):
            return False

    def _repairable(self, parts: builds.Parts) -> bool:
        recorded, wanted = self._recorded(), self._state(parts)
        return (
            all(recorded.get(key) == value for key, value in wanted.items())
            and network.complete()
            # Without these two, what the others believe is no longer true.
            and self.node.alive("etcd") is not None
            and self.node.alive("containerd") is not None
        )

    def _repair(self, parts: builds.Parts) -> None:
        """Restart dead daemons, renew changed images, and bring every workload back."""
        for name in self.node.dead():
            with self.progress.step(f"{name} was not running: restarted"):
                self.node.start(name)
                self.node.wait(name)
        cluster = Cluster(self.paths)
        images_changed = self._recorded().get("images") != parts.service_images.name
        if images_changed:
            with self.progress.step("service images renewed"):
                containerd.import_archive(self.paths.containerd_socket, parts.service_images / "archive.tar")
                cluster.api.delete("Pod", "monitoring", _first_pod(cluster, "monitoring", "sink"), grace=0)
        broken = cluster.scaled_down()
        with self.progress.step("workloads ready"):
            for namespace, name in PLATFORM:
                if (namespace, name) not in broken:
                    cluster.wait_ready(namespace, name)
        if broken:
            # Broken on purpose: a lab with an open ``break`` is up, and stays broken until it is healed.
            self.progress.say(f"down on purpose: {', '.join(name for _, name in broken)}. To bring it back: labctl heal")
        else:
            if images_changed or not self._data_complete() or not cluster.has_service():
                for pod in cluster.api.list("Pod", NAMESPACE):
                    cluster.api.delete("Pod", NAMESPACE, pod["metadata"]["name"], grace=0)
                self._reset(cluster)
            self._record(parts)
        self.progress.say("lab is up")

    @property
    def _reset_begun(self) -> Path:
        """Exists while a reset is at work, so that an interrupted one is seen by the next ``up``."""
        return self.paths.run / "reset.begun"

    def _data_complete(self) -> bool:
        return database.is_prepared(self.paths) and not self._reset_begun.exists()

    def _record(self, parts: builds.Parts) -> None:
        temporary = self._marker.with_suffix(".tmp")
        temporary.write_text(json.dumps({**self._state(parts), "images": parts.service_images.name}))
        temporary.rename(self._marker)

    def _start(self, parts: builds.Parts) -> None:
        node, progress = self.node, self.progress
        with progress.step("certificates, configuration, network"):
            pki.ensure(self.paths)
            node.write_configuration()
            node.install_binaries(
                [parts.kubernetes / "hyperkube", parts.istiod / "istiod", parts.envoy / "envoy"], builds.HYPERKUBE_NAMES
            )
            link = self.paths.state / "pgclient"
            link.unlink(missing_ok=True)
            link.symlink_to(parts.pgclient)
            network.create()
            cgroups.create()
        node.start("etcd")
        node.start("kube-apiserver")
        runtime = Background(lambda: self._start_runtime(parts))
        with progress.step("API server answers"):
            node.wait("kube-apiserver")
        node.start("kube-controller-manager")
        node.start("kube-scheduler")
        cluster = Cluster(self.paths)
        with progress.step("resource types of Istio and the Gateway API"):
            cluster.apply_manifests("10-namespaces.yaml")
            crds = Background(lambda: cluster.install_crds(parts.istiod / "crds"))
            cluster.create_passwords()
            # The kubelet comes when there is work for it and the images are there.
            runtime.join()
            node.start("kubelet")
            node.start("kube-proxy")
            cluster.apply_manifests("20-rights.yaml", "30-dns.yaml", "40-data.yaml", "45-neighbours.yaml", "60-gateway.yaml")
            cluster.create_account_kubeconfigs()
            crds.join()
            cluster.apply_manifests("65-gateway-api.yaml")
        node.start("istiod")

        def data() -> None:
            with progress.step("TimescaleDB with roles, schema of v1 and data"):
                processes.wait_until(lambda: database.answers(self.paths), 60, "TimescaleDB answers", 0.2)
                database.prepare(self.paths, cluster.api)
                database.recreate(self.paths)

        def mesh() -> None:
            with progress.step("istiod with its validating webhook"):
                node.wait("istiod")
                cluster.activate_webhook()

        def monitoring() -> None:
            # Without names Prometheus would find nothing, and look again only after its resolver's time-out.
            cluster.wait_ready("kube-system", "coredns")
            cluster.apply_manifests("50-monitoring.yaml")

        in_parallel(data, mesh, monitoring)
        with progress.step("v1 serves all of the traffic"):
            cluster.ensure_baseline()
            for namespace, name in PLATFORM:
                cluster.wait_ready(namespace, name)
            for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
                node.wait(name)
            cluster.wait_baseline()
            processes.wait_until(cluster.service_is_scraped, 15, "Prometheus scrapes all pods of v1", 0.1)
        self._record(parts)
        progress.say("lab is up")

    def _start_runtime(self, parts: builds.Parts) -> None:
        store = self.paths.run / "containerd"
        clone(parts.base_image / "containerd", store)
        self.node.start("containerd")
        self.node.wait("containerd")
        containerd.import_archive(self.paths.containerd_socket, parts.service_images / "archive.tar")

    # Reset

    def reset(self) -> None:
        with self.locked():
            builder = builds.Builder(Cache(self.paths.cache), self.progress)
            if self.node.dead() or not network.complete():
                raise LabError(f"the lab is not up (not running: {', '.join(self.node.dead()) or 'its network'}). Run: labctl up")
            cluster = Cluster(self.paths)
            if not builder.missing() and self._recorded().get("images") not in (None, builder.parts().service_images.name):
                self.progress.say("the service's source has changed since the lab started; labctl up takes it in")
            self._reset(cluster)
            self.progress.say("lab is at its baseline")

    def _reset(self, cluster: Cluster) -> None:
        self._reset_begun.touch()
        with self.progress.step("breaks healed"):
            breaks.heal_platform(cluster)
            breaks.forget(cluster)

        def data() -> None:
            processes.wait_until(lambda: database.answers(self.paths), 30, "TimescaleDB answers", 0.1)
            database.prepare(self.paths, cluster.api)
            database.recreate(self.paths)

        with self.progress.step("objects, database and Redis at the baseline"):
            in_parallel(cluster.ensure_baseline, data, cluster.flush_redis, cluster.clear_sink)
        with self.progress.step("v1 serves all of the traffic"):
            cluster.wait_baseline()
            # Last: requests of the wait itself, and what v1 cached meanwhile, do not count either.
            cluster.flush_redis()
            cluster.forget_metrics()
            processes.wait_until(cluster.service_is_scraped, 15, "Prometheus scrapes all pods of v1", 0.1)
        self._reset_begun.unlink()

    # Down

    def down(self) -> None:
        with self.locked():
            # A lab of another state folder has the same namespace and control group: it is not ours to stop.
            if self.paths.holds_lab:
                self._down()
                left = self.leftovers()
                if left:
                    raise LabError("labctl down left something behind:\n  " + "\n  ".join(left))
        self.progress.say("lab is down")

    def _down(self) -> None:
        """Stop everything of this lab, and remove what it made outside its folder, and its runtime data.

        Nothing is asked to end in order: all that these processes wrote is removed.
        """
        with self.progress.step("traffic stopped", at_least=0.1):
            traffic.stop_if_running(self.paths)
        with self.progress.step("processes stopped", at_least=0.1):
            # Who restarts things goes first.
            self.node.stop(["kubelet", "kube-controller-manager", "kube-scheduler", "containerd"], grace=0)
            processes.stop(_started(cgroups.pids()), 0, "processes of pods")
            processes.stop(_started(self.shims()), 0, "containerd shims")
            self.node.stop(list(self.node.daemons), grace=0)
            processes.stop(_started(self._in_namespace()), 0, f"processes in namespace {NETNS}")
        with self.progress.step("mounts and network removed", at_least=0.1):
            for mount in reversed(self._mounts()):
                with contextlib.suppress(LabError):
                    processes.run(["umount", "--lazy", mount])
            network.remove()
        with self.progress.step("control groups removed", at_least=0.1):
            deadline = time.monotonic() + 5
            while cgroups.folders() and time.monotonic() < deadline:
                cgroups.remove()
                time.sleep(0.02)
        with self.progress.step("files removed", at_least=0.1):
            self._remove_shim_sockets()
            if self.paths.run.exists() and not self._mounts():
                remove_tree(self.paths.run)
            if self.paths.pids.is_dir():
                shutil.rmtree(self.paths.pids)

    def shims(self) -> list[int]:
        socket = str(self.paths.containerd_socket)
        found = []
        for pid in processes.all_pids():
            words = processes.command_line(pid)
            if words and words[0].endswith(SHIM) and socket in words:
                found.append(pid)
        return found

    def _remove_shim_sockets(self) -> None:
        """Shims listen below /run/containerd whatever containerd's state folder is; a killed one leaves its socket."""
        folder = Path("/run/containerd/s")
        with contextlib.suppress(OSError):
            listening = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.split()[-1].startswith("/")}
            for path in folder.iterdir():
                if stat.S_ISSOCK(path.stat().st_mode) and str(path) not in listening:
                    path.unlink()

    def _in_namespace(self) -> list[int]:
        wanted = network.identity()
        found = []
        if wanted:
            for pid in processes.all_pids():
                with contextlib.suppress(OSError):
                    here = os.stat(f"/proc/{pid}/ns/net")
                    if (here.st_dev, here.st_ino) == wanted and pid != os.getpid():
                        found.append(pid)
        return found

    def _mounts(self) -> list[str]:
        """Mount points below the state folder, outer ones first."""
        prefix = f"{self.paths.state}/"
        points = [line.split()[4].encode().decode("unicode_escape") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [point for point in points if point.startswith(prefix)]

    def leftovers(self) -> list[str]:
        """Everything of the lab that still exists outside plain files; empty after ``down``."""
        left = [f"process {pid} ({name})" for name in self.node.daemons if (pid := self.node.alive(name))]
        left += [f"process {pid} ({SHIM})" for pid in self.shims()]
        left += [f"process {pid} in cgroup {cgroups.CGROUP}" for pid in sorted(cgroups.pids())]
        left += [f"process {pid} in network namespace {NETNS}" for pid in self._in_namespace()]
        left += [f"mount {point}" for point in self._mounts()]
        if network.exists():
            left.append(f"network namespace {NETNS}")
        if network.link_exists():
            left.append(f"link {HOST_LINK}")
        for route in network.host_routes():
            if str(route.get("dst", "")).startswith(("10.77.0.", "10.78.", "10.79.")):
                left.append(f"route {route['dst']} dev {route.get('dev')}")
        left += [f"cgroup {folder}" for folder in cgroups.folders()]
        if self.paths.run.exists():
            left.append(f"folder {self.paths.run}")
        return left


def clone(source: Path, target: Path) -> None:
    """Copy a containerd store: hard links where the file system allows, a real copy of its databases.

    containerd never changes the blobs and unpacked layers of an image, only its databases; so the files can be shared.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        processes.run(["cp", "-a", "--link", str(source), str(target)], timeout=120)
    except LabError:
        shutil.rmtree(target, ignore_errors=True)
        processes.run(["cp", "-a", "--reflink=auto", str(source), str(target)], timeout=300)
        return
    for path in target.rglob("*.db"):
        if "snapshots" not in path.relative_to(target).parts:
            fresh = path.with_suffix(".fresh")
            shutil.copy2(path, fresh)
            fresh.rename(path)


def remove_tree(folder: Path) -> None:
    processes.run(["rm", "-rf", "--one-file-system", str(folder)], timeout=120)


def _started(pids: Iterable[int]) -> dict[int, int | None]:
    return {pid: processes.start_time(pid) for pid in pids}


def _first_pod(cluster: Cluster, namespace: str, app: str) -> str:
    pods = cluster.api.list("Pod", namespace, f"app={app}")
    return pods[0]["metadata"]["name"] if pods else "none"
