# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The preflight against the whole lab: everything sound, everything wrong at once, and nothing written either way."""

from __future__ import annotations

import copy
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _preflight
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import LAB, Mesh, connection, wait_until

ROOT = Path(__file__).resolve().parents[3]
RELEASE = ROOT / "lab/signal_service/release/k8s"
MANIFESTS = sorted(str(path) for path in RELEASE.rglob("*.yaml"))


def secret(name: str) -> str:
    return (LAB / "secrets" / name).read_text()


def sound(tmp_path: Path) -> dict[str, Any]:
    """Options that fit the lab as it is."""
    return {
        "kubeconfig": str(LAB / "kubeconfig/deployer"),
        "namespace": "signal",
        "environment": "lab",
        "cluster_server": "https://10.77.0.2:6443",
        "version": "v2",
        "rights": [
            {"verb": "patch", "group": "apps", "resource": "deployments/scale", "name": "signal-service-v2"},
            {"verb": "patch", "group": "networking.istio.io", "resource": "virtualservices", "name": "signal-service"},
            {"verb": "get", "resource": "pods/proxy", "namespace": "istio-system"},
            {"verb": "get", "resource": "namespaces", "name": "signal", "namespace": ""},
        ],
        "manifests": list(MANIFESTS),
        "traffic_route": {"name": "signal-service", "route": "primary", "stable": "v1", "canary": "v2"},
        "postgresql": {
            "login_host": "10.79.0.50",
            "login_user": "signal_owner",
            "login_password": secret("signal_owner"),
            "login_db": "signal_db",
            "pg_bin_dir": str(LAB / "pgclient/bin"),
        },
        "backup": {"path": str(tmp_path / "backup")},
        "prometheus_url": "http://10.79.0.52:9090",
        "scrape_job": "signal-service",
        "metrics": [
            {"name": "errors", "preset": "error_percent", "preset_vars": {"version": "v2", "window": "30s"}, "below": 0.1, "unit": "%"},
            {"name": "queue", "query": "max(no_such_series_yet)", "below": 5, "unit": "messages"},
        ],
        "minimum_requests": {"preset": "requests", "preset_vars": {"version": "v2", "window": "$hold"}, "at_least": 100},
        "redis_url": "redis://10.79.0.51:6379/0",
        "notification_targets": ["json://10.79.0.53:8080/hook/preflight"],
        "files": {"itself": str(Path(__file__).resolve())},
        "urls": {"base_url": "http://10.79.0.60"},
    }


def preflight(check_mode: bool = False, **options: Any) -> dict[str, Any]:
    """Run the preflight; the message of a failure is ``msg``."""
    checked = ArgumentSpecValidator(_preflight.ARGUMENT_SPEC).validate(options)
    assert not checked.error_messages, checked.error_messages
    try:
        return {"msg": "", **_preflight.run(checked.validated_parameters, Context(check_mode=check_mode))}
    except RolloutError as error:
        return {"msg": error.message, **error.result}


def seen(result: dict[str, Any], check: str) -> list[str]:
    return [problem["seen"] for problem in result["problems"] if problem["check"] == check]


