# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The in-process door: runs an engine inside the controller's worker process. Private to this collection.

A module task costs 250-600 ms, nearly all of it interpreter start and unpacking; the same function called in the
worker that Ansible has already forked costs about 20 ms. This door is taken when that gives the same answer: the
connection is local, nothing is escalated or asynchronous, and the interpreter would be the controller's own.
Otherwise the task runs through the module door, unchanged.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import ModuleType
from typing import Any

from ansible import constants as C
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._door import internal_error
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

display = Display()

DOOR_VARIABLE = "signal_rollout_door"
DOOR_ENVIRONMENT = "SIGNAL_ROLLOUT_DOOR"
DOORS = ("auto", "in_process", "module")
# Callbacks that write for people; with any other, stdout may be read by a program and live lines go to stderr.
_HUMAN_CALLBACKS = ("default", "minimal", "oneline", "debug", "yaml", "unixy", "dense", "selective")


class InProcessAction(ActionBase):
    """Base of the collection's action plugins; a subclass names its ``engine`` module and little else."""

    _requires_connection = True
    _supports_check_mode = True
    _supports_async = True

    engine: ModuleType

    def task_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Return the task's arguments; a subclass may add what only the controller knows."""
        return dict(self._task.args)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = self.task_arguments(task_vars)
        if self._door(task_vars) == "module":
            result.update(
                self._execute_module(
                    module_name=self._task.resolved_action or self._task.action,
                    module_args=arguments,
                    task_vars=task_vars,
                    wrap_async=bool(self._task.async_val),
                )
            )
            return result
        result.update(self._run_here(plain(arguments)))
        return result

    def _door(self, task_vars: dict[str, Any]) -> str:
        wish = task_vars.get(DOOR_VARIABLE) or os.environ.get(DOOR_ENVIRONMENT) or "auto"
        wish = str(self._templar.template(wish))
        if wish not in DOORS:
            raise RolloutDoorError(f"{DOOR_VARIABLE} is '{wish}', expected one of {', '.join(DOORS)}.")
        if wish != "auto":
            return wish
        local = self._connection.transport in ("local", "ansible.builtin.local")
        escalated = bool(self._task.become) or self._connection.become is not None
        if not local or escalated or self._task.async_val:
            return "module"
        interpreter = self._templar.template(task_vars.get("ansible_python_interpreter") or "")
        # Without a setting Ansible would discover some interpreter, which need not have the controller's libraries.
        return "in_process" if interpreter == sys.executable else "module"

    def _run_here(self, arguments: dict[str, Any]) -> dict[str, Any]:
        environment: dict[str, str] = {}
        self._compute_environment_string(environment)
        # The worker process is forked for this one task, so its environment is ours to change.
        os.environ.update({str(key): str(value) for key, value in environment.items()})

        rules = getattr(self.engine, "SPEC_RULES", {})
        validation = ArgumentSpecValidator(self.engine.ARGUMENT_SPEC, **rules).validate(arguments)
        secrets = validation._no_log_values
        parameters = validation.validated_parameters
        answer: dict[str, Any] = {"changed": False}
        if validation.error_messages:
            answer.update(failed=True, msg=self._validation_message(validation))
        elif self._task.check_mode and not getattr(self.engine, "SUPPORTS_CHECK_MODE", True):
            name = self._task.resolved_action
            answer.update(skipped=True, msg=f"remote module ({name}) does not support check mode")
        else:
            answer.update(self._call_engine(parameters, secrets))
        answer.setdefault("invocation", {"module_args": parameters})
        return masked(answer, secrets)

    def _validation_message(self, validation: Any) -> str:
        message = validation.errors.msg
        if isinstance(validation.errors[0], UnsupportedError):
            # AnsibleModule's words, so that both doors refuse alike.
            message = f"Unsupported parameters for ({self._task.resolved_action}) module: {message}"
        return message

    def _call_engine(self, parameters: dict[str, Any], secrets: set[str]) -> dict[str, Any]:
        def progress(text: str) -> None:
            display.display(str(remove_values(text, secrets)), stderr=_stdout_is_for_programs())

        context = Context(
            check_mode=bool(self._task.check_mode),
            diff=bool(self._task.diff),
            progress=None if self._task.no_log else progress,
        )
        try:
            with context:
                return self.engine.run(parameters, context)
        except RolloutError as error:
            return {"failed": True, "msg": error.message, **error.result}
        except Exception as error:
            return {
                "failed": True,
                "msg": internal_error(str(self._task.resolved_action), error),
                "exception": traceback.format_exc(),
            }


class RolloutDoorError(RolloutError):
    """The setting that chooses the door has an unknown value."""


def plain(value: Any) -> Any:
    """Return ``value`` as builtin types, as a module would receive it through JSON.

    Ansible hands templated values over as tagged or lazy subclasses; an engine must not be able to tell the doors apart.
    """
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def masked(result: dict[str, Any], secrets: set[str]) -> dict[str, Any]:
    """Return ``result`` without any secret value, as AnsibleModule does before it prints."""
    kept = {key: value for key, value in result.items() if value is None or isinstance(value, bool)}
    clean = remove_values(result, secrets)
    clean.update(kept)
    return clean


def _stdout_is_for_programs() -> bool:
    callback = str(C.DEFAULT_STDOUT_CALLBACK)
    return callback.rsplit(".", 1)[-1] not in _HUMAN_CALLBACKS
