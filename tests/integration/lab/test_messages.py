# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Each moment of a deployment is told of once, whoever runs and whatever dies: claims in the lab's API server, messages in its sink."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _messages, _notify, _record
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .conftest import connection
from .test_rollout_record import PLAN, Release

SINK = "http://10.79.0.53:8080"
# A port of the node that nobody listens on.
DEAD = "json://10.77.0.2:2526/hook/nobody"
MOMENTS = ["t_24h", "t_2h", "t_30m", "start", "milestone:10 %", "issue:rolled back", "completion", "metrics", "documentation"]
RACES = 20  # of each moment


class OwnRelease(Release):
    """A release in a namespace of its own, where nothing resets the service of the lab."""

    def __init__(self, kube: _kube.Kube, namespace: str) -> None:
        super().__init__(kube)
        self.namespace = namespace

    def act(self, state: str, holder: str = "run-a", check_mode: bool = False, **options: Any) -> dict[str, Any]:
        return super().act(state, holder, check_mode, **connection(namespace=self.namespace), **options)

    @property
    def path(self) -> str:
        return _kube.path_of("", "v1", "configmaps", self.namespace, _record.record_name(self.service))


@pytest.fixture(scope="module")
def namespace(kube: _kube.Kube) -> Iterator[str]:
    name = f"messages-{uuid.uuid4().hex[:8]}"
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def release(kube: _kube.Kube, namespace: str) -> OwnRelease:
    return OwnRelease(kube, namespace)


def params(release: OwnRelease, event: str, holder: str, **asked: Any) -> dict[str, Any]:
    given = {
        **connection(namespace=release.namespace), "service": release.service, "version": "v2", "plan": PLAN, "event": event, "holder": holder,
        "title": f"{release.service} {event}", "body": "as planned", "targets": [f"json://10.79.0.53:8080/hook/{release.service}"], "timeout": 3, **asked,
    }
    checked = ArgumentSpecValidator(_notify.ARGUMENT_SPEC, **_notify.SPEC_RULES).validate({key: value for key, value in given.items() if value is not None})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def tell(release: OwnRelease, event: str, holder: str = "ann@host/1", check_mode: bool = False, **asked: Any) -> dict[str, Any]:
    return _notify.run(params(release, event, holder, **asked), Context(check_mode=check_mode))


def received(release: OwnRelease) -> Counter[str]:
    """How often each title arrived at the hook of this release."""
    found = requests.get(f"{SINK}/messages", timeout=10).json()
    return Counter(json.loads(message["body"])["title"] for message in found if message["name"] == release.service)


