# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prerequisites: everything that keeps this machine from running the lab, found before anything is changed."""

from __future__ import annotations

import ipaddress
import os
import platform
import shutil
import sys
from pathlib import Path

from . import builds, cgroups, network, processes
from .settings import (
    DISK_FOR_BUILD,
    DISK_FOR_RUN,
    HOST_LINK,
    LINK_CIDR,
    NETNS,
    POD_CIDR,
    SERVICE_CIDR,
    Paths,
    PrerequisiteError,
)


def require(paths: Paths, build_needed: bool) -> None:
    """Raise PrerequisiteError naming all problems; ``build_needed`` asks for disk and tools for building too."""
    problems = find(paths, build_needed)
    if problems:
        raise PrerequisiteError(
            "This machine cannot run the lab as it is; nothing has been changed:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def find(paths: Paths, build_needed: bool) -> list[str]:
    if not sys.platform.startswith("linux"):
        return [f"operating system is {platform.system()}, expected Linux (network namespaces, overlayfs)"]
    problems = []
    if os.geteuid() != 0:
        problems.append(
            f"running as user id {os.geteuid()}, expected root (0): network namespaces, mounts and control groups need it; run: sudo labctl up"
        )
    if not _has_overlayfs():
        problems.append("overlayfs is not in /proc/filesystems, expected: it holds the containers' files; run: modprobe overlay")
    if not network.bridge_filter_available():
        problems.append(f"{network.BRIDGE_FILTER} is not there and no module br_netfilter was found, expected one of them: pods reach services through it")
    if not (cgroups.ROOT / "cgroup.controllers").exists() and not (cgroups.ROOT / "memory").is_dir():
        problems.append("/sys/fs/cgroup has neither control groups version 2 nor the memory controller of version 1; mount them")
    if platform.machine() not in ("x86_64", "aarch64"):
        problems.append(f"processor is {platform.machine()}, expected x86_64 or aarch64")
    problems += _tools()
    problems += _disk(paths, build_needed)
    if os.geteuid() == 0:
        problems += _addresses(paths)
    return problems


def _has_overlayfs() -> bool:
    if "overlay" in Path("/proc/filesystems").read_text().split():
        return True
    modules = Path("/lib/modules", platform.release(), "modules.dep")
    return modules.exists() and "/overlay.ko" in modules.read_text(errors="replace")


def _tools() -> list[str]:
    missing = [] if shutil.which("dpkg-query") is None else builds.missing_host_packages()
    if shutil.which("apt-get"):
        return []
    if shutil.which("dpkg-query") is None:
        absent = [command for command in builds.HOST_PACKAGES.values() if command and not shutil.which(command, path=builds.SEARCH_PATH)]
        return [f"commands {', '.join(absent)} are missing and there is no apt-get to install them; install them first"] if absent else []
    return [f"packages {', '.join(missing)} are missing and there is no apt-get to install them"] if missing else []


def _disk(paths: Paths, build_needed: bool) -> list[str]:
    problems = []
    for folder, needed, what in (
        (paths.state, DISK_FOR_RUN, "the running lab (SIGNAL_LAB_DIR)"),
        *([(paths.cache, DISK_FOR_BUILD, "a first build (SIGNAL_LAB_CACHE)")] if build_needed else []),
    ):
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            problems.append(f"{existing} is not a folder, expected one for {what}")
            continue
        free = shutil.disk_usage(existing).free
        if free < needed:
            problems.append(f"{existing} has {free / 1024**3:.1f} GiB free, expected {needed / 1024**3:.0f} GiB for {what}")
    return problems


def _addresses(paths: Paths) -> list[str]:
    """Address ranges, link name and namespace must be free, or be this lab's own."""
    if shutil.which("ip", path=builds.SEARCH_PATH) is None:
        return []
    problems = []
    ours = [ipaddress.ip_network(cidr) for cidr in (LINK_CIDR, POD_CIDR, SERVICE_CIDR)]
    taken: dict[str, list[str]] = {}
    for route in network.host_routes():
        destination = route.get("dst", "")
        if destination == "default" or route.get("dev") == HOST_LINK or route.get("type") == "broadcast":
            continue
        try:
            other = ipaddress.ip_network(destination, strict=False)
        except ValueError:
            continue
        for cidr in ours:
            if other.prefixlen > 0 and cidr.overlaps(other):
                taken.setdefault(str(cidr), []).append(f"{destination} dev {route.get('dev', '?')}")
    for cidr, routes in taken.items():
        problems.append(f"address range {cidr} is taken by route {', '.join(routes[:3])}; expected it free; remove that route")
    if (network.exists() or network.link_exists()) and not paths.holds_lab:
        inside = _foreign_processes()
        problems.append(
            f"network namespace {NETNS} or link {HOST_LINK} exists, but no lab is recorded in {paths.state}"
            + (f" (processes in it: {inside})" if inside else "")
            + f"; expected none: is a lab running with another SIGNAL_LAB_DIR? Stop that one, or remove: ip link del {HOST_LINK}; ip netns del {NETNS}"
        )
    return problems


def _foreign_processes() -> list[int]:
    wanted = network.identity()
    found = []
    for pid in processes.all_pids():
        try:
            here = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            continue
        if (here.st_dev, here.st_ino) == wanted:
            found.append(pid)
    return found[:10]
