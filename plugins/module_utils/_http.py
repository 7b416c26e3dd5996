# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP as the sources of figures need it: a deadline, a bounded answer, no redirects, no secret in any error. Private to this collection."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import requests
    import requests.adapters
    import requests.auth
except ImportError:
    requests = None  # type: ignore[assignment]

LARGEST_ANSWER = 8 * 1024 * 1024
MASK = "********"
_CHUNK = 65536
_SIGNS_OF_REFUSAL = ("EOF occurred", "certificate required", "handshake failure")
_ENCRYPTED_KEY = b"ENCRYPTED"


class HttpError(RolloutError):
    """There is no answer: no connection, no TLS, too late, too large."""


@dataclass(frozen=True)
class HttpAnswer:
    """Status, body and headers of an answer; the names of ``headers`` are in lower case."""

    status: int
    body: bytes
    headers: dict[str, str]


class _SlowAnswer(Exception):
    """The answer was still coming when its time was over."""


def url_problem(url: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """Return what is wrong with ``url``, or an empty text. Never repeats the URL, which may hold a secret."""
    if not url or url != url.strip() or not url.isprintable() or any(ch.isspace() for ch in url):
        return "it is empty or has spaces or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"it is no URL ({one_line(error, 80)})"
    if parts.scheme not in schemes:
        return f"its scheme is '{parts.scheme}', expected {' or '.join(schemes)}"
    if not parts.hostname:
        return "it has no host"
    if port == 0:
        return "its port is 0"
    if parts.scheme.startswith("http") and (parts.username is not None or parts.password is not None):
        return "it holds a user or a password, which logs would show; use the options for them"
    return ""


def file_problem(path: str) -> str:
    """Return why the file at ``path`` cannot be read, or an empty text."""
    try:
        with open(path, "rb") as file:
            return "" if file.read(1) else f"{path} is empty"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or type(error).__name__}"


def header_problems(where: str, headers: dict[str, Any]) -> list[str]:
    """Return what is wrong with ``headers``, without repeating a value."""
    for name, value in headers.items():
        if not str(name).strip() or not str(name).isprintable() or not str(value).isprintable() or not (str(name) + str(value)).isascii():
            return [f"{where}: a header is empty, or has a line break, a control character or a letter outside ASCII"]
    return []


@dataclass(frozen=True)
class Tls:
    """How the server is verified, and the certificate that is shown to it. Paths of PEM files; an empty text is none."""

    validate_certs: bool = True
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""

    @property
    def verify(self) -> bool | str:
        return (self.ca_cert or True) if self.validate_certs else False

    @property
    def cert(self) -> str | tuple[str, str] | None:
        if not self.client_cert:
            return None
        return (self.client_cert, self.client_key) if self.client_key else self.client_cert

    def problems(self, name: Callable[[str], str]) -> list[str]:
        """Return what is wrong with the files; ``name`` gives an option's full name."""
        problems = []
        if self.client_key and not self.client_cert:
            problems.append(f"{name('client_key')}: it is set without {name('client_cert')}")
        for option in ("ca_cert", "client_cert", "client_key"):
            path = getattr(self, option)
            trouble = file_problem(path) if path else ""
            if trouble:
                problems.append(f"{name(option)}: {trouble}")
        if not problems and self.client_cert and _encrypted(self.client_key or self.client_cert):
            # OpenSSL would ask for the passphrase on the terminal, and wait.
            problems.append(f"{name('client_key')}: the key is encrypted, expected one without a passphrase")
        return problems


def _encrypted(path: str) -> bool:
    with open(path, "rb") as file:
        return _ENCRYPTED_KEY in file.read(_CHUNK)


