# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sink over real sockets, with the standard library's own HTTP and SMTP clients."""

from __future__ import annotations

import http.client
import json
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

SINK = Path(__file__).resolve().parents[3] / "lab" / "sink" / "sink.py"


class Running:
    """A sink process and its ports."""

    def __init__(self) -> None:
        command = [sys.executable, str(SINK), "--bind", "127.0.0.1", "--http-port", "0", "--smtp-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        match = re.fullmatch(r"sink: HTTP on 127\.0\.0\.1:(\d+), SMTP on 127\.0\.0\.1:(\d+)\n", line)
        assert match, line + self.process.stderr.read()
        self.http, self.smtp = int(match[1]), int(match[2])

    def request(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> tuple[int, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        result = answer.status, json.loads(answer.read())
        connection.close()
        return result

    def messages(self) -> list[dict]:
        status, messages = self.request("GET", "/messages")
        assert status == 200
        return messages


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    running = Running()
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(5) == 0
    assert running.process.stderr.read() == ""
    running.process.stdout.close()
    running.process.stderr.close()


@pytest.fixture
def sink(process: Running) -> Running:
    process.request("DELETE", "/messages")
    return process


def test_a_webhook_is_recorded_with_name_headers_and_body(sink):
    body = json.dumps({"text": "Signal Service V2 – started"}, ensure_ascii=False).encode()
    assert sink.request("POST", "/hook/platform-status", body, {"X-Event": "start"}) == (200, {"recorded": True})
    (message,) = sink.messages()
    assert (message["channel"], message["name"]) == ("http", "platform-status")
    assert json.loads(message["body"])["text"] == "Signal Service V2 – started"
    assert message["headers"]["x-event"] == "start"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["time"])


def test_messages_keep_their_order_and_can_be_deleted(sink):
    for name in ("one", "two", "three"):
        sink.request("POST", f"/hook/{name}", b"x")
    assert [message["name"] for message in sink.messages()] == ["one", "two", "three"]
    assert sink.request("GET", "/health") == (200, {"status": "healthy", "messages": 3})
    assert sink.request("DELETE", "/messages") == (200, {"deleted": 3})
    assert sink.messages() == []


def test_one_connection_serves_many_requests(sink):
    connection = http.client.HTTPConnection("127.0.0.1", sink.http, timeout=5)
    for number in range(5):
        connection.request("POST", "/hook/same", str(number))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()
    assert [message["body"] for message in sink.messages()] == list("01234")


def test_a_chunked_body_is_put_together(sink):
    connection = http.client.HTTPConnection("127.0.0.1", sink.http, timeout=5)
    connection.request("POST", "/hook/chunked", iter([b"first ", b"second"]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert sink.messages()[0]["body"] == "first second"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/hook/", 404),
        ("POST", "/hook/a/b", 404),
        ("GET", "/hook/name", 405),
        ("PUT", "/messages", 404),
    ],
)
def test_other_requests_are_refused_and_not_recorded(sink, method, path, status):
    assert sink.request(method, path)[0] == status
    assert sink.messages() == []


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /hook/x HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /hook/x HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"POST /hook/x HTTP/1.1\r\nbroken header\r\n\r\n", 400),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
def test_malformed_requests_get_an_answer_and_the_sink_lives_on(sink, raw, status):
    with socket.create_connection(("127.0.0.1", sink.http), timeout=5) as connection:
        connection.sendall(raw)
        assert connection.recv(100).startswith(f"HTTP/1.1 {status} ".encode())
    assert sink.messages() == []


def test_a_client_that_leaves_in_the_middle_records_nothing(sink):
    with socket.create_connection(("127.0.0.1", sink.http), timeout=5) as connection:
        connection.sendall(b"POST /hook/half HTTP/1.1\r\ncontent-length: 10\r\n\r\nhalf")
    assert sink.request("GET", "/health")[0] == 200
    assert sink.messages() == []


def _mail(text: str) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = "Signal Service V2 Deployment Complete ✓"
    mail["From"] = "deploy@platform.example"
    mail["To"] = "owner@platform.example, qa@platform.example"
    mail.set_content(text)
    return mail


def test_a_mail_is_recorded_decoded(sink):
    with smtplib.SMTP("127.0.0.1", sink.smtp, timeout=5) as client:
        client.send_message(_mail("New features:\n✓ Moneyness\n.a line with a dot\n.\nend\n"))
    (message,) = sink.messages()
    assert message["channel"] == "smtp"
    assert message["from"] == "deploy@platform.example"
    assert message["to"] == ["owner@platform.example", "qa@platform.example"]
    assert message["subject"] == "Signal Service V2 Deployment Complete ✓"
    assert message["body"].splitlines() == ["New features:", "✓ Moneyness", ".a line with a dot", ".", "end"]
    assert message["headers"]["to"] == "owner@platform.example, qa@platform.example"


def test_html_mail_with_a_text_part_gives_the_text(sink):
    mail = _mail("plain\n")
    mail.add_alternative("<p>rich</p>", subtype="html")
    with smtplib.SMTP("127.0.0.1", sink.smtp, timeout=5) as client:
        client.send_message(mail)
    assert sink.messages()[0]["body"].strip() == "plain"


def test_several_mails_in_one_session(sink):
    with smtplib.SMTP("127.0.0.1", sink.smtp, timeout=5) as client:
        for number in range(3):
            client.send_message(_mail(f"{number}\n"))
    assert [message["body"].strip() for message in sink.messages()] == ["0", "1", "2"]


def test_smtp_commands_out_of_order_are_refused(sink):
    with smtplib.SMTP("127.0.0.1", sink.smtp, timeout=5) as client:
        client.ehlo("test")
        assert client.has_extn("8bitmime")
        assert client.docmd("RCPT", "TO:<a@b.example>")[0] == 503
        assert client.docmd("DATA")[0] == 503
        assert client.docmd("MAIL", "FROM:nobody")[0] == 501
        assert client.docmd("MAIL", "FROM:<a@b.example>")[0] == 250
        assert client.docmd("RCPT", "TO:<>")[0] == 501
        assert client.docmd("DATA")[0] == 503
        assert client.docmd("VRFY", "x")[0] == 502
        assert client.docmd("RSET")[0] == 250
        assert client.docmd("RCPT", "TO:<a@b.example>")[0] == 503
    assert sink.messages() == []


def test_a_broken_off_mail_is_not_recorded(sink):
    client = smtplib.SMTP("127.0.0.1", sink.smtp, timeout=5)
    client.ehlo("test")
    client.mail("a@b.example")
    client.rcpt("c@d.example")
    client.docmd("DATA")
    client.send(b"Subject: half\r\n\r\nno end")
    client.close()
    assert sink.request("GET", "/health")[0] == 200
    assert sink.messages() == []


def test_a_taken_port_is_a_plain_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, str(SINK), "--bind", "127.0.0.1", "--http-port", str(port), "--smtp-port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr
