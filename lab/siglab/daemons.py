# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of the node: how each is configured, started, asked for its health and stopped."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import containerd, pki, processes, settings
from .processes import PidFile
from .settings import LAB_SOURCE, LabError, Paths

TEMPLATES = LAB_SOURCE / "templates"


@dataclass(frozen=True)
class Daemon:
    name: str
    command: list[str]
    healthy: Callable[[], bool]
    env: dict[str, str] = field(default_factory=dict)
    timeout: float = 30


class Node:
    """All daemons of one lab, in the order in which they are started."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.daemons = {daemon.name: daemon for daemon in self._define()}

    def pid_file(self, name: str) -> PidFile:
        return PidFile(self.paths.pids / f"{name}.pid")

    def log(self, name: str) -> Path:
        return self.paths.logs / f"{name}.log"

    def alive(self, name: str) -> int | None:
        return self.pid_file(name).alive()

    def dead(self) -> list[str]:
        return [name for name in self.daemons if self.alive(name) is None]

    def start(self, name: str) -> None:
        """Start a daemon without waiting for it."""
        daemon = self.daemons[name]
        log = self.log(name)
        if log.exists() and log.stat().st_size > 20_000_000:
            log.rename(log.with_suffix(".log.1"))
        # Half the heap reserve that Go takes by default: the lab has to share a small machine.
        base = {"GOGC": "50", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        processes.spawn(daemon.command, self.pid_file(name), log, netns=self.paths.netns, env={**base, **daemon.env})

    def wait(self, name: str) -> None:
        """Wait until a started daemon answers; when it ended instead, say what it wrote last."""
        daemon = self.daemons[name]

        def ready() -> bool:
            processes.reap()
            if self.alive(name) is None:
                tail = "\n  ".join(self.log(name).read_text(errors="replace").strip().splitlines()[-6:])
                raise LabError(f"{name} ended while starting. Its log ({self.log(name)}) ends with:\n  {tail}")
            return daemon.healthy()

        processes.wait_until(ready, daemon.timeout, f"{name} healthy (log {self.log(name)})")

    def stop(self, names: list[str], grace: float) -> None:
        pids: dict[int, int | None] = {}
        for name in names:
            pid = self.alive(name)
            if pid is not None:
                pids[pid] = processes.start_time(pid)
        processes.stop(pids, grace, "daemons")
        for name in names:
            self.pid_file(name).remove()

    def write_configuration(self) -> None:
        """Folders, configuration files and kubeconfigs that the daemons read."""
        paths = self.paths
        for folder in (paths.pids, paths.logs, paths.config, paths.bin, paths.run, paths.kubeconfig, paths.config / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        for source, target in {
            "containerd.toml": paths.config / "containerd.toml",
            "kubelet.yaml": paths.config / "kubelet.yaml",
            "mesh.yaml": paths.config / "mesh.yaml",
            "cni.conflist": paths.config / "cni" / "10-lab.conflist",
        }.items():
            target.write_text(render((TEMPLATES / source).read_text(), self.values()))
        for name in ("admin", "istiod", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"):
            folder = paths.kubeconfig if name == "admin" else paths.config
            target = folder / ("admin" if name == "admin" else f"{name}.kubeconfig")
            pki.write_kubeconfig(target, paths.pki / "ca.crt", pki.certificate_user(paths.pki, name))

    def values(self) -> dict[str, str]:
        """Replacements for @NAME@ in templates and manifests."""
        paths = self.paths
        return {
            "STATE": str(paths.state),
            "RUN": str(paths.run),
            "CONFIG": str(paths.config),
            "PKI": str(paths.pki),
            "BIN": str(paths.bin),
            "SOCKET": str(paths.containerd_socket),
            "BASE_IMAGE": settings.BASE_IMAGE,
            "NODE_IP": settings.NODE_IP,
            "NODE_NAME": settings.NODE_NAME,
            "NODE_POD_CIDR": settings.NODE_POD_CIDR,
            "DNS_IP": settings.DNS_IP,
            "CGROUP": settings.CGROUP,
        }

    def install_binaries(self, programs: list[Path], names: tuple[str, ...]) -> None:
        """Hard links (or copies, across file systems) in bin/: pods see them through one folder."""
        for program in programs:
            target = self.paths.bin / program.name
            target.unlink(missing_ok=True)
            try:
                os.link(program, target)
            except OSError:
                shutil.copy2(program, target)
        for name in names:
            link = self.paths.bin / name
            link.unlink(missing_ok=True)
            link.symlink_to("hyperkube")

    def _define(self) -> list[Daemon]:
        paths, binary, config = self.paths, self.paths.bin, self.paths.config
        certificates = paths.pki
        return [
            Daemon(
                "etcd",
                # fmt: off
                [f"{binary}/etcd", "--data-dir", f"{paths.run}/etcd",
                 "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
                 "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"],
                # fmt: on
                # Only the node's namespace reaches etcd; the apiserver's readiness covers it.
                lambda: True,
            ),
            Daemon(
                "kube-apiserver",
                # fmt: off
                [f"{binary}/kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379",
                 "--advertise-address", settings.NODE_IP, "--bind-address", "0.0.0.0", "--secure-port", str(settings.API_PORT),
                 "--service-cluster-ip-range", settings.SERVICE_CIDR,
                 "--client-ca-file", f"{certificates}/ca.crt", "--tls-cert-file", f"{certificates}/apiserver.crt",
                 "--tls-private-key-file", f"{certificates}/apiserver.key",
                 "--kubelet-client-certificate", f"{certificates}/admin.crt", "--kubelet-client-key", f"{certificates}/admin.key",
                 "--kubelet-certificate-authority", f"{certificates}/ca.crt",
                 # The node's name is in no DNS: without this, exec and logs fail.
                 "--kubelet-preferred-address-types", "InternalIP",
                 "--service-account-issuer", "https://kubernetes.default.svc",
                 "--service-account-key-file", f"{certificates}/sa.pub", "--service-account-signing-key-file", f"{certificates}/sa.key",
                 "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
                 "--allow-privileged", "--profiling=false", "--cert-dir", f"{paths.run}/apiserver"],
                # fmt: on
                self._api_ready,
            ),
            Daemon("containerd", ["containerd", "--config", f"{config}/containerd.toml"], lambda: containerd.answers(paths.containerd_socket)),
            Daemon(
                "kube-controller-manager",
                # fmt: off
                [f"{binary}/kube-controller-manager", "--kubeconfig", f"{config}/kube-controller-manager.kubeconfig",
                 "--service-account-private-key-file", f"{certificates}/sa.key", "--root-ca-file", f"{certificates}/ca.crt",
                 "--use-service-account-credentials", "--leader-elect=false", "--bind-address", settings.NODE_IP,
                 "--authorization-always-allow-paths", "/healthz", "--cert-dir", f"{paths.run}/controller-manager",
                 "--cluster-cidr", settings.POD_CIDR, "--allocate-node-cidrs", "--node-cidr-mask-size", "24",
                 "--kube-api-qps", "200", "--kube-api-burst", "400", "--concurrent-serviceaccount-token-syncs", "2",
                 "--profiling=false"],
                # fmt: on
                lambda: _https_ok(settings.NODE_IP, 10257, "/healthz"),
            ),
            Daemon(
                "kube-scheduler",
                # fmt: off
                [f"{binary}/kube-scheduler", "--kubeconfig", f"{config}/kube-scheduler.kubeconfig", "--leader-elect=false",
                 "--authorization-always-allow-paths", "/healthz", "--cert-dir", f"{paths.run}/scheduler",
                 "--bind-address", settings.NODE_IP, "--profiling=false"],
                # fmt: on
                lambda: _https_ok(settings.NODE_IP, 10259, "/healthz"),
            ),
            Daemon(
                "kubelet",
                # fmt: off
                [f"{binary}/kubelet", "--config", f"{config}/kubelet.yaml", "--kubeconfig", f"{config}/kubelet.kubeconfig",
                 "--hostname-override", settings.NODE_NAME, "--node-ip", settings.NODE_IP, "--root-dir", f"{paths.run}/kubelet",
                 "--cert-dir", f"{paths.run}/kubelet/pki",
                 # Container CPU and memory in /metrics/resource are as old as this.
                 "--housekeeping-interval", "1s"],
                # fmt: on
                lambda: _http_ok(settings.NODE_IP, 10248, "/healthz"),
            ),
            Daemon(
                "kube-proxy",
                # fmt: off
                [f"{binary}/kube-proxy", "--kubeconfig", f"{config}/kube-proxy.kubeconfig", "--cluster-cidr", settings.POD_CIDR,
                 "--proxy-mode", "iptables", "--hostname-override", settings.NODE_NAME, "--conntrack-max-per-core", "0",
                 "--iptables-min-sync-period", "100ms", "--healthz-bind-address", f"{settings.NODE_IP}:10256"],
                # fmt: on
                lambda: _http_ok(settings.NODE_IP, 10256, "/livez"),
            ),
            Daemon(
                "istiod",
                # fmt: off
                [f"{binary}/istiod", "discovery", "--kubeconfig", f"{config}/istiod.kubeconfig", "--meshConfig", f"{config}/mesh.yaml",
                 "--domain", "cluster.local", "--monitoringAddr", ":15014", "--log_output_level", "default:info"],
                # fmt: on
                lambda: _http_ok(settings.NODE_IP, 8080, "/ready"),
                env={
                    "POD_NAMESPACE": "istio-system",
                    "POD_NAME": "istiod-lab",
                    "REVISION": "default",
                    "CLUSTER_ID": "Kubernetes",
                    "PILOT_CERT_PROVIDER": "istiod",
                    "JWT_POLICY": "third-party-jwt",
                    "PILOT_ENABLE_GATEWAY_API": "true",
                    "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
                    # The gateways are Envoy without Istio's extensions.
                    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
                    "PILOT_ENABLE_ALPN_FILTER": "false",
                    # The lab's manifests hold the validating webhook; there is no injection.
                    "INJECTION_WEBHOOK_CONFIG_NAME": "",
                    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
                    "ENABLE_LEADER_ELECTION": "false",
                    "ENABLE_DEBUG_ENDPOINT_AUTH": "false",
                    "UNSAFE_ENABLE_ADMIN_ENDPOINTS": "true",
                },
            ),
        ]

    def _api_ready(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.paths.pki / "ca.crt"))
        context.load_cert_chain(self.paths.pki / "admin.crt", self.paths.pki / "admin.key")
        return _https_ok(settings.NODE_IP, settings.API_PORT, "/readyz", context)


def render(text: str, values: dict[str, str]) -> str:
    """Replace every @NAME@; an unknown name is an error, not a literal."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise LabError(f"template: unknown placeholder {match[0]}; known: {', '.join(sorted(values))}")
        return values[match[1]]

    return re.sub(r"@([A-Z][A-Z0-9_]*)@", value, text)


def _http_ok(host: str, port: int, path: str) -> bool:
    return _ok(http.client.HTTPConnection(host, port, timeout=2), path)


def _https_ok(host: str, port: int, path: str, context: ssl.SSLContext | None = None) -> bool:
    if context is None:
        # Health only, of daemons with a certificate they made themselves.
        context = ssl._create_unverified_context()
    return _ok(http.client.HTTPSConnection(host, port, timeout=2, context=context), path)


def _ok(connection: http.client.HTTPConnection, path: str) -> bool:
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