def test_a_sound_release_passes_every_check_in_seconds_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[_kube.Kube] = []
    original = _kube.Kube.__init__

    def remember(self: _kube.Kube, *rest: Any) -> None:
        original(self, *rest)
        made.append(self)

    sent: list[tuple[str, str]] = []
    exchange = _kube.Kube._exchange

    def record(self: _kube.Kube, method: str, target: str, *rest: Any) -> Any:
        sent.append((method if "dryRun=All" not in target else "trial", target.split("?")[0]))
        return exchange(self, method, target, *rest)

    monkeypatch.setattr(_kube.Kube, "__init__", remember)
    monkeypatch.setattr(_kube.Kube, "_exchange", record)
    options = sound(tmp_path)
    result = preflight(**options)
    assert result["problems"] == [], result["msg"]
    assert all(check["ok"] for check in result["checks"])
    assert {check["check"] for check in result["checks"]} == {check.name for check in _preflight.CHECKS} - {"stable"}
    assert result["seconds"] < 15
    assert result["changed"] is False
    assert not (tmp_path / "backup").exists()
    reviews = [target for method, target in sent if method == "POST"]
    assert reviews == ["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] * len(options["rights"])
    assert {method for method, _target in sent} == {"GET", "POST", "trial"}
    assert preflight(check_mode=True, **options)["problems"] == []


def test_route_that_moves_too_but_may_not_be_written_is_told(tmp_path: Path) -> None:
    options = sound(tmp_path)
    options["traffic_route"]["others"] = [{"kind": "HTTPRoute", "name": "signal-service", "stable": "signal-service-v1", "canary": "signal-service-v2"}]
    kept = {name: options[name] for name in ("namespace", "environment", "version", "manifests", "traffic_route")}
    assert seen(preflight(**kept, kubeconfig=options["kubeconfig"]), "traffic_route") == []
    refused = preflight(**kept, kubeconfig=str(LAB / "kubeconfig/viewer"))
    told = [item["object"] for item in refused["problems"] if item["seen"].startswith("not allowed")]
    assert told == ["patch httproutes.gateway.networking.k8s.io signal-service in namespace signal"], refused["msg"]


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    deployment = yaml.safe_load((RELEASE / "deployments/signal-service-v2-green.yaml").read_text())
    wrong = copy.deepcopy(deployment)
    wrong["metadata"].update(name="signal-service-v0", namespace="production")
    app = wrong["spec"]["template"]["spec"]["containers"][0]
    app["image"] = "signal-service:latest"
    app["envFrom"][0]["configMapRef"]["name"] = "no-such-config"
    del app["readinessProbe"]
    options = sound(tmp_path)
    options.update(
        environment="production",
        rights=[{"verb": "delete", "resource": "namespaces", "namespace": ""}, {"verb": "list", "resource": "secrets"}, *options["rights"]],
        deployment="signal-service-v0",
        manifests=[wrong],
        traffic_route={"name": "signal-service", "stable": "v1", "canary": "v3"},
        postgresql={**options["postgresql"], "login_password": "wrong-password"},
        prometheus_url="http://10.79.0.52:9091",
        redis_url="redis://10.79.0.51:6380/0",
        variables={"environment": "rollout_environment", "postgresql.login_password": "rollout_db_owner_password"},
    )
    started = time.monotonic()
    result = preflight(**options)
    assert time.monotonic() - started < 30
    checks = {problem["check"] for problem in result["problems"]}
    assert checks == {"namespace", "rights", "stable", "traffic_route", "manifests", "references", "database", "prometheus", "redis"}
    by_variable = {problem["variable"]: problem for problem in result["problems"]}
    assert (by_variable["rollout_environment"]["seen"], by_variable["rollout_environment"]["expected"]) == ("lab", "production")
    assert "password authentication failed" in by_variable["rollout_db_owner_password"]["seen"]
    assert len(seen(result, "rights")) == 2
    assert len(seen(result, "manifests")) == 4
    assert any("no ConfigMap no-such-config" in text for text in seen(result, "references"))
    assert "Nothing was written." in result["msg"]
    assert len(result["msg"].splitlines()) == 1 + len(result["problems"])
    assert "wrong-password" not in str(result)


def test_the_stable_deployment_is_looked_at(tmp_path: Path, mesh: Mesh) -> None:
    options = {"kubeconfig": str(LAB / "kubeconfig/admin"), "namespace": mesh.namespace, "deployment": "echo-v1"}
    assert preflight(**options, stable_version="v1")["problems"] == []
    assert seen(preflight(**options, stable_version="v0"), "stable") == ["version=v1"]
    assert seen(preflight(**{**options, "deployment": "echo-v9"}), "stable") == ["none of this name"]
    scale = mesh.path("deployments", "echo-v1", ("apps", "v1"))
    mesh.kube.patch(f"{scale}/scale", [{"op": "replace", "path": "/spec/replicas", "value": 0}])
    try:
        assert "replicas is 0" in seen(preflight(**options), "stable")[0]
    finally:
        mesh.kube.patch(f"{scale}/scale", [{"op": "replace", "path": "/spec/replicas", "value": 1}])


def test_pods_that_the_stable_deployment_would_claim_are_refused(mesh: Mesh) -> None:
    live = mesh.kube.get(mesh.path("deployments", "echo-v1", ("apps", "v1")))
    green = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "echo-green"},
        "spec": {"selector": live["spec"]["selector"], "template": live["spec"]["template"]},
    }
    options = {"kubeconfig": str(LAB / "kubeconfig/admin"), "namespace": mesh.namespace, "deployment": "echo-v1", "manifests": [green]}
    assert seen(preflight(**options), "references") == ["its pods match the selector of Deployment echo-v1"]


