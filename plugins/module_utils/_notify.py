# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages to people, each event once. Private to this collection.

Apprise knows how to speak to the services. Here are the limits around it: time, length, mentions, redirects, and that no
address of a target ever gets into a result or a log, since most of them are passwords.
"""

from __future__ import annotations

import errno
import logging
import re
import smtplib
import threading
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import apprise
except ImportError:
    apprise = None

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "targets": {"type": "list", "elements": "str", "required": True, "no_log": True},
    "event": {"type": "str", "required": True},
    "title": {"type": "str", "required": True},
    "body": {"type": "str", "required": True},
    "body_format": {"type": "str", "default": "text", "choices": ["text", "markdown", "html"]},
    "severity": {"type": "str", "default": "info", "choices": ["info", "success", "warning", "failure"]},
    "required": {"type": "bool", "default": False},
    "sent_events": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 10.0},
    "max_length": {"type": "int", "default": 4000},
}
SUPPORTS_CHECK_MODE = True

MAX_TITLE = 200
MAX_EVENT = 200
WORKERS = 16
_GRACE = 0.25  # seconds
_EVENT_HEADER = "X-Rollout-Event"
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,30})://")
_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all|room|team)\b)", re.IGNORECASE)
_MARKUP_MENTION = re.compile(r"<(?=[!@#])")
_BREAK = "\u200b"
# Characters that reorder the text around them: a message could show something else than it says.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_STATUS = re.compile(r"\berror\s*=\s*(\d{3})\b")
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("certificate", "SSLError", "SSL:"), "TLS: the certificate or handshake was not accepted"),
    (("Connection refused", f"Errno {errno.ECONNREFUSED}"), "connection refused"),
    (("Name or service not known", "Failed to resolve", "nodename nor servname", "Name resolution"), "host name not found"),
    (("No route to host", "Network is unreachable"), "no route to the host"),
    (("timed out", "Timeout"), "timed out"),
    (("Connection reset", "RemoteDisconnected", "Connection aborted", "unexpectedly closed"), "the connection was cut"),
    (("Authentication", "authentication"), "credentials refused"),
)


# --- text -------------------------------------------------------------------------------------------------------------


def clean(text: str, limit: int, single_line: bool = False) -> str:
    """Return ``text`` as it may be sent: no control characters, no terminal sequences, no mentions, at most ``limit`` long.

    Line breaks and tabs stay, unless ``single_line``. Mentions of everybody are made inert by a zero-width space, so that they
    read the same. What is cut off is said at the end.
    """
    text = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(character for character in text if character in "\n\t" or _is_text(character))
    if single_line:
        text = " ".join(text.split())
    # Cut before the mentions are handled: their escapes must not be what is cut in the middle.
    if len(text) > limit:
        note = f"... (cut, {len(text)} characters)"
        text = text[: max(0, limit - len(note))] + note
    text = _MARKUP_MENTION.sub("<" + _BREAK, text)
    return _MENTION.sub("@" + _BREAK, text)


def _is_text(character: str) -> bool:
    # Cc: control characters; Cs: halves of surrogate pairs, which no encoding can send.
    return unicodedata.category(character) not in ("Cc", "Cs") and ord(character) not in _BIDI


def event_part(event: str, index: int) -> str:
    """Return the id that stands for one target's share of an event."""
    return f"{event}#{index}"


def open_targets(event: str, count: int, sent_events: Iterable[str]) -> list[int]:
    """Return the indexes of the targets that have not had this event yet.

    ``sent_events`` holds ids of whole events, and ``event#index`` where only some targets took it.
    """
    sent = set(sent_events)
    if event in sent:
        return []
    return [index for index in range(count) if event_part(event, index) not in sent]


def record_events(event: str, count: int, sent_events: Iterable[str], delivered: Iterable[int]) -> list[str]:
    """Return the ids to remember after this call: the event itself once every target has had it."""
    delivered = set(delivered)
    had = set(range(count)) - set(open_targets(event, count, sent_events))
    if count and had | delivered == set(range(count)):
        return [event]
    return [event_part(event, index) for index in sorted(delivered)]


