#!/usr/bin/env python3
# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records notifications instead of delivering them: webhooks by HTTP, mail by SMTP. Standard library only.

HTTP: ``POST /hook/<name>`` records (any body), ``GET /messages`` returns everything as a JSON list, oldest first,
``DELETE /messages`` forgets it, ``GET /health`` answers 200. SMTP: enough of ESMTP for any mail client to hand over
a message; no authentication, no TLS. Everything is kept in memory, the newest 10,000 messages.

A message is ``{"time", "channel": "http"|"smtp", "name", "from", "to", "subject", "headers", "body"}``: ``name`` is the
hook's, ``from``, ``to`` (a list) and ``subject`` are the mail's, each null for the other channel. ``headers`` maps lower-case
names to values. A mail's ``body`` is its text, decoded; the HTTP body is decoded as UTF-8.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

MAX_MESSAGES = 10_000
MAX_BODY = 4 << 20
_MAX_LINE = 16 << 10
_MAX_HEADERS = 100
_IDLE_SECONDS = 120.0
_HOOK = re.compile(r"/hook/([A-Za-z0-9._~-]{1,100})")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class HttpError(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Sink:
    """The recorded messages and the two protocols that add to them."""

    def __init__(self) -> None:
        self.messages: deque[dict[str, object]] = deque(maxlen=MAX_MESSAGES)
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def record(self, channel: str, **fields: object) -> None:
        """Keep one message."""
        message: dict[str, object] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "channel": channel,
            "name": None,
            "from": None,
            "to": None,
            "subject": None,
        }
        self.messages.append(message | fields)

    async def start(self, bind: str, http_port: int, smtp_port: int) -> tuple[int, int]:
        """Listen on both ports (0 = any free one) and return them; raises OSError when one is taken."""
        ports = []
        for handler, port in ((self._http, http_port), (self._smtp, smtp_port)):
            server = await asyncio.start_server(self._tracked(handler), bind, port, limit=_MAX_LINE)
            self._servers.append(server)
            ports.append(server.sockets[0].getsockname()[1])
        return ports[0], ports[1]

    async def stop(self) -> None:
        """Stop listening and drop the open connections."""
        for server in self._servers:
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _tracked(self, handler: Handler) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                await handler(reader, writer)
            except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
                # The other side left, was silent for too long, or we stop: nothing to answer.
                pass
            finally:
                self._connections.discard(task)
                writer.close()

        return serve

    # -- HTTP ------------------------------------------------------------------------------------

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive = True
        while keep_alive:
            status, body, keep_alive = HTTPStatus.OK, b"", False
            try:
                line = await _line(reader)
                if not line:
                    return
                status, body, keep_alive = await self._request(line, reader, writer)
            except HttpError as error:
                status, body = error.status, json.dumps({"error": str(error)}).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
            )
            # One write: two would meet Nagle's algorithm and a delayed acknowledgement.
            writer.write(head.encode() + body)
            await writer.drain()

    async def _request(self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[HTTPStatus, bytes, bool]:
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise HttpError(HTTPStatus.BAD_REQUEST, "malformed request line")
        method, target, protocol = parts
        headers: dict[str, str] = {}
        while header := await _line(reader):
            name, colon, value = header.partition(":")
            if not colon or len(headers) >= _MAX_HEADERS:
                raise HttpError(HTTPStatus.BAD_REQUEST, "malformed or too many headers")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(headers, reader)
        wanted = headers.get("connection", "").lower()
        keep_alive = wanted != "close" if protocol == "HTTP/1.1" else wanted == "keep-alive"
        status, answer = self._answer(method, unquote(urlsplit(target).path), headers, body)
        return status, json.dumps(answer).encode(), keep_alive

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[HTTPStatus, object]:
        hook = _HOOK.fullmatch(path)
        if hook:
            if method != "POST":
                raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "a hook takes POST")
            self.record("http", name=hook[1], headers=headers, body=body.decode("utf-8", "backslashreplace"))
            return HTTPStatus.OK, {"recorded": True}
        if path == "/messages" and method == "GET":
            return HTTPStatus.OK, list(self.messages)
        if path == "/messages" and method == "DELETE":
            count = len(self.messages)
            self.messages.clear()
            return HTTPStatus.OK, {"deleted": count}
        if path == "/health" and method == "GET":
            return HTTPStatus.OK, {"status": "healthy", "messages": len(self.messages)}
        raise HttpError(HTTPStatus.NOT_FOUND, "no such path: POST /hook/<name>, GET or DELETE /messages, GET /health")

    # -- SMTP ------------------------------------------------------------------------------------

    async def _smtp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        sender: str | None = None
        recipients: list[str] = []
        await say("220 sink ESMTP")
        while True:
            try:
                raw = await asyncio.wait_for(reader.readline(), _IDLE_SECONDS)
            except ValueError:
                await say("500 line too long")
                return
            if not raw:
                return
            line = raw.decode("utf-8", "backslashreplace").strip()
            verb = line[:4].upper()
            if verb in ("EHLO", "HELO"):
                sender, recipients = None, []
                await say(f"250-sink\r\n250-SIZE {MAX_BODY}\r\n250-8BITMIME\r\n250 SMTPUTF8" if verb == "EHLO" else "250 sink")
            elif verb == "MAIL":
                address = _address(line, "FROM")
                if address is None:
                    await say("501 expected MAIL FROM:<address>")
                else:
                    sender, recipients = address, []
                    await say("250 ok")
            elif verb == "RCPT":
                address = _address(line, "TO")
                if sender is None:
                    await say("503 MAIL first")
                elif not address:
                    await say("501 expected RCPT TO:<address>")
                else:
                    recipients.append(address)
                    await say("250 ok")
            elif verb == "DATA":
                if sender is None or not recipients:
                    await say("503 MAIL and RCPT first")
                    continue
                await say("354 end with a line holding one dot")
                content = await _mail(reader)
                if content is None:
                    await say("552 message too big")
                    return
                self._record_mail(sender, recipients, content)
                sender, recipients = None, []
                await say("250 recorded")
            elif verb == "RSET":
                sender, recipients = None, []
                await say("250 ok")
            elif verb == "NOOP":
                await say("250 ok")
            elif verb == "QUIT":
                await say("221 bye")
                return
            else:
                await say("502 not implemented")

    def _record_mail(self, sender: str, recipients: list[str], content: bytes) -> None:
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        part = message.get_body(preferencelist=("plain", "html"))
        try:
            body = part.get_content() if part is not None else ""
        except (LookupError, ValueError):
            # An unknown character set: keep the bytes readable.
            body = content.decode("utf-8", "backslashreplace")
        subject = message["subject"]
        self.record(
            "smtp",
            **{"from": sender},
            to=recipients,
            subject=None if subject is None else str(subject),
            headers={name.lower(): str(value) for name, value in message.items()},
            body=body,
        )


