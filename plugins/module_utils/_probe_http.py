# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The HTTP calls of a probe, each with a deadline. Private to this collection."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.module_utils._probe_plan import Plan
from ansible_collections.signal.rollout.plugins.module_utils._probe_verdict import MAX_BODY_BYTES, Answer

try:
    import requests
except ImportError:
    requests = None

# Before a connection that failed is tried again, in seconds.
RETRY_PAUSE = 0.2


def session_of(plan: Plan) -> Any:
    """Return a session that speaks as ``plan`` says."""
    session = requests.Session()
    # Neither proxies nor .netrc passwords of the environment: the probe speaks to the address it was given, as itself.
    session.trust_env = False
    if not plan.validate_certs:
        # The user has asked for it; a warning for every call would only bury the results.
        requests.packages.urllib3.disable_warnings(requests.packages.urllib3.exceptions.InsecureRequestWarning)
    session.headers["User-Agent"] = "signal.rollout"
    session.headers.update(plan.headers)
    if plan.host_header:
        session.headers["Host"] = plan.host_header
    return session


def call_http(session: Any, plan: Plan, check: Mapping[str, Any], left: Callable[[], float], stop: threading.Event) -> Answer:
    """Make one call; a connection that fails is tried again ``plan.retries`` times. Never raises for the network."""
    url = plan.url(check)
    answer = Answer()
    for attempt in range(1, plan.retries + 2):
        limit = min(plan.timeout, left())
        if limit <= 0:
            return Answer(attempts=attempt, error="the overall deadline has passed")
        started = time.perf_counter()
        try:
            with session.request(check["method"], url, timeout=limit, allow_redirects=False, stream=True, verify=plan.verify) as got:
                body = _read_body(got, started + limit)
                seconds = time.perf_counter() - started
                return Answer(got.status_code, dict(got.headers), body, seconds, attempt)
        except requests.exceptions.SSLError as error:
            return Answer(attempts=attempt, error=f"TLS: {cause(error)}")
        except requests.exceptions.ConnectTimeout:
            answer = Answer(attempts=attempt, error=f"no connection within {limit:.3g} s")
        except requests.exceptions.ConnectionError as error:
            answer = Answer(attempts=attempt, error=cause(error))
        except (requests.exceptions.Timeout, TimeoutError):
            return Answer(attempts=attempt, error=f"no complete answer within {limit:.3g} s")
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            return Answer(attempts=attempt, error=cause(error))
        if attempt <= plan.retries and stop.wait(min(RETRY_PAUSE, max(0.0, left()))):
            break
    return answer


def _read_body(response: Any, deadline: float) -> bytes:
    """Read the body in pieces as they arrive: a server that sends a byte now and then must not outlast the timeout."""
    body = bytearray()
    read = getattr(response.raw, "read1", None) or response.raw.read
    while True:
        if time.perf_counter() > deadline:
            raise TimeoutError
        try:
            piece = read(65536, decode_content=True)
        except Exception as error:
            if "timed out" in str(error):
                raise TimeoutError from None
            raise requests.exceptions.ConnectionError(error) from error
        body += piece
        if not piece or len(body) > MAX_BODY_BYTES:
            return bytes(body)


def cause(error: BaseException) -> str:
    """Return the innermost reason of a network error, without addresses and without the library's wrapping."""
    seen: set[int] = set()
    best = error
    current: Any = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        best = current
        inner = getattr(current, "reason", None)
        candidates = [inner, *current.args, current.__cause__, current.__context__]
        current = next((item for item in candidates if isinstance(item, BaseException) and id(item) not in seen), None)
    if isinstance(best, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {best.verify_message}"
    if isinstance(best, OSError) and best.strerror:
        return one_line(best.strerror, 120)
    return one_line(best, 120) or type(best).__name__
