# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network namespace: a veth pair to the host, and routes from the host to pods and services."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from .processes import run
from .settings import HOST_IP, HOST_LINK, LINK_CIDR, NETNS, NODE_IP, POD_CIDR, SERVICE_CIDR

BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
ROUTED = (POD_CIDR, SERVICE_CIDR)


def exists() -> bool:
    return Path("/run/netns", NETNS).exists()


def link_exists() -> bool:
    return Path("/sys/class/net", HOST_LINK).exists()


def complete() -> bool:
    """True when namespace, link and routes are all there."""
    if not (exists() and link_exists()):
        return False
    routes = {route["dst"]: route.get("dev") for route in host_routes()}
    return all(routes.get(network) == HOST_LINK for network in ROUTED)


def host_routes() -> list[dict]:
    return json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")


def bridge_filter_available() -> bool:
    """Packets between pods must pass netfilter on their way over the bridge; a module where it is not built in."""
    modules = Path("/lib/modules", platform.release(), "modules.dep")
    return BRIDGE_FILTER.exists() or (modules.exists() and "/br_netfilter.ko" in modules.read_text(errors="replace"))


def create() -> None:
    """Make the namespace and what leads to it; the host's packet filter and sysctls stay as they are."""
    if not BRIDGE_FILTER.exists():
        run(["modprobe", "br_netfilter"])
    inside = ["nsenter", f"--net=/run/netns/{NETNS}", "--"]
    run(["ip", "netns", "add", NETNS])
    run(["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", NETNS])
    prefix = LINK_CIDR.rsplit("/", 1)[1]
    run(["ip", "addr", "add", f"{HOST_IP}/{prefix}", "dev", HOST_LINK])
    run(["ip", "link", "set", HOST_LINK, "up"])
    run([*inside, "ip", "addr", "add", f"{NODE_IP}/{prefix}", "dev", "eth0"])
    for link in ("eth0", "lo"):
        run([*inside, "ip", "link", "set", link, "up"])
    run([*inside, "ip", "route", "add", "default", "via", HOST_IP])
    # Pods talk to each other through service addresses over one bridge: the answers must pass netfilter too.
    script = f"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > {BRIDGE_FILTER}"
    run([*inside, "sh", "-c", script])
    for network in ROUTED:
        run(["ip", "route", "add", network, "via", NODE_IP, "dev", HOST_LINK])


def remove() -> None:
    """Undo ``create`` whatever part of it exists."""
    if link_exists():
        run(["ip", "link", "del", HOST_LINK])
    if exists():
        run(["ip", "netns", "del", NETNS])


def identity() -> tuple[int, int] | None:
    """(device, inode) of the namespace, to compare with /proc/PID/ns/net; None when it does not exist."""
    try:
        found = os.stat(f"/run/netns/{NETNS}")
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
