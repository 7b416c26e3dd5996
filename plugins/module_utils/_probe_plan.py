# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of a probe: what can be used, and where each check goes. Private to this collection."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._probe_rules import rule_problems, shown

try:
    import requests
    import requests.utils
except ImportError:
    requests = None

SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss"), "ws": ("http", "ws"), "wss": ("https", "wss")}
# A masked value shorter than this would turn up by chance in results and mangle them.
MIN_SECRET_LENGTH = 8
_FORBIDDEN = [ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10")]
_HOST_HEADER = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Plan:
    """The validated options. Raises :class:`RolloutError` that names every unusable value at once."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self.base_url: str = params["base_url"]
        self.timeout: float = params["timeout"]
        self.deadline: float = params["deadline"]
        self.concurrency: int = params["concurrency"]
        self.retries: int = params["retries"]
        self.host_header: str | None = params["host_header"]
        self.validate_certs: bool = params["validate_certs"]
        self.ca_cert: str | None = params["ca_cert"]
        self.headers: dict[str, str] = {}
        self.checks: list[dict[str, Any]] = params["checks"]
        self._check_base_url()
        self._check_headers(params["headers"] or {})
        for name, low, high, unit in (
            ("timeout", 0.01, 300, " seconds"),
            ("deadline", 0.1, 3600, " seconds"),
            ("concurrency", 1, 64, ""),
            ("retries", 0, 10, ""),
        ):
            if not low <= params[name] <= high:
                self.problems.append(f"{name} is {params[name]:g}, expected {low:g} to {high:g}{unit}")
        if not self.checks:
            self.problems.append("checks is empty, expected at least one")
        for index, check in enumerate(self.checks):
            self._check_check(f"checks[{index}]", check)
        names = [check["name"] for check in self.checks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problems.append(f"checks has '{one_line(name, 60)}' {names.count(name)} times, expected different names")
        if self.problems:
            raise RolloutError(f"endpoint_probe cannot use its options: {'; '.join(self.problems)}")

    def url(self, check: Mapping[str, Any]) -> str:
        """Return the address of a check, with the scheme that fits it."""
        scheme, rest = self.base_url.split("://", 1)
        wanted = SCHEMES[scheme.lower()][1 if check["websocket"] is not None else 0]
        return requests.utils.requote_uri(f"{wanted}://{rest.rstrip('/')}{check['path']}")

    @property
    def verify(self) -> bool | str:
        return (self.ca_cert or True) if self.validate_certs else False

    def _check_base_url(self) -> None:
        url = self.base_url
        rule = "expected http://, https://, ws:// or wss:// with a host, and no user, query or fragment"
        if any(ord(character) <= 32 or ord(character) == 127 for character in url):
            self.problems.append(f"base_url holds a control character or space, {rule}")
            return
        try:
            parts = urlsplit(url)
            port_in_range = parts.port is None or parts.port > 0
        except ValueError as error:
            self.problems.append(f"base_url cannot be read ({one_line(error, 80)}), {rule}")
            return
        if "@" in parts.netloc:
            # The part before the @ may be a password, so the address is not repeated.
            self.problems.append(f"base_url holds a user or password, {rule}; credentials go into headers")
        elif parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment or not port_in_range:
            self.problems.append(f"base_url is '{one_line(url, 120)}', {rule}")
        elif _is_link_local(parts.hostname):
            self.problems.append(f"base_url names the link-local address {parts.hostname}, which is never a service to release")
        if self.host_header is not None and not _HOST_HEADER.fullmatch(self.host_header):
            self.problems.append(f"host_header is '{one_line(self.host_header, 80)}', expected a host name, optionally with a port")
        if self.ca_cert and not self.validate_certs:
            self.problems.append("ca_cert is given although validate_certs is false, expected one of the two")

    def _check_headers(self, headers: Mapping[str, Any]) -> None:
        for name, value in headers.items():
            text = str(value)
            where = f"headers['{one_line(name, 40)}']"
            if not _HEADER_NAME.fullmatch(name):
                self.problems.append(f"{where} is no header name")
            elif name.lower() == "host":
                self.problems.append(f"{where}: expected the option host_header instead")
            elif any(ord(character) < 32 or ord(character) > 255 or ord(character) == 127 for character in text):
                self.problems.append(f"{where} holds a control or non-Latin character ({len(text)} characters in all)")
            elif len(text) < MIN_SECRET_LENGTH:
                self.problems.append(
                    f"{where} has {len(text)} characters, expected at least {MIN_SECRET_LENGTH}: header values are masked "
                    "in all output, and a shorter one would mangle it"
                )
            else:
                self.headers[name] = text

    def _check_check(self, where: str, check: Mapping[str, Any]) -> None:
        label = f"{where} ({one_line(check['name'], 60)})"
        path = check["path"]
        if not path.startswith("/") or "#" in path or any(ord(character) <= 32 or ord(character) == 127 for character in path):
            self.problems.append(f"{label}: path is '{one_line(path, 80)}', expected /... without spaces, control characters or #")
        bad = [code for code in check["status"] if not 100 <= code <= 599]
        if bad or not check["status"]:
            self.problems.append(f"{label}: status is {check['status']}, expected codes from 100 to 599")
        if not 1 <= check["repeat"] <= 10_000:
            self.problems.append(f"{label}: repeat is {check['repeat']}, expected 1 to 10000")
        self._check_limit(label, "latency_below_ms", check["latency_below_ms"])
        for option in ("json", "header"):
            for key, rule in (check[option] or {}).items():
                self.problems.extend(f"{label}: {option} {one_line(key, 60)}: {text}" for text in rule_problems(rule))
        if check["websocket"] is not None:
            self._check_websocket(label, check)
        elif check["method"] != "GET" and (check["json"] or check["contains"] is not None):
            self.problems.append(f"{label}: method is {check['method']}, expected GET for a check of the body")

    def _check_websocket(self, label: str, check: Mapping[str, Any]) -> None:
        options = check["websocket"]
        unused = [name for name in ("json", "contains", "header") if check[name]]
        if unused or check["method"] != "GET" or check["status"] != [200]:
            self.problems.append(f"{label}: expected neither method, status, json, contains nor header beside websocket")
        if not 0 <= options["round_trips"] <= 10_000:
            self.problems.append(f"{label}: websocket.round_trips is {options['round_trips']}, expected 0 to 10000")
        if (options["ping"] is None) != (options["pong"] is None):
            self.problems.append(f"{label}: websocket.ping and websocket.pong belong together, expected both or neither")
        if options["latency_below_ms"] is not None and not options["round_trips"]:
            self.problems.append(f"{label}: websocket.latency_below_ms needs websocket.round_trips of at least 1")
        self._check_limit(label, "websocket.latency_below_ms", options["latency_below_ms"])
        for index, message in enumerate(options["expect"]):
            if not isinstance(message, (dict, str)):
                self.problems.append(f"{label}: websocket.expect[{index}] is {shown(message)}, expected a dictionary or a text")

    def _check_limit(self, label: str, name: str, limit: float | None) -> None:
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            self.problems.append(f"{label}: {name} is {limit:g}, expected more than 0 ms")


def _is_link_local(host: str) -> bool:
    """Tell whether ``host`` is or resolves to a link-local address, where clouds keep their instances' credentials."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for entry in found:
        address = ipaddress.ip_address(str(entry[4][0]).split("%", 1)[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if any(mapped.version == network.version and mapped in network for network in _FORBIDDEN):
            return True
    return False
