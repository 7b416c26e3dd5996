# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where figures come from: the lab's Prometheus behind a proxy that asks for everything, and JSON over HTTP, in real gates."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _preflight
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import Mesh
from .test_metric_gate import CALM, ROOT, URL, gate, route

SECRET, TENANT, PREFIX = "t0ken-of-the-test", "desk-7", "/prometheus"
NO_EVIDENCE = {"duration": 2, "outage_budget": 1}


# --------------------------------------------------------------------------------------------------- certificates


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject: x509.Name, key: Any, *extensions: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key, address)
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
        return files


class Proxy:
    """TLS with client certificates, a bearer token or a user, a tenant and a path prefix, before the lab's Prometheus."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        self.accepted = {f"Bearer {SECRET}", "Basic bWU6cGFzcy13b3Jk"}  # me:pass-word
        self.passed: list[tuple[str, dict[str, list[str]]]] = []
        self.refused: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                reason = outer.objection(self)
                if reason:
                    outer.refused.append(reason)
                    # As careless proxies do: with what was sent.
                    self.answer(401, f"{reason}; you sent {self.headers.get('Authorization')}".encode())
                    return
                path = self.path.removeprefix(PREFIX)
                outer.passed.append((self.command, parse_qs(urlsplit(path).query or body.decode())))
                headers = {"Content-Type": self.headers["Content-Type"]} if body else {}
                request = urllib.request.Request(URL + path, data=body or None, headers=headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=10) as response:
                        self.answer(response.status, response.read())
                except urllib.error.HTTPError as error:
                    self.answer(error.code, error.read())

            do_POST = do_GET

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                # A client that does not trust this server hangs up.
                pass

        certificate, key = self.authority.issue("server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(self.authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = Quiet(("127.0.0.1", 0), Handler)
        # The handshake belongs to the connection's own thread: a client without a certificate must not stop the others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_port}{PREFIX}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.client = self.authority.issue("client")
        self.foreign = self.stranger.issue("foreign")

    def objection(self, handler: BaseHTTPRequestHandler) -> str:
        if not handler.path.startswith(f"{PREFIX}/api/"):
            return "wrong path"
        if handler.headers.get("Authorization") not in self.accepted:
            return "wrong credentials"
        return "" if handler.headers.get("X-Scope-OrgID") == TENANT else "no org id"

    def options(self, **changes: Any) -> dict[str, Any]:
        """The options that this proxy accepts."""
        certificate, key = self.client
        return {
            "prometheus_url": self.url,
            "prometheus_token": SECRET,
            "prometheus_tenant": TENANT,
            "prometheus_ca_cert": str(self.authority.file),
            "prometheus_client_cert": str(certificate),
            "prometheus_client_key": str(key),
            **changes,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    running = Proxy(tmp_path)
    yield running
    running.close()


# ---------------------------------------------------------------------------------------------- behind the proxy


def test_a_gate_passes_through_tls_token_tenant_and_prefix(proxy: Proxy) -> None:
    result = gate(**proxy.options())
    assert result["verdict"] == "pass", result["msg"]
    assert proxy.refused == []
    assert {tuple(sent["partial_response"]) for _method, sent in proxy.passed} == {("false",)}


@pytest.mark.parametrize(
    "changes",
    [
        {"prometheus_token": None, "prometheus_user": "me", "prometheus_password": "pass-word"},
        {"prometheus_token": None, "prometheus_headers": {"Authorization": f"Bearer {SECRET}"}},
        {"prometheus_tenant": None, "prometheus_headers": {"X-Scope-OrgID": TENANT}},
        {"prometheus_ca_cert": None, "prometheus_validate_certs": False},
    ],
)
def test_other_ways_to_say_the_same_are_as_good(proxy: Proxy, changes: dict[str, Any]) -> None:
    options = {name: value for name, value in proxy.options(**changes).items() if value is not None}
    assert gate(check_mode=True, **options)["verdict"] == "none"
    assert proxy.passed and proxy.refused == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prometheus_token": "s3cret-and-wrong"}, "HTTP 401, the credentials or the tenant are refused: wrong credentials"),
        ({"prometheus_token": None}, "wrong credentials"),
        ({"prometheus_tenant": "desk-8"}, "HTTP 401, the credentials or the tenant are refused: no org id"),
        ({"prometheus_tenant": None}, "no org id"),
        ({"prometheus_client_cert": None, "prometheus_client_key": None}, "(the server may want a client certificate)"),
        ({"prometheus_ca_cert": None}, "certificate verify failed"),
    ],
)
def test_what_the_proxy_refuses_is_no_evidence_and_the_secret_is_not_told(proxy: Proxy, changes: dict[str, Any], words: str) -> None:
    options = {name: value for name, value in proxy.options(**changes).items() if value is not None}
    lines: list[str] = []
    result = gate(lines, **options, **NO_EVIDENCE)
    assert result["verdict"] == "error"
    assert words in result["msg"], result["msg"]
    assert "s3cret" not in f"{result} {lines}" and SECRET not in f"{result} {lines}"
    assert proxy.passed == []


def test_a_client_certificate_or_server_of_another_authority_is_refused(proxy: Proxy) -> None:
    certificate, key = map(str, proxy.foreign)
    result = gate(**proxy.options(prometheus_client_cert=certificate, prometheus_client_key=key), **NO_EVIDENCE)
    assert result["verdict"] == "error" and f"TLS with {proxy.url} failed" in result["msg"]
    result = gate(**proxy.options(prometheus_ca_cert=str(proxy.stranger.file)), **NO_EVIDENCE)
    assert result["verdict"] == "error" and "certificate verify failed" in result["msg"]
    assert proxy.passed == []


def test_a_token_that_is_renewed_during_the_hold_is_taken_up(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    options = proxy.options(prometheus_token_file=str(file))
    del options["prometheus_token"]

    def renew() -> None:
        proxy.accepted = {"Bearer renewed-t0ken"}
        time.sleep(1.5)
        (tmp_path / "new").write_text("renewed-t0ken\n")
        (tmp_path / "new").replace(file)

    timer = threading.Timer(1.5, renew)
    timer.start()
    lines: list[str] = []
    result = gate(lines, duration=4, outage_budget=30, **options)
    timer.join()
    assert result["verdict"] == "pass", result["msg"]
    assert any("cannot see calm (error: HTTP 401" in line for line in lines)
    assert "t0ken" not in f"{result} {lines}".replace("token", "")


def test_a_long_query_is_posted_and_prometheus_answers_it(proxy: Proxy) -> None:
    query = " + ".join(["vector(0.0001)"] * 300)
    result = gate(metrics=[{**CALM, "query": query}], duration=2, **proxy.options())
    assert result["verdict"] == "pass", result["msg"]
    assert result["metrics"][0]["last"] == pytest.approx(0.03)
    assert {method for method, _sent in proxy.passed} == {"POST"}
    assert proxy.passed[0][1]["query"] == [query]


def test_a_wrong_query_ends_in_prometheus_own_words_through_the_proxy(proxy: Proxy) -> None:
    result = gate(metrics=[{**CALM, "query": "sum(rate(x[1m])"}], **proxy.options())
    assert result["verdict"] == "error" and "bad_data: invalid parameter" in result["msg"]


def problems(**options: Any) -> list[dict[str, Any]]:
    """What preflight_check finds about the sources of figures."""
    validated = ArgumentSpecValidator(_preflight.ARGUMENT_SPEC).validate(options)
    assert not validated.error_messages, validated.error_messages
    try:
        result = _preflight.run(validated.validated_parameters, Context())
    except RolloutError as error:
        result = error.result
    return [problem for problem in result["problems"] if problem["check"] in ("prometheus", "scrapes", "queries")]


def test_preflight_reaches_prometheus_in_the_same_ways_and_names_what_is_refused(proxy: Proxy) -> None:
    metrics = [CALM, by_http("vector(1)"), {**by_http("vector(1)", url="http://127.0.0.1:1/"), "name": "nobody there"}]
    (found,) = problems(**proxy.options(), scrape_job="signal-service", metrics=metrics)
    assert "nobody there" in found["object"] and "cannot reach http://127.0.0.1:1/: Connection refused" in found["seen"]
    (refused,) = problems(**proxy.options(prometheus_tenant="desk-8"))
    assert "no org id" in refused["seen"]
    (missing,) = problems(**proxy.options(prometheus_ca_cert="/no/such/file"))
    assert missing["variable"] == "prometheus_ca_cert" and "cannot be read" in missing["seen"]


def test_the_canary_role_passes_every_way_on(proxy: Proxy, tmp_path: Path) -> None:
    certificate, key = proxy.client
    token = tmp_path / "token"
    token.write_text(SECRET)
    variables = {
        "ansible_python_interpreter": "{{ ansible_playbook_python }}", "rollout_service": "signal-service", "rollout_namespace": "signal",
        "rollout_stable_version": "v1", "rollout_version": "v2", "rollout_prometheus_url": proxy.url,
        "rollout_prometheus_token_file": str(token), "rollout_prometheus_tenant": TENANT,
        "rollout_prometheus_ca_cert": str(proxy.authority.file), "rollout_prometheus_client_cert": str(certificate),
        "rollout_prometheus_client_key": str(key),
    }
    role = {"name": "Ask", "ansible.builtin.import_role": {"name": "signal.rollout.canary", "tasks_from": "queries"}}
    play = {"name": "Queries", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [role]}
    book = tmp_path / "play.yml"
    book.write_text(json.dumps([play]))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(book), "-e", json.dumps(variables)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert proxy.refused == [] and len(proxy.passed) > 5
    assert SECRET not in done.stdout + done.stderr
    # What would decide is shown with its limit.
    assert "canary: error rate: < 0.1 %" in done.stdout and 'signal_requests_total{version="v2", code=~"5.."}' in done.stdout


# ------------------------------------------------------------------------------------------------ JSON over HTTP


def by_http(query: str, **changes: Any) -> dict[str, Any]:
    """A figure from a JSON document: Prometheus' answer, read as any other service's."""
    http = {
        "url": f"{URL}/api/v1/query?query={quote(query, safe='')}",
        "json_path": "to_number(data.result[0].value[1])",
        "time_path": "data.result[0].value[0]",
        **changes,
    }
    return {"name": "by http", "http": http, "below": 0.1, "unit": "%"}


def test_a_gate_mixes_prometheus_and_http() -> None:
    lines: list[str] = []
    result = gate(lines, metrics=[CALM, by_http("vector(0.02)")])
    assert result["verdict"] == "pass", result["msg"]
    assert [metric["last"] for metric in result["metrics"]] == [0.05, 0.02]
    assert any("calm 0.05 % < 0.1 | by http 0.02 % < 0.1" in line for line in lines)
    assert result["metrics"][1]["query"] == f"GET {URL}/api/v1/query?...: to_number(data.result[0].value[1])"


def test_a_gate_of_http_alone_needs_no_prometheus() -> None:
    result = gate(metrics=[by_http("vector(0.02)")], prometheus_url=None)
    assert result["verdict"] == "pass", result["msg"]


def test_a_figure_by_http_that_breaks_its_limit_puts_traffic_back(mesh: Mesh) -> None:
    mesh.shift(10)
    metric = by_http(f"(vector(time()) >= bool {time.time() + 2:.3f}) * 5")
    result = gate(metrics=[CALM, metric], duration=60, abort_route=route(mesh))
    assert result["verdict"] == "breach" and "by http is 5.00 %, expected < 0.1 %" in result["msg"]
    assert mesh.weights() == [100, 0]


@pytest.mark.parametrize(
    ("metric", "verdict", "words"),
    [
        (by_http("nothing_of_this_name"), "no_data", "nothing at"),
        (by_http("vector(0.02)", time_path="`1`"), "no_data", "s old, expected at most 30 s"),
        (by_http("vector(0.02)", url=f"{URL}/no/such/page"), "error", "HTTP 404, expected 200 to 299"),
        (by_http("vector(0.02)", url=f"{URL}/metrics"), "error", "the answer is not JSON: # HELP"),
        (by_http("vector(0.02)", url="http://127.0.0.1:1/"), "error", "cannot reach http://127.0.0.1:1/: Connection refused"),
    ],
)
def test_without_a_figure_by_http_the_weight_is_held_and_then_goes_back(
    mesh: Mesh, metric: dict[str, Any], verdict: str, words: str
) -> None:
    mesh.shift(10)
    result = gate(metrics=[CALM, metric], abort_route=route(mesh))
    assert result["verdict"] == verdict and words in result["msg"], result["msg"]
    assert mesh.weights() == [100, 0]


def test_a_path_that_gives_a_list_ends_the_gate_at_once() -> None:
    result = gate(metrics=[by_http("up", json_path="data.result")], duration=600, prometheus_url=None)
    assert result["verdict"] == "error" and "gives a list of" in result["msg"]
    assert result["seconds"] < 15