def together(*calls: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Make the calls of several runners in the same moment; return their results."""
    barrier = threading.Barrier(len(calls))
    results: list[dict[str, Any]] = []

    def work(release: OwnRelease, events: list[str], holder: str, asked: dict[str, Any]) -> None:
        barrier.wait()
        for event in events:
            results.append(tell(release, event, holder, **asked))

    threads = [threading.Thread(target=work, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("moment", MOMENTS)
def test_two_runners_at_once_tell_people_once(release: OwnRelease, moment: str) -> None:
    for race in range(RACES):
        asked = {"occasion": f"race {race}", "title": f"{moment} {race}"}
        results = together((release, [moment], "ann@host/1", asked), (release, [moment], "bob@host/2", asked))
        assert sorted((result["sent"], result["already_sent"]) for result in results) == [(False, True), (True, False)]
    assert received(release) == {f"{moment} {race}": 1 for race in range(RACES)}


def test_a_release_with_two_runners_and_three_resumes_tells_of_each_moment_once(release: OwnRelease) -> None:
    release.begin("run-0")
    for resume in range(4):
        if resume:
            release.act("finish", f"run-{resume - 1}", outcome="held")
            release.act("resume", f"run-{resume}", plan=PLAN, version="v2")
        told = MOMENTS[: 3 + 2 * resume] if resume < 3 else MOMENTS
        # One of them does not know the plan, as roles do not: the record has it.
        together((release, told, f"run-{resume}", {}), (release, told, "other", {"plan": None}))
    assert received(release) == {f"{release.service} {moment}": 1 for moment in MOMENTS}


def test_another_deployment_of_the_same_plan_is_told_of_again(release: OwnRelease) -> None:
    release.begin()
    tell(release, "start")
    release.act("finish", outcome="rolled_back")
    release.begin()
    assert tell(release, "start")["sent"] and received(release) == {f"{release.service} start": 2}


def test_what_the_record_of_an_older_release_says_was_sent_is_not_sent_again(release: OwnRelease) -> None:
    release.begin()
    release.act("message", events=["start"])
    assert tell(release, "start")["already_sent"] and received(release) == {}


KILLED = """
import json, os, signal, sys
from ansible_collections.signal.rollout.plugins.module_utils import _messages, _notify
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
_notify._CLAIM = 0.5
def die(*unused): os.kill(os.getpid(), signal.SIGKILL)
def send_and_die(*given): deliver(*given); die()
deliver = _notify._deliver
if sys.argv[1] == "claimed": _messages.Ledger.start = die
else: _notify._deliver = send_and_die
_notify.run(json.load(sys.stdin), Context())
"""


def killed(release: OwnRelease, when: str) -> None:
    """Have a runner die by KILL: ``claimed``, before it sends, or ``sending``, before it can note that it has."""
    asked = params(release, "start", "dead@host/9", timeout=1)
    ended = subprocess.run([sys.executable, "-c", KILLED, when], input=json.dumps(asked), text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL


def test_what_a_killed_runner_had_only_claimed_is_sent_by_the_next_one_which_says_so(release: OwnRelease) -> None:
    killed(release, "claimed")
    assert received(release) == {}
    results = together((release, ["start"], "ann@host/1", {}), (release, ["start"], "bob@host/2", {}))
    assert sorted(result["sent"] for result in results) == [False, True]
    (sender,) = (result for result in results if result["sent"])
    assert sender["taken_over_from"] == "dead@host/9" and "takes it over" in sender["warnings"][0]
    assert received(release) == {f"{release.service} start": 1}


def test_what_a_killed_runner_had_perhaps_sent_is_not_sent_twice_but_said_to_be_uncertain(release: OwnRelease) -> None:
    killed(release, "sending")
    for _attempt in range(2):
        found = tell(release, "start")
        assert not found["sent"] and not found["already_sent"]
        assert [item["index"] for item in found["uncertain"]] == [0] and "send_again" in found["warnings"][-1]
    assert received(release) == {f"{release.service} start": 1}
    assert tell(release, "start", send_again=True)["sent"] and tell(release, "start")["already_sent"]


def test_a_dead_endpoint_hinders_nobody_unless_it_is_required_and_is_told_once_it_lives(release: OwnRelease) -> None:
    alive = f"json://10.79.0.53:8080/hook/{release.service}"
    found = tell(release, "start", targets=[DEAD, alive])
    assert found["delivered"] == [1] and found["failures"][0]["reason"] == "connection refused"
    with pytest.raises(RolloutError, match="not taken by 1 of 2") as refused:
        tell(release, "completion", required_targets=[DEAD])
    assert "2526" not in refused.value.message + json.dumps(refused.value.result)
    assert received(release) == {f"{release.service} start": 1, f"{release.service} completion": 1}
    assert tell(release, "start", targets=[alive, alive])["delivered"] == [0]


def test_check_mode_shows_the_message_and_claims_nothing(release: OwnRelease, kube: _kube.Kube) -> None:
    found = tell(release, "start", check_mode=True)
    assert found["changed"] and found["targets"] == [{"index": 0, "service": "JSON"}] and found["preview"]["body"] == "as planned"
    assert kube.find(release.path) is None
    assert received(release) == {}


def moment(start: datetime) -> dict[str, Any]:
    return {"start": start.isoformat(), "opens": 7200, "closes": 1800}


def test_a_message_outside_its_moment_is_refused_until_it_was_sent_in_its_time(release: OwnRelease) -> None:
    now = datetime.now(timezone.utc)
    for start, words in ((now + timedelta(hours=3), "too early"), (now + timedelta(minutes=10), "too late")):
        with pytest.raises(RolloutError, match=words):
            tell(release, "t_2h", moment=moment(start), occasion="today")
        assert not tell(release, "t_2h", moment={**moment(start), "outside": "skip"}, occasion="today")["due"]
    assert tell(release, "t_2h", moment=moment(now + timedelta(hours=1)), occasion="today")["sent"]
    assert tell(release, "t_2h", moment=moment(now + timedelta(minutes=10)), occasion="today")["already_sent"]
    assert received(release) == {f"{release.service} t_2h": 1}


def test_without_the_api_server_only_what_must_be_heard_of_is_sent(release: OwnRelease) -> None:
    gone = {"host": "https://10.77.0.2:9", "kubeconfig": None}
    with pytest.raises(RolloutError, match="No answer from the Kubernetes API"):
        tell(release, "milestone:x", **gone)
    found = tell(release, "issue:x", without_claim="send", **gone)
    assert found["sent"] and "without a claim" in found["warnings"][0]
    assert received(release) == {f"{release.service} issue:x": 1}


def test_the_ledger_holds_no_address_and_no_secret(release: OwnRelease, kube: _kube.Kube) -> None:
    tell(release, "start", targets=[DEAD, f"json://user:hunter2hunter2@10.79.0.53:8080/hook/{release.service}"], body="token=hunter2hunter2")
    text = kube.get(release.path)["data"][_messages.KEY]
    assert "hunter2" not in text and "10.79" not in text and '"failed"' in text and '"delivered"' in text
