# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds the repository together: facts that are stated in two places must agree."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ansible_collections.signal.rollout.plugins"
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
# These are documented as modules, as all action plugins are, but run on the controller only: they read its variables.
CONTROLLER_ONLY = {"variables_check"}
LINK = "playbooks/collections/ansible_collections/signal/rollout"


def load(path: Path) -> Any:
    """One YAML document. Ansible's own tags (!vault, !unsafe) stand for their text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))
    return yaml.load(path.read_text(), Loader)  # noqa: S506 (a SafeLoader)


def tracked() -> list[str]:
    """Files that are, or would be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.decode()
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def engine_of(plugin: ModuleType) -> ModuleType:
    """The engine that a module or an action plugin hands to its door."""
    if hasattr(plugin, "ActionModule"):
        return plugin.ActionModule.engine
    engines = [value for value in vars(plugin).values() if isinstance(value, ModuleType) and hasattr(value, "ARGUMENT_SPEC")]
    assert len(engines) == 1, f"{plugin.__name__} imports {len(engines)} engines, expected one"
    return engines[0]


@pytest.fixture(scope="session")
def documented(ansible: Any) -> dict[str, Any]:
    """What ansible-doc shows of each module, doc fragments merged in."""
    shown = ansible("ansible-doc", "--json", "--type", "module", *[f"signal.rollout.{name}" for name in MODULES])
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


# --- modules ---------------------------------------------------------------------------------------------------------


def test_there_are_modules_and_roles() -> None:
    assert MODULES
    assert ROLES


def test_every_action_plugin_has_a_module_and_the_other_way_round() -> None:
    actions = {path.stem for path in (ROOT / "plugins/action").glob("*.py")}
    assert actions == set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in CONTROLLER_ONLY])
def test_both_doors_lead_to_the_same_engine(name: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.modules.{name}")
    action = importlib.import_module(f"{PACKAGE}.action.{name}")
    assert engine_of(module) is engine_of(action)
    assert callable(engine_of(module).run)


def normalised(options: dict[str, Any], default_key: str) -> dict[str, Any]:
    """Options of a module in the one form in which documentation and argument spec can be compared."""
    found = {}
    for name, option in options.items():
        kind = option.get("type", "str")
        found[name] = {
            "type": kind,
            "elements": option.get("elements"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if option.get("choices") else None,
            "aliases": sorted(option.get("aliases") or []),
            "suboptions": normalised(option.get(default_key) or {}, default_key),
        }
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name not in CONTROLLER_ONLY])
def test_documented_options_are_the_argument_spec(name: str, documented: dict[str, Any]) -> None:
    engine = engine_of(importlib.import_module(f"{PACKAGE}.modules.{name}"))
    shown = normalised(documented[f"signal.rollout.{name}"]["doc"]["options"], "suboptions")
    assert shown == normalised(engine.ARGUMENT_SPEC, "options")


def undescribed(returned: dict[str, Any]) -> list[str]:
    """Names of return values without description, type or sample; those that contain others need no sample of their own."""
    found = []
    for name, value in returned.items():
        inner = value.get("contains") or {}
        if not value.get("description") or not value.get("type") or not (inner or "sample" in value):
            found.append(name)
        found += [f"{name}.{key}" for key in undescribed(inner)]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_return_value_is_described_with_a_sample(name: str, documented: dict[str, Any]) -> None:
    returned = documented[f"signal.rollout.{name}"]["return"]
    assert returned
    assert undescribed(returned) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_example_uses_the_full_name(name: str, documented: dict[str, Any]) -> None:
    examples = documented[f"signal.rollout.{name}"]["examples"]
    assert f"signal.rollout.{name}:" in examples


def test_action_groups_are_what_the_modules_say(documented: dict[str, Any]) -> None:
    said: dict[str, set[str]] = {}
    for name in MODULES:
        group = documented[f"signal.rollout.{name}"]["doc"].get("attributes", {}).get("action_group", {})
        for membership in group.get("membership", []):
            said.setdefault(membership.removeprefix("signal.rollout."), set()).add(name)
    declared = {group: set(members) for group, members in load(ROOT / "meta/runtime.yml")["action_groups"].items()}
    assert declared == said
    assert declared["rollout"] == set(MODULES)


def test_private_helpers_are_named_so() -> None:
    public = [
        str(path.relative_to(ROOT))
        for folder in ("module_utils", "plugin_utils", "doc_fragments")
        for path in (ROOT / "plugins" / folder).glob("*.py")
        if not path.name.startswith("_")
    ]
    assert public == []