def test_pods_that_the_namespace_would_refuse_are_told_before_they_are_needed(mesh: Mesh) -> None:
    template = mesh.kube.get(mesh.path("deployments", "echo-v2", ("apps", "v1")))["spec"]["template"]
    labels = {"app": "echo", "version": "v3"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": {**template, "metadata": {"labels": labels}}}
    green = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "echo-v3"}, "spec": spec}
    options = {"kubeconfig": str(LAB / "kubeconfig/admin"), "namespace": mesh.namespace, "deployment": "echo-v1", "manifests": [green]}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "echo-v3"}
    made = [
        ("resourcequotas", ("", "v1"), "v1", "ResourceQuota", {"hard": {"pods": "4", "requests.cpu": "1"}}),
        ("limitranges", ("", "v1"), "v1", "LimitRange", {"limits": [{"type": "Container", "max": {"memory": "48Mi"}}]}),
        ("horizontalpodautoscalers", ("autoscaling", "v2"), "autoscaling/v2", "HorizontalPodAutoscaler", {"scaleTargetRef": reference, "maxReplicas": 2}),
    ]
    paths = []
    try:
        for plural, group, version, kind, body in made:
            mesh.kube.post(mesh.path(plural, None, group), {"apiVersion": version, "kind": kind, "metadata": {"name": "tight"}, "spec": body})
            paths.append(mesh.path(plural, "tight", group))
        wait_until("the quota is counted", lambda: (mesh.kube.get(paths[0]).get("status") or {}).get("used", {}).get("pods") == "2")
        found = seen(preflight(**options, full_pods=3), "capacity")
        assert found == [
            "HorizontalPodAutoscaler tight with maxReplicas 2",
            "pods: 2 of 4 used",
            "container app with limits.memory 64Mi",
        ]
        # As many as the stable Deployment has: one.
        assert seen(preflight(**options), "capacity") == ["container app with limits.memory 64Mi"]
    finally:
        for path in paths:
            mesh.kube.delete(path)


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ([{"op": "replace", "path": "/spec/http/0/route/0/weight", "value": 90}], "expected whole numbers that sum to 100"),
        ([{"op": "replace", "path": "/spec/http/0/route/1/destination/subset", "value": "v9"}], "expected subset or host 'v2'"),
        ([{"op": "replace", "path": "/spec/http/0/name", "value": "renamed"}], "its http routes are 'renamed'"),
    ],
)
def test_a_route_that_cannot_be_shifted_is_told_in_its_own_words(mesh: Mesh, operations: list[dict[str, Any]], words: str) -> None:
    mesh.edit(operations)
    wanted = {"name": "echo", "route": "primary", "stable": "v1", "canary": "v2"}
    result = preflight(kubeconfig=str(LAB / "kubeconfig/admin"), namespace=mesh.namespace, traffic_route=wanted)
    assert words in seen(result, "traffic_route")[0]


def test_a_subset_without_definition_is_told(mesh: Mesh) -> None:
    path = mesh.path("destinationrules")
    mesh.kube.patch(path, [{"op": "remove", "path": "/spec/subsets/1"}])
    try:
        wanted = {"name": "echo", "stable": "v1", "canary": "v2"}
        result = preflight(kubeconfig=str(LAB / "kubeconfig/admin"), namespace=mesh.namespace, traffic_route=wanted)
        service = f"echo.{mesh.namespace}.svc.cluster.local"
        words = f"no DestinationRule in namespace {mesh.namespace} defines subset 'v2' of host {service} (subsets there: v1)"
        assert seen(result, "traffic_route") == [words]
    finally:
        mesh.kube.patch(path, [{"op": "add", "path": "/spec/subsets/1", "value": {"name": "v2", "labels": {"version": "v2"}}}])


@pytest.mark.parametrize("kind", ["VirtualService", "HTTPRoute"])
def test_the_line_that_puts_traffic_back_works_as_pasted_and_touches_nothing_else(mesh: Mesh, kind: str) -> None:
    one = mesh.of(kind)
    wanted = {"kind": kind, "name": "echo", **one.destinations}
    line = preflight(kubeconfig=str(LAB / "kubeconfig/admin"), namespace=mesh.namespace, traffic_route=wanted)["break_glass"]
    environment = {**os.environ, "KUBECONFIG": str(LAB / "kubeconfig" / "admin"), "PATH": f"{LAB / 'bin'}:{os.environ['PATH']}"}

    def paste() -> int:
        return subprocess.run(line, shell=True, env=environment, capture_output=True, timeout=30, check=False).returncode

    one.shift(50)
    assert paste() == 0 and one.weights() == [100, 0]
    # Other destinations than those that were read are not touched.
    one.edit([{"op": "move", "from": f"{one.backends}/0", "path": f"{one.backends}/1"}, *one.foreign(75, 25)])
    assert paste() != 0 and one.weights() == [75, 25]