class TokenFile:
    """A token that another program renews: the file is read again as soon as it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def token(self) -> str:
        """Return the token. Raises :class:`HttpError` when there is none to read."""
        try:
            state = os.stat(self.path)
            seen = (state.st_mtime_ns, state.st_ino, state.st_size)
            if seen != self._seen:
                with open(self.path, encoding="utf-8") as file:
                    self._token = file.read(_CHUNK).strip()
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            raise HttpError(f"the token file {self.path} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
        if not self._token or not self._token.isprintable() or not self._token.isascii():
            raise HttpError(f"the token file {self.path} holds no token, expected one line of text")
        return self._token


class Secrets:
    """Texts that no message may repeat."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts: set[str] = set()
        self.add(*texts)

    def add(self, *texts: str) -> None:
        self._texts.update(text for text in texts if text)

    def add_password(self, user: str, password: str) -> None:
        """Also as basic authentication sends it."""
        self.add(password, base64.b64encode(f"{user}:{password}".encode()).decode())

    def mask(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        for secret in sorted(self._texts, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text


class HttpClient:
    """Sends requests over keep-alive sessions, one per thread. ``user`` is ``(name, password)`` for basic authentication."""

    def __init__(self, tls: Tls, secrets: Secrets | None = None, user: tuple[str, str] | None = None) -> None:
        require("requests", requests)
        self.secrets = secrets or Secrets()
        if user is not None:
            self.secrets.add_password(*user)
        self._tls = tls
        self._user = user
        if not tls.validate_certs:
            # The options say so already; a line per request on the terminal would not make it safer.
            requests.packages.urllib3.disable_warnings(requests.packages.urllib3.exceptions.InsecureRequestWarning)
        self._local = threading.local()

    def send(
        self,
        method: str,
        url: str,
        timeout: float,
        headers: dict[str, str],
        params: dict[str, Any] | None = None,
        data: dict[str, Any] | bytes | None = None,
        shown: str = "",
    ) -> HttpAnswer:
        """Return the answer within ``timeout`` seconds; ``shown`` is how errors call the address. Raises :class:`HttpError` for every other outcome."""
        deadline = time.monotonic() + timeout
        shown = shown or url.partition("?")[0]
        try:
            with self._session().request(
                method,
                url,
                params=params,
                data=data,
                headers=headers,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
                verify=self._tls.verify,
                cert=self._tls.cert,
            ) as response:
                body = _body(response, deadline)
                return HttpAnswer(response.status_code, body, {name.lower(): value for name, value in response.headers.items()})
        except (requests.exceptions.Timeout, _SlowAnswer):
            raise HttpError(f"no answer from {shown} within {timeout:g} s") from None
        except requests.exceptions.SSLError as error:
            raise HttpError(f"TLS with {shown} failed: {self._tls_reason(error)}") from None
        except requests.exceptions.ConnectionError as error:
            raise HttpError(f"cannot reach {shown}: {self._root(error)}") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise HttpError(f"cannot ask {shown}: {type(error).__name__}") from None

    def _session(self) -> Any:
        session = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.auth = _Basic(self._user)
            self._local.session = session
        return session

    def _tls_reason(self, error: BaseException) -> str:
        reason = self._root(error)
        # Since TLS 1.3 the refusal comes after the handshake, and is often lost to the closed connection.
        missing = not self._tls.client_cert and any(sign in reason for sign in _SIGNS_OF_REFUSAL)
        return f"{reason} (the server may want a client certificate)" if missing else reason

    def _root(self, error: BaseException) -> str:
        """The innermost reason of a nested connection error, as one line."""
        current: BaseException = error
        for _level in range(8):
            inner = [getattr(current, "reason", None), *current.args, current.__cause__]
            reason = next((item for item in inner if isinstance(item, BaseException)), None)
            if reason is None:
                break
            current = reason
        text = getattr(current, "strerror", None) or str(current) or type(current).__name__
        return one_line(self.secrets.mask(text), 120)


class _Basic:
    """Authentication that is exactly what the options say: without it, requests would add a password from a .netrc file."""

    def __init__(self, user: tuple[str, str] | None) -> None:
        self._user = user

    def __call__(self, request: Any) -> Any:
        return requests.auth.HTTPBasicAuth(*self._user)(request) if self._user else request


def _body(response: Any, deadline: float) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_content(_CHUNK):
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise HttpError(f"the answer is larger than {LARGEST_ANSWER // 1024 // 1024} MiB")
        if time.monotonic() > deadline:
            raise _SlowAnswer
        chunks.append(chunk)
    return b"".join(chunks)
