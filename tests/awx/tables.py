# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kinds of object of AWX's REST API that the setup play uses, with the fields and rules that the API's documentation states."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# Kinds that a workflow node or a schedule can start; the API also lists them together.
UNIFIED = ("job_templates", "projects", "inventory_sources", "workflow_job_templates")
PROMPTS = {
    f"ask_{name}_on_launch": False
    for name in ("credential", "diff_mode", "execution_environment", "forks", "instance_groups", "inventory", "job_slice_count", "job_type", "labels",
                 "limit", "scm_branch", "skip_tags", "tags", "timeout", "variables", "verbosity")
}


@dataclass(frozen=True)
class Table:
    """One kind of object. ``links`` are fields that hold the id of another object, ``many`` are sublists that ids are added to."""

    type: str
    fields: dict[str, Any]
    required: tuple[str, ...] = ("name",)
    unique: tuple[tuple[str, ...], ...] = (("name",),)
    links: dict[str, tuple[str, ...]] = field(default_factory=dict)
    many: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Fields that a client cannot write: the server sets them.
    read_only: tuple[str, ...] = ()


TABLES: dict[str, Table] = {
    "organizations": Table(
        "organization",
        {"name": "", "description": "", "max_hosts": 0, "default_environment": None},
        links={"default_environment": ("execution_environments",)},
        many={"galaxy_credentials": ("credentials",)},
    ),
    "execution_environments": Table(
        "execution_environment",
        {"name": "", "description": "", "image": "", "pull": "", "organization": None, "credential": None},
        required=("name", "image"),
        links={"organization": ("organizations",), "credential": ("credentials",)},
    ),
    "credential_types": Table(
        "credential_type",
        {"name": "", "description": "", "kind": "", "inputs": {}, "injectors": {}, "managed": False},
        required=("name", "kind"),
        unique=(("name", "kind"),),
        read_only=("managed",),
    ),
    "credentials": Table(
        "credential",
        {"name": "", "description": "", "organization": None, "credential_type": None, "inputs": {}},
        required=("name", "credential_type"),
        unique=(("organization", "name", "credential_type"),),
        links={"organization": ("organizations",), "credential_type": ("credential_types",)},
    ),
    "projects": Table(
        "project",
        {"name": "", "description": "", "organization": None, "scm_type": "", "scm_url": "", "scm_branch": "", "scm_refspec": "", "scm_clean": False,
         "scm_delete_on_update": False, "scm_track_submodules": False, "scm_update_on_launch": False, "scm_update_cache_timeout": 0,
         "allow_override": False, "timeout": 0, "credential": None, "default_environment": None, "scm_revision": "", "status": "successful"},
        unique=(("name", "organization"),),
        links={"organization": ("organizations",), "credential": ("credentials",), "default_environment": ("execution_environments",)},
        read_only=("scm_revision", "status"),
    ),
    "inventories": Table(
        "inventory",
        {"name": "", "description": "", "organization": None, "kind": "", "host_filter": None, "variables": "", "prevent_instance_group_fallback": False},
        required=("name", "organization"),
        unique=(("name", "organization"),),
        links={"organization": ("organizations",)},
    ),
    "inventory_sources": Table(
        "inventory_source",
        {"name": "", "description": "", "inventory": None, "organization": None, "source": "", "source_path": "", "source_project": None,
         "source_vars": "", "credential": None, "execution_environment": None, "overwrite": False, "overwrite_vars": False, "update_on_launch": False,
         "update_cache_timeout": 0, "timeout": 0, "verbosity": 1, "host_filter": "", "enabled_var": "", "enabled_value": "", "limit": "", "scm_branch": ""},
        required=("name", "inventory", "source"),
        unique=(("name", "inventory"),),
        links={"inventory": ("inventories",), "source_project": ("projects",), "credential": ("credentials",)},
        read_only=("organization",),
    ),
    "job_templates": Table(
        "job_template",
        {"name": "", "description": "", "job_type": "run", "inventory": None, "project": None, "organization": None, "playbook": "", "scm_branch": "",
         "forks": 0, "limit": "", "verbosity": 0, "extra_vars": "", "job_tags": "", "skip_tags": "", "start_at_task": "", "timeout": 0,
         "force_handlers": False, "use_fact_cache": False, "host_config_key": "", "survey_enabled": False, "become_enabled": False, "diff_mode": False,
         "allow_simultaneous": False, "job_slice_count": 1, "webhook_service": "", "execution_environment": None,
         "prevent_instance_group_fallback": False, **PROMPTS},
        unique=(("name", "organization"),),
        links={"inventory": ("inventories",), "project": ("projects",), "execution_environment": ("execution_environments",)},
        many={"credentials": ("credentials",)},
        read_only=("organization",),
    ),
    "workflow_job_templates": Table(
        "workflow_job_template",
        {"name": "", "description": "", "organization": None, "extra_vars": "", "allow_simultaneous": False, "survey_enabled": False, "inventory": None,
         "limit": "", "scm_branch": "", "webhook_service": "", "job_tags": "", "skip_tags": "",
         **{name: False for name in PROMPTS if name.split("_")[1] in ("inventory", "limit", "labels", "scm", "skip", "tags", "variables")}},
        unique=(("name", "organization"),),
        links={"organization": ("organizations",), "inventory": ("inventories",)},
    ),
    "workflow_job_template_nodes": Table(
        "workflow_job_template_node",
        {"identifier": "", "workflow_job_template": None, "unified_job_template": None, "extra_data": {}, "inventory": None, "job_type": None,
         "job_tags": None, "skip_tags": None, "limit": None, "diff_mode": None, "verbosity": None, "forks": None, "job_slice_count": None,
         "timeout": None, "scm_branch": None, "execution_environment": None, "all_parents_must_converge": False},
        required=("workflow_job_template",),
        unique=(("identifier", "workflow_job_template"),),
        links={"workflow_job_template": ("workflow_job_templates",), "unified_job_template": (*UNIFIED, "workflow_approval_templates")},
        many={f"{kind}_nodes": ("workflow_job_template_nodes",) for kind in ("success", "failure", "always")},
    ),
    "workflow_approval_templates": Table("workflow_approval_template", {"name": "", "description": "", "timeout": 0}, unique=()),
    "schedules": Table(
        "schedule",
        {"name": "", "description": "", "rrule": "", "unified_job_template": None, "extra_data": {}, "enabled": True, "inventory": None,
         "job_type": None, "job_tags": None, "skip_tags": None, "limit": None, "scm_branch": None},
        required=("name", "rrule", "unified_job_template"),
        unique=(("unified_job_template", "name"),),
        links={"unified_job_template": UNIFIED},
    ),
}
ENCRYPTED = "$encrypted$"
QUESTION_TYPES = {"text", "textarea", "password", "integer", "float", "multiplechoice", "multiselect"}


