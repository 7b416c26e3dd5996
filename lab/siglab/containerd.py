# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""containerd: its configuration, and a short-lived instance that unpacks images into a store for the cache."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import processes
from .settings import LabError

NAMESPACE = "k8s.io"

_PRIVATE = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{socket}"
"""


def ctr(socket: Path, *arguments: str) -> list[str]:
    return ["ctr", "--address", str(socket), "--namespace", NAMESPACE, *arguments]


def answers(socket: Path) -> bool:
    done = subprocess.run(ctr(socket, "version"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10)
    return done.returncode == 0


def import_archive(socket: Path, archive: Path) -> None:
    """Import an OCI archive and unpack it."""
    processes.run(ctr(socket, "images", "import", "--snapshotter", "overlayfs", str(archive)), timeout=300)


@contextlib.contextmanager
def private_instance(root: Path, log: Path) -> Iterator[Path]:
    """Run a containerd of our own with its store in ``root``; yields its socket."""
    with tempfile.TemporaryDirectory(prefix="siglab-containerd-") as folder:
        socket = Path(folder) / "containerd.sock"
        config = Path(folder) / "config.toml"
        config.write_text(_PRIVATE.format(root=root, state=Path(folder) / "state", socket=socket))
        with log.open("ab") as stream:
            daemon = subprocess.Popen(
                ["containerd", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            processes.wait_until(lambda: answers(socket), 30, f"containerd for building images (log {log})")
            yield socket
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(5)


def unpacked_layer(store: Path, holds: str) -> Path:
    """The folder of the unpacked layer in ``store`` that has the file ``holds``."""
    snapshots = store / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    for folder in sorted(snapshots.glob("*/fs")):
        if (folder / holds).exists():
            return folder
    raise LabError(f"{store}: no unpacked layer with {holds}. Remove that folder and run: labctl up")
