# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for AWX's REST API, as far as the setup play uses it: it keeps objects and runs nothing.

It answers as the API's documentation says, and is strict where AWX is: names that exist, ids that lead nowhere, filters of fields that do not
exist, surveys, recurrence rules, playbooks that the project does not have, answers that no survey asks for, loops in a workflow. What it
proves: the play's calls are such that a second run finds nothing to write. What it does not: that AWX itself agrees; docs/awx.md says what was
seen there.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .tables import ENCRYPTED, TABLES, UNIFIED, answer_problems, rrule_problem, survey_problem

BASE = "/api/v2/"
PAGE = 25


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


def bad(**body: Any) -> Refused:
    return Refused(400, body)


class Controller:
    """The objects, and what may be done with them."""

    def __init__(self, playbooks: list[str]) -> None:
        self.playbooks = playbooks
        self.objects: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in TABLES}
        self.secrets: dict[int, dict[str, Any]] = {}
        self.surveys: dict[int, dict[str, Any]] = {}
        self.many: dict[tuple[int, str], list[int]] = {}
        self.writes: list[tuple[str, str]] = []
        self._next = 100

    # --- lookups -----------------------------------------------------------------------------------------------------

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """The one object of this name (or identifier); for tests."""
        (found,) = [item for item in self.objects[kind].values() if name in (item.get("name"), item.get("identifier"))]
        return found

    def linked(self, node: str, how: str) -> list[str]:
        """Identifiers of the nodes that follow a node; for tests."""
        ids = self.many.get((self.named("workflow_job_template_nodes", node)["id"], f"{how}_nodes"), [])
        return sorted(self.objects["workflow_job_template_nodes"][one]["identifier"] for one in ids)

    def find(self, kinds: tuple[str, ...], number: int) -> tuple[str, dict[str, Any]] | None:
        return next(((kind, self.objects[kind][number]) for kind in kinds if number in self.objects[kind]), None)

    def get(self, kind: str, number: int) -> dict[str, Any]:
        if number not in self.objects.get(kind, {}):
            raise Refused(404, {"detail": "Not found."})
        return self.objects[kind][number]

    def listed(self, kind: str, filters: list[tuple[str, str]]) -> list[dict[str, Any]]:
        kinds = UNIFIED if kind == "unified_job_templates" else (kind,)
        if kinds[0] not in self.objects:
            raise Refused(404, {"detail": "The requested resource could not be found."})
        rows = [item for one in kinds for item in self.objects[one].values()]
        known = {"id", *TABLES[kinds[0]].fields, "name", "organization"} if len(kinds) > 1 else {"id", *TABLES[kind].fields}
        either = [(name[4:], value) for name, value in filters if name.startswith("or__")]
        every = [(name, value) for name, value in filters if not name.startswith("or__")]
        for name, _value in either + every:
            if name not in known:
                raise bad(detail=f"{kind} has no field named '{name}'")
        rows = [row for row in rows if all(str(row.get(name)) == value for name, value in every)]
        return [row for row in rows if not either or any(str(row.get(name)) == value for name, value in either)]

    # --- representation ----------------------------------------------------------------------------------------------

    def shown(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        url = f"{BASE}{kind}/{item['id']}/"
        related = {name: f"{url}{name}/" for name in TABLES[kind].many}
        summary: dict[str, Any] = {}
        if kind in ("job_templates", "workflow_job_templates"):
            related["survey_spec"] = f"{url}survey_spec/"
        if kind == "projects":
            related["update"] = f"{url}update/"
            summary["current_update"] = {"id": item["id"], "status": "successful"}
        if kind == "workflow_job_template_nodes":
            related["create_approval_template"] = f"{url}create_approval_template/"
            target = item["unified_job_template"] and self.find((*UNIFIED, "workflow_approval_templates"), item["unified_job_template"])
            if target:
                related["unified_job_template"] = f"{BASE}{target[0]}/{target[1]['id']}/"
        return {**item, "type": TABLES[kind].type, "url": url, "related": related, "summary_fields": summary}

    # --- writes ------------------------------------------------------------------------------------------------------

    def create(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        if kind not in TABLES or kind == "workflow_approval_templates":
            raise Refused(405, {"detail": 'Method "POST" not allowed.'})
        table = TABLES[kind]
        missing = {name: ["This field is required."] for name in table.required if given.get(name) in (None, "")}
        if missing:
            raise Refused(400, missing)
        self._next += 1
        item = {"id": self._next, **json.loads(json.dumps(table.fields))}
        if kind == "workflow_job_template_nodes":
            item["identifier"] = str(uuid.uuid4())
        self.objects[kind][item["id"]] = item
        try:
            return self.change(kind, item, given)
        except Refused:
            del self.objects[kind][item["id"]]
            raise

    def change(self, kind: str, item: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        table = TABLES[kind]
        new = dict(item)
        for name, value in given.items():
            if name not in table.fields or name in table.read_only:
                continue
            default = table.fields[name]
            # Text fields take null for the empty text.
            value = "" if value is None and isinstance(default, str) else value
            if name in table.links and value is not None and not self.find(table.links[name], value):
                raise Refused(400, {name: [f'Invalid pk "{value}" - object does not exist.']})
            if name not in table.links and default is not None and not isinstance(value, type(default)):
                raise Refused(400, {name: [f"Not a valid {type(default).__name__}."]})
            new[name] = value
        for names in table.unique:
            if any(other["id"] != item["id"] and all(other[name] == new[name] for name in names) for other in self.objects[kind].values()):
                raise bad(__all__=[f"{table.type} with this {' and '.join(names)} already exists."])
        getattr(self, f"_check_{kind}", lambda new: None)(new)
        if kind == "credentials":
            new["inputs"] = self._encrypt(new)
        item.update(new)
        return item

    def _check_credential_types(self, new: dict[str, Any]) -> None:
        if new["kind"] not in ("cloud", "net"):
            raise bad(kind=["Must be 'cloud' or 'net'"])
        names = {entry["id"] for entry in new["inputs"].get("fields", [])}
        if any("type" not in entry for entry in new["inputs"].get("fields", [])) or set(new["inputs"].get("required", [])) - names:
            raise bad(inputs=["fields need a type, and required ones must be among them"])
        files = {f"tower.filename.{name.partition('.')[2]}" for name in new["injectors"].get("file", {})}
        for text in [value for values in new["injectors"].values() for value in values.values()]:
            for used in re.findall(r"{{ *([a-z_.]+) *}}", text):
                if used not in names | files:
                    raise bad(injectors=[f"{used} uses an undefined field"])

    def _encrypt(self, new: dict[str, Any]) -> dict[str, Any]:
        declared = self.objects["credential_types"][new["credential_type"]]["inputs"]
        fields = {entry["id"]: entry for entry in declared.get("fields", [])}
        unknown, absent = set(new["inputs"]) - set(fields), set(declared.get("required", [])) - set(new["inputs"])
        if unknown or absent:
            raise bad(inputs=[f"unknown: {sorted(unknown)}, missing: {sorted(absent)}"])
        kept = self.secrets.setdefault(new["id"], {})
        kept.update({name: value for name, value in new["inputs"].items() if fields[name].get("secret") and value != ENCRYPTED})
        return {name: ENCRYPTED if fields[name].get("secret") else value for name, value in new["inputs"].items()}

    def _check_inventory_sources(self, new: dict[str, Any]) -> None:
        if (new["source"] == "scm") != (new["source_project"] is not None):
            raise bad(source_project=["A project is needed for, and only for, source scm."])
        new["organization"] = self.objects["inventories"][new["inventory"]]["organization"]

    def _check_job_templates(self, new: dict[str, Any]) -> None:
        if new["project"] is None:
            raise bad(project=["This field is required."])
        if new["inventory"] is None and not new["ask_inventory_on_launch"]:
            raise bad(inventory=["Job Template must provide 'inventory' or allow prompting for it."])
        if new["playbook"] not in self.playbooks:
            raise bad(playbook=["Playbook not found for project."])
        # The organization of a job template is its project's.
        new["organization"] = self.objects["projects"][new["project"]]["organization"]

    def _check_workflow_job_template_nodes(self, new: dict[str, Any]) -> None:
        self._check_answers(new, missing_is_fine=True)

    def _check_schedules(self, new: dict[str, Any]) -> None:
        problem = rrule_problem(new["rrule"])
        if problem:
            raise bad(rrule=[problem])
        self._check_answers(new, missing_is_fine=False)

    def _check_answers(self, new: dict[str, Any], missing_is_fine: bool) -> None:
        target = new["unified_job_template"]
        spec = self.surveys.get(target, {}) if target else {}
        problems = answer_problems(spec, new["extra_data"], missing_is_fine)
        if problems:
            raise bad(variables_needed_to_start=problems)

    def survey(self, kind: str, item: dict[str, Any], spec: dict[str, Any]) -> None:
        problem = survey_problem(spec)
        if problem:
            raise bad(error=problem)
        self.surveys[item["id"]] = spec

    def approval(self, node: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        if not given.get("name"):
            raise bad(name=["This field may not be blank."])
        self._next += 1
        item = {"id": self._next, **TABLES["workflow_approval_templates"].fields}
        self.objects["workflow_approval_templates"][item["id"]] = item
        node["unified_job_template"] = item["id"]
        return self.change("workflow_approval_templates", item, given)

    def associate(self, kind: str, item: dict[str, Any], name: str, given: dict[str, Any]) -> None:
        ids = self.many.setdefault((item["id"], name), [])
        number = given.get("id")
        if not isinstance(number, int) or not self.find(TABLES[kind].many[name], number):
            raise bad(msg=f"{number} does not exist")
        if given.get("disassociate"):
            if number in ids:
                ids.remove(number)
            return
        if number in ids:
            return
        if name.endswith("_nodes"):
            self._check_link(item, number)
        if name == "credentials":
            of = self.objects["credentials"]
            if any(of[one]["credential_type"] == of[number]["credential_type"] for one in ids):
                raise bad(error="Cannot assign multiple credentials of one type.")
        ids.append(number)

    def _check_link(self, parent: dict[str, Any], child: int) -> None:
        if self.objects["workflow_job_template_nodes"][child]["workflow_job_template"] != parent["workflow_job_template"]:
            raise bad(Error="The nodes belong to different workflows.")
        if any(child in ids for (owner, name), ids in self.many.items() if owner == parent["id"] and name.endswith("_nodes")):
            raise bad(Error="Relationship not allowed.")
        reached, new = set(), {child}
        while new:
            reached |= new
            new = {one for (owner, name), ids in self.many.items() if owner in new and name.endswith("_nodes") for one in ids} - reached
        if parent["id"] in reached:
            raise bad(Error="Cycle detected.")


class Handler(BaseHTTPRequestHandler):
    """HTTP around the controller."""

    protocol_version = "HTTP/1.1"
    server: Api

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        url = urlsplit(self.path)
        with self.server.lock:
            try:
                if self.headers.get("Authorization") != f"Bearer {self.server.token}":
                    raise Refused(401, {"detail": "Authentication credentials were not provided."})
                if self.command in ("POST", "PATCH") and self.server.read_only:
                    raise Refused(403, {"detail": "You do not have permission to perform this action."})
                status, body = self.route(url.path, parse_qsl(url.query), json.loads(raw or b"{}"))
                if self.command != "GET":
                    self.server.controller.writes.append((self.command, url.path))
            except Refused as refused:
                status, body = refused.status, refused.body
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", "24.6.1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 (the names that http.server calls)

    def route(self, path: str, query: list[tuple[str, str]], given: dict[str, Any]) -> tuple[int, Any]:
        controller = self.server.controller
        match = re.fullmatch(rf"{BASE}([a-z_]+)/(?:(\d+)/(?:([a-z_]+)/)?)?", path)
        if not match:
            raise Refused(404, {"detail": "The requested resource could not be found."})
        kind, number, sub = match[1], match[2] and int(match[2]), match[3]
        if kind == "project_updates" and self.command == "GET":
            return 200, {"id": number, "status": "successful", "finished": "2026-01-01T00:00:00Z", "failed": False}
        if number is None:
            if self.command == "POST":
                return 201, controller.shown(kind, controller.create(kind, given))
            return 200, self.page(path, query, list(self.rows(kind, query)))
        item = controller.get(kind, number)
        if sub is None:
            if self.command == "PATCH":
                controller.change(kind, item, given)
            elif self.command != "GET":
                raise Refused(405, {"detail": f'Method "{self.command}" not allowed.'})
            return 200, controller.shown(kind, item)
        if sub == "survey_spec" and kind in ("job_templates", "workflow_job_templates"):
            if self.command == "POST":
                controller.survey(kind, item, given)
                return 200, None
            return 200, controller.surveys.get(number, {})
        if sub == "create_approval_template" and kind == "workflow_job_template_nodes" and self.command == "POST":
            return 201, controller.shown("workflow_approval_templates", controller.approval(item, given))
        if sub in TABLES[kind].many:
            if self.command == "POST":
                controller.associate(kind, item, sub, given)
                return 204, None
            of = TABLES[kind].many[sub]
            return 200, self.page(path, query, [found for one in controller.many.get((number, sub), []) if (found := controller.find(of, one))])
        raise Refused(404, {"detail": "The requested resource could not be found."})

    def rows(self, kind: str, query: list[tuple[str, str]]) -> list[tuple[str, dict[str, Any]]]:
        controller = self.server.controller
        filters = [(name, value) for name, value in query if name not in ("page", "page_size")]
        return [found for row in controller.listed(kind, filters) if (found := controller.find(tuple(TABLES), row["id"]))]

    def page(self, path: str, query: list[tuple[str, str]], rows: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        number = int(dict(query).get("page", 1))
        rest = [(name, value) for name, value in query if name != "page"]
        following = f"{path}?{urlencode([*rest, ('page', number + 1)])}" if number * PAGE < len(rows) else None
        shown = [self.server.controller.shown(kind, row) for kind, row in rows[(number - 1) * PAGE : number * PAGE]]
        return {"count": len(rows), "next": following, "previous": None, "results": shown}


class Api(ThreadingHTTPServer):
    """The server; use it as a context manager: ``with Api(token, playbooks) as api: ...``."""

    daemon_threads = True

    def __init__(self, token: str, playbooks: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.controller, self.lock, self.read_only = token, Controller(playbooks), threading.Lock(), False
        self.thread = threading.Thread(target=self.serve_forever, name="awx", daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Api:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(10)