def test_a_gateway_that_is_not_programmed_is_told_in_its_own_words(mesh: Mesh) -> None:
    one = mesh.of("HTTPRoute")
    one.edit([{"op": "replace", "path": "/spec/parentRefs/0/name", "value": "nowhere"}])
    wanted = {"kind": "HTTPRoute", "name": "echo", **one.destinations}
    result = preflight(kubeconfig=str(LAB / "kubeconfig/admin"), namespace=mesh.namespace, traffic_route=wanted)
    assert seen(result, "traffic_route") == ["its parent Gateway istio-system/nowhere does not exist, expected one that is Programmed"]


def test_a_namespace_that_does_not_exist_or_may_not_be_seen() -> None:
    assert seen(preflight(kubeconfig=str(LAB / "kubeconfig/admin"), namespace="nowhere"), "namespace") == ["none of this name"]
    assert seen(preflight(kubeconfig=str(LAB / "kubeconfig/deployer"), namespace="kube-system"), "namespace") == ["no right to get it"]


def test_wrong_credentials_are_one_problem_and_not_one_per_check(tmp_path: Path) -> None:
    options = {**sound(tmp_path), "kubeconfig": str(tmp_path / "none")}
    result = preflight(**options)
    assert [problem["check"] for problem in result["problems"]] == ["cluster"]
    assert {check["check"] for check in result["checks"] if check["skipped"]} == {
        "namespace", "rights", "traffic_route", "references", "capacity", "nodes", "mesh"
    }


def test_a_secret_that_may_not_be_read_is_a_warning(tmp_path: Path) -> None:
    deployment = str(RELEASE / "deployments/signal-service-v2-green.yaml")
    result = preflight(**{**sound(tmp_path), "kubeconfig": str(LAB / "kubeconfig/viewer"), "manifests": [deployment]})
    assert any("Secret signal-service-secrets-v2: no right to read it" in text for text in result["warnings"])


@pytest.mark.parametrize(
    ("change", "variable", "words"),
    [
        ({"login_db": "no_such_db"}, "postgresql.login_db", "does not exist"),
        ({"login_host": "10.79.0.51"}, "postgresql.login_host", "cannot connect"),
        ({"extension": "no_such_extension"}, "postgresql.login_db", "it is not"),
        ({"pg_bin_dir": "/nowhere"}, "postgresql.pg_bin_dir", "no such program"),
        ({"pg_bin_dir": "old"}, "postgresql.pg_bin_dir", "version 11"),
    ],
)
def test_what_can_be_wrong_with_the_database(tmp_path: Path, change: dict[str, Any], variable: str, words: str) -> None:
    for name in ("pg_dump", "pg_restore"):
        program = tmp_path / "old" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) 11.22'\n")
        program.chmod(0o755)
    if change.get("pg_bin_dir") == "old":
        change = {"pg_bin_dir": str(tmp_path / "old")}
    result = preflight(**connection_options(), postgresql={**sound(tmp_path)["postgresql"], **change})
    assert [problem["variable"] for problem in result["problems"]][0] == variable
    assert words in result["problems"][0]["seen"]


def connection_options() -> dict[str, Any]:
    return {"kubeconfig": connection("deployer")["kubeconfig"], "namespace": "signal"}


def test_a_disk_that_is_too_small_for_a_backup_is_told(tmp_path: Path) -> None:
    result = preflight(**connection_options(), postgresql=sound(tmp_path)["postgresql"], backup={"path": str(tmp_path / "b"), "free_factor": 1e9})
    assert [problem["rule"] for problem in result["problems"]] == ["there is free space for 1e+09 times the database"]


def test_a_clock_that_is_off_and_targets_that_are_missing_are_told() -> None:
    options = {**connection_options(), "prometheus_url": "http://10.79.0.52:9090"}
    assert preflight(**options, scrape_job="signal-service", scrape_targets=1)["problems"] == []
    assert "targets up" in seen(preflight(**options, scrape_job="signal-service", scrape_targets=99), "scrapes")[0]
    assert seen(preflight(**options, scrape_job="no-such-job"), "scrapes") == ["0 of 0 targets up"]
    assert "its clock and this host's agree" in preflight(**options, max_clock_skew=1e-9)["problems"][0]["rule"]


def test_a_wrong_query_is_told_in_prometheus_words() -> None:
    metrics = [{"name": "m", "query": "sum(rate(x[1m])", "below": 1, "unit": "s"}, {"name": "n", "query": "up", "below": 1, "unit": "s"}]
    result = preflight(**connection_options(), prometheus_url="http://10.79.0.52:9090", metrics=metrics)
    found = seen(result, "queries")
    assert "parse error" in found[0]
    assert "series where one is expected" in found[1]
