# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs of the AWX workflow as AWX runs them: by ansible-runner, each in a folder of its own, answers as text, nobody to ask."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import ansible_runner
import pytest
import yaml
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _signoff
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .conftest import LAB, QUICK, ROOT, Stage, labctl


class Tagged(str):
    """Text that came from a person. AWX marks it, so that it is never taken for a template."""


class Dumper(yaml.SafeDumper):
    pass


class Loader(yaml.SafeLoader):
    pass


Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))
Dumper.add_representer(Tagged, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


@dataclass
class Job:
    """How a job ended."""

    status: str
    output: str
    changed: int


@dataclass
class Credential:
    """A credential of AWX: its type in awx.yml, and what somebody has typed into the type's fields."""

    kind: str
    inputs: dict[str, str]

    def inject(self, types: dict[str, Any], folder: Path) -> dict[str, Tagged]:
        """Write its files and return its variables, as AWX does before a job."""
        injectors = types[self.kind]["injectors"]
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        names = {}
        for name, text in (injectors.get("file") or {}).items():
            path = folder / f"tmp{uuid.uuid4().hex[:8]}"
            path.write_text(environment.from_string(text).render(self.inputs), encoding="utf-8")
            path.chmod(0o600)
            names[name.removeprefix("template.")] = str(path)
        values = {**self.inputs, "tower": {"filename": names}}
        return {name: Tagged(environment.from_string(text).render(values)) for name, text in injectors["extra_vars"].items()}


class Awx:
    """What AWX does between a launch and ansible-playbook."""

    def __init__(self, folder: Path, inventory: str) -> None:
        data = yaml.load((ROOT / "playbooks/vars/awx.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
        self.templates = {template["name"]: template for template in data["awx_templates"]}
        self.types = {kind["name"]: kind for kind in data["awx_credential_types"]}
        self.asked = data["awx_questions_of_all"]
        self.folder, self.inventory, self.count = folder, inventory, 0
        # As awx_credentials and awx_job_variables.
        self.credentials: list[Credential] = []
        self.variables: dict[str, Any] = {}
        self.succeeded: set[str] = set()

    def do(self, name: str, **options: Any) -> Job:
        """Run a template that must end well."""
        job = self.run(name, **options)
        assert job.status == "successful", job.output[-4000:]
        return job

    def run(self, name: str, person: Credential | None = None, cancel: Callable[[], bool] | None = None, **answers: str) -> Job:
        """Run a template. ``answers`` are those of its survey, as text; ``person`` launches it with a credential of their own; it is cancelled when
        ``cancel`` says so."""
        template = self.templates[name]
        assert set(answers) <= {*template.get("survey", []), *self.asked}, "AWX takes nothing that the survey does not ask for"
        assert person is None or template.get("ask_credential"), "AWX asks for a credential only where the template says so"
        self.count += 1
        private = self.folder / f"awx_{self.count}"
        for part in ("playbooks", "roles", "plugins", "meta"):
            shutil.copytree(ROOT / part, private / "project" / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("ansible.cfg", "galaxy.yml"):
            shutil.copy(ROOT / part, private / "project" / part)
        script = private / "inventory" / "hosts"
        script.parent.mkdir()
        script.write_text(f"#! /usr/bin/env python3\n# -*- coding: utf-8 -*-\nprint({self.inventory!r})\n", encoding="utf-8")
        script.chmod(0o700)
        (private / "env").mkdir()
        # A credential that is chosen at the launch stands in for the template's of the same type.
        chosen = {one.kind: one for one in [*self.credentials, *([person] if person else [])]}
        options = ["-t", template["tags"]] if template.get("tags") else []
        for credential in chosen.values():
            path = private / "env" / f"tmp{uuid.uuid4().hex[:8]}"
            path.write_text(yaml.dump(credential.inject(self.types, private / "env"), Dumper=Dumper), encoding="utf-8")
            options += ["-e", f"@{path}"]
        # The template's own variables, and what AWX says of the job, are trusted; answers are not.
        mine = {"rollout_release_dir": str(ROOT / "lab/signal_service/release"), **QUICK, **self.variables, "awx_job_id": self.count,
                "tower_job_id": self.count, "awx_job_launch_type": "workflow", "awx_user_name": "somebody"}
        given = {"rollout_version": "v2", "rollout_stable_version": "v1", **answers}
        variables = yaml.dump({**mine, **{key: Tagged(value) for key, value in given.items()}}, Dumper=Dumper)
        (private / "env" / "extravars").write_text(variables, encoding="utf-8")
        environment = {
            # The caller's own settings are not there in a job's container.
            **{key: "" for key in os.environ if key.startswith(("ANSIBLE_", "K8S_", "PG"))},
            "ANSIBLE_FORCE_COLOR": "True", "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
            "ANSIBLE_COLLECTIONS_PATH": f"{private}/requirements_collections:playbooks/collections:~/.ansible/collections:/usr/share/ansible/collections",
            "HOME": str(private), "JOB_ID": str(self.count), "INVENTORY_ID": "1", "MAX_EVENT_RES": "700000", "PYTHONPATH": "",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        ended = ansible_runner.run(
            private_data_dir=str(private), ident=str(self.count), playbook=template["playbook"], inventory=str(script), envvars=environment,
            cmdline=" ".join(options) or None, quiet=True, timeout=170, suppress_env_files=True, cancel_callback=cancel,
            settings={"pexpect_timeout": 1},
        )
        with ended.stdout as stream:
            output = stream.read()
        job = Job(str(ended.status), output, sum(((ended.stats or {}).get("changed") or {}).values()))
        # Nothing of a job outlives it but what was mounted. (The guard of a cancelled one may still write into it.)
        shutil.rmtree(private, ignore_errors=True)
        if job.status == "successful":
            self.succeeded.add(name)
        return job


@pytest.fixture
def awx(request: pytest.FixtureRequest, tmp_path: Path, ansible: Callable[..., CompletedProcess[str]]) -> Iterator[Awx]:
    """AWX after it has synchronised the lab's inventory. What a test says that it runs must have been run, and ended well."""
    listed = ansible("ansible-inventory", "-i", str(ROOT / "inventories/lab"), "--list", "--export")
    assert listed.returncode == 0, listed.stderr
    made = Awx(tmp_path, json.dumps(json.loads(listed.stdout)))
    yield made
    assert made.succeeded >= said(request.function)


def said(test: Any) -> set[str]:
    """The templates that a test says it runs."""
    return {name for mark in getattr(test, "pytestmark", []) if mark.name == "templates" for name in mark.args}


def test_every_template_is_run_by_a_test(request: pytest.FixtureRequest) -> None:
    data = yaml.load((ROOT / "playbooks/vars/awx.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    run = {name for test in vars(request.module).values() for name in said(test)}
    assert run == {template["name"] for template in data["awx_templates"]}


@pytest.mark.templates("migrate", "green", "canary", "status", "rollback", "outcome")
def test_the_jobs_of_a_workflow_stop_where_an_approval_is_waited_for_and_a_denial_leads_back(stage: Stage, awx: Awx) -> None:
    awx.variables = {"canary_until": 10}
    wrong = awx.run("all phases")
    assert wrong.status == "failed" and "expected 100 (or nothing) in a run of all phases" in " ".join(wrong.output.split())
    assert stage.record() == {}
    awx.variables = {}
    for phase in ("migrate", "green"):
        awx.do(phase)
    assert stage.revision() == "0004" and stage.replicas("v2") and stage.weights() == [100, 0]
    for step, weights in (("10", [90, 10]), ("50", [50, 50])):
        awx.do("canary", canary_until=step)
        assert stage.weights() == weights and stage.holder() == "" and stage.record()["outcome"] is None
    again = awx.run("canary", canary_until="50")
    assert again.status == "successful" and stage.weights() == [50, 50]
    assert "Later steps: 100 %" in " ".join(again.output.split())
    assert [entry["weight"] for entry in stage.record()["weights"]] == [10, 50]
    early = awx.run("outcome", outcome_expected="complete")
    assert early.status == "failed" and "outcome none" in " ".join(early.output.split())
    assert awx.run("status").status == "successful"
    # A denied approval goes this way; what a person typed stays text.
    awx.do("rollback", rollback_reason="{{ 1 + 1 }} is what somebody typed")
    assert stage.weights() == [100, 0] and stage.record()["notes"] == "{{ 1 + 1 }} is what somebody typed"
    assert awx.run("outcome", outcome_expected="rolled_back").status == "successful"


@pytest.mark.parametrize("version", ["1.10", "0123", "true"])
def test_a_version_that_looks_like_something_else_is_refused_with_the_reason(awx: Awx, version: str) -> None:
    job = awx.run("preflight", rollout_version=version)
    words = " ".join(job.output.split())
    assert job.status == "failed" and "rollout_version: expected text" in words
    assert "AWX takes the quotes off" in words or "expected text like" in words


TARGETS = ["json://10.79.0.53:8080/hook/platform-status", "mailto://10.79.0.53:2525/?from=rollout@signal.lab&to=stakeholders@signal.lab"]
# As the samples of inventories have it.
FROM_CREDENTIALS = {
    "rollout_db_owner_password": "{{ vault_db_owner_password }}",
    "configuration_secret_values": {"PGPASSWORD": "{{ vault_db_application_password }}"},
    "rollout_redis_url": "{{ vault_redis_url }}",
    "communication_targets": "{{ vault_communication_targets }}",
}


def deployer() -> Credential:
    return Credential("signal.rollout kubeconfig", {"kubeconfig": (LAB / "kubeconfig/deployer").read_text(encoding="utf-8")})


def secret(name: str) -> str:
    return (LAB / "secrets" / name).read_text(encoding="utf-8")


def place() -> list[Credential]:
    """The credentials of the lab."""
    services = {"prometheus_token": "nobody-asks", "redis_url": "redis://10.79.0.51:6379/0", "communication_targets": ",\n".join(TARGETS)}
    return [
        deployer(),
        Credential("signal.rollout database", {"owner_password": secret("signal_owner"), "application_password": secret("signal_user")}),
        Credential("signal.rollout services", services),
    ]


MONITORING = ("signal-service-overview", "signal-service-performance", "signal-service-business", "prometheus-rules")
# What a person needs to sign off, and to attest, and no more.
RIGHTS: dict[str, list[dict[str, Any]]] = {
    "quinn": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["signal-rollout-signal-service"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["signal-rollout-signal-service-signoff"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ],
    "dora": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["signal-rollout-signal-service"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["signal-rollout-signal-service-signoff"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ],
}


@pytest.fixture
def people(quiet_stage: Stage) -> Iterator[dict[str, Credential]]:
    """Two people with service accounts, rights and credentials of their own."""
    server = yaml.safe_load((LAB / "kubeconfig/deployer").read_text(encoding="utf-8"))["clusters"][0]["cluster"]
    rbac, kinds = "rbac.authorization.k8s.io", ("serviceaccounts", "roles", "rolebindings")
    accounts = _kube.path_of("", "v1", "serviceaccounts", "signal")
    paths = dict(zip(kinds, (accounts, _kube.path_of(rbac, "v1", "roles", "signal"), _kube.path_of(rbac, "v1", "rolebindings", "signal")), strict=True))
    signoffs = _kube.path_of("", "v1", "configmaps", "signal", _signoff.configmap_name("signal-service"))
    made: dict[str, Credential] = {}
    try:
        quiet_stage.kube.post(_kube.path_of("", "v1", "configmaps", "signal"), {"metadata": {"name": _signoff.configmap_name("signal-service")}})
        for name, rules in RIGHTS.items():
            quiet_stage.kube.post(accounts, {"metadata": {"name": name}})
            quiet_stage.kube.post(paths["roles"], {"metadata": {"name": name}, "rules": rules})
            bound = {"roleRef": {"apiGroup": rbac, "kind": "Role", "name": name}, "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "signal"}]}
            quiet_stage.kube.post(paths["rolebindings"], {"metadata": {"name": name}, **bound})
            token = quiet_stage.kube.post(f"{accounts}/{name}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
            config = {
                "apiVersion": "v1", "kind": "Config", "current-context": "mine", "clusters": [{"name": "lab", "cluster": server}],
                "users": [{"name": name, "user": {"token": token}}], "contexts": [{"name": "mine", "context": {"cluster": "lab", "user": name}}],
            }
            made[name] = Credential("signal.rollout kubeconfig", {"kubeconfig": yaml.safe_dump(config)})
        yield made
    finally:
        for name in RIGHTS:
            for path in paths.values():
                quiet_stage.kube.delete(f"{path}/{name}")
        quiet_stage.kube.delete(signoffs)


@pytest.fixture
def monitoring(quiet_stage: Stage) -> Iterator[Callable[[str], dict[str, Any] | None]]:
    """What is installed in Prometheus' namespace, by its name. What was not there before goes again."""

    def find(name: str) -> dict[str, Any] | None:
        return quiet_stage.kube.find(_kube.path_of("", "v1", "configmaps", "monitoring", name))

    before = {name for name in MONITORING if find(name)}
    yield find
    for name in {*MONITORING} - before:
        quiet_stage.kube.delete(_kube.path_of("", "v1", "configmaps", "monitoring", name))


def mails(stage: Stage, words: str) -> int:
    return sum(words in str(message) for message in stage.messages() if message["channel"] == "smtp")


@pytest.mark.templates(
    "preflight", "install monitoring", "rehearse", "announce", "migrate", "all phases", "verify", "monitor", "attest", "sign off", "cleanup", "outcome",
    "post-deployment", "report", "status",
)
def test_the_jobs_of_a_whole_release_from_the_announcement_to_the_month_after(
    quiet_stage: Stage, awx: Awx, people: dict[str, Credential], monitoring: Callable[[str], dict[str, Any] | None], tmp_path: Path
) -> None:
    stage = quiet_stage
    mounted = tmp_path / "mounted"
    awx.credentials = place()
    awx.variables = {
        **FROM_CREDENTIALS,
        "rollout_start_time": (datetime.now(timezone.utc) + timedelta(minutes=20)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        # A day in twenty minutes.
        "communication_moments": {name: {"opens_minutes": minutes, "closes_minutes": 0} for name, minutes in (("t_24h", 1440), ("t_2h", 120), ("t_30m", 30))},
        "rollout_report_path": f"{mounted}/", "post_deployment_report_dir": f"{mounted}/after",
        "cleanup_drain_seconds": 2, "cleanup_websocket_seconds": 1,
        "cleanup_required_signoffs": ["qa"], "signoff_approvers": {"qa": {"users": ["system:serviceaccount:signal:quinn"]}},
    }
    mounted.mkdir()

    # Days before.
    awx.do("install monitoring")
    assert all(monitoring(name) for name in MONITORING)
    assert awx.do("install monitoring").changed == 0
    awx.do("rehearse")
    assert stage.revision() == "0001"
    for moment in ("t_24h", "t_2h", "t_30m", "t_24h"):
        awx.do("announce", communication_event=moment)
    for words in ("Deployment in 24 Hours", "Deployment in 2 Hours", "Deployment in 30 Minutes"):
        assert mails(stage, words) == 1, words
    awx.do("announce", communication_event="milestone", communication_subject="{{ 1 + 1 }} people", communication_detail="true")
    assert mails(stage, "{{ 1 + 1 }} people") == 1
    before = stage.record(), stage.virtual_service["metadata"]["resourceVersion"]
    job = awx.do("preflight")
    assert "checks passed" in job.output and job.changed == 0
    assert (stage.record(), stage.virtual_service["metadata"]["resourceVersion"]) == before and stage.replicas("v2") is None

    # The release.
    awx.do("migrate")
    assert stage.revision() == "0004" and mails(stage, "Deployment Started") == 1
    labctl("traffic", "start", "--rate", "100", "--websockets", "0", "--duration", "400")
    awx.do("all phases")
    assert stage.weights() == [0, 100] and stage.record()["outcome"] == "complete" and stage.holder() == ""
    assert stage.boxes("step_4.health") == {"step_4.health": "proven"} and mails(stage, "Deployment Complete") == 1
    assert set(stage.boxes("communication_before").values()) == {"proven"}
    assert awx.do("all phases").changed == 0
    awx.do("outcome", outcome_expected="complete")
    kept = stage.record()
    assert awx.do("verify").changed == 0 and stage.record() == kept
    watched = awx.do("monitor", monitoring_watch_seconds="4")
    assert "pass: every limit held for 4 s" in " ".join(watched.output.split())

    # People, in names of their own.
    # AWX takes the quotes off, so that the comment arrives as a number.
    asked = {"attest_items": "code.review, code.features", "attest_comment": "412"}
    awx.do("attest", person=people["dora"], **asked)
    assert stage.boxes("code.review", "code.features") == {"code.review": "attested", "code.features": "attested"}
    assert awx.do("attest", person=people["dora"], **asked).changed == 0
    locked = awx.run("cleanup", cleanup_confirmed="true")
    assert locked.status == "failed" and "sign-offs are missing" in " ".join(locked.output.split()) and stage.replicas("v1") == 2
    other = awx.run("sign off", signoff_role="qa", signoff_decision="approve")
    assert other.status == "failed" and "signal-deployer" in other.output
    signed = {"signoff_role": "qa", "signoff_decision": "approve", "signoff_comment": "{{ nobody_fills_this_in }}"}
    awx.do("sign off", person=people["quinn"], **signed)
    assert stage.boxes("signoff.qa") == {"signoff.qa": "attested"}
    assert awx.do("sign off", person=people["quinn"], **signed).changed == 0

    # The old version goes, and the reports come.
    refused = awx.run("cleanup", cleanup_confirmed="false")
    assert refused.status == "failed" and "v1 stays" in " ".join(refused.output.split()) and stage.replicas("v1") == 2
    awx.do("cleanup", cleanup_confirmed="true")
    assert stage.replicas("v1") is None and stage.record()["outcome"] == "cleaned_up"
    assert awx.do("cleanup", cleanup_confirmed="true").changed == 0
    awx.do("outcome", outcome_expected="cleaned_up")
    for period, title, boxes in (
        ("day_1", "Day 1", ["day_1.metrics", "day_1.error_logs"]),
        ("week_1", "Week 1", ["week_1.resources", "week_1.cache"]),
        ("month_1", "Month 1", ["month_1.usage", "month_1.capacity"]),
    ):
        awx.do("post-deployment", post_deployment_period=period)
        assert (mounted / f"after/signal-service-v2-{period}.md").read_text(encoding="utf-8")
        assert mails(stage, f"{title} after the release") == 1
        assert set(stage.boxes(*boxes).values()) == {"proven"}, stage.boxes(*boxes)
    for page in mounted.glob("*.html"):
        page.unlink()
    awx.do("report")
    (page,) = mounted.glob("*.html")
    assert 'class="badge good">' in page.read_text(encoding="utf-8")
    shown = awx.do("status")
    assert "cleaned_up" in shown.output and shown.changed == 0
    assert stage.lost() == {}


@pytest.mark.templates("resume", "outcome")
def test_a_job_that_is_cancelled_in_a_hold_leaves_no_traffic_and_the_next_one_goes_on(quiet_stage: Stage, awx: Awx) -> None:
    stage = quiet_stage
    nothing = awx.run("resume")
    assert nothing.status == "failed" and stage.record() == {}
    config = yaml.safe_load(deployer().inputs["kubeconfig"])
    server = config["clusters"][0]["cluster"]
    token = config["users"][0]["user"]["token"]
    awx.credentials = [
        Credential("signal.rollout bearer token", {"server": server["server"], "ca_data": server["certificate-authority-data"], "token": token})
    ]
    awx.variables = {"canary_steps": [100]}
    labctl("traffic", "start", "--rate", "100", "--websockets", "0", "--duration", "180")
    # The guard outlives the job and its folder.
    cancelled = awx.run("all phases", cancel=lambda: stage.weights() == [0, 100])
    assert cancelled.status == "canceled", cancelled.output[-4000:]
    stage.until("traffic is back", lambda: stage.weights() == [100, 0], 15)
    assert stage.record()["outcome"] is None
    resumed = awx.do("resume")
    assert "UNFINISHED RELEASE" in resumed.output
    assert stage.weights() == [0, 100] and stage.record()["outcome"] == "complete" and stage.holder() == ""
    awx.do("outcome", outcome_expected="complete")
    assert stage.lost() == {}