# --- roles and playbooks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"])
def test_every_role_is_complete(role: str, name: str) -> None:
    assert (ROOT / "roles" / role / name).is_file()


def options_of(role: str) -> dict[str, dict[str, Any]]:
    """All variables that a role declares, over its entry points."""
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    return {name: option for entry in specs.values() for name, option in (entry.get("options") or {}).items()}


def is_plain(value: Any) -> bool:
    """Whether a default can be stated in an argument spec: no template, no structure of its own."""
    if isinstance(value, dict):
        return not value
    if isinstance(value, list):
        return all(not isinstance(item, (dict, list)) and is_plain(item) for item in value)
    return not (isinstance(value, str) and "{{" in value)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_agree(role: str) -> None:
    """Every variable of the role is declared, has a default unless it is required, and a plain default stands in both places alike."""
    options = options_of(role)
    defaults = load(ROOT / "roles" / role / "defaults/main.yml") or {}
    assert sorted(set(defaults) - set(options)) == [], "in defaults, not declared"
    own = {name for name, option in options.items() if name.startswith(f"{role}_") and not option.get("required")}
    assert sorted(own - set(defaults)) == [], "declared as optional, without a default"
    assert sorted(name for name in defaults if options[name].get("required")) == [], "required, and yet with a default"
    stated = {name: option["default"] for name, option in options.items() if "default" in option}
    assert stated == {name: value for name, value in defaults.items() if name in stated or is_plain(value)}


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_name_of_the_role(role: str) -> None:
    assert [name for name in options_of(role) if not name.startswith((f"{role}_", "rollout_"))] == []


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_of_a_role_shows_it_in_use(role: str) -> None:
    assert f"signal.rollout.{role}" in (ROOT / "roles" / role / "README.md").read_text()


def tasks_in(node: Any) -> list[dict[str, Any]]:
    """All tasks in a list of tasks or plays, blocks opened."""
    if not isinstance(node, list):
        return []
    found = []
    for item in node:
        if isinstance(item, dict):
            found.append(item)
            for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
                found += tasks_in(item.get(key))
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_role_calls_no_other_role_but_communication(role: str) -> None:
    called = set()
    for path in (ROOT / "roles" / role / "tasks").glob("**/*.yml"):
        for task in tasks_in(load(path)):
            for action in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
                if action in task:
                    called.add(task[action]["name"])
    assert called <= {"signal.rollout.communication", f"signal.rollout.{role}"}


def test_playbooks_can_be_called_by_full_name() -> None:
    assert PLAYBOOKS
    assert [path.name for path in PLAYBOOKS if not path.stem.isidentifier()] == []


def test_the_mutable_folders_are_not_reached_from_a_built_collection() -> None:
    """Only meta, plugins, roles and playbooks are in reach by name, so they may not read files of the other folders."""
    pattern = re.compile(r"(?:playbook_dir|role_path)[^\n]*(?:inventories|lab|molecule|tests|tools|docs)/")
    bad = [
        name
        for name in tracked()
        if name.startswith(("roles/", "playbooks/", "plugins/")) and name.endswith((".yml", ".py", ".j2")) and pattern.search((ROOT / name).read_text())
    ]
    assert bad == []


@pytest.mark.parametrize("inventory", ["lab", "staging", "production"])
def test_inventories_use_the_interpreter_of_the_controller(inventory: str) -> None:
    """Discovery may choose an interpreter without the libraries of the modules, and costs time at every task."""
    text = "".join(path.read_text() for path in (ROOT / "inventories" / inventory).rglob("*.yml"))
    assert re.search(r"""ansible_python_interpreter: ["']?\{\{ ansible_playbook_python \}\}""", text)


# --- documents and packaging -----------------------------------------------------------------------------------------


def test_readme_names_the_two_commands_on_its_first_screen() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:80])
    assert "make deploy" in first
    assert "make test" in first


@pytest.mark.parametrize("kind", ["modules", "roles", "playbooks"])
def test_readme_lists_the_content(kind: str) -> None:
    names = {"modules": MODULES, "roles": ROLES, "playbooks": [path.name for path in PLAYBOOKS]}[kind]
    text = (ROOT / "README.md").read_text()
    assert [name for name in names if f"`{name}`" not in text and f"[`{name}`]" not in text] == []


def relative_links() -> list[tuple[str, str]]:
    """(document, target) of each link in a Markdown file that leads to a file of the repository."""
    links = []
    for name in tracked():
        if name.endswith(".md"):
            for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
                if not re.match(r"[a-z]+:|#", target):
                    links.append((name, target.split("#")[0]))
    return links