def survey_problem(spec: dict[str, Any]) -> str:
    """What the API refuses of a survey, in words; '' when it takes it."""
    for name in ("name", "description", "spec"):
        if name not in spec:
            return f"'{name}' missing from survey spec."
    seen: set[str] = set()
    for number, question in enumerate(spec["spec"]):
        for key in ("type", "question_name", "variable", "required"):
            if key not in question:
                return f"'{key}' missing from survey question {number}."
        if question["type"] not in QUESTION_TYPES:
            return f"'{question['type']}' in survey question {number} is not one of the allowed types."
        if question["variable"] in seen:
            return f"'variable' '{question['variable']}' duplicated in survey question {number}."
        seen.add(question["variable"])
        if question["type"].startswith("multi"):
            choices = question.get("choices") or []
            if not choices or not all(isinstance(choice, str) for choice in choices):
                return f"Survey question {number}: choices must be a list of text."
            if question.get("default") not in (None, "", *choices):
                return f"Default choice must be answered from the choices listed, survey question {number}."
        for key in ("min", "max"):
            if key in question and not isinstance(question[key], int):
                return f"{key} {question[key]!r} in survey question {number} expected to be integer."
        if question["type"] == "integer" and "default" in question and not isinstance(question["default"], int):
            return f"Default value of survey question {number} expected to be an integer."
    return ""


def answer_problems(spec: dict[str, Any], answers: dict[str, Any], missing_is_fine: bool) -> list[str]:
    """What the API refuses of answers to a survey. A workflow node may leave questions to the workflow's own survey."""
    questions = {question["variable"]: question for question in spec.get("spec") or []}
    problems = [f"Variables {name} are not allowed on launch." for name in answers if name not in questions]
    for name, question in questions.items():
        if name not in answers:
            if question["required"] and question.get("default", "") == "" and not missing_is_fine:
                problems.append(f"'{name}' value missing")
            continue
        value, kind = answers[name], question["type"]
        if kind in ("text", "textarea", "password"):
            if not isinstance(value, str):
                problems.append(f"Value {value} for '{name}' expected to be a string.")
            elif not question.get("min", 0) <= len(value) <= question.get("max", 1024):
                problems.append(f"'{name}' value {value} is too small or too large.")
        elif kind == "integer":
            if not isinstance(value, int):
                problems.append(f"Value {value} for '{name}' expected to be an integer.")
            elif not question.get("min", value) <= value <= question.get("max", value):
                problems.append(f"'{name}' value {value} is out of range.")
        elif kind == "multiplechoice" and value not in question["choices"]:
            problems.append(f"Value {value} for '{name}' expected to be one of {question['choices']}.")
    return problems


def rrule_problem(rule: str) -> str:
    """What the API refuses of a recurrence rule; '' when it takes it."""
    if not re.search(r"(^|\s)DTSTART(;TZID=[^:]+)?:\d{8}T\d{6}Z?(\s|$)", rule):
        return "Valid DTSTART required in rrule. Value should start with: DTSTART:YYYYMMDDTHHMMSSZ"
    if len(re.findall("DTSTART", rule)) > 1:
        return "Multiple DTSTART is not supported."
    if "RRULE:" not in rule:
        return "One or more rule required in rrule."
    if "INTERVAL" not in rule:
        return "INTERVAL required in rrule."
    if "SECONDLY" in rule:
        return "SECONDLY is not supported."
    count = re.search(r"COUNT=(\d+)", rule)
    if count and int(count[1]) > 999:
        return "COUNT > 999 is unsupported."
    return ""
