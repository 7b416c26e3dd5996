# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The setup play, with the real awx.awx modules, against a stand-in for AWX's API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

import pytest

from .api import Api
from .conftest import ROOT, load

TOKEN = "a-token-of-the-test"
SECRET = "owner-password-of-the-test"
PLAYBOOKS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "playbooks").glob("*.yml"))
MINE: dict[str, Any] = {
    "awx_project": {"name": "signal.rollout", "scm_url": "https://git.example.com/signal/rollout.git", "scm_branch": "v1", "scm_update_on_launch": False},
    "awx_execution_environment": {"name": "signal.rollout", "image": "registry.example.com/signal-rollout-ee:1"},
    "awx_credentials": [
        {
            "name": "production database",
            "credential_type": "signal.rollout database",
            "inputs": {"owner_password": SECRET, "application_password": f"{SECRET}-2"},
        }
    ],
    "awx_release": {"start": "2026-12-01T22:00:00Z", "version": "v2", "stable_version": "v1"},
}
Play = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with Api(TOKEN, PLAYBOOKS) as server:
        yield server


@pytest.fixture(scope="module")
def play(api: Api, ansible: Callable[..., CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Play:
    folder = tmp_path_factory.mktemp("awx")

    def run(**variables: Any) -> CompletedProcess[str]:
        mine = folder / "mine.json"
        mine.write_text(json.dumps({**MINE, **variables}), encoding="utf-8")
        # Without its shebang line each module would be copied to a file of its own first.
        env = {"CONTROLLER_HOST": api.address, "CONTROLLER_OAUTH_TOKEN": TOKEN, "ANSIBLE_PIPELINING": "true", "HOME": str(folder)}
        return ansible("ansible-playbook", "playbooks/awx_setup.yml", "-e", f"@{mine}", env=env, timeout=300)

    return run


@dataclass
class Twice:
    """Two runs of the play, and what was written in each."""

    first: CompletedProcess[str]
    second: CompletedProcess[str]
    writes: int
    writes_again: list[tuple[str, str]]


@pytest.fixture(scope="module")
def twice(api: Api, play: Play) -> Twice:
    first = play()
    writes = len(api.controller.writes)
    second = play()
    return Twice(first, second, writes, api.controller.writes[writes:])


def changed(ended: CompletedProcess[str]) -> int:
    found = re.search(r"changed=(\d+)", ended.stdout)
    assert found, ended.stdout + ended.stderr
    return int(found[1])


def test_the_first_run_makes_everything_and_the_second_finds_nothing_to_do(twice: Twice) -> None:
    assert twice.first.returncode == 0, twice.first.stdout[-4000:] + twice.first.stderr[-2000:]
    assert changed(twice.first) > 0 and twice.writes > 50
    assert twice.second.returncode == 0, twice.second.stdout[-4000:]
    assert changed(twice.second) == 0, re.findall(r"(?m)^changed.*", twice.second.stdout)


def test_no_secret_is_shown_or_read_back(twice: Twice, api: Api) -> None:
    assert SECRET not in twice.first.stdout + twice.first.stderr + twice.second.stdout
    assert SECRET not in json.dumps(api.controller.objects)
    number = api.controller.named("credentials", "production database")["id"]
    assert api.controller.secrets[number]["owner_password"] == SECRET


def test_every_phase_has_a_template_with_its_survey(twice: Twice, api: Api, data: dict[str, Any]) -> None:
    for template in data["awx_templates"]:
        made = api.controller.named("job_templates", f"Release production: {template['name']}")
        assert (made["playbook"], made["job_tags"]) == (template["playbook"], template.get("tags", ""))
        asked = [question["variable"] for question in api.controller.surveys[made["id"]]["spec"]]
        assert sorted(asked) == sorted(data["awx_questions_of_all"] + template.get("survey", []))


def test_each_step_waits_for_an_approval_and_leads_back_when_it_fails(twice: Twice, api: Api) -> None:
    linked = api.controller.linked
    path, node = [], "preflight"
    while node:
        path.append(node)
        node = next(iter(linked(node, "success")), "")
    assert path == ["preflight", "migrate", "green", "approve_10", "canary_10", "approve_50", "canary_50", "approve_100", "canary_100", "complete",
                    "approve_cleanup", "cleanup"]
    # Before green there is nothing to go back from, and after the release is complete a denial only keeps the old version.
    assert {one: linked(one, "failure") for one in path} == {
        **{one: ["rollback"] for one in path[2:10]}, "preflight": [], "migrate": [], "approve_cleanup": ["stays"], "cleanup": []
    }
    assert linked("rollback", "always") == ["went_back"]
    for one in (one for one in path if one.startswith("approve")):
        number = api.controller.named("workflow_job_template_nodes", one)["unified_job_template"]
        assert api.controller.objects["workflow_approval_templates"][number]["timeout"] > 0
    for step in (10, 50, 100):
        assert api.controller.named("workflow_job_template_nodes", f"canary_{step}")["extra_data"] == {"canary_until": step}


def test_announcements_are_scheduled_by_the_time_of_the_release(twice: Twice, api: Api) -> None:
    rules = {name: api.controller.named("schedules", f"Release production: {name}")["rrule"] for name in ("T-24h", "T-2h", "T-30m")}
    assert api.controller.named("schedules", "Release production: week 1")["rrule"].startswith("DTSTART:20261209T000000Z ")
    template = api.controller.named("job_templates", "Release production: announce")
    assert json.loads(template["extra_vars"]) == {"rollout_start_time": MINE["awx_release"]["start"]}
    assert [rule.split()[0] for rule in rules.values()] == ["DTSTART:20261130T220000Z", "DTSTART:20261201T200000Z", "DTSTART:20261201T213000Z"]
    assert all("INTERVAL=1;COUNT=1" in rule for rule in rules.values())


def test_a_changed_setting_is_the_only_thing_that_is_written(twice: Twice, api: Api, play: Play) -> None:
    before = len(api.controller.writes)
    # Without the rest, which the second run has looked at already.
    ended = play(awx_project={**MINE["awx_project"], "scm_branch": "v1.1"}, awx_credential_types=[], awx_credentials=[], awx_templates=[],
                 awx_nodes=[], awx_schedules=[])
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert changed(ended) == 1
    assert api.controller.named("projects", "signal.rollout")["scm_branch"] == "v1.1"
    paths = {path for _method, path in api.controller.writes[before:]} - {path for _method, path in twice.writes_again}
    assert paths == {f"/api/v2/projects/{api.controller.named('projects', 'signal.rollout')['id']}/"}


def test_a_token_without_rights_is_told_which_right_it_lacks(api: Api, play: Play) -> None:
    api.read_only = True
    try:
        ended = play(awx_organization="Another one")
    finally:
        api.read_only = False
    assert ended.returncode != 0
    assert "administrator of the organization Another one" in " ".join(ended.stdout.split())


def test_settings_that_no_job_could_run_with_are_refused_before_the_first_call(api: Api, play: Play) -> None:
    before = len(api.controller.writes)
    ended = play(awx_execution_environment={"name": "x", "image": ""}, awx_release={"start": "tomorrow", "version": "v2", "stable_version": "v1"})
    assert ended.returncode != 0 and "Nothing was written" in ended.stdout and "tomorrow" in ended.stdout
    assert len(api.controller.writes) == before


# --- the data, without AWX -------------------------------------------------------------------------------------------


def test_every_playbook_and_every_question_of_the_templates_exists(data: dict[str, Any]) -> None:
    questions = [question["variable"] for question in data["awx_questions"]]
    assert len(set(questions)) == len(questions)
    for template in data["awx_templates"]:
        assert template["playbook"] in PLAYBOOKS
        assert set(template.get("survey", [])) | set(data["awx_questions_of_all"]) <= set(questions)
    names = [template["name"] for template in data["awx_templates"]]
    assert len(set(names)) == len(names)
    used = {name for template in data["awx_templates"] for name in template.get("survey", [])} | set(data["awx_questions_of_all"])
    assert used == set(questions)


def test_tags_of_the_templates_are_tags_of_their_playbooks(data: dict[str, Any]) -> None:
    for template in data["awx_templates"]:
        text = (ROOT / template["playbook"]).read_text(encoding="utf-8")
        for tag in template.get("tags", "").split(","):
            assert not tag or re.search(rf"tags: \[[^\]]*\b{tag}\b[^\]]*\]", text), (template["name"], tag)


def options() -> dict[str, dict[str, Any]]:
    """Every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        for entry in load(str(path.relative_to(ROOT)))["argument_specs"].values():
            found.update(entry.get("options") or {})
    return found


def rules() -> dict[str, dict[str, Any]]:
    """The ranges of every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "roles").glob("*/meta/rules.yml")):
        found.update(load(str(path.relative_to(ROOT))))
    return found


def test_surveys_ask_for_variables_of_the_roles_within_their_limits(data: dict[str, Any]) -> None:
    known = options()
    kinds = {"int": {"integer"}, "str": {"text", "textarea", "multiplechoice"}, "bool": {"multiplechoice"}}
    for question in data["awx_questions"]:
        name = question["variable"]
        if name.startswith(("attest_", "outcome_")):
            continue
        option = known[name]
        assert question["type"] in kinds[option.get("type", "str")], name
        limits = rules().get(name, {})
        for end, limit in (("min", "minimum"), ("max", "maximum")):
            if question["type"] == "integer" and limit in limits:
                assert question[end] == limits[limit], name
        if option.get("choices"):
            assert set(question["choices"]) <= set(option["choices"]), name
        if option.get("type") == "bool":
            assert question["choices"] == ["false", "true"]
        if "default" in question and "default" in option:
            assert str(question["default"]).lower() == str(option["default"]).lower(), name


def test_secrets_come_by_the_names_that_the_inventories_expect(data: dict[str, Any]) -> None:
    injected = {name for kind in data["awx_credential_types"] for name in kind["injectors"].get("extra_vars", {})}
    assert injected == {"rollout_kubeconfig", *load("inventories/production/group_vars/release/vault.yml.example")}