def reason_of(lines: Iterable[str]) -> str:
    """Return why a delivery failed, in our own words: what a library logged may hold the address."""
    text = "\n".join(lines)
    status = _STATUS.search(text)
    if status:
        return f"the service answered {status.group(1)}"
    for parts, reason in _REASONS:
        if any(part in text for part in parts):
            return reason
    return "not accepted by the service"


# --- delivery ---------------------------------------------------------------------------------------------------------


class _ThreadLog(logging.Handler):
    """Keeps what one thread logged, for :func:`reason_of`; nothing of it is passed on."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: dict[int, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kept = self.lines.setdefault(record.thread or 0, [])
        if len(kept) < 50:
            kept.append(record.getMessage()[:2000])


def _keep_logs_private(handler: logging.Handler) -> None:
    """Send what the libraries log to ``handler`` only, for the rest of this process, which belongs to one task.

    Addresses are in these lines, and Ansible's log file hangs on the root logger. It stays that way because a service that was
    given up may still log later.
    """
    for name in ("apprise", "urllib3"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [handler]
    logging.getLogger("apprise").setLevel(logging.DEBUG)


def _asset() -> Any:
    """Return Apprise's settings. Releases before 2.0 cannot refuse redirects, and are refused."""
    if not hasattr(apprise.AppriseAsset, "http_redirects"):
        version = getattr(apprise, "__version__", "unknown")
        raise RolloutError(f"notify needs Apprise 2.0 or newer, found {version}. Next: pip install --upgrade apprise")
    return apprise.AppriseAsset(
        app_id="signal.rollout",
        app_desc="signal.rollout",
        async_mode=False,
        http_redirects=False,
        # Without a limit of its own Apprise calls the service in our thread, where our deadline and our log handler are.
        service_timeout=0,
        storage_mode="memory",
        interpret_escapes=False,
        interpret_emojis=False,
    )


class _Delivery:
    """One target: ``service`` is None when Apprise does not understand its address."""

    def __init__(self, index: int, url: str, asset: Any, timeout: float, event: str) -> None:
        self.index = index
        self.reason: str | None = None
        self.done = threading.Event()
        self.service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        scheme = _SCHEME.match(url)
        self.name = str(self.service.service_name) if self.service else f"scheme '{scheme.group(1)}'" if scheme else "no URL"
        if self.service is None:
            self.reason = "Apprise does not understand this address"
            self.done.set()
            return
        self.service.socket_connect_timeout = timeout
        self.service.socket_read_timeout = timeout
        self.service.redirects = False
        if isinstance(getattr(self.service, "headers", None), dict):
            self.service.headers.setdefault(_EVENT_HEADER, event.encode("ascii", "backslashreplace").decode())

    def send(self, title: str, body: str, params: Mapping[str, Any], asset: Any, log: _ThreadLog) -> None:
        """Hand the message over; ``reason`` says what went wrong, in words without the address."""
        try:
            sender = apprise.Apprise(asset=asset)
            sender.add(self.service)
            accepted = bool(
                sender.notify(body=body, title=title, notify_type=params["severity"], body_format=params["body_format"])
            )
            self.reason = None if accepted else reason_of(log.lines.get(threading.get_ident(), []))
        except (OSError, smtplib.SMTPException, ValueError, TypeError, RuntimeError) as error:
            self.reason = reason_of([type(error).__name__, str(error)])
        finally:
            self.done.set()


