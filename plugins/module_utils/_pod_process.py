# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program in a container that is used like one of this machine: pipes, an exit code, an end. Private to this collection.

One thread carries everything over one WebSocket, since TLS stands no two. It waits when nobody reads the program's output, and then the
API server, the kubelet and the program wait as well: no more than some hundred kilobytes are on the way.

A container runtime lets a program go on when its connection is lost, blocked for ever in its next write. What it does close is the program's
input: :func:`while_connected` has a shell in the container end the program then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import ssl
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlencode

from ansible_collections.signal.rollout.plugins.module_utils import _kube, _pod_exec
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

# Only this protocol can say that the input has ended. Kubernetes has it since 1.30.
_SUBPROTOCOL = "v5.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_CALL_SECONDS = 30.0
_PIECE = 32 * 1024
_SMALL = 64 * 1024


# The first line of the input is for the program, what follows is only waited for the end of. Without redirections of its own the watching
# part would have no input, and would keep the output open.
_WHILE_CONNECTED = """
IFS= read -r first
exec 3<&0
printf '%s\\n' "$first" | "$@" 3<&- &
program=$!
{ cat; kill "$program"; } <&3 >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$program"
code=$?
kill "$watch" 2>/dev/null
exit "$code"
"""
# A program that ends before its input does would have the server close the connection on what we still send, and what it has sent get lost.
_WITHIN = 'if command -v timeout >/dev/null; then timeout "$0" "$@"; else "$@"; fi; code=$?; cat >/dev/null; exit "$code"'


