# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sign-offs by users whom the lab's API server authenticates, with the rights that the guide gives them, of pods that really run."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _approvals, _kube, _record, _release_checklist, _signoff
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from ansible_collections.signal.rollout.plugins.module_utils._weights import pod_is_ready

from .conftest import LAB, connection, wait_until
from .test_messages import OwnRelease
from .test_rollout_record import PLAN

PEOPLE = ["dora", "omar", "quinn", "pia", "sven"]


class Stage(OwnRelease):
    """A release with one running pod, and people with service accounts of their own."""

    def __init__(self, kube: _kube.Kube) -> None:
        super().__init__(kube, f"signoff-{uuid.uuid4().hex[:8]}")
        self.tokens: dict[str, str] = {}

    def build(self) -> None:
        self.kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        rbac = _kube.path_of("rbac.authorization.k8s.io", "v1", "roles", self.namespace)
        mine = [_record.record_name(self.service), _signoff.configmap_name(self.service)]
        rules = [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": mine, "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": mine[1:], "verbs": ["update"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        ]
        self.kube.post(rbac, {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "approver"}, "rules": rules})
        accounts = _kube.path_of("", "v1", "serviceaccounts", self.namespace)
        for name in PEOPLE:
            self.kube.post(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
            asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
            self.tokens[name] = self.kube.post(f"{accounts}/{name}/token", asked)["status"]["token"]
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "approver"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "approver"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace} for name in PEOPLE],
        }
        self.kube.post(_kube.path_of("rbac.authorization.k8s.io", "v1", "rolebindings", self.namespace), binding)
        self.kube.post(
            _kube.path_of("", "v1", "configmaps", self.namespace),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _signoff.configmap_name(self.service)}},
        )
        self.run_pod("green", "v1")
        self.begin()

    def run_pod(self, name: str, tag: str) -> None:
        pods = _kube.path_of("", "v1", "pods", self.namespace)
        container = {"name": "app", "image": f"localhost/signal-service:{tag}", "imagePullPolicy": "Never", "command": ["python3", "-m", "http.server", "8080"]}
        spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
        labels = {"app": self.service, "version": "v2"}
        self.kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec})
        wait_until("the pod runs", lambda: pod_is_ready(self.kube.get(f"{pods}/{name}")), 60)

    def stop_pod(self, name: str) -> None:
        path = _kube.path_of("", "v1", "pods", self.namespace, name)
        self.kube.delete(path)
        wait_until("the pod is gone", lambda: self.kube.find(path) is None, 60)

    def user(self, name: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{name}"

    def approvers(self, **more: Any) -> dict[str, Any]:
        return {role: {"users": [self.user(name)]} for role, name in zip(_approvals.ROLES, PEOPLE, strict=True)} | more

    def login(self, who: str) -> dict[str, Any]:
        config = yaml.safe_load((LAB / "kubeconfig/admin").read_text())["clusters"][0]["cluster"]
        ca = config.get("certificate-authority") or str(LAB / "pki/ca.crt")
        return {"host": config["server"], "api_key": self.tokens[who], "ca_cert": ca}

    def sign(self, state: str = "shown", who: str | None = None, **asked: Any) -> dict[str, Any]:
        login = self.login(who) if who else {"kubeconfig": str(LAB / "kubeconfig/admin")}
        given = {"namespace": self.namespace, "service": self.service, "version": "v2", "state": state, "approvers": self.approvers(), **login, **asked}
        if state == "decided":
            given.setdefault("decision", "approve")
        checked = ArgumentSpecValidator(_signoff.ARGUMENT_SPEC, **_signoff.SPEC_RULES).validate({k: v for k, v in given.items() if v is not None})
        assert not checked.error_messages, checked.error_messages
        return _signoff.run(checked.validated_parameters, Context())

    def everybody(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for role, name in zip(_approvals.ROLES, PEOPLE, strict=True):
            answer = self.sign("decided", name, role=role)
        return answer

    def boxes(self) -> dict[str, dict[str, Any]]:
        given = {**connection(namespace=self.namespace), "service": self.service, "version": "v2"}
        checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC).validate({k: v for k, v in given.items() if v is not None})
        answer = _release_checklist.run(checked.validated_parameters, Context())
        return {entry["id"]: entry for entry in answer["items"] if entry["section"] == "signoff"}


@pytest.fixture(scope="module")
def built(kube: _kube.Kube) -> Iterator[Stage]:
    made = Stage(kube)
    try:
        made.build()
        yield made
    finally:
        kube.delete(f"/api/v1/namespaces/{made.namespace}")


@pytest.fixture
def stage(built: Stage) -> Stage:
    """Nobody has decided yet."""
    path = _kube.path_of("", "v1", "configmaps", built.namespace, _signoff.configmap_name(built.service))
    built.kube.patch(path, {"data": None}, content_type=_kube.MERGE_PATCH)
    return built


def state_of(answer: dict[str, Any], role: str) -> str:
    return next(one["state"] for one in answer["roles"] if one["role"] == role)


def test_five_people_with_the_rights_of_the_guide_complete_the_sign_off(stage: Stage) -> None:
    with pytest.raises(RolloutError, match="5 of 5 sign-offs are missing"):
        stage.sign("required")
    answer = stage.everybody()
    assert answer["complete"] and [entry["by"] for entry in answer["history"]] == [stage.user(name) for name in PEOPLE]
    assert stage.sign("required")["complete"]
    assert not stage.sign("decided", "quinn", role="qa")["changed"]


@pytest.mark.box("signoff.devops", "signoff.service_owner", "signoff.qa", "signoff.product", "signoff.security")
def test_a_box_is_ticked_by_its_approval_and_opens_when_other_images_run(stage: Stage) -> None:
    assert {box["state"] for box in stage.boxes().values()} == {"open"}
    stage.everybody()
    boxes = stage.boxes()
    assert {box["state"] for box in boxes.values()} == {"attested"}
    assert stage.user("quinn") in boxes["signoff.qa"]["evidence"] and "until 20" in boxes["signoff.qa"]["evidence"]
    stage.stop_pod("green")
    stage.run_pod("green", "v2")
    try:
        assert {box["state"] for box in stage.boxes().values()} == {"open"}
        with pytest.raises(RolloutError, match="has approved other images"):
            stage.sign("required")
        assert stage.sign("decided", "quinn", role="qa")["changed"]
    finally:
        stage.stop_pod("green")
        stage.run_pod("green", "v1")
    assert stage.sign("decided", "sven", role="security", decision="reject", comment="open finding")["changed"]
    assert stage.boxes()["signoff.security"]["state"] == "failed"


def test_nobody_attests_a_sign_off(stage: Stage) -> None:
    given = {**connection(namespace=stage.namespace), "service": stage.service, "version": "v2", "plan": PLAN, "state": "attested", "items": ["signoff.qa"]}
    checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC).validate({k: v for k, v in given.items() if v is not None})
    with pytest.raises(RolloutError, match="playbooks/signoff.yml alone"):
        _release_checklist.run(checked.validated_parameters, Context())


