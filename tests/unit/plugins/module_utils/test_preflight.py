# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The preflight without a lab: manifests, folders, addresses, what is down, and how problems are gathered."""

from __future__ import annotations

import copy
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _manifests, _preflight
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

# Nothing listens on the discard port: what a server that is down looks like.
DOWN = "127.0.0.1:9"


def options(**changes: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(_preflight.ARGUMENT_SPEC).validate({"host": f"http://{DOWN}", "namespace": "signal", **changes})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def problems(name: str, **changes: Any) -> list[_preflight.Problem]:
    """The problems that one check finds."""
    site = _preflight.Site(options(**changes))

    def problem(option: str, *words: str) -> _preflight.Problem:
        assert all(words), "each problem names everything"
        return _preflight.Problem(name, words[0], site.variable(option), *words[1:])

    (wanted,) = (each for each in _preflight.CHECKS if each.name == name)
    return list(wanted.find(site, problem))


# ------------------------------------------------------------------------------------------------------ manifests

CONTAINER = {
    "name": "app",
    "image": "registry.example/signal-service:v2",
    "ports": [{"containerPort": 8080}],
    "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}},
    "resources": {"limits": {"cpu": "1", "memory": "256Mi"}},
    "envFrom": [{"configMapRef": {"name": "config-v2"}}, {"secretRef": {"name": "secrets-v2"}}],
    "env": [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key-secret", "key": "a"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "maybe", "key": "b", "optional": True}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ],
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "signal-service-v2", "namespace": "signal"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "signal-service", "version": "v2"}},
        "template": {
            "metadata": {"labels": {"app": "signal-service", "version": "v2"}},
            "spec": {
                "containers": [CONTAINER],
                "volumes": [
                    {"name": "knobs", "configMap": {"name": "knobs-v2", "optional": True}},
                    {"name": "tls", "secret": {"secretName": "tls"}},
                    {"name": "all", "projected": {"sources": [{"configMap": {"name": "projected"}}, {"secret": {"name": "token"}}]}},
                ],
            },
        },
    },
}
RULES = _manifests.Rules("signal", ("ConfigMap", "Deployment", "Secret", "Service"), "v2", "signal-service-v1")


def changed(path: str, value: Any) -> dict[str, Any]:
    """DEPLOYMENT with one place set to ``value``, or removed for None."""
    body = copy.deepcopy(DEPLOYMENT)
    *parents, last = path.split("/")
    place: Any = body
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return body


def broken_rules(*bodies: Any) -> list[_manifests.Finding]:
    manifests, findings = _manifests.read(list(bodies))
    return findings + _manifests.check(manifests, RULES)


def test_a_sound_release_has_no_findings() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config-v2"}}
    assert broken_rules(DEPLOYMENT, config) == []


APP = "spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("path", "value", "seen"),
    [
        ("metadata/namespace", "kube-system", "kube-system"),
        ("metadata/name", "signal-service-v1", "the name of the stable Deployment"),
        ("metadata/name", None, "metadata.name is missing"),
        ("kind", "ClusterRole", "ClusterRole"),
        ("spec/selector/matchLabels/version", "v1", "spec.selector.matchLabels.version=v1"),
        ("spec/selector/matchLabels/version", None, "spec.selector.matchLabels.version=none"),
        ("spec/template/metadata/labels/version", None, "spec.template.metadata.labels.version=none"),
        ("spec/template/metadata/labels/app", "other", "lack app=signal-service"),
        ("spec/replicas", 0, "spec.replicas=0"),
        ("spec/replicas", "2", "spec.replicas=2"),
        ("spec/template/spec/containers", [], "none"),
        (f"{APP}/readinessProbe", None, "no readinessProbe"),
        (f"{APP}/resources", None, "no resources.limits.cpu and no resources.limits.memory"),
        (f"{APP}/resources/limits/memory", None, "no resources.limits.memory"),
        (f"{APP}/image", "signal-service", "image=signal-service"),
        (f"{APP}/image", "registry:5000/signal-service", "image=registry:5000/signal-service"),
        (f"{APP}/image", "signal-service:latest", "image=signal-service:latest"),
        (f"{APP}/image", None, "image=none"),
        ("spec", "text", "spec.selector.matchLabels.version=none"),
    ],
)
def test_a_broken_rule_is_found(path: str, value: Any, seen: str) -> None:
    assert any(seen in finding.seen for finding in broken_rules(changed(path, value)))


