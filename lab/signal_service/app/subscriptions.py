# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WebSocket subscriptions: one clock values each subscribed instrument once per tick and feeds all clients."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from datetime import datetime, timezone

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .answers import Answers
from .config import Settings
from .metrics import Metrics
from .requests import RequestError
from .storage import Storage

_MAX_INSTRUMENTS = 100
_MAX_CONNECTIONS = 2000
_GOING_AWAY = 1001
_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013

log = logging.getLogger("signal.subscriptions")


class Session:
    """One client. Answers go out in order; of the ticks of one instrument only the newest waits."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.identity = uuid.uuid4()
        self.instruments: dict[str, datetime] = {}
        self._replies: list[str] = []
        self._ticks: dict[str, str] = {}
        self._wake = asyncio.Event()

    def reply(self, message: dict[str, object]) -> None:
        """Queue the answer to a client's message."""
        self._replies.append(json.dumps(message, separators=(",", ":")))
        self._wake.set()

    def tick(self, instrument: str, text: str) -> None:
        """Queue a tick; one that a slow client has not taken yet is replaced."""
        self._ticks[instrument] = text
        self._wake.set()

    async def send_forever(self) -> None:
        """Send what is queued until the client is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            replies, self._replies = self._replies, []
            for text in replies:
                await self.websocket.send_text(text)
            ticks, self._ticks = self._ticks, {}
            for text in ticks.values():
                await self.websocket.send_text(text)


class Subscriptions:
    """All WebSocket clients of this process."""

    def __init__(self, settings: Settings, answers: Answers, storage: Storage, metrics: Metrics) -> None:
        self._settings = settings
        self._answers = answers
        self._storage = storage
        self._metrics = metrics
        self._sessions: set[Session] = set()
        self._closing = False

    async def serve(self, websocket: WebSocket) -> None:
        """Speak with one client until it leaves or the service stops."""
        await websocket.accept()
        if self._closing:
            await websocket.close(_GOING_AWAY)
            return
        if len(self._sessions) >= _MAX_CONNECTIONS:
            await websocket.close(_TRY_AGAIN_LATER)
            return
        session = Session(websocket)
        self._sessions.add(session)
        self._metrics.websocket_connections.inc()
        sender = asyncio.create_task(self._send(session))
        try:
            session.reply({"type": "hello", "version": self._settings.version})
            while True:
                self._handle(session, await websocket.receive_text())
        except (WebSocketDisconnect, RuntimeError, KeyError):
            # Starlette: RuntimeError for a receive after our own close, KeyError for a binary frame.
            if websocket.application_state is WebSocketState.CONNECTED and not self._closing:
                await self._close(session, 1003)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._sessions.discard(session)
            self._metrics.websocket_connections.dec()
            for instrument in list(session.instruments):
                self._end(session, instrument)

    async def _send(self, session: Session) -> None:
        try:
            await session.send_forever()
        except (WebSocketDisconnect, RuntimeError):
            log.debug("client left while something was sent to it")
        except Exception:
            # A client that gets nothing more must learn so; silence looks like a market without ticks.
            log.exception("sending to a client failed")
            await self._close(session, _INTERNAL_ERROR)

    def _handle(self, session: Session, text: str) -> None:
        try:
            message = json.loads(text)
            kind = message.get("type")
        except (ValueError, AttributeError, RecursionError):
            session.reply({"type": "error", "message": "expected a JSON object with a type"})
            return
        if kind == "ping":
            session.reply({"type": "pong", "t": message.get("t")})
        elif kind == "subscribe":
            self._subscribe(session, message.get("instrument"))
        elif kind == "unsubscribe":
            instrument = message.get("instrument")
            if isinstance(instrument, str) and instrument in session.instruments:
                self._end(session, instrument)
            session.reply({"type": "unsubscribed", "instrument": instrument})
        else:
            session.reply({"type": "error", "message": "type is not subscribe, unsubscribe or ping"})

    def _subscribe(self, session: Session, wanted: object) -> None:
        if not isinstance(wanted, str):
            session.reply({"type": "error", "message": "subscribe needs an instrument key"})
            return
        now = datetime.now(timezone.utc)
        try:
            if wanted not in session.instruments and len(session.instruments) >= _MAX_INSTRUMENTS:
                raise RequestError(429, f"a connection may subscribe to {_MAX_INSTRUMENTS} instruments")
            first = self._answers.tick(wanted, now)
        except RequestError as error:
            session.reply({"type": "error", "instrument": wanted[:100], "message": str(error)})
            return
        if wanted not in session.instruments:
            session.instruments[wanted] = now
            self._metrics.active_subscriptions.inc()
            self._record(session, wanted, now, None)
        session.reply({"type": "subscribed", "instrument": wanted})
        session.tick(wanted, json.dumps(first, separators=(",", ":")))

    def _end(self, session: Session, instrument: str) -> None:
        since = session.instruments.pop(instrument)
        self._metrics.active_subscriptions.dec()
        self._record(session, instrument, since, datetime.now(timezone.utc))

    def _record(self, session: Session, instrument: str, since: datetime, until: datetime | None) -> None:
        # An event table: one row when a subscription begins, one when it ends.
        if self._settings.is_v2:
            row = (session.identity, instrument, self._settings.pod, since, until)
            self._storage.queue("signal_subscriptions", row)

    async def tick_forever(self) -> None:
        """Feed the subscribers on a fixed schedule."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._settings.tick_interval
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            # After a stall go on from now, not with a burst of old ticks.
            due = max(due + self._settings.tick_interval, loop.time())
            self._tick(datetime.now(timezone.utc))

    def _tick(self, now: datetime) -> None:
        second = now.replace(microsecond=0)
        for under in self._storage.underlyings.values():
            # All pods write the same tick; the table keeps one.
            self._storage.queue("signal_ticks", (second, under.index_key(), under.spot(second.timestamp())))
        texts: dict[str, str] = {}
        for session in self._sessions:
            for instrument in session.instruments:
                if instrument not in texts:
                    try:
                        value = self._answers.tick(instrument, now)
                    except RequestError as error:
                        value = {"type": "error", "instrument": instrument, "message": str(error)}
                    texts[instrument] = json.dumps(value, separators=(",", ":"))
                session.tick(instrument, texts[instrument])

    async def _close(self, session: Session, code: int) -> None:
        try:
            await session.websocket.close(code)
        except (RuntimeError, WebSocketDisconnect):
            # The client left in the same moment.
            log.debug("client had already gone")

    async def close_all(self) -> None:
        """Tell every client that this server goes away (close code 1001)."""
        self._closing = True
        await asyncio.gather(*(self._close(session, _GOING_AWAY) for session in self._sessions))
