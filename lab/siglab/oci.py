# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images as OCI archives, written without a builder: an image is one or two tar layers and some JSON."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer: its digest is both blob digest and diff id. ``data`` is None for one stored elsewhere."""

    digest: str
    size: int
    data: bytes | Path | None = None

    @classmethod
    def of_file(cls, path: Path) -> Layer:
        total = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                total.update(chunk)
        return cls(total.hexdigest(), path.stat().st_size, path)

    @classmethod
    def of_files(cls, files: dict[str, Path]) -> Layer:
        """A layer of ``files`` {path in the image: source}; the same inputs give the same digest."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for folder in sorted({parent for name in files for parent in Path(name).parents if parent != Path(".")}):
                entry = tarfile.TarInfo(f"{folder}/")
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for name, source in sorted(files.items()):
                data = source.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o755 if source.stat().st_mode & 0o111 else 0o644
                tar.addfile(entry, io.BytesIO(data))
        data = buffer.getvalue()
        return cls(hashlib.sha256(data).hexdigest(), len(data), data)


@dataclass(frozen=True)
class Image:
    name: str
    layers: list[Layer]
    env: dict[str, str]
    command: list[str]
    workdir: str = "/"

    def documents(self, architecture: str) -> tuple[bytes, bytes]:
        """(config, manifest) as JSON."""
        config = _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {
                    "Env": [f"{name}={value}" for name, value in self.env.items()],
                    "Cmd": self.command,
                    "WorkingDir": self.workdir,
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in self.layers]},
                "history": [{"created_by": "labctl"} for _ in self.layers],
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, **_descriptor(config)},
                "layers": [
                    {"mediaType": LAYER_TYPE, "digest": f"sha256:{layer.digest}", "size": layer.size}
                    for layer in self.layers
                ],
            }
        )
        return config, manifest


def write_archive(stream: BinaryIO, images: list[Image], architecture: str) -> None:
    """Write an OCI archive that containerd can import; layers without data must already be in its store."""
    entries = []
    written: set[str] = set()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        for image in images:
            config, manifest = image.documents(architecture)
            for layer in image.layers:
                if layer.data is not None and layer.digest not in written:
                    written.add(layer.digest)
                    _add(tar, f"blobs/sha256/{layer.digest}", layer.data)
            for document in (config, manifest):
                _add(tar, f"blobs/sha256/{hashlib.sha256(document).hexdigest()}", document)
            entries.append(
                {
                    "mediaType": MANIFEST_TYPE,
                    **_descriptor(manifest),
                    "annotations": {
                        "io.containerd.image.name": image.name,
                        "org.opencontainers.image.ref.name": image.name.rsplit(":", 1)[1],
                    },
                }
            )
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": entries}))


def _add(tar: tarfile.TarFile, name: str, data: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    if isinstance(data, Path):
        entry.size = data.stat().st_size
        with data.open("rb") as source:
            tar.addfile(entry, source)
    else:
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def _descriptor(document: bytes) -> dict[str, object]:
    return {"digest": f"sha256:{hashlib.sha256(document).hexdigest()}", "size": len(document)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
