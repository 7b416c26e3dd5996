# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every file of the engine, and the page that shows them."""

from __future__ import annotations

import ast

import engine_map
import pytest

TREES = engine_map.files()
PURE = [name for name, tree in TREES.items() if engine_map.is_pure(tree)]
# What may be imported by a file that touches neither files nor network nor clock.
HARMLESS = {
    "__future__", "base64", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "difflib", "enum", "hashlib", "html", "ipaddress", "json",
    "math", "re", "shlex", "statistics", "textwrap", "typing", "urllib.parse",
    "ansible.module_utils.common.arg_spec", "kubernetes.utils", "packaging.specifiers", "packaging.version", "pglast", "pglast.visitors", "scipy", "yaml",
}  # fmt: skip
# The world, as calls of what is harmless otherwise.
TOUCHING = {"open", "now", "utcnow", "today", "print", "input", "exec", "eval", "__import__"}


def called(tree: ast.AST) -> set[str]:
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function.id if isinstance(function, ast.Name) else getattr(function, "attr", "") for function in functions}


def outside(tree: ast.Module) -> set[str]:
    """What a file imports from outside the engine."""
    return {name for name in engine_map.imported(tree) if not name.startswith(f"{engine_map.PACKAGE}.")}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_touches_nothing(name: str) -> None:
    assert outside(TREES[name]) <= HARMLESS
    assert not called(TREES[name]) & TOUCHING


@pytest.mark.parametrize("name", TREES)
def test_the_engine_knows_nothing_of_what_stands_on_it(name: str) -> None:
    own = "ansible_collections."
    assert not {module for module in outside(TREES[name]) if module.startswith(own) or module.split(".")[0] == "plugins"}
    ansible = {module for module in outside(TREES[name]) if module.split(".")[0] == "ansible"}
    assert all(module.startswith("ansible.module_utils.") for module in ansible)


@pytest.mark.parametrize("name", sorted(set(TREES) - {"_door"}))
def test_only_the_doors_end_a_task(name: str) -> None:
    assert not called(TREES[name]) & {"exit_json", "fail_json", "AnsibleModule"}


def test_the_map_of_the_engine_is_up_to_date() -> None:
    assert engine_map.PAGE.read_text(encoding="utf-8") == engine_map.page(), "Next: python3 tools/engine_map.py"
