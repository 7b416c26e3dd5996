# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.signal.rollout.plugins.module_utils import _variables
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line
from ansible_collections.signal.rollout.plugins.plugin_utils._in_process import plain

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Names that belong to the collection without being a role's: the shared ones and the door's switch.
SHARED_PREFIX = "rollout_"
OWN_NAMES = {"signal_rollout_door"}


class ActionModule(ActionBase):
    """Checks the variables of the host. It has one door only: the variables live on the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("roles", "ignore"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = plain(self._task.args)
        every = {path.parents[1].name: path for path in sorted(ROLES.glob("*/meta/argument_specs.yml"))}
        chosen = arguments.get("roles") or list(every)
        unknown = sorted(set(chosen) - set(every))
        if unknown:
            result.update(failed=True, msg=f"roles: unknown {', '.join(unknown)}; expected some of {', '.join(every)}.")
            return result

        specs = {role: self._load(path)["argument_specs"]["main"].get("options") or {} for role, path in every.items()}
        known = {name for options in specs.values() for name in options} | OWN_NAMES | set(arguments.get("ignore") or [])
        prefixes = tuple(f"{role}_" for role in specs) + (SHARED_PREFIX,)
        given = [name for name in task_vars if not self._is_internal(name)]
        problems = _variables.misnamed(given, known, prefixes)

        defaults: dict[str, Any] = {}
        for role in chosen:
            path = every[role].parents[1] / "defaults" / "main.yml"
            # Defaults are ours, and refer to each other; those of roles that the playbook does not import were not loaded as templates yet.
            defaults.update(self._load(path, trusted_as_template=True) or {} if path.exists() else {})
        values, failures = self._values(sorted({name for role in chosen for name in specs[role]}), defaults, task_vars)
        problems += failures
        seen: set[str] = {problem.variable for problem in failures}
        typed: dict[str, Any] = {}
        options = {name: option for role in chosen for name, option in specs[role].items()}
        for role in chosen:
            open_options = {name: option for name, option in specs[role].items() if name not in seen}
            found, good = _variables.check_types(role, open_options, values)
            problems += found
            typed.update(good)
            seen |= set(open_options)
        for role in chosen:
            path = every[role].with_name("rules.yml")
            if path.exists():
                rules = {name: rule for name, rule in self._load(path).items() if name in options}
                problems += _variables.check_text(rules, values)
                problems += _variables.check_rules(rules, typed, options)
        problems = list(dict.fromkeys(problems))

        result.update(changed=False, problems=[vars(problem) for problem in problems], checked=len(options))
        if problems:
            lines = "\n".join(f"- {problem}" for problem in problems)
            result.update(
                failed=True,
                msg=f"{len(problems)} problems in the variables of this release, nothing was written:\n{lines}\n"
                "Next: correct them in the inventory (or on the command line) and run again.",
            )
        return result

    def _load(self, path: Path, **options: bool) -> Any:
        return self._loader.load_from_file(str(path), **options)

    @staticmethod
    def _is_internal(name: str) -> bool:
        # register results and facts of ours start with an underscore by convention.
        return name.startswith(("ansible_", "_"))

    def _values(
        self, names: list[str], defaults: dict[str, Any], task_vars: dict[str, Any]
    ) -> tuple[dict[str, Any], list[_variables.Problem]]:
        """Return the evaluated value of each variable that is set, and a problem for each that cannot be evaluated."""
        available = {**defaults, **task_vars}
        templar = self._templar.copy_with_new_env(available_variables=available)
        values: dict[str, Any] = {}
        problems: list[_variables.Problem] = []
        for name in names:
            if name not in available:
                continue
            try:
                value = plain(templar.template(available[name]))
            except AnsibleError as error:
                problems.append(_variables.Problem(name, "expected a value that can be evaluated", one_line(error)))
                continue
            if value is not None:
                values[name] = value
        return values, problems
