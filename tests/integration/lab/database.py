# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lab's PostgreSQL as its administrator, and databases of one's own in it."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions

from .conftest import LAB

HOST, PORT = "10.79.0.50", 5432


def password(role: str = "postgres") -> str:
    return (LAB / "secrets" / role).read_text(encoding="utf-8")


def open_session(database: str, user: str = "postgres", secret: str | None = None) -> Any:
    """A connection in a transaction; ``secret`` is for a user whose password is not among the lab's."""
    return psycopg2.connect(host=HOST, port=PORT, dbname=database, user=user, password=secret or password(user), connect_timeout=5)


@contextlib.contextmanager
def session(database: str, user: str = "postgres", secret: str | None = None, autocommit: bool = True) -> Iterator[Any]:
    """A cursor that commits by itself, unless it shall not."""
    connection = open_session(database, user, secret)
    if autocommit:
        connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextlib.contextmanager
def new_database(purpose: str, options: str = "template template0", setup: str = "") -> Iterator[str]:
    """The name of a database that nobody else uses, dropped at the end; ``setup`` is run in it."""
    name = f"test_{purpose}_{uuid.uuid4().hex[:8]}"
    with session("postgres") as cursor:
        cursor.execute(f"create database {name} {options}")
    try:
        if setup:
            with session(name) as cursor:
                cursor.execute(setup)
        yield name
    finally:
        with session("postgres") as cursor:
            cursor.execute(f"drop database {name} with (force)")


class Pooler(threading.Thread):
    """Passes one connection on, and says another process id than the server, as a pooler does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        with contextlib.suppress(OSError):
            client, _address = self.listener.accept()
            server = socket.create_connection((HOST, PORT))
            threading.Thread(target=self.passed, args=(client, server), daemon=True).start()
            self.passed(server, client)

    def passed(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                at = data.find(b"K\x00\x00\x00\x0c")
                if at >= 0:
                    data = data[: at + 5] + b"\x00\x12\x34\x56" + data[at + 9 :]
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
