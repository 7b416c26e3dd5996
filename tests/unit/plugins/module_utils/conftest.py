# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real HTTP server on loopback, for what talks HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


class Server:
    """Its answer is a function of the parameter ``query``, from the address or the form; it keeps the requests it got."""

    def __init__(self) -> None:
        one = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.5, "1"]}]}}
        self.respond: Callable[[BaseHTTPRequestHandler, str], None] = lambda handler, query: self.send(handler, one)
        self.methods: list[str] = []
        self.bodies: list[str] = []
        self.requests: list[tuple[str, dict[str, str], tuple[str, int]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                outer.methods.append(self.command)
                outer.bodies.append(body)
                outer.requests.append((self.path, dict(self.headers), self.client_address))
                outer.respond(self, parse_qs(urlsplit(self.path).query or body).get("query", [""])[0])

            do_POST = do_GET

            def log_message(self, *unused: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                # The client hangs up on purpose in some tests.
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def other_server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
