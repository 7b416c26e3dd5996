# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command in a container, over the API server's exec WebSocket. Private to this collection.

The protocol is the one of kubectl: every binary message begins with a byte that names the channel, 1 for standard output,
2 for standard error, 3 for the ``Status`` object that tells how the command ended.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ansible_collections.signal.rollout.plugins.module_utils import _kube
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

SUBPROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
_STDOUT, _STDERR, _STATUS = 1, 2, 3
# Standard error and the status are only read for messages.
_SMALL = 64 * 1024


class ExecError(RolloutError):
    """The command could not be run to its end: no start, no answer in time, or an answer that is too large.

    ``not_found`` when the container has no such program.
    """

    def __init__(self, message: str, not_found: bool = False) -> None:
        super().__init__(message)
        self.not_found = not_found


@dataclass(frozen=True)
class Completed:
    """What a command wrote, and its exit code."""

    stdout: bytes
    stderr: str
    code: int


def run(
    kube: _kube.Kube, namespace: str, pod: str, container: str, command: list[str], timeout: float, limit: int
) -> Completed:
    """Run ``command`` and return what it wrote: at most ``limit`` bytes, within ``timeout`` seconds, handshake included.

    Needs the verbs get and create on pods/exec. Raises :class:`_kube.KubeError` when the API server refuses (its status is
    set), :class:`ExecError` otherwise. A command that fails is no error here: see ``code``.
    """
    deadline = time.monotonic() + timeout
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    target = f"{_kube.path_of('', 'v1', 'pods', namespace, pod)}/exec?{urlencode(query)}"
    socket = kube.websocket(target, SUBPROTOCOLS, timeout)
    where = f"{command[0]} in container {container} of pod {namespace}/{pod}"
    try:
        channels = _channels(socket, where, deadline, timeout, limit)
    finally:
        # No closing handshake: a hanging peer must not hold us.
        socket.shutdown()
    return completed(where, bytes(channels[_STDOUT]), bytes(channels[_STDERR]), bytes(channels[_STATUS]))


def _channels(socket: Any, where: str, deadline: float, timeout: float, limit: int) -> dict[int, bytearray]:
    """Everything the server sends until it closes, channel by channel."""
    import websocket  # loaded by then: the connection is one of its objects

    channels = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ExecError(f"{where}: no end within {timeout:g} s")
        socket.settimeout(left)
        try:
            opcode, message = socket.recv_data()
        except websocket.WebSocketConnectionClosedException:
            return channels
        except websocket.WebSocketTimeoutException:
            continue
        except (OSError, websocket.WebSocketException) as error:
            raise ExecError(f"{where}: the connection broke: {one_line(error, 120) or type(error).__name__}") from None
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return channels
        if not message:
            continue
        channel = channels.get(message[0])
        if channel is None:
            continue
        most = limit if message[0] == _STDOUT else _SMALL
        if len(channel) + len(message) - 1 > most:
            raise ExecError(f"{where}: it wrote more than {most // 1024} KiB")
        channel += message[1:]
        if message[0] == _STATUS:
            # The last message of every command; waiting for the close would cost another round trip.
            return channels


def completed(where: str, stdout: bytes, stderr: bytes, status: bytes) -> Completed:
    """Return the outcome that the ``Status`` object on the error channel stands for. Pure.

    Raises :class:`ExecError` when the command was not started, or when the status is missing or not understood.
    """
    text = stderr.decode(errors="backslashreplace")
    try:
        outcome = json.loads(status)
    except ValueError:
        outcome = None
    if not isinstance(outcome, dict):
        raise ExecError(f"{where}: the connection ended without an exit code")
    if outcome.get("status") == "Success":
        return Completed(stdout, text, 0)
    message = str(outcome.get("message") or "no reason given")
    causes = (outcome.get("details") or {}).get("causes") or []
    codes = [cause.get("message") for cause in causes if cause.get("reason") == "ExitCode"]
    if codes and str(codes[0]).isdigit() and int(codes[0]) not in (126, 127):
        return Completed(stdout, text, int(codes[0]))
    missing = "executable file not found" in message or "no such file or directory" in message or codes == ["127"]
    raise ExecError(f"{where}: {one_line(message, 400)}", not_found=missing)