def test_links_between_documents_lead_somewhere() -> None:
    dead = [f"{name}: {target}" for name, target in relative_links() if not (ROOT / name).parent.joinpath(target).exists()]
    assert dead == []


def test_no_machine_paths_and_no_registry_addresses() -> None:
    """Both would tie the repository to one machine. Spelt in parts here, so that this file does not find itself."""
    words = ["/wo" + "rk/", "/ro" + "ot/", "bash_" + "jobs", "deb.debian" + ".org", "proxy.golang" + ".org", "py" + "pi.org"]
    words += ["files.python" + "hosted", "registry.npm" + "js", "static.crates" + ".io", "repo.ma" + "ven", "repo1.ma" + "ven"]
    found = []
    for name in tracked():
        path = ROOT / name
        if path.is_symlink() or path.suffix == ".sum":
            continue
        text = path.read_bytes().decode(errors="replace")
        found += [f"{name}: {word}" for word in words if word in text]
    assert found == []


def test_the_locked_requirements_have_hashes_and_name_no_place() -> None:
    for name in ("requirements.txt", "requirements-test.txt"):
        text = (ROOT / name).read_text()
        pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==\S+(.*)$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)*)", text, re.MULTILINE)
        assert pinned, name
        assert [package for package, _ending, hashes in pinned if not hashes] == [], name
        assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links|@ file:", text), name


def test_the_lock_files_agree() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    run, test = versions("requirements.txt"), versions("requirements-test.txt")
    assert {name: (run[name], test[name]) for name in run.keys() & test.keys() if run[name] != test[name]} == {}


def test_every_direct_requirement_is_locked() -> None:
    for stem in ("requirements", "requirements-test"):
        wanted = re.findall(r"^([A-Za-z0-9._-]+)", re.sub(r"^(#|-).*$", "", (ROOT / f"{stem}.in").read_text(), flags=re.MULTILINE), re.MULTILINE)
        locked = {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / f"{stem}.txt").read_text(), re.MULTILINE)}
        assert wanted
        assert {name.lower() for name in wanted} <= locked


def test_collections_are_required_alike_everywhere() -> None:
    galaxy = load(ROOT / "galaxy.yml")["dependencies"]
    for name in ("requirements.yml", "collections/requirements.yml"):
        assert {entry["name"]: entry["version"] for entry in load(ROOT / name)["collections"]} == galaxy


def test_execution_environments_get_what_the_controller_gets() -> None:
    def names(path: str) -> set[str]:
        return {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)", (ROOT / path).read_text(), re.MULTILINE)}

    # ansible comes with the image, the load generators are tools of the lab and of verification.
    assert names("meta/ee-requirements.txt") == names("requirements.in") - {"ansible", "aiohttp", "k6"}


def test_the_version_has_a_changelog_entry() -> None:
    version = load(ROOT / "galaxy.yml")["version"]
    assert version in load(ROOT / "changelogs/changelog.yaml")["releases"]
    assert f"v{version}" in (ROOT / "CHANGELOG.rst").read_text()


def test_the_link_leads_back_to_the_checkout() -> None:
    link = ROOT / LINK
    assert link.is_symlink()
    assert link.resolve() == ROOT


def test_plugins_carry_the_licence() -> None:
    bad = [
        name
        for name in tracked()
        if name.startswith(("plugins/", "tests/", "lab/", "tools/")) and name.endswith(".py") and (ROOT / name).stat().st_size
        if "SPDX-License-Identifier: GPL-3.0-or-later" not in (ROOT / name).read_text()[:600]
    ]
    assert bad == []


# --- Prometheus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["canary", "preflight"])
def test_every_way_to_reach_prometheus_is_a_variable_of_the_roles_that_ask_it(role: str) -> None:
    engine = importlib.import_module(f"{PACKAGE}.module_utils._prometheus")
    options = {*engine.ARGUMENT_SPEC, *(spec["aliases"][0] for spec in engine.TLS_SPEC.values())}
    passed = load(ROOT / f"roles/{role}/vars/main.yml")[f"_{role}_prometheus"]
    assert set(passed) == options
    assert all(f"rollout_{name} " in value for name, value in passed.items())
    variables = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {f"rollout_{name}" for name in options} <= set(variables)
    secrets = {name for name, spec in engine.ARGUMENT_SPEC.items() if spec.get("no_log")}
    assert {name for name in options if variables[f"rollout_{name}"].get("no_log")} == secrets