async def _line(reader: asyncio.StreamReader) -> str:
    """Return the next line without its end; "" also at the end of the stream."""
    try:
        raw = await asyncio.wait_for(reader.readline(), _IDLE_SECONDS)
    except ValueError as error:
        raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "line too long") from error
    return raw.decode("latin-1").rstrip("\r\n")


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    too_big = HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body above {MAX_BODY} bytes")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while True:
            size_text = (await _line(reader)).partition(";")[0].strip()
            if not re.fullmatch(r"[0-9A-Fa-f]{1,8}", size_text):
                raise HttpError(HTTPStatus.BAD_REQUEST, "malformed chunk")
            size = int(size_text, 16)
            if size == 0:
                while await _line(reader):
                    pass
                return bytes(body)
            if len(body) + size > MAX_BODY:
                raise too_big
            body += await asyncio.wait_for(reader.readexactly(size), _IDLE_SECONDS)
            await _line(reader)
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,12}", length):
        raise HttpError(HTTPStatus.BAD_REQUEST, "malformed content-length")
    if int(length) > MAX_BODY:
        raise too_big
    return await asyncio.wait_for(reader.readexactly(int(length)), _IDLE_SECONDS)


def _address(line: str, word: str) -> str | None:
    """Return the address of ``MAIL FROM:<a>`` or ``RCPT TO:<a>``; "" is the null sender, None is malformed."""
    match = re.match(rf"[A-Za-z]{{4}} {word}: ?<([^<>\s]{{0,320}})>", line, re.IGNORECASE)
    return match[1] if match else None


async def _mail(reader: asyncio.StreamReader) -> bytes | None:
    """Read a message up to the lone dot, undoing dot-stuffing; None when it is too big."""
    content = bytearray()
    while True:
        try:
            line = await asyncio.wait_for(reader.readline(), _IDLE_SECONDS)
        except ValueError:
            return None
        if not line:
            raise asyncio.IncompleteReadError(bytes(content), None)
        if line in (b".\r\n", b".\n"):
            return bytes(content)
        content += line[1:] if line.startswith(b".") else line
        if len(content) > MAX_BODY:
            return None


async def serve(bind: str, http_port: int, smtp_port: int) -> None:
    """Run until TERM or INT."""
    sink = Sink()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    http, smtp = await sink.start(bind, http_port, smtp_port)
    print(f"sink: HTTP on {bind}:{http}, SMTP on {bind}:{smtp}", flush=True)
    await stop.wait()
    await sink.stop()


def main() -> int:
    """Parse the command line and serve; returns the exit code."""
    parser = argparse.ArgumentParser(description="Record webhooks and mails.")
    parser.add_argument("--bind", default="0.0.0.0", help="address to listen on (default %(default)s)")
    parser.add_argument("--http-port", type=int, default=8080, help="default %(default)s")
    parser.add_argument("--smtp-port", type=int, default=2525, help="default %(default)s")
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.bind, options.http_port, options.smtp_port))
    except OSError as error:
        print(f"sink: cannot listen on {options.bind}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
