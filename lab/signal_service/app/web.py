# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP side: routes, and the ASGI layer around them that counts, times, breaks and records requests."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, WebSocket
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST

from .answers import Answers, dumps
from .cache import Cache
from .config import SERVICE, Settings
from .knobs import Knobs
from .logs import TableHandler
from .metrics import Metrics
from .requests import RequestError, parse_range, parse_timeframe
from .storage import Storage
from .subscriptions import Subscriptions

log = logging.getLogger("signal.web")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Module names, since FastAPI looks annotations up in the module.
Since = Annotated[str | None, Query(alias="from", max_length=40)]
Until = Annotated[str | None, Query(alias="to", max_length=40)]

# Not API requests: never broken by a knob, never counted.
_INFRASTRUCTURE = frozenset({"/health", "/livez", "/metrics"})
_UNMATCHED = "unmatched"
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Service:
    """Everything one process consists of; ``asgi`` is what the server runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.knobs = Knobs(settings.knobs_dir, settings.leak_cap_mb, settings.disk_dir)
        self.started = time.time()
        versions = ("v1", "v2") if settings.is_v2 else ("v1",)
        endpoints = [
            ("GET", path)
            for version in versions
            for path in (
                f"/api/{version}/status",
                f"/api/{version}/realtime/greeks/{{instrument_key}}",
                f"/api/{version}/historical/greeks/{{instrument_key}}",
            )
        ]
        if settings.is_v2:
            endpoints.append(("GET", "/api/v2/realtime/moneyness/{underlying}/greeks/{moneyness}"))
        self.metrics = Metrics(settings.version, endpoints)
        self.metrics.watch_disk(settings.disk_dir)
        self.storage = Storage(settings, self.metrics)
        self.cache = Cache(settings.redis_url, settings.version, self.metrics)
        self.answers = Answers(settings, self.storage, self.cache, self.metrics)
        self.subscriptions = Subscriptions(settings, self.answers, self.storage, self.metrics)
        self._columns = (settings.version,) if settings.is_v2 else ()
        logging.getLogger().addHandler(TableHandler(self._log_row))
        self.app = self._build()
        self._routes = [(route.path_regex, route.path) for route in self.app.routes if isinstance(route, APIRoute)]
        self._fixed_paths = {route.path for route in self.app.routes} - {path for _regex, path in self._routes}
        self._known: dict[str, str] = {}

    def _log_row(self, moment: datetime, level: str, error_type: str | None, message: str) -> None:
        self.storage.queue("logs", (moment, SERVICE, level, error_type, message, *self._columns))

    # -- life ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> Any:
        self.knobs.refresh()
        tasks = [
            asyncio.create_task(work)
            for work in (
                self.knobs.run(),
                self.storage.connect_forever(),
                self.storage.write_forever(),
                self.subscriptions.tick_forever(),
            )
        ]
        for task in tasks:
            task.add_done_callback(_stop_if_failed)
        log.info("started", extra={"pod": self.settings.pod})
        yield
        log.info("stopped", extra={"pod": self.settings.pod})
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.storage.close()
        await self.cache.close()

    async def health(self) -> tuple[int, dict[str, object]]:
        """Return (HTTP status, body). Redis down is a slower service, not a broken one."""
        database, redis = await asyncio.gather(self.storage.health(), self.cache.check())
        healthy = database == "ok" and not self.knobs.values.unready
        body: dict[str, object] = {
            "status": "unhealthy" if not healthy else "healthy" if redis else "degraded",
            "version": self.settings.version,
            "checks": {"database": database, "redis": "ok" if redis else "down"},
        }
        return (200 if healthy else 503), body

    # -- routes ----------------------------------------------------------------------------------

    def _build(self) -> FastAPI:
        settings, answers = self.settings, self.answers
        app = FastAPI(
            title="Signal service",
            version=settings.version,
            description="Greeks of index options: theta per year, vega and rho per 1.00.",
            docs_url=None,
            redoc_url=None,
            lifespan=self._lifespan,
        )

        @app.exception_handler(RequestError)
        async def refuse(_request: Request, error: RequestError) -> Response:
            return _json(dumps({"detail": str(error), "version": settings.version}), error.code)

        @app.get("/health", tags=["operations"])
        async def health() -> Response:
            """Tell whether this instance can serve."""
            code, body = await self.health()
            return _json(dumps(body), code)

        @app.get("/livez", include_in_schema=False)
        async def livez() -> Response:
            return Response(b"ok", media_type="text/plain")

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)

        def add(version: str) -> None:
            prefix = f"/api/{version}"

            @app.get(f"{prefix}/status", name=f"status_{version}", tags=[version])
            async def status() -> Response:
                """Describe the running service."""
                code, body = await self.health()
                features = ["greeks", "history", "subscriptions"]
                if settings.is_v2:
                    features += ["moneyness", "timeframe"]
                body |= {
                    "service": SERVICE,
                    "api": version,
                    "pod": settings.pod,
                    "uptime_seconds": round(time.time() - self.started, 3),
                    "features": features,
                    "underlyings": sorted(under.name for under in self.storage.underlyings.values()),
                    "listed_instruments": len(self.storage.listed),
                }
                return _json(dumps(body), code)

            @app.get(f"{prefix}/realtime/greeks/{{instrument_key}}", name=f"realtime_{version}", tags=[version])
            async def realtime(instrument_key: str) -> Response:
                """Return the Greeks of one option now."""
                return _cached(*await answers.realtime(instrument_key))

            @app.websocket(f"{prefix}/subscriptions/websocket")
            async def subscriptions(websocket: WebSocket) -> None:
                await self.subscriptions.serve(websocket)

        for version in ("v1", "v2") if settings.is_v2 else ("v1",):
            add(version)

        async def history(key: str, since: str | None, until: str | None, step: timedelta) -> Response:
            # Whole minutes, so that repeated "last day" questions share a cache entry.
            now = datetime.now(timezone.utc).replace(second=0, microsecond=0)
            start, end = parse_range(since, until, now)
            return _cached(*await answers.historical(key, start, end, step))

        @app.get("/api/v1/historical/greeks/{instrument_key}", name="historical_v1", tags=["v1"])
        async def historical_v1(instrument_key: str, since: Since = None, until: Until = None) -> Response:
            """Return hourly Greeks of one option."""
            return await history(instrument_key, since, until, timedelta(hours=1))

        if settings.is_v2:

            @app.get("/api/v2/historical/greeks/{instrument_key}", name="historical_v2", tags=["v2"])
            async def historical_v2(
                instrument_key: str,
                since: Since = None,
                until: Until = None,
                timeframe: Annotated[str | None, Query(max_length=10, description="Minutes per point.")] = None,
            ) -> Response:
                """Return Greeks of one option at any whole number of minutes per point."""
                step = parse_timeframe(timeframe, settings.max_timeframe_minutes)
                return await history(instrument_key, since, until, step)

            @app.get("/api/v2/realtime/moneyness/{underlying}/greeks/{moneyness}", name="moneyness_v2", tags=["v2"])
            async def moneyness_v2(underlying: str, moneyness: str, option_type: Annotated[str, Query(max_length=10)] = "CALL") -> Response:
                """Return the Greeks of the option that is ATM, OTM<d>delta or ITM<d>delta now."""
                return _cached(*await answers.moneyness(underlying, moneyness, option_type))

        return app

    def endpoint(self, path: str) -> str:
        """Return the route template that a path belongs to: a label with few values whatever clients send."""
        known = self._known.get(path)
        if known is None:
            known = path if path in self._fixed_paths else _UNMATCHED
            for regex, template in self._routes:
                if regex.match(path):
                    known = template
                    break
            # Bounded: a client that walks through paths must not grow our memory.
            if len(self._known) < 4096:
                self._known[path] = known
        return known

    # -- the layer around the routes -------------------------------------------------------------

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, self._with_version(send, "websocket.accept"))

    def _with_version(self, send: Send, kind: str) -> Send:
        header = (b"x-signal-version", self.settings.version.encode())

        async def with_version(message: Message) -> None:
            if message["type"] == kind:
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        return with_version

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        versioned = self._with_version(send, "http.response.start")
        path = scope["path"]
        if path in _INFRASTRUCTURE:
            await self.app(scope, receive, versioned)
            return
        started = time.perf_counter()
        self.metrics.seen(_client(scope))
        code = 0

        async def watched(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await versioned(message)

        knobs = self.knobs.values
        if knobs.latency_seconds:
            await asyncio.sleep(knobs.latency_seconds)
        endpoint = self.endpoint(path)
        if knobs.error_ratio and random.random() < knobs.error_ratio:
            log.error("request failed", extra={"error_type": "InjectedError", "endpoint": endpoint})
            await _json(dumps({"detail": "injected error", "version": self.settings.version}), 500)(scope, receive, watched)
        else:
            try:
                await self.app(scope, receive, watched)
            except Exception as error:
                # FastAPI has answered 500 and raised again for the server to log; once is enough.
                log.error("request failed", exc_info=True, extra={"error_type": type(error).__name__, "endpoint": endpoint})
        if code == 0:
            # The client left before there was an answer.
            return
        seconds = time.perf_counter() - started
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "OTHER"
        self.metrics.request(endpoint, method, code, seconds)
        self.storage.queue(
            "api_requests",
            (datetime.now(timezone.utc), SERVICE, endpoint, method, code, seconds * 1000.0, *self._columns),
        )


def _stop_if_failed(task: asyncio.Task[None]) -> None:
    """End the process when one of its loops has failed: Kubernetes replaces it, half a service would go unnoticed."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.critical("a background task failed, stopping", exc_info=error, extra={"error_type": type(error).__name__})
        signal.raise_signal(signal.SIGTERM)


def _client(scope: Scope) -> str:
    """Return what tells this client from others: the address that the gateway saw, or that of the connection."""
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            return value.split(b",", 1)[0].strip()[:64].decode("latin-1")
    return scope["client"][0] if scope.get("client") else ""


def _json(body: bytes, code: int = 200) -> Response:
    return Response(body, status_code=code, media_type="application/json")


def _cached(body: bytes, from_cache: bool) -> Response:
    return Response(body, media_type="application/json", headers={"x-cache": "hit" if from_cache else "miss"})
