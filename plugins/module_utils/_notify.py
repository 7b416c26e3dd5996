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
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _messages
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import apprise
except ImportError:
    apprise = None

MOMENT_SPEC: dict[str, dict[str, Any]] = {
    "start": {"type": "str", "required": True},
    "opens": {"type": "float", "required": True},
    "closes": {"type": "float", "required": True},
    "outside": {"type": "str", "default": "refuse", "choices": ["refuse", "skip"]},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "targets": {"type": "list", "elements": "str", "required": True, "no_log": True},
    "required_targets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "event": {"type": "str", "required": True},
    "title": {"type": "str", "required": True},
    "body": {"type": "str", "required": True},
    "body_format": {"type": "str", "default": "text", "choices": ["text", "markdown", "html"]},
    "severity": {"type": "str", "default": "info", "choices": ["info", "success", "warning", "failure"]},
    "required": {"type": "bool", "default": False},
    "sent_events": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 10.0},
    "max_length": {"type": "int", "default": 4000},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "service": {"type": "str"},
    "version": {"type": "str"},
    "plan": {"type": "dict"},
    "occasion": {"type": "str"},
    "moment": {"type": "dict", "options": MOMENT_SPEC},
    "holder": {"type": "str"},
    "without_claim": {"type": "str", "default": "refuse", "choices": ["refuse", "send"]},
    "send_again": {"type": "bool", "default": False},
}
SPEC_RULES: dict[str, Any] = {"required_together": [["service", "version"]]}
SUPPORTS_CHECK_MODE = True