@pytest.mark.parametrize("image", ["a:1", "registry:5000/a:1", "a@sha256:0123", "registry:5000/a@sha256:0123"])
def test_a_fixed_image_is_fine(image: str) -> None:
    assert broken_rules(changed(f"{APP}/image", image)) == []


def test_a_side_container_without_ports_needs_no_probe_but_limits() -> None:
    body = copy.deepcopy(DEPLOYMENT)
    body["spec"]["template"]["spec"]["containers"].append({"name": "logs", "image": "logs:1"})
    assert [finding.rule for finding in broken_rules(body)] == ["resources are limited"]


def test_the_same_object_twice_and_a_release_without_deployment() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config-v2"}}
    assert {finding.rule for finding in broken_rules(config, config)} == {"each object once", "the release brings a Deployment"}


def test_references_are_those_that_pods_cannot_start_without() -> None:
    found = _manifests.references(_manifests.Manifest(DEPLOYMENT, "here"))
    assert {(item.kind, item.name) for item in found} == {
        ("ConfigMap", "config-v2"),
        ("Secret", "secrets-v2"),
        ("Secret", "key-secret"),
        ("Secret", "tls"),
        ("ConfigMap", "projected"),
        ("Secret", "token"),
    }


def test_files_are_read_with_all_their_documents(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text('---\nkind: Secret\nmetadata: {name: a}\ndata: {KEY: "{{ never_evaluated }}"}\n---\n---\nkind: Service\nmetadata: {name: b}\n')
    manifests, findings = _manifests.read([str(file)])
    assert [(m.kind, m.name, m.source) for m in manifests] == [("Secret", "a", "two.yaml"), ("Service", "b", "two.yaml")]
    assert findings == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("data: {password: hunter2hunter2, : [}", "line 1"),
        ("- a\n- b\n", "a document that is a list"),
        ("!!python/object/apply:os.system ['touch /tmp/never']", "line 1"),
        ("a: &a [x, x]\nb: &b [" + ", ".join(["*a"] * 60) + "]\nc: [" + ", ".join(["*b"] * 60) + "]\n", "120 YAML aliases"),
        ("x: " + "y" * _manifests.LARGEST_FILE, "bytes"),
    ],
)
def test_an_unusable_file_is_a_finding_that_quotes_nothing_of_it(tmp_path: Path, text: str, seen: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    manifests, findings = _manifests.read([str(file)])
    assert manifests == []
    assert seen in findings[0].seen
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize("entry", ["/nowhere/x.yaml", "/", 7, None])
def test_an_entry_that_is_no_file_and_no_object_is_a_finding(entry: Any) -> None:
    manifests, findings = _manifests.read([entry])
    assert (manifests, len(findings)) == ([], 1)


def test_a_binary_file_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in _manifests.read([str(tmp_path / "x.yaml")])[1][0].seen


def test_files_that_later_phases_read_are_looked_for_under_the_users_names(tmp_path: Path) -> None:
    good, empty = tmp_path / "good.sql", tmp_path / "empty.sql"
    good.write_text("select 1", encoding="utf-8")
    empty.touch()
    found = problems(
        "files",
        files={"a": str(good), "b": str(empty), "c": str(tmp_path), "d": str(tmp_path / "none"), "e": "good.sql"},
        variables={"files": "release_dir", "files.b": "index_file"},
    )
    assert [(problem.variable, problem.object.rpartition("/")[2], problem.seen) for problem in found] == [
        ("index_file", "empty.sql", "an empty file"),
        ("release_dir", tmp_path.name, "no file, but a folder or a device"),
        ("release_dir", "none", "No such file or directory"),
        ("release_dir", "file good.sql", "a relative path"),
    ]


# ------------------------------------------------------------------------------------------------- what is down


def test_everything_that_is_down_is_told_at_once_under_the_users_names() -> None:
    names = {"host": "rollout_cluster", "postgresql": "rollout_db", "postgresql.login_host": "rollout_db_host", "urls.base_url": "rollout_base_url"}
    started = time.monotonic()
    with pytest.raises(RolloutError) as caught:
        _preflight.run(
            options(
                rights=[{"verb": "get", "resource": "pods"}],
                postgresql={"login_host": "127.0.0.1", "login_port": 9, "login_user": "u", "login_db": "d", "login_password": "hunter2hunter2"},
                prometheus_url=f"http://{DOWN}",
                metrics=[{"name": "m", "query": "q", "below": 1, "unit": "s"}],
                redis_url=f"redis://:hunter2hunter2@{DOWN}/0",
                notification_targets=[],
                manifests=[],
                version="v2",
                urls={"base_url": "ftp://x"},
                variables=names,
            ),
            Context(),
        )
    assert time.monotonic() - started < 8
    result = caught.value.result
    assert set(result) == {"changed", "problems", "checks", "seconds", "warnings", "break_glass", "proofs"}
    for problem in result["problems"]:
        assert all(problem.values()), "each problem names everything"
        assert f"{problem['variable']}: {problem['object']}" in caught.value.message
    found = {problem["check"]: problem for problem in result["problems"]}
    assert set(found) == {"cluster", "database", "prometheus", "redis", "notifications", "manifests", "urls"}
    assert found["database"]["variable"] == "rollout_db_host"
    assert "Connection refused" in found["database"]["seen"]
    assert "Connection refused" in found["prometheus"]["seen"]
    assert found["urls"]["variable"] == "rollout_base_url"
    assert caught.value.message.startswith("preflight_check: 7 problems found in ")
    assert len(caught.value.message.splitlines()) == 8
    skipped = {check["check"]: check["skipped"] for check in result["checks"] if check["skipped"]}
    assert set(skipped) == {"namespace", "rights", "references", "capacity", "nodes", "postgresql_client", "queries"}
    assert "hunter2" not in caught.value.message + str(result)


def test_another_cluster_is_refused_without_a_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        params = options(host=f"http://127.0.0.1:{listener.getsockname()[1]}", cluster_server="https://production.example:6443")
        with pytest.raises(RolloutError) as caught:
            _preflight.run(params, Context())
        with pytest.raises(TimeoutError):
            listener.accept()
    assert [problem["variable"] for problem in caught.value.result["problems"]] == ["cluster_server"]
    assert "production.example" in caught.value.message


@pytest.mark.parametrize("url", ["not a url", "https://x:port"])
def test_an_expected_server_that_is_no_url_is_told(url: str) -> None:
    with pytest.raises(RolloutError) as caught:
        _preflight.run(options(cluster_server=url), Context())
    assert caught.value.result["problems"][0]["rule"] == "it is a URL"


# --------------------------------------------------------------------------------------------- folders, addresses


def backup_problems(path: Any) -> list[str]:
    return [problem.seen for problem in problems("backup", backup={"path": str(path)})]


def test_a_private_folder_and_one_that_can_be_made_are_fine(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert backup_problems(private) == []
    assert backup_problems(tmp_path / "not/yet/there") == []
    assert not (tmp_path / "not").exists(), "the preflight writes nothing"


def test_wrong_folders(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    (tmp_path / "file").write_text("")
    os.symlink(tmp_path, tmp_path / "link")
    assert backup_problems(shared) == ["mode 0755"]
    assert backup_problems(tmp_path / "file") == ["a link or a file"]
    assert backup_problems(tmp_path / "link") == ["a link or a file"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:8080", None),
        ("https://localhost/x", None),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://2852039166/", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://nowhere.invalid/", "is not known"),
        ("file:///etc/passwd", "scheme is 'file'"),
        ("http://me:hunter2@host", "holds a user or a password"),
    ],
)
def test_addresses(url: str, words: str | None) -> None:
    found = problems("urls", urls={"base_url": url})
    assert [words in problem.seen for problem in found] == ([True] if words else [])
    assert "hunter2" not in str(found)


def test_targets_are_parsed_and_never_shown() -> None:
    found = problems("notifications", notification_targets=["json://127.0.0.1/hook", "slack://hunter2hunter2", "hunter2hunter2"])
    assert [problem.object for problem in found] == ["target 2 of 3", "target 3 of 3"]
    assert "hunter2" not in str(found)


def test_wrong_gate_options_and_prometheus_options_are_problems() -> None:
    found = problems("prometheus", prometheus_url="ftp://x", prometheus_user="me", variables={"prometheus_url": "rollout_prometheus_url"})
    assert {problem.variable for problem in found} == {"rollout_prometheus_url", "prometheus_user and prometheus_password"}
    metrics = [{"name": "m", "query": "q", "below": 1}, {"name": "m", "preset": "p99_ms", "unit": "s", "below": 1}]
    found = problems("queries", prometheus_url=f"http://{DOWN}", metrics=metrics)
    seen = "; ".join(problem.seen for problem in found)
    for words in ("unit is missing", "the name is used twice", "preset_vars.window is missing"):
        assert words in seen


def test_what_is_not_asked_for_is_not_checked() -> None:
    assert [check.name for check in _preflight.asked(options(rights=[], urls={}, redis_url="", deployment=""))] == ["cluster", "namespace"]


# ------------------------------------------------------------------------------------------------- the machinery


def run_with(monkeypatch: pytest.MonkeyPatch, *checks: _preflight.Check, timeout: float = 5.0) -> dict[str, Any]:
    monkeypatch.setattr(_preflight, "CHECKS", checks)
    try:
        return _preflight.run(options(timeout=timeout), Context())
    except RolloutError as error:
        return error.result


def check(
    name: str, wait: Callable[[], Any] = lambda: None, error: Exception | None = None, count: int = 0, **relations: Any
) -> _preflight.Check:
    def find(site: _preflight.Site, problem: Any) -> Iterator[_preflight.Problem]:
        wait()
        for number in range(count):
            yield problem("namespace", f"object {number}", "rule", "this", "that", "do so")
        if error is not None:
            raise error

    return _preflight.Check(name, ("namespace",), find, **relations)


def test_checks_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(10)
    result = run_with(monkeypatch, *(check(f"c{number}", lambda: together.wait(15)) for number in range(10)), timeout=20)
    assert result["problems"] == []
    assert all(entry["ok"] for entry in result["checks"])


def test_a_check_that_hangs_is_a_problem_after_its_time_and_so_leaves_out_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    hanging = check("slow", lambda: told.wait(60))
    result = run_with(monkeypatch, hanging, check("next", count=1, needs=("slow",)), check("other", count=1), timeout=0.3)
    told.set()
    assert [(problem["check"], problem["seen"]) for problem in result["problems"]] == [("slow", "no answer within 0.3 s"), ("other", "this")]
    assert [entry["skipped"] for entry in result["checks"]] == ["", "left out, since check slow found a problem", ""]


def test_a_check_after_another_runs_whatever_that_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_with(monkeypatch, check("first", count=2), check("second", count=1, after=("first",)))
    assert [entry["problems"] for entry in result["checks"]] == [2, 1]


@pytest.mark.parametrize(
    ("error", "seen", "then"),
    [
        (RolloutError("it broke. Next: mend it."), "it broke", "mend it"),
        (KeyError("a bug"), "KeyError: 'a bug'", "report this"),
    ],
)
def test_a_check_that_breaks_is_a_problem_and_keeps_what_it_had_found(
    monkeypatch: pytest.MonkeyPatch, error: Exception, seen: str, then: str
) -> None:
    result = run_with(monkeypatch, check("broken", count=1, error=error))
    assert [(problem["seen"], problem["next"]) for problem in result["problems"]] == [("this", "do so"), (seen, then)]


def test_an_interruption_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preflight, "CHECKS", (check("slow", lambda: time.sleep(2)),))
    context = Context()
    context.cancelled.set()
    with pytest.raises(RolloutError, match="interrupted"):
        _preflight.run(options(), context)


def test_every_dependency_of_a_check_exists_and_stands_before_it() -> None:
    names: list[str] = []
    for entry in _preflight.CHECKS:
        assert set(entry.needs + entry.after) <= set(names), entry.name
        assert set(entry.options) <= set(_preflight.ARGUMENT_SPEC), entry.name
        names.append(entry.name)
    assert len(names) == len(set(names))
