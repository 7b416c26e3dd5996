# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal service as it runs on the lab: v1 and v2 side by side on the schema of v2, under traffic."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from siglab import database, settings
from siglab.settings import Paths

sys.path.insert(0, str(settings.SERVICE_SOURCE))
from app.pricing import greeks  # noqa: E402

Labctl = Callable[..., subprocess.CompletedProcess[str]]
PATHS = Paths.from_environment()
RELEASE = settings.SERVICE_SOURCE / "release"
GATEWAY = settings.GATEWAY_URL.removesuffix(":80")
KEY = "NSE@NIFTY@OPTION@21500@CALL"
METRICS = {
    "signal_requests_total",
    "signal_request_duration_seconds_bucket",
    "signal_websocket_latency_seconds_bucket",
    "signal_cache_hits_total",
    "signal_cache_misses_total",
    "signal_computations_total",
    "signal_computation_seconds_bucket",
    "signal_active_users",
    "signal_disk_size_bytes",
    "signal_disk_free_bytes",
    "signal_active_subscriptions",
    "signal_websocket_connections",
    "signal_db_query_seconds_bucket",
    "signal_db_errors_total",
    "signal_redis_errors_total",
}


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    command = [str(PATHS.bin / "kubectl"), "--kubeconfig", str(PATHS.kubeconfig / "admin"), "-n", "signal", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def pods(version: str) -> dict[str, str]:
    """Return name -> address of the pods that are not going away."""
    items = json.loads(kubectl("get", "pods", "-l", f"version={version}", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in items if "deletionTimestamp" not in pod["metadata"]}


def get(url: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def eventually(condition: Callable[[], object], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout} s: {what}"
        time.sleep(0.2)


def rows(statement: str) -> list[list[str]]:
    output = database.sql(PATHS, statement, database="signal_db", role=database.APPLICATION)
    return [line.split("|") for line in output.splitlines() if line]


def weights(v2: int) -> None:
    # The route before it goes by a header.
    primary = "/spec/http/1"
    patch: list[dict[str, Any]] = [{"op": "test", "path": f"{primary}/name", "value": "primary"}]
    patch += [{"op": "replace", "path": f"{primary}/route/{n}/weight", "value": value} for n, value in ((0, 100 - v2), (1, v2))]
    kubectl("patch", "virtualservice", "signal-service", "--type", "json", "-p", json.dumps(patch))


@pytest.fixture(scope="module")
def both(lab: None, labctl: Labctl) -> Iterator[None]:
    """v1 with all traffic, v2 ready beside it, the database migrated; afterwards the lab's baseline."""
    labctl("reset")
    password = (PATHS.state / "secrets" / database.OWNER).read_text()
    address = {"PGHOST": settings.DATABASE_IP, "PGDATABASE": "signal_db", "PGUSER": database.OWNER, "PGPASSWORD": password}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "alembic", "-c", str(RELEASE / "migrations" / "alembic.ini"), "upgrade", "head"],
        env=os.environ | address,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for _time in range(2):
        database.sql(PATHS, (RELEASE / "sql" / "create_indexes.sql").read_text(), database="signal_db", role=database.OWNER)
    secret = (RELEASE / "k8s" / "secrets" / "signal-service-secrets.yaml").read_text()
    user_password = (PATHS.state / "secrets" / database.APPLICATION).read_bytes()
    template = "{{ configuration_secret_values.PGPASSWORD | b64encode }}"
    assert template in secret
    kubectl("apply", "-f", "-", stdin=secret.replace(template, base64.b64encode(user_password).decode()))
    for folder in ("configmaps", "services", "deployments"):
        kubectl("apply", "-f", str(RELEASE / "k8s" / folder))
    kubectl("rollout", "status", "deployment/signal-service-v2", "--timeout=60s")
    yield
    labctl("heal")
    labctl("reset")


@pytest.fixture
def green(both: None) -> str:
    """Base URL of v2 alone."""
    return settings.GREEN_URL


def test_health_and_status_name_the_version(green: str) -> None:
    status, headers, body = get(f"{green}/health")
    assert (status, headers["x-signal-version"]) == (200, "v2")
    assert json.loads(body) == {"status": "healthy", "version": "v2", "checks": {"database": "ok", "redis": "ok"}}
    status, headers, body = get(f"{GATEWAY}/api/v1/status", settings.HOST_HEADER)
    assert (status, headers["x-signal-version"], json.loads(body)["version"]) == (200, "v1", "v1")


def test_v1_does_not_know_the_api_of_v2(both: None) -> None:
    status, headers, _body = get(f"{GATEWAY}/api/v2/status", settings.HOST_HEADER)
    assert (status, headers["x-signal-version"]) == (404, "v1")


def test_greeks_are_those_of_the_answers_own_quote(green: str) -> None:
    status, _headers, body = get(f"{green}/api/v2/realtime/greeks/{KEY}")
    answer = json.loads(body)
    assert status == 200 and answer["strike"] == 21500
    expiry, at = (time.strptime(answer[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("expiry", "time"))
    years = (time.mktime(expiry) - time.mktime(at)) / (365 * 86400)
    values = greeks(True, answer["spot"], 21500.0, years, answer["iv"], 0.065, 0.012)
    # The answer's time is shown in whole seconds.
    assert values.price == pytest.approx(answer["price"], abs=0.05)
    assert values.delta == pytest.approx(answer["greeks"]["delta"], abs=1e-3)
    assert values.vega == pytest.approx(answer["greeks"]["vega"], rel=1e-3)


@pytest.mark.parametrize(("name", "delta"), [("ATM", 0.5), ("OTM5delta", 0.05), ("OTM25delta", 0.25), ("ITM25delta", 0.75)])
def test_moneyness(green: str, name: str, delta: float) -> None:
    status, _headers, body = get(f"{green}/api/v2/realtime/moneyness/NIFTY/greeks/{name}")
    assert status == 200
    assert json.loads(body)["greeks"]["delta"] == pytest.approx(delta, abs=0.03)


def test_history_has_every_point_of_the_checklists_week(green: str) -> None:
    query = "from=2024-01-01&to=2024-01-07"
    for path, count in (
        (f"/api/v1/historical/greeks/{KEY}?{query}", 168),
        (f"/api/v2/historical/greeks/{KEY}?{query}", 168),
        (f"/api/v2/historical/greeks/{KEY}?{query}&timeframe=7", 1440),
        (f"/api/v2/historical/greeks/{KEY}?from=2024-01-03T10:00:00&to=2024-01-03T11:00:00&timeframe=5", 12),
    ):
        status, _headers, body = get(green + path)
        answer = json.loads(body)
        assert (status, answer["count"], len(answer["points"])) == (200, count, count), path
        assert all(math.isfinite(point["greeks"]["gamma"]) for point in answer["points"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v2/realtime/greeks/NSE@NIFTY", 422),
        ("/api/v2/realtime/greeks/NSE@NOTHING@OPTION@1@CALL", 404),
        ("/api/v2/realtime/moneyness/NIFTY/greeks/OTM60delta", 422),
        (f"/api/v2/historical/greeks/{KEY}?from=x", 422),
        (f"/api/v2/historical/greeks/{KEY}?timeframe=0", 422),
        ("/nothing", 404),
    ],
)
def test_wrong_requests_are_refused_with_a_reason(green: str, path: str, status: int) -> None:
    seen, headers, body = get(green + path)
    assert (seen, headers["x-signal-version"]) == (status, "v2")
    assert json.loads(body)["detail"]


def test_a_second_question_is_answered_from_the_cache(green: str) -> None:
    path = f"{green}/api/v2/realtime/greeks/NSE@BANKNIFTY@OPTION@48100@PUT"
    get(path)
    assert get(path)[1]["x-cache"] == "hit"


def _metrics(address: str) -> list[str]:
    status, _headers, body = get(f"http://{address}:8080/metrics")
    assert status == 200
    return [line for line in body.decode().splitlines() if line.startswith("signal_")]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_metrics_are_complete_and_labelled(both: None, version: str) -> None:
    lines = _metrics(next(iter(pods(version).values())))
    assert {line.split("{")[0] for line in lines} >= METRICS
    assert all(f'version="{version}"' in line for line in lines)
    errors = [line for line in lines if line.startswith("signal_requests_total{") and 'code="500"' in line]
    # The first error must be an increase: its counter is there before.
    assert len(errors) == {"v1": 3, "v2": 7}[version]
    assert any(line.startswith("signal_request_duration_seconds_bucket") and 'le="0.2"' in line for line in lines)
    assert not any('endpoint="/health"' in line or 'endpoint="/metrics"' in line for line in lines)


def test_the_log_queries_of_the_checklist_find_both_versions(green: str) -> None:
    for _number in range(5):
        get(f"{green}/api/v2/status")
        get(f"{GATEWAY}/api/v1/status", settings.HOST_HEADER)
    statement = (
        "SELECT endpoint, percentile_disc(0.99) WITHIN GROUP (ORDER BY duration) FROM api_requests"
        " WHERE service='signal-service' AND timestamp > NOW() - INTERVAL '1 hour' GROUP BY endpoint"
    )
    eventually(lambda: {"/api/v1/status", "/api/v2/status"} <= {row[0] for row in rows(statement)}, "requests of both versions are stored")
    assert all(float(row[1]) > 0.0 for row in rows(statement))
    # v1 does not know the column and leaves it empty.
    assert {row[0] for row in rows("SELECT DISTINCT coalesce(version, 'none') FROM api_requests")} == {"none", "v2"}


def test_computed_greeks_are_stored_and_come_back_as_history(green: str) -> None:
    key = "NSE@FINNIFTY@OPTION@21450@PUT"
    get(f"{green}/api/v2/realtime/greeks/{key}")
    eventually(lambda: rows(f"SELECT 1 FROM signal_greeks WHERE instrument = '{key}'"), "the computed Greeks are stored")
    _status, _headers, body = get(f"{green}/api/v2/historical/greeks/{key}?timeframe=1440&to={time.strftime('%Y-%m-%d', time.gmtime())}")
    assert "stored" in {point["source"] for point in json.loads(body)["points"]}


def test_a_websocket_subscribes_ticks_and_answers_pings(green: str) -> None:
    async def converse() -> list[dict]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{green}/api/v2/subscriptions/websocket") as socket:
            await socket.send_json({"type": "subscribe", "instrument": KEY})
            await socket.send_json({"type": "ping", "t": 42})
            return [await socket.receive_json(timeout=5) for _number in range(5)]

    hello, *others = asyncio.run(converse())
    assert hello == {"type": "hello", "version": "v2"}
    assert {"type": "subscribed", "instrument": KEY} in others
    assert {"type": "pong", "t": 42} in others
    assert [message["instrument"] for message in others if message["type"] == "greeks"] == [KEY, KEY]
    begun_and_ended = f"SELECT count(*), count(ended_at) FROM signal_subscriptions WHERE instrument = '{KEY}'"
    eventually(lambda: rows(begun_and_ended) == [["2", "1"]], "begin and end of the subscription are stored")


class Traffic:
    """The generator, running beside a test."""

    def __init__(self, folder: Path) -> None:
        self.report = folder / "traffic.json"
        command = [sys.executable, "-B", str(settings.LAB_SOURCE / "traffic"), "run", "--rate", "100", "--websockets", "10"]
        self.process = subprocess.Popen(
            [*command, "--duration", "120", "--report", str(self.report)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        eventually(lambda: self.report.exists() and self.totals()["websocket"]["open"].get("v1") == 10, "traffic flows")

    def totals(self) -> dict:
        return json.loads(self.report.read_text())["totals"]

    def stop(self) -> dict:
        self.process.terminate()
        output, _errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, output
        return self.totals()


@pytest.fixture
def traffic(both: None, tmp_path: Path) -> Iterator[Traffic]:
    weights(0)
    running = Traffic(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop()
    weights(0)


def test_nothing_fails_while_weights_move_and_pods_go(traffic: Traffic) -> None:
    for weight in (10, 50, 100):
        weights(weight)
        time.sleep(2.0)
    # With all traffic on v2: one of its pods goes, then all of v1's, which the standing WebSockets are still on.
    kubectl("delete", "pod", next(iter(pods("v2"))), "--wait=true")
    kubectl("scale", "deployment", "signal-service-v1", "--replicas=0")
    eventually(lambda: traffic.totals()["websocket"]["open"].get("v1", 0) == 0, "no WebSocket is left on v1")
    eventually(lambda: sum(traffic.totals()["websocket"]["open"].values()) == 10, "all WebSockets are connected again")
    kubectl("scale", "deployment", "signal-service-v1", "--replicas=2")
    kubectl("rollout", "status", "deployment/signal-service-v1", "--timeout=60s")
    weights(0)
    time.sleep(1.0)
    kubectl("rollout", "restart", "deployment/signal-service-v1")
    kubectl("rollout", "status", "deployment/signal-service-v1", "--timeout=60s")
    totals = traffic.stop()
    assert totals["sent"] > 1500
    assert (totals["failed"], totals["causes"]) == (0, {})
    assert totals["versions"].keys() == {"v1", "v2"}
    websocket = totals["websocket"]
    assert websocket["open_failures"] == {} and websocket["stalls"] == 0
    # Every close was announced: 1001, going away.
    assert websocket["closed"].keys() == {"1001"} and websocket["closed"]["1001"] >= 10


def test_requests_in_flight_are_finished_when_a_pod_goes(both: None, labctl: Labctl) -> None:
    labctl("break", "latency", "2500")
    try:
        name, address = next(iter(pods("v2").items()))
        eventually(lambda: _seconds(f"http://{address}:8080/api/v2/status") > 2.0, "the latency knob acts")
        # The wait before TERM is 3 s: ask so that TERM comes while the request is on its way.
        kubectl("delete", "pod", name, "--wait=false")
        time.sleep(1.5)
        status, headers, _body = get(f"http://{address}:8080/api/v2/status")
        assert (status, headers["x-signal-version"]) == (200, "v2")
    finally:
        labctl("heal", "latency")
    kubectl("rollout", "status", "deployment/signal-service-v2", "--timeout=60s")


def _seconds(url: str) -> float:
    started = time.monotonic()
    get(url)
    return time.monotonic() - started


def test_the_error_knob_breaks_its_share_and_leaves_rows(both: None, labctl: Labctl) -> None:
    labctl("break", "error-ratio", "0.5")
    try:
        url = f"{settings.GREEN_URL}/api/v2/status"
        eventually(lambda: 500 in [get(url)[0] for _number in range(4)], "the error knob acts")
        time.sleep(2.5)
        codes = [get(url)[0] for _number in range(200)]
        assert set(codes) == {200, 500}
        # Four standard deviations of a fair coin.
        assert abs(codes.count(500) - 100) < 29
        assert all(get(f"{settings.GREEN_URL}/health")[0] == 200 for _number in range(20))
        statement = "SELECT count(*) FROM logs WHERE service='signal-service' AND level='ERROR' AND error_type='InjectedError'"
        eventually(lambda: int(rows(statement)[0][0]) >= codes.count(500), "the errors are in the logs table")
    finally:
        labctl("heal", "error-ratio")
