# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses traffic may be sent to: this machine and the lab's own ranges, nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_ALLOWED = tuple(ip_network(text) for text in ("127.0.0.0/8", "::1/128", "10.77.0.0/16", "10.78.0.0/16", "10.79.0.0/16"))


class TargetError(ValueError):
    """The address may not be a target of generated load."""


def checked_url(text: str) -> str:
    """Return the base URL without a trailing slash; raises TargetError for anything outside the lab.

    Only literal addresses (and ``localhost``) pass: a name could be made to point elsewhere between the check and
    the connection.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise TargetError(f"{text!r} is not a URL: {error}") from error
    if parts.scheme != "http" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise TargetError(f"{text!r} is not a plain URL, expected like http://10.79.0.60")
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    try:
        address = ip_address(host)
    except ValueError as error:
        raise TargetError(f"{host!r} is not an address; give the gateway's address, and its name with --host") from error
    if not any(address in network for network in _ALLOWED):
        raise TargetError(f"{address} is outside loopback and the lab's ranges 10.77.0.0 to 10.79.255.255")
    literal = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{literal}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