def while_connected(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` with one line of input, and ends it when its connection is lost."""
    return ["sh", "-c", _WHILE_CONNECTED, "sh", *argv]


def within(seconds: float, argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` for so long at most, where the container can limit that, and takes all of its input."""
    return ["sh", "-c", _WITHIN, str(max(1, round(seconds))), *argv]


@dataclass(frozen=True)
class Container:
    """Where programs are run."""

    kube: _kube.Kube
    namespace: str
    pod: str
    name: str

    @property
    def where(self) -> str:
        return f"container {self.name} of pod {self.namespace}/{self.pod}"

    def run(self, command: list[str], timeout: float = _CALL_SECONDS) -> _pod_exec.Completed:
        """Run a short command to its end."""
        return _pod_exec.run(self.kube, self.namespace, self.pod, self.name, command, timeout, _SMALL)


def find(kube: _kube.Kube, namespace: str, pod: str | None, selector: str | None, container: str | None) -> Container:
    """Return the container that is meant. Raises :class:`RolloutError` when not exactly one ready pod is."""
    pods = _kube.path_of("", "v1", "pods", namespace)
    if pod:
        seen = [found for found in [kube.find(_kube.path_of("", "v1", "pods", namespace, pod))] if found]
        asked = pod
    else:
        asked = f"the selector {selector}"
        seen = kube.list(pods, {"labelSelector": selector})
    ready = [one for one in seen if pod_is_ready(one)]
    if len(ready) != 1:
        names = ", ".join(sorted(one["metadata"]["name"] for one in ready)[:5])
        raise RolloutError(
            f"Namespace {namespace}: {len(ready)} ready pods for {asked}{f' ({names})' if names else ''}, expected one. "
            f"Next: kubectl -n {namespace} get pods --show-labels"
        )
    containers = [one["name"] for one in ready[0]["spec"]["containers"]]
    if container and container not in containers:
        raise RolloutError(f"Pod {namespace}/{ready[0]['metadata']['name']} has the containers {', '.join(containers)}, expected {container}")
    return Container(kube, namespace, ready[0]["metadata"]["name"], container or containers[0])


class PodProcess:
    """Looks like :class:`subprocess.Popen`. ``first`` is its first input, ``stdin`` a pipe for the rest, or what stays open without.

    With a connection that is lost it has ended with 255, and says so on ``stderr``.
    """

    def __init__(
        self, container: Container, command: Sequence[str], first: bytes = b"", stdin: bool = False, stdout: bool = False, name: str = ""
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._name = name or command[0]
        self._container = container
        query = [("container", container.name), ("stdout", "true"), ("stderr", "true")]
        query += [("stdin", "true")] if stdin or first else []
        target = f"{_kube.path_of('', 'v1', 'pods', container.namespace, container.pod)}/exec?{urlencode([*query, *(('command', word) for word in command)])}"
        self._socket = container.kube.websocket(target, [_SUBPROTOCOL], _CALL_SECONDS)
        self._pending = b""
        self._input = -1
        self._output = -1
        reading, self._errors = os.pipe()
        self.stderr: IO[bytes] = os.fdopen(reading, "rb")
        if stdout:
            reading, self._output = os.pipe()
            self.stdout = os.fdopen(reading, "rb", buffering=0)
        if stdin:
            self._input, writing = os.pipe()
            self.stdin = os.fdopen(writing, "wb", buffering=0)
        if first:
            self._pending = self._frame(bytes([_STDIN]) + first)
        self._done = threading.Event()
        threading.Thread(target=self._carry, daemon=True).start()

    def poll(self) -> int | None:
        return self.returncode if self._done.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._done.wait(timeout):
            raise subprocess.TimeoutExpired(self._name, timeout or 0.0)
        return self.returncode if self.returncode is not None else 255

    def end(self, number: int) -> None:
        """Close the connection, which has the container end the program: there is no way to send it a signal."""
        if not self._done.is_set():
            self.returncode = -number
            with contextlib.suppress(OSError):
                self._socket.sock.shutdown(2)

    @staticmethod
    def _frame(message: bytes) -> bytes:
        import websocket

        return websocket.ABNF.create_frame(message, websocket.ABNF.OPCODE_BINARY).format()

    def _carry(self) -> None:
        code, status = 255, bytearray()
        try:
            code = self._carried(status)
        except BrokenPipeError:
            # Who read its output has gone, as a local program would notice.
            code = -int(signal.SIGPIPE)
        except _pod_exec.ExecError as error:
            self._complain(error.message)
        except Exception as error:
            self._complain(f"the connection to {self._container.where} broke: {one_line(error, 120) or type(error).__name__}")
        finally:
            self._socket.shutdown()
            for descriptor in (self._output, self._errors, self._input):
                if descriptor >= 0:
                    os.close(descriptor)
            if self.returncode is None:
                self.returncode = code
            self._done.set()

    def _complain(self, text: str) -> None:
        if self.returncode is None:
            with contextlib.suppress(OSError):
                os.write(self._errors, f"error: {text}\n".encode())

    def _carried(self, status: bytearray) -> int:
        """Carry until the program has ended; return its exit code."""
        import websocket

        raw = self._socket.sock
        reading_input = self._input >= 0
        while True:
            wanted = [raw, *([self._input] if reading_input and not self._pending else [])]
            left = getattr(raw, "pending", lambda: 0)()
            readable, writable, _none = select.select(wanted, [raw] if self._pending else [], [], 0 if left else None)
            if raw in readable or left:
                raw.settimeout(_CALL_SECONDS)
                opcode, message = self._socket.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    raise _pod_exec.ExecError(f"{self._name} in {self._container.where}: the connection ended without an exit code")
                if message and self._received(message[0], message[1:], status):
                    return _pod_exec.completed(f"{self._name} in {self._container.where}", b"", b"", bytes(status)).code
            if raw in writable:
                raw.settimeout(0)
                with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                    self._pending = self._pending[raw.send(self._pending) :]
            if self._input in readable:
                piece = os.read(self._input, _PIECE)
                reading_input = bool(piece)
                self._pending = self._frame(bytes([_STDIN]) + piece if piece else bytes([_CLOSE, _STDIN]))

    def _received(self, channel: int, content: bytes, status: bytearray) -> bool:
        """Pass on what has come; whether it was the last."""
        target = {_STDOUT: self._output, _STDERR: self._errors}.get(channel, -1)
        view = memoryview(content)
        while target >= 0 and view:
            view = view[os.write(target, view) :]
        if channel == _STATUS:
            status += content
        return channel == _STATUS
