# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The WebSocket conversations of a probe, each with a deadline. Private to this collection."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _probe_rules
from ansible_collections.signal.rollout.plugins.module_utils._probe_http import RETRY_PAUSE, cause
from ansible_collections.signal.rollout.plugins.module_utils._probe_plan import Plan
from ansible_collections.signal.rollout.plugins.module_utils._probe_verdict import Dialogue

try:
    import requests
    import requests.certs
except ImportError:
    requests = None

try:
    import websocket
except ImportError:
    websocket = None

_CLOSE_PAUSE = 1.0


def call_websocket(plan: Plan, check: Mapping[str, Any], left: Callable[[], float]) -> Dialogue:
    """Hold one conversation; one that is accepted and stays silent is tried again ``plan.retries`` times.

    Nothing was answered then, so nothing is asked twice. Never raises for the network.
    """
    attempts = 0
    for _attempt in range(plan.retries + 1):
        dialogue = _converse(plan, check, left)
        attempts += dialogue.attempts
        if not dialogue.silent or not check["websocket"]["expect"] or left() <= RETRY_PAUSE:
            break
    dialogue.attempts = attempts
    return dialogue


def _converse(plan: Plan, check: Mapping[str, Any], left: Callable[[], float]) -> Dialogue:
    """Connect, send all, wait for what is expected in order, then measure round trips."""
    options = check["websocket"]
    dialogue = Dialogue()
    started = time.perf_counter()
    deadline = time.monotonic() + min(plan.timeout, left())
    client = websocket.WebSocket(enable_multithread=False)
    try:
        _open_websocket(client, plan, plan.url(check), dialogue, deadline)
        if dialogue.status != 101:
            return dialogue
        dialogue.opened = time.perf_counter() - started
        for message in options["send"]:
            client.send(_as_text(message))
        for wanted in options["expect"]:
            _await_message(client, wanted, dialogue, deadline)
            dialogue.matched += 1
        dialogue.seconds = time.perf_counter() - started
        for number in range(options["round_trips"]):
            deadline = time.monotonic() + min(plan.timeout, left())
            dialogue.round_trips.append(_round_trip(client, options, number, dialogue, deadline))
    except _Unanswered as error:
        dialogue.error = str(error)
    except websocket.WebSocketTimeoutException:
        dialogue.error = f"nothing within {plan.timeout:.3g} s"
    except (websocket.WebSocketException, OSError, ValueError) as error:
        dialogue.error = cause(error)
    finally:
        _close_websocket(client)
    return dialogue


class _Unanswered(Exception):
    """The awaited message did not come; the text says what came instead."""


def _open_websocket(client: Any, plan: Plan, url: str, dialogue: Dialogue, deadline: float) -> None:
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    # The library would take a proxy from the environment and connect by itself; a probe speaks to the address it was given.
    limit = max(0.001, deadline - time.monotonic())
    try:
        connection = _connect(plan, parts.hostname or "", port, limit, dialogue)
        if secure:
            context = ssl.create_default_context(cafile=plan.ca_cert or requests.certs.where())
            if not plan.validate_certs:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(connection, server_hostname=parts.hostname)
    except ssl.SSLError as error:
        dialogue.error = f"TLS: {cause(error)}"
        return
    except TimeoutError:
        dialogue.error = f"no connection within {limit:.3g} s"
        return
    client.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        client.connect(
            url,
            socket=connection,
            redirect_limit=0,
            suppress_origin=True,
            host=plan.host_header,
            header=[f"{name}: {value}" for name, value in plan.headers.items()],
        )
        dialogue.status = 101
    except websocket.WebSocketBadStatusException as error:
        dialogue.status = error.status_code
        dialogue.error = f"status {error.status_code}"
    except websocket.WebSocketException as error:
        answer = getattr(client, "handshake_response", None)
        dialogue.status = answer.status if answer else 0
        dialogue.error = f"status {answer.status}" if answer else cause(error)


def _connect(plan: Plan, host: str, port: int, limit: float, dialogue: Dialogue) -> socket.socket:
    dialogue.attempts = 0
    while True:
        dialogue.attempts += 1
        try:
            connection = socket.create_connection((host, port), timeout=limit)
        except OSError:
            if dialogue.attempts > plan.retries:
                raise
            time.sleep(RETRY_PAUSE)
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _await_message(client: Any, wanted: Any, dialogue: Dialogue, deadline: float) -> None:
    """Read until a message matches; others in between are skipped, as a service may send at any time."""
    dialogue.last = None
    while True:
        text = _receive(client, deadline, websocket.ABNF.OPCODE_TEXT, dialogue)
        if _fits(wanted, text):
            return
        dialogue.last = text


def _fits(wanted: Any, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted == text
    try:
        return _probe_rules.subset(wanted, _probe_rules.read_json(text))
    except (ValueError, RecursionError):
        return False


def _receive(client: Any, deadline: float, opcode: int, dialogue: Dialogue) -> str:
    """Return the next message of that kind. Raises :class:`_Unanswered` at the deadline or when the server closes."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Unanswered("no such message in time")
        client.settimeout(left)
        try:
            kind, frame = client.recv_data_frame(control_frame=True)
        except websocket.WebSocketTimeoutException:
            raise _Unanswered("no such message in time") from None
        except websocket.WebSocketConnectionClosedException:
            raise _Unanswered("the connection was cut without a close frame") from None
        if kind == websocket.ABNF.OPCODE_CLOSE:
            dialogue.closed = True
            code = int.from_bytes(frame.data[:2], "big") if len(frame.data) >= 2 else 1005
            raise _Unanswered(f"the server closed with code {code}")
        dialogue.messages += kind == websocket.ABNF.OPCODE_TEXT
        dialogue.pings += kind == websocket.ABNF.OPCODE_PING
        if kind == opcode:
            return frame.data.decode("utf-8", "replace")


def _round_trip(client: Any, options: Mapping[str, Any], number: int, dialogue: Dialogue, deadline: float) -> float:
    started = time.perf_counter()
    if options["ping"] is not None:
        client.send(_as_text(options["ping"]))
        _await_message(client, options["pong"], dialogue, deadline)
        return time.perf_counter() - started
    payload = f"rollout-{number}"
    client.ping(payload)
    while _receive(client, deadline, websocket.ABNF.OPCODE_PONG, dialogue) != payload:
        continue
    return time.perf_counter() - started


def _as_text(message: Any) -> str:
    return message if isinstance(message, str) else json.dumps(message)


def _close_websocket(client: Any) -> None:
    # The verdict is known by now; a peer that is already gone cannot change it.
    with contextlib.suppress(websocket.WebSocketException, OSError, ValueError):
        client.close(timeout=_CLOSE_PAUSE)
