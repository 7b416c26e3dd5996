# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends the traffic: requests on a fixed schedule, whatever the answers do, and standing WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from .ledger import Ledger
from .marks import marks_path, read_marks

MAX_DURATION = 7200.0
MAX_RATE = 2000.0
MAX_WEBSOCKETS = 500
_MAX_IN_FLIGHT = 4000
_RECONNECT_SECONDS = 0.5
_PONG_SECONDS = 5.0
_VERSION_HEADER = "x-signal-version"
_SUBSCRIPTIONS = "/api/v1/subscriptions/websocket"

_INSTRUMENTS = tuple(
    f"NSE@{underlying}@OPTION@{strike}@{side}"
    for underlying, strikes in (
        ("NIFTY", (21300, 21400, 21500, 21600, 21700)),
        ("BANKNIFTY", (47800, 48000, 48200)),
        ("FINNIFTY", (21300, 21400)),
    )
    for strike in strikes
    for side in ("CALL", "PUT")
)


def paths() -> list[str]:
    """Return one round of request paths, shuffled the same way each time; v1 and v2 both serve all of them."""
    historical = [f"/api/v1/historical/greeks/{key}?from=2024-01-01&to=2024-01-07" for key in _INSTRUMENTS[:4]]
    round_of_100 = [f"/api/v1/realtime/greeks/{_INSTRUMENTS[n % len(_INSTRUMENTS)]}" for n in range(85)]
    round_of_100 += [historical[n % len(historical)] for n in range(10)]
    round_of_100 += ["/api/v1/status"] * 5
    random.Random(1).shuffle(round_of_100)
    return round_of_100


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where. ``rate`` in requests per second; ``duration`` and ``timeout`` in seconds."""

    url: str
    host: str | None
    rate: float
    websockets: int
    report: Path
    duration: float = MAX_DURATION
    timeout: float = 10.0


class ReportInUse(Exception):
    """Another run writes to the same report."""


def failure_cause(error: BaseException) -> str:
    """Return a short, stable name of what went wrong with a request or a handshake."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"status {error.status}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "connection closed"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause: BaseException = error.os_error
    else:
        cause = error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, ConnectionResetError):
        return "connection reset"
    return type(cause).__name__


