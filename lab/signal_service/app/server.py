# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uvicorn with a shutdown that suits a rolling shift, and with measured WebSocket round trips."""

from __future__ import annotations

import socket

import uvicorn
from uvicorn.protocols.websockets.websockets_impl import WebSocketProtocol

from .web import Service

# Longer than any proxy keeps an idle connection (Envoy: an hour): the side that closes first must be the
# client's, or a request may meet a closing connection.
_KEEP_ALIVE_SECONDS = 4000
_FINISH_SECONDS = 10
_WEBSOCKET_PING_SECONDS = 2.0
_WEBSOCKET_PONG_SECONDS = 20.0


class Server(uvicorn.Server):
    """On TERM: stop accepting, close the WebSockets with 1001, then finish what is in flight."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down in that order; uvicorn alone would close WebSockets with 1012."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        await self._service.subscriptions.close_all()
        await super().shutdown(sockets)


def build(service: Service) -> Server:
    """Return the server for the service, not yet started."""
    histogram = service.metrics.websocket_latency

    class MeasuredProtocol(WebSocketProtocol):
        """The library stores each ping's round trip in ``latency``; keep it as an observation too."""

        @property
        def latency(self) -> float:
            return self._latency

        @latency.setter
        def latency(self, seconds: float) -> None:
            self._latency = seconds
            # The constructor sets 0: no ping yet.
            if seconds > 0.0:
                histogram.observe(seconds)

    config = uvicorn.Config(
        service.asgi,
        host="0.0.0.0",
        port=service.settings.port,
        loop="uvloop",
        http="httptools",
        ws=MeasuredProtocol,
        interface="asgi3",
        proxy_headers=False,
        ws_ping_interval=_WEBSOCKET_PING_SECONDS,
        ws_ping_timeout=_WEBSOCKET_PONG_SECONDS,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=1024,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )
    return Server(config, service)
