# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults at a chosen moment of a run: a connection that is cut, a process that is killed, a disk that is full."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_PIECE = 16384
_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "subprocess.Popen", "shutil.rmtree")


class Proxy:
    """Stands before a server and counts what passes, over all connections.

    A message is what a client sends at once, which for libpq is one request. ``action`` is called once: at message number ``at`` (from 1),
    at the last of those that hold ``at_texts`` one after the other, or when ``at_byte`` bytes have come from the server. ``delivered`` says
    whether the server still gets that message.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.at = self.at_byte = 0
        self.at_texts: list[bytes] = []
        self.delivered = False
        self.action: Callable[[], None] | None = None
        self.messages = self.bytes = 0
        self.fired = False
        self.refusing = False
        self._other: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Close every connection, as a network or a server that is gone does."""
        for one in list(self._other):
            self._drop(one)

    def close(self) -> None:
        self._wake.close()
        self._thread.join(10)
        for one in (*self._other, self._woken, self._listener):
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _mask in selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._other:
                        self._pass(key.fileobj)

    def _accept(self) -> None:
        client, _address = self._listener.accept()
        try:
            if self.refusing:
                raise OSError("refused")
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        for one, other, from_client in ((client, server, True), (server, client, False)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._other[one] = other, from_client
            self._selector.register(one, selectors.EVENT_READ)

    def _pass(self, source: Any) -> None:
        other, from_client = self._other[source]
        try:
            data = source.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            self._drop(source)
            return
        if from_client:
            self.messages += 1
        else:
            self.bytes += len(data)
        if from_client:
            met = bool(self.at_texts) and self.at_texts[0] in data
            now = self.messages == self.at or (met and len(self.at_texts) == 1)
            self.at_texts = self.at_texts[met:]
        else:
            now = 0 < self.at_byte <= self.bytes
        if now and self.action and not self.fired:
            self.fired = True
            if self.delivered:
                other.sendall(data)
            self.action()
            return
        try:
            other.sendall(data)
        except OSError:
            self._drop(source)

    def _drop(self, one: Any) -> None:
        if one not in self._other:
            return
        for end in (one, self._other[one][0]):
            if self._other.pop(end, None):
                self._selector.unregister(end)
                end.close()


@contextlib.contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    opened = Proxy(host, port)
    try:
        yield opened
    finally:
        opened.close()


class Run:
    """A call in a process of its own, so that it can be killed in the middle."""

    def __init__(self, call: Callable[[], Any], before: Callable[[], None] = lambda: None) -> None:
        def child() -> None:
            before()
            with contextlib.suppress(Exception):
                call()

        self.process = multiprocessing.get_context("fork").Process(target=child)
        self.process.start()

    def kill(self) -> None:
        if self.process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    def killed(self, seconds: float = 60) -> bool:
        """Wait for its end; whether it was killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            self.process.join(10)
            raise TimeoutError(f"no end within {seconds:g} s")
        return self.process.exitcode == -signal.SIGKILL


def kill_at_file(folder: Path, number: int, count: Callable[[str], None] = lambda event: None) -> None:
    """Have this process kill itself when it is about to touch ``folder``, or to start a program, for the ``number``-th time (0: never)."""
    left = [number]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS or not (event == "subprocess.Popen" or any(str(folder) in str(one) for one in arguments[:2])):
            return
        count(event)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes at ``folder``, in whole pages."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