class Generator:
    """One run. ``run`` returns when the time is over or ``stop`` was called, with the final report written."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ledger = Ledger()
        self._stop = asyncio.Event()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._sequence = 0
        self._started = time.time()
        self._monotonic = time.monotonic()
        self._ended = ""
        self._headers = {"Host": plan.host} if plan.host else {}

    def _now(self) -> float:
        """Return the time of day as this run counts it: a clock that is set back does not disturb the books."""
        return self._started + time.monotonic() - self._monotonic

    def stop(self) -> None:
        """End the run: no new requests, wait for those in flight."""
        self._ended = self._ended or "stopped"
        self._stop.set()

    async def run(self) -> dict[str, object]:
        """Send the traffic; returns the totals. Raises ReportInUse."""
        lock_path = self._plan.report.with_name(self._plan.report.name + ".lock")
        with lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ReportInUse(f"another traffic run writes {self._plan.report}") from error
            marks_path(self._plan.report).write_text("")
            return await self._run()

    async def _run(self) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        timeout = aiohttp.ClientTimeout(total=self._plan.timeout)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=300.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
            # aiohttp sends a GET again by itself when a kept-alive connection turns out to be closed. That is the
            # very failure that a careless shutdown causes, so it must be seen and counted.
            session._retry_connection = False
            writer = asyncio.create_task(self._write_forever())
            sockets = [asyncio.create_task(self._websocket(session, n)) for n in range(self._plan.websockets)]
            try:
                await self._requests(session)
                if self._in_flight:
                    await asyncio.wait(self._in_flight, timeout=self._plan.timeout + 1.0)
            finally:
                for task in (*sockets, writer):
                    task.cancel()
                results = await asyncio.gather(*sockets, writer, return_exceptions=True)
                self._write(finished=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return self._ledger.totals()

    # -- requests --------------------------------------------------------------------------------

    async def _requests(self, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        mix = paths()
        start = loop.time()
        interval = 1.0 / self._plan.rate
        while not self._stop.is_set():
            due = start + self._sequence * interval
            if due - start >= self._plan.duration:
                self._ended = "duration"
                return
            delay = due - loop.time()
            if delay > 0.0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)
                continue
            self._send(session, mix[self._sequence % len(mix)], -delay)
            self._sequence += 1
            # After a stall the missed requests all go out now; answers must still be read in between.
            await asyncio.sleep(0)

    def _send(self, session: aiohttp.ClientSession, path: str, late: float) -> None:
        now = self._now()
        books = self._ledger.at(now)
        books.sent += 1
        books.lag_ms = max(books.lag_ms, late * 1000.0)
        if len(self._in_flight) >= _MAX_IN_FLIGHT:
            books.failed += 1
            books.causes[f"not sent: {_MAX_IN_FLIGHT} in flight"] += 1
            return
        task = asyncio.create_task(self._request(session, path, now))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _request(self, session: aiohttp.ClientSession, path: str, sent: float) -> None:
        started = time.perf_counter()
        version = "none"
        cause: str | None = None
        try:
            async with session.get(self._plan.url + path, headers=self._headers, allow_redirects=False) as response:
                version = response.headers.get(_VERSION_HEADER, "none")[:20]
                await response.read()
                if response.status != 200:
                    cause = f"status {response.status}"
        except (aiohttp.ClientError, OSError) as error:
            cause = failure_cause(error)
        books = self._ledger.at(sent)
        books.latency.add((time.perf_counter() - started) * 1000.0)
        books.versions[version] += 1
        if cause is None:
            books.ok += 1
        else:
            books.failed += 1
            books.causes[cause] += 1
            books.failed_versions[version] += 1

    # -- WebSockets ------------------------------------------------------------------------------

    async def _websocket(self, session: aiohttp.ClientSession, number: int) -> None:
        # Spread the pings over the second.
        await asyncio.sleep(number / max(1, self._plan.websockets))
        while True:
            try:
                socket = await session.ws_connect(self._plan.url + _SUBSCRIPTIONS, headers=self._headers, timeout=aiohttp.ClientWSTimeout(ws_close=2.0))
            except (aiohttp.ClientError, OSError) as error:
                self._ledger.at(self._now()).ws_open_failures[failure_cause(error)] += 1
            else:
                await self._converse(socket, _INSTRUMENTS[number % len(_INSTRUMENTS)])
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse, instrument: str) -> None:
        version = "none"
        counted = False
        pinger: asyncio.Task[None] | None = None
        # Sent, unanswered pings: number -> perf_counter.
        waiting: dict[int, float] = {}
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                data = json.loads(message.data)
                books = self._ledger.at(self._now())
                books.ws_messages += 1
                kind = data.get("type")
                if kind == "hello":
                    version = str(data.get("version", "none"))[:20]
                    books.ws_opened[version] += 1
                    self._ledger.ws_now[version] += 1
                    counted = True
                    await socket.send_json({"type": "subscribe", "instrument": instrument})
                    pinger = asyncio.create_task(self._ping(socket, waiting))
                elif kind == "pong" and data.get("t") in waiting:
                    books.ws_rtt.add((time.perf_counter() - waiting.pop(data["t"])) * 1000.0)
            # No close frame at all is reported as 1006, as browsers do.
            self._ledger.at(self._now()).ws_closed[str(socket.close_code or 1006)] += 1
        except (aiohttp.ClientError, OSError, ValueError):
            self._ledger.at(self._now()).ws_closed[str(socket.close_code or 1006)] += 1
        finally:
            if counted:
                self._ledger.ws_now[version] -= 1
            if pinger is not None:
                pinger.cancel()
                await asyncio.gather(pinger, return_exceptions=True)
            await socket.close()

    async def _ping(self, socket: aiohttp.ClientWebSocketResponse, waiting: dict[int, float]) -> None:
        number = 0
        while True:
            now = time.perf_counter()
            for late in [key for key, sent in waiting.items() if now - sent > _PONG_SECONDS]:
                del waiting[late]
                self._ledger.at(self._now()).ws_stalls += 1
            waiting[number] = now
            await socket.send_json({"type": "ping", "t": number})
            number += 1
            await asyncio.sleep(1.0)

    # -- report ----------------------------------------------------------------------------------

    async def _write_forever(self) -> None:
        while True:
            self._ledger.close_before(self._now() - 1.0)
            self._write(finished=False)
            await asyncio.sleep(1.0)

    def _write(self, finished: bool) -> None:
        head = {
            "schema": 1,
            "url": self._plan.url,
            "host": self._plan.host,
            "rate": self._plan.rate,
            "websockets": self._plan.websockets,
            "pid": os.getpid(),
            "started": round(self._started, 3),
            "updated": round(self._now(), 3),
            "finished": finished,
            "ended": self._ended if finished else None,
            "totals": self._ledger.totals(),
            "marks": read_marks(self._plan.report),
        }
        text = json.dumps(head, indent=1)
        # The seconds are already text; joining costs less each second than building them again.
        text = f'{text[:-2]},\n "seconds": {self._ledger.seconds_text()}\n}}\n'
        temporary = self._plan.report.with_name(f".{self._plan.report.name}.partial")
        temporary.write_text(text)
        os.replace(temporary, self._plan.report)