def _deliver(
    deliveries: list[_Delivery], title: str, body: str, params: Mapping[str, Any], asset: Any, log: _ThreadLog, context: Context
) -> None:
    """Send to all at once; return when all have answered, at the deadline, or when the run is cancelled."""
    waiting = list(deliveries)
    lock = threading.Lock()
    rounds = 1 + (len(deliveries) - 1) // WORKERS
    # The libraries keep the timeout themselves; the grace lets them say what happened.
    deadline = time.monotonic() + rounds * (params["timeout"] + _GRACE)

    def work() -> None:
        while time.monotonic() < deadline:
            with lock:
                if not waiting:
                    return
                delivery = waiting.pop(0)
            delivery.send(title, body, params, asset, log)

    # Daemon threads: a service that hangs must not keep the task from ending.
    for number in range(min(WORKERS, len(deliveries))):
        threading.Thread(target=work, name=f"notify-{number}", daemon=True).start()
    for delivery in deliveries:
        while not delivery.done.is_set() and time.monotonic() < deadline and not context.cancelled.is_set():
            delivery.done.wait(min(0.1, max(0.0, deadline - time.monotonic())))


# --- the engine -------------------------------------------------------------------------------------------------------


def option_problems(params: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options, one sentence each; the addresses are looked at when they are used."""
    problems = []
    event = params["event"]
    if not event.strip() or len(event) > MAX_EVENT or not event.isprintable() or "#" in event:
        problems.append(f"event is '{one_line(event, 60)}', expected 1 to {MAX_EVENT} printable characters without #")
    if not params["title"].strip():
        problems.append("title is empty, expected a text")
    if not 0.1 <= params["timeout"] <= 300:
        problems.append(f"timeout is {params['timeout']:g}, expected 0.1 to 300 seconds")
    if not 100 <= params["max_length"] <= 100_000:
        problems.append(f"max_length is {params['max_length']}, expected 100 to 100000 characters")
    return problems


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Send one event to every target that has not had it. Raises :class:`RolloutError` for bad options, and for a
    target that did not take it when ``required``."""
    event, targets = params["event"], params["targets"]
    title = clean(params["title"], MAX_TITLE, single_line=True)
    body = clean(params["body"], params["max_length"])
    todo = open_targets(event, len(targets), params["sent_events"])
    result: dict[str, Any] = {
        "changed": False,
        "event": event,
        "sent": False,
        "already_sent": bool(targets) and not todo,
        "delivered": [],
        "failures": [],
        "record_events": [],
        "preview": {"title": title, "body": body},
        "targets": [],
    }
    try:
        require("apprise", apprise)
        problems = option_problems(params)
        if problems:
            raise RolloutError(f"notify cannot use its options: {'; '.join(problems)}")
        asset = _asset()
    except RolloutError as error:
        raise RolloutError(error.message, **result) from None
    if not targets and params["required"]:
        raise RolloutError(
            f"notify: event {event} is required, but targets is empty, expected at least one address. Next: set targets", **result
        )
    log = _ThreadLog()
    _keep_logs_private(log)
    deliveries = [_Delivery(index, targets[index], asset, params["timeout"], event) for index in todo]
    result["targets"] = [{"index": delivery.index, "service": delivery.name} for delivery in deliveries]
    usable = [delivery for delivery in deliveries if delivery.service is not None]
    if usable and not context.check_mode:
        _deliver(usable, title, body, params, asset, log, context)
    for delivery in deliveries:
        if not context.check_mode and not delivery.done.is_set():
            stopped = "interrupted" if context.cancelled.is_set() else f"no answer within {params['timeout']:g} s"
            result["failures"].append({"index": delivery.index, "service": delivery.name, "reason": stopped})
        elif delivery.reason is not None:
            result["failures"].append({"index": delivery.index, "service": delivery.name, "reason": delivery.reason})
        elif not context.check_mode:
            result["delivered"].append(delivery.index)
    result["sent"] = bool(result["delivered"])
    result["changed"] = bool(usable) if context.check_mode else result["sent"]
    result["record_events"] = record_events(event, len(targets), params["sent_events"], result["delivered"])
    if result["failures"]:
        listed = "; ".join(f"targets[{item['index']}] ({item['service']}): {item['reason']}" for item in result["failures"])
        text = f"notify: event {event} was not taken by {len(result['failures'])} of {len(targets)} targets: {listed}"
        if params["required"]:
            raise RolloutError(f"{text}. Next: check these addresses, then run the task again (the others are not told twice)", **result)
        result["warnings"] = [f"{text}."]
    return result
