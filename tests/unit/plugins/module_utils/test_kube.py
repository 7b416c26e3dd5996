# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kept connection to an API server, against a real server on loopback that ends it."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _kube

from .conftest import Server


def connect(server: Server) -> _kube.Kube:
    configuration = SimpleNamespace(
        host=server.url, proxy=None, username="", password="", get_api_key_with_prefix=lambda name: None
    )
    return _kube.Kube(configuration)


def hang_up_after(server: Server, number: int, answer: bool = True) -> None:
    """Have the server end the connection after its answer to a request, or instead of it, without a word about it in the answer."""

    def respond(handler: BaseHTTPRequestHandler, query: str) -> None:
        last = len(server.methods) == number
        if answer or not last:
            server.send(handler, {"kind": "Status", "number": len(server.methods)})
        handler.close_connection = last

    server.respond = respond


def wait_until_closed(kube: _kube.Kube) -> None:
    ends = time.monotonic() + 5
    while not _kube._closed_by_server(kube._connection):
        assert time.monotonic() < ends, "the server has not closed the connection"
        time.sleep(0.01)


def test_a_write_after_the_server_has_closed_the_idle_connection_is_sent_once_over_a_new_one(server: Server) -> None:
    hang_up_after(server, 1)
    kube = connect(server)
    kube.get("/api")
    wait_until_closed(kube)
    assert kube.post("/api/v1/namespaces", {"kind": "Namespace"})["number"] == 2
    assert server.methods == ["GET", "POST"]
    assert server.requests[0][2] != server.requests[1][2]


def test_requests_over_a_connection_that_lives_share_it(server: Server) -> None:
    hang_up_after(server, 0)
    kube = connect(server)
    for _attempt in range(3):
        kube.get("/api")
    assert len({client for _path, _headers, client in server.requests}) == 1


def test_a_write_whose_connection_breaks_after_it_was_sent_is_not_sent_again(server: Server) -> None:
    hang_up_after(server, 2, answer=False)
    kube = connect(server)
    kube.get("/api")
    with pytest.raises(_kube.KubeError) as lost:
        kube.post("/api/v1/namespaces", {"kind": "Namespace"})
    assert lost.value.outcome_unknown
    assert server.methods == ["GET", "POST"]
