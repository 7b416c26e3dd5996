# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module door: runs an engine as an ordinary Ansible module. Private to this collection."""

from __future__ import annotations

import traceback
from types import ModuleType
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


def run_as_module(engine: ModuleType) -> None:
    """Validate the arguments by ``engine.ARGUMENT_SPEC``, run the engine, and exit as a module does."""
    module = AnsibleModule(
        argument_spec=engine.ARGUMENT_SPEC,
        supports_check_mode=getattr(engine, "SUPPORTS_CHECK_MODE", True),
        **getattr(engine, "SPEC_RULES", {}),
    )
    context = Context(check_mode=module.check_mode, diff=module._diff)
    try:
        with context:
            result = engine.run(module.params, context)
    except RolloutError as error:
        module.fail_json(msg=error.message, **_prepared(module, error.result))
    except Exception as error:
        module.fail_json(msg=internal_error(module._name, error), exception=traceback.format_exc(), changed=False)
    module.exit_json(**_prepared(module, result))


def internal_error(name: str, error: Exception) -> str:
    """Return the message for a defect of ours, the same through both doors."""
    return f"Internal error in {name}: {type(error).__name__}: {error}. Next: run again with -vvv and report what it shows."


def _prepared(module: AnsibleModule, result: dict[str, Any]) -> dict[str, Any]:
    """Hand warnings over as AnsibleModule wants them, and always say whether something changed."""
    for text in result.pop("warnings", []):
        module.warn(text)
    result.setdefault("changed", False)
    return result