def test_whoever_does_not_speak_for_the_role_is_refused_with_their_name(stage: Stage) -> None:
    with pytest.raises(RolloutError, match=f"does not have {stage.user('pia')} .*for role qa") as refused:
        stage.sign("decided", "pia", role="qa")
    assert refused.value.result["approver"] == stage.user("pia")
    assert stage.sign()["history"] == []


def test_a_group_may_speak_for_a_role(stage: Stage) -> None:
    group = {"groups": [f"system:serviceaccounts:{stage.namespace}"]}
    answer = stage.sign("decided", "pia", role="qa", approvers=stage.approvers(qa=group))
    assert state_of(answer, "qa") == "approved"
    # A mapping of one's own counts for nothing where the inventory's is asked.
    assert state_of(stage.sign(), "qa") == "void"


def test_who_has_released_does_not_approve_unless_the_inventory_says_so(stage: Stage) -> None:
    name = stage.act("show")["record"]["deployers"][0]
    mapping = stage.approvers(devops={"users": [name]})
    with pytest.raises(RolloutError, match="nobody approves their own release"):
        stage.sign("decided", role="devops", approvers=mapping)
    answer = stage.sign("decided", role="devops", approvers=mapping, deployer_may_approve=True)
    assert state_of(answer, "devops") == "approved"
    assert state_of(stage.sign(approvers=mapping), "devops") == "void"


def test_one_person_has_one_role(stage: Stage) -> None:
    both = stage.approvers(product={"users": [stage.user("quinn")]})
    stage.sign("decided", "quinn", role="qa", approvers=both)
    with pytest.raises(RolloutError, match="has approved as QA Lead already"):
        stage.sign("decided", "quinn", role="product", approvers=both)
    assert stage.sign("decided", "quinn", role="product", approvers=both, one_role_per_person=False)["changed"]
    assert state_of(stage.sign(approvers=both), "product") == "void"


def test_an_approval_expires_and_can_be_taken_back(stage: Stage) -> None:
    stage.sign("decided", "quinn", role="qa", valid_hours=0.0000001)
    assert "has expired" in stage.sign()["text"]
    assert state_of(stage.sign("decided", "quinn", role="qa"), "qa") == "approved"
    assert state_of(stage.sign("revoked", "quinn", role="qa", comment="too early"), "qa") == "missing"
    assert not stage.sign("revoked", "quinn", role="qa")["changed"]
    assert [entry["decision"] for entry in stage.sign()["history"]] == ["approve", "approve", "revoke"]


def test_a_changed_history_counts_for_nothing(stage: Stage) -> None:
    stage.everybody()
    path = _kube.path_of("", "v1", "configmaps", stage.namespace, _signoff.configmap_name(stage.service))
    document = stage.kube.get(path)
    kept = json.loads(document["data"][_signoff.KEY])
    kept["history"][2]["by"] = stage.user("dora")
    document["data"][_signoff.KEY] = json.dumps(kept)
    stage.kube.put(path, document)
    with pytest.raises(RolloutError, match="entry 3 of 5 was changed by hand"):
        stage.sign("required")


def test_five_people_at_once_lose_no_approval(stage: Stage) -> None:
    threads = [
        threading.Thread(target=stage.sign, args=("decided", name), kwargs={"role": role}) for role, name in zip(_approvals.ROLES, PEOPLE, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert stage.sign()["complete"]


def test_another_plan_or_version_is_refused(stage: Stage) -> None:
    with pytest.raises(RolloutError, match="by another plan"):
        stage.sign("decided", "quinn", role="qa", plan={**PLAN, "steps": [100]})
    with pytest.raises(RolloutError, match="the record is of v2, expected v3"):
        stage.sign("decided", "quinn", role="qa", version="v3")