MAX_TITLE = 200
MAX_EVENT = 200
WORKERS = 16
_GRACE = 0.25  # seconds
# What reading, claiming and parsing addresses may take beside the sending, in seconds.
_CLAIM = 10.0
_SHORTEST_SECRET = 8
_MASK = "********"
_EVENT_HEADER = "X-Rollout-Event"
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,30})://")
_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all|room|team)\b)", re.IGNORECASE)
# Slack's <!channel> and <@U123>, Discord's <@&role>, Teams' <at>name</at>.
_MARKUP_MENTION = re.compile(r"<(?=[!@#]|/?at\b)", re.IGNORECASE)
# What looks like a secret wherever it stands: what broke a release may have been quoted with its credentials.
_SECRET_LIKE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{1,30}://[^\s:/@]*:)[^\s/@]+(?=@)", re.IGNORECASE), rf"\1{_MASK}"),
    (re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1{_MASK}"),
    (re.compile(r"((?:password|passwd|pgpassword|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{3,}", re.IGNORECASE), rf"\1{_MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), _MASK),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"), _MASK),
)
_BREAK = "\u200b"
# Characters that reorder the text around them: a message could show something else than it says.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_STATUS = re.compile(r"\berror\s*=\s*(\d{3})\b")
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("certificate", "SSLError", "SSL:"), "TLS: the certificate or handshake was not accepted"),
    (("Connection refused", f"Errno {errno.ECONNREFUSED}"), "connection refused"),
    (("Name or service not known", "Failed to resolve", "nodename nor servname", "Name resolution"), "host name not found"),
    (("No route to host", "Network is unreachable"), "no route to the host"),
    (("ConnectTimeout", "connect timeout"), "no connection in time"),
    (("timed out", "Timeout"), "timed out"),
    (("Connection reset", "RemoteDisconnected", "Connection aborted", "unexpectedly closed"), "the connection was cut"),
    (("Authentication", "authentication"), "credentials refused"),
)
# After these nobody can have been told; after any other reason it is not known.
_CERTAIN = (
    "Apprise does not understand this address", "TLS: the certificate or handshake was not accepted", "connection refused", "host name not found",
    "no route to the host", "no connection in time", "credentials refused",
)
_CERTAIN_STATUS = re.compile(r"the service answered (?:3\d\d|4\d\d|503)$")


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


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without ``secrets``, and without what looks like a secret. Shorter ones than 8 characters would hide plain words."""
    for secret in sorted({secret.strip() for secret in secrets}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _MASK)
    for pattern, mask in _SECRET_LIKE:
        text = pattern.sub(mask, text)
    return text


def perhaps_told(reason: str) -> bool:
    """Whether people may have been told although the delivery failed for ``reason``."""
    return reason not in _CERTAIN and not _CERTAIN_STATUS.search(reason)


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
    """Send one event to every target that has not had it. Raises :class:`RolloutError` for bad options, outside its moment, and for a
    target that did not take it when ``required``."""
    return _Message(params, context).run()


class _Message:
    """One event for all targets: those that must take it stand behind the others."""

    def __init__(self, params: dict[str, Any], context: Context) -> None:
        self.params = params
        self.context = context
        self.event, self.targets = params["event"], [*params["targets"], *(params.get("required_targets") or [])]
        secrets = [*(params.get("secrets") or []), *self.targets]
        self.title = clean(masked(params["title"], secrets), MAX_TITLE, single_line=True)
        self.body = clean(masked(params["body"], secrets), params["max_length"])
        self.ledger: _messages.Ledger | None = None
        self.warnings: list[str] = []
        self.result: dict[str, Any] = {
            "changed": False, "event": self.event, "sent": False, "already_sent": False, "due": True, "delivered": [], "failures": [], "uncertain": [],
            "taken_over_from": "", "record_events": [], "preview": {"title": self.title, "body": self.body}, "targets": [],
        }

    def run(self) -> dict[str, Any]:
        try:
            return self._run()
        except RolloutError as error:
            raise RolloutError(error.message, **{**self.result, **error.result}) from None

    def _run(self) -> dict[str, Any]:
        params, result = self.params, self.result
        require("apprise", apprise)
        problems = option_problems(params)
        if problems:
            raise RolloutError(f"notify cannot use its options: {'; '.join(problems)}")
        asset = _asset()
        if not self.targets and params["required"]:
            raise RolloutError(f"notify: event {self.event} is required, but targets is empty, expected at least one address. Next: set targets")
        if not self._is_due():
            return result
        todo = self._claimed()
        result["already_sent"] = bool(self.targets) and not todo and not result["uncertain"] and not result["failures"]
        log = _ThreadLog()
        _keep_logs_private(log)
        deliveries = [_Delivery(index, self.targets[index], asset, params["timeout"], self.event) for index in todo]
        result["targets"] = [{"index": delivery.index, "service": delivery.name} for delivery in deliveries]
        usable = [delivery for delivery in deliveries if delivery.service is not None]
        if self.context.check_mode:
            result["changed"] = bool(usable)
            result["failures"] = [self._failure(delivery, delivery.reason) for delivery in deliveries if delivery.reason is not None]
        elif self.ledger is None or not deliveries or self.ledger.start():
            _deliver(usable, self.title, self.body, params, asset, log, self.context)
            self._note(deliveries)
        else:
            self.warnings.append(f"notify: another run has taken message {self.event} over, so that this one did not send it.")
        return self._judged()

    def _is_due(self) -> bool:
        moment = self.params.get("moment")
        reason = _messages.outside(moment, datetime.now(timezone.utc)) if moment else ""
        self.result["due"] = not reason
        refuses = moment and moment["outside"] == "refuse" and not self.context.check_mode
        if reason and refuses and not self._was_sent():
            raise RolloutError(
                f"notify: message {self.event} is not due: {reason}. Nothing was sent. "
                "Next: send it in its time, or correct the start of the release (rollout_start_time)."
            )
        if reason:
            self.result["reason"] = reason
        return not reason

    def _was_sent(self) -> bool:
        """Whether it was sent in its time: sending it again later is refused only as long as it was not."""
        if not self.params.get("service"):
            return False
        self.result["already_sent"] = not self._open_ledger().look().todo and bool(self.targets)
        return bool(self.result["already_sent"])

    def _open_ledger(self) -> _messages.Ledger:
        rounds = 1 + max(0, len(self.targets) - 1) // WORKERS
        seconds = rounds * (self.params["timeout"] + _GRACE) + _CLAIM
        return _messages.Ledger(_kube.connect(self.params), self.params, seconds, self.context)

    def _claimed(self) -> list[int]:
        """Return the targets that are to be told, claimed where there is a ledger."""
        if not self.params.get("service"):
            return open_targets(self.event, len(self.targets), self.params["sent_events"])
        try:
            ledger = self._open_ledger()
            decision, entry = (ledger.look(), {}) if self.context.check_mode else ledger.take()
        except _kube.KubeError as error:
            if self.params["without_claim"] == "refuse":
                raise
            # Whom it concerns must hear of it now, even twice.
            self.warnings.append(f"notify: message {self.event} is sent without a claim, so that people may hear of it twice: {error.message}")
            return list(range(len(self.targets)))
        self.ledger = None if self.context.check_mode else ledger
        self.result["taken_over_from"] = decision.taken_over_from
        if decision.taken_over_from:
            self.warnings.append(f"notify: message {self.event} was claimed by '{decision.taken_over_from}', which did not end it; this run takes it over.")
        if decision.wait:
            self.warnings.append(f"notify: message {self.event} is being sent by '{entry.get('by')}', and this run was interrupted while it waited.")
        for index, target in sorted((entry.get("targets") or {}).items(), key=lambda item: int(item[0])):
            if target.get("state") == _messages.UNCERTAIN and int(index) not in decision.todo:
                self.result["uncertain"].append({"index": int(index), "service": target.get("service") or "", "reason": target.get("reason") or ""})
        return decision.todo

    @staticmethod
    def _failure(delivery: _Delivery, reason: str | None) -> dict[str, Any]:
        return {"index": delivery.index, "service": delivery.name, "reason": reason}

    def _note(self, deliveries: list[_Delivery]) -> None:
        """Sort the deliveries into delivered and failed ones, and keep that in the ledger."""
        result, results = self.result, {}
        for delivery in deliveries:
            reason = delivery.reason
            if not delivery.done.is_set():
                reason = "interrupted" if self.context.cancelled.is_set() else f"no answer within {self.params['timeout']:g} s"
            if reason is None:
                result["delivered"].append(delivery.index)
                results[delivery.index] = {"service": delivery.name, "state": _messages.DELIVERED}
                continue
            result["failures"].append(self._failure(delivery, reason))
            perhaps = perhaps_told(reason)
            results[delivery.index] = {"service": delivery.name, "state": _messages.UNCERTAIN if perhaps else _messages.REFUSED, "reason": reason}
            if perhaps and self.ledger is not None:
                result["uncertain"].append(self._failure(delivery, reason))
        result["sent"] = result["changed"] = bool(result["delivered"])
        result["record_events"] = record_events(self.event, len(self.targets), self.params["sent_events"], result["delivered"])
        if self.ledger is None or not deliveries:
            return
        try:
            kept = self.ledger.finish(results)
        except RolloutError as error:
            kept = False
            self.warnings.append(error.message)
        if not kept:
            self.warnings.append(f"notify: message {self.event} was sent, but that could not be noted; it counts as uncertain and is not sent again.")

    def _judged(self) -> dict[str, Any]:
        """Warn of targets that were not told, or refuse to go on without one that must be."""
        result, params = self.result, self.params
        failed = {item["index"]: item for item in [*result["uncertain"], *result["failures"]]}
        if failed:
            listed = "; ".join(f"targets[{index}] ({item['service']}): {item['reason']}" for index, item in sorted(failed.items()))
            text = f"notify: event {self.event} was not taken by {len(failed)} of {len(self.targets)} targets: {listed}"
            if params["required"] or any(index >= len(params["targets"]) for index in failed):
                again = ", those that are uncertain only with send_again" if result["uncertain"] else ""
                raise RolloutError(f"{text}. Next: check these addresses, then run the task again (the others are not told twice{again})")
            unknown = " Whether the uncertain ones were told is not known, so they are not told again unless send_again is set." if result["uncertain"] else ""
            self.warnings.append(f"{text}.{unknown}")
        if self.warnings:
            result["warnings"] = self.warnings
        return result
