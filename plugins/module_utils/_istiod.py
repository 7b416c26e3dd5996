# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""istiod's counters of configuration that proxies have rejected. Private to this collection.

istiod counts rejections per kind of configuration (``pilot_total_xds_rejects``). Which node rejected, and with which gRPC code,
is a gauge (``pilot_xds_rds_reject{node, err}`` and its siblings) that stands at 1 from a node's first rejection on, so only the
first one is seen there. The sentence behind a rejection is in istiod's log and in the proxy's.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _weights
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

ISTIOD_SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str"},
    "namespace": {"type": "str", "default": "istio-system"},
    "selector": {"type": "str", "default": "app=istiod"},
    "port": {"type": "int", "default": 15014},
}

_TIMEOUT = 2.0
_LARGEST_ANSWER = 16 * 1024 * 1024
_CHUNK = 65536
_SAMPLE = re.compile(r"^pilot_(?:xds_(?P<kind>cds|lds|rds|eds)_reject|total_xds_rejects)\{(?P<labels>.*)\}\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Counts:
    """Rejections by ``(kind, node, err)`` and in total by kind, where a kind is cds, lds, rds or eds."""

    nodes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Take in what another istiod counts."""
        for key, value in other.nodes.items():
            self.nodes[key] = self.nodes.get(key, 0) + value
        for kind, value in other.totals.items():
            self.totals[kind] = self.totals.get(kind, 0) + value

    def errors(self, kind: str, node: str) -> list[str]:
        """The gRPC codes with which ``node`` rejected configuration of ``kind``."""
        return sorted(error for (of_kind, of_node, error), value in self.nodes.items() if value and (of_kind, of_node) == (kind, node))


class IstiodError(RolloutError):
    """istiod's counters could not be read. Never a reason to fail a weight change by itself."""


def counts_of(metrics: str) -> Counts:
    """Return what istiod's ``/metrics`` says about rejections. Lines that are not understood are left out. Pure."""
    found = Counts()
    for line in metrics.splitlines():
        match = _SAMPLE.match(line)
        if not match:
            continue
        labels = dict(_LABEL.findall(match["labels"]))
        try:
            value = int(float(match["value"]))
        except (ValueError, OverflowError):
            continue
        if match["kind"]:
            found.add(Counts(nodes={(match["kind"], labels.get("node", ""), labels.get("err", "")): value}))
        else:
            found.add(Counts(totals={labels.get("type", ""): value}))
    return found


def grown(before: Counts, after: Counts) -> Counts:
    """Return by how much each count has grown; a restarted istiod begins at 0, so a smaller count is all new. Pure."""

    def more(earlier: int, value: int) -> int:
        return value - earlier if value >= earlier else value

    return Counts(
        {key: more(before.nodes.get(key, 0), value) for key, value in after.nodes.items()},
        {kind: more(before.totals.get(kind, 0), value) for kind, value in after.totals.items()},
    )


def read(kube: _kube.Kube, options: dict[str, Any]) -> Counts | None:
    """Return the counts of all istiods together, or None when there is no istiod to be found.

    By ``url`` if that is set, otherwise from the pods that ``selector`` finds, by the API server's pod proxy.
    Raises :class:`IstiodError` or :class:`_kube.KubeError`.
    """
    if options.get("url"):
        return counts_of(_fetch(options["url"]))
    base = _kube.path_of("", "v1", "pods", options["namespace"])
    pods = [pod for pod in kube.list(base, {"labelSelector": options["selector"]}) if _weights.pod_is_ready(pod)]
    if not pods:
        return None
    total = Counts()
    for pod in pods:
        path = f"{base}/{pod['metadata']['name']}:{options['port']}/proxy/metrics"
        total.add(counts_of(kube.get_text(path, timeout=_TIMEOUT, tries=1)))
    return total


def _fetch(url: str) -> str:
    parts = urlsplit(url)
    deadline = time.monotonic() + _TIMEOUT
    path = f"{parts.path.rstrip('/')}/metrics" if not parts.path.endswith("/metrics") else parts.path
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise IstiodError(f"istiod answered {response.status} to GET {path}")
        chunks, size = [], 0
        while chunk := response.read(_CHUNK):
            size += len(chunk)
            if size > _LARGEST_ANSWER or time.monotonic() > deadline:
                raise IstiodError(f"istiod's counters are too large or too slow ({size // 1024} KiB in {_TIMEOUT:g} s)")
            chunks.append(chunk)
        return b"".join(chunks).decode(errors="backslashreplace")
    except (OSError, http.client.HTTPException) as error:
        raise IstiodError(f"no answer from istiod: {one_line(error, 120) or type(error).__name__}") from None
    finally:
        connection.close()
