# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/engine_map.md: which files of the engine make each module, and which are shared, in the words of their own docstrings.

Run after a file of the engine was added, renamed or put to another use: ``python3 tools/engine_map.py``. A test says when the page is not up to
date.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "engine_map.md"
ENGINE = ROOT / "plugins" / "module_utils"
PACKAGE = "ansible_collections.signal.rollout.plugins.module_utils"
# More names than this would not say more than their number.
NAMED = 4


def files() -> dict[str, ast.Module]:
    """Return each file of the engine by its name without the ending."""
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ENGINE.glob("_*.py"))}


def imported(tree: ast.AST) -> set[str]:
    """Return what a file imports, as dotted names; what it takes from the engine as ``PACKAGE`` and the file's name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {f"{PACKAGE}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def of_the_engine(names: set[str]) -> set[str]:
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}


def about(tree: ast.Module) -> str:
    """Return the first sentence or line of a file's docstring, without what is true of every file."""
    text = (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r"\s*\b(Pure[,;] private to this collection|Private to this collection|Private|Pure)\.", "", text)


def is_pure(tree: ast.Module) -> bool:
    """Whether a file says in its docstring that it only decides."""
    return re.search(r"\bPure\b", ast.get_docstring(tree) or "") is not None


def reached(start: str, uses: dict[str, set[str]]) -> set[str]:
    """Return the files that ``start`` needs, itself among them."""
    found, new = set(), {start}
    while new:
        found |= new
        new = {used for name in new for used in uses[name]} - found
    return found


def engines() -> dict[str, str]:
    """Return the file that each module begins with, by the module's name."""
    found = {}
    for path in sorted((ROOT / "plugins" / "action").glob("*.py")):
        match = re.search(r"^\s+engine = (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            found[path.stem] = match[1]
    return found


def page() -> str:
    trees = files()
    uses = {name: of_the_engine(imported(tree)) & set(trees) for name, tree in trees.items()}
    starts = engines()
    needed = {module: reached(start, uses) for module, start in starts.items()}
    users = {name: [module for module, those in needed.items() if name in those] for name in trees}

    def row(name: str, *more: str) -> str:
        cells = [f"[`{name}`](../plugins/module_utils/{name}.py)", about(trees[name]), "yes" if is_pure(trees[name]) else "", *more]
        return f"| {' | '.join(cells)} |"

    def others(name: str, module: str = "") -> str:
        modules = [user for user in users[name] if user != module]
        if not modules and not module:
            return "the doors"
        return f"{len(modules)} modules" if len(modules) > NAMED else ", ".join(f"`{user}`" for user in modules)

    shared = sorted(name for name, modules in users.items() if len(modules) != 1 and name not in starts.values())
    lines = [
        "# Map of the engine",
        "",
        "Made by `tools/engine_map.py` from the files themselves. How they hang together is told in [Architecture](architecture.md).",
        "",
        f"The engine is {len(trees)} files in `plugins/module_utils`. {sum(map(is_pure, trees.values()))} of them are pure: they decide, and touch",
        "neither files nor network nor clock; a test holds them to it. Each module has the file that it begins with and those that only it needs; the",
        "rest is shared.",
    ]
    for module, start in starts.items():
        own = sorted(name for name in needed[module] if users[name] == [module] and name != start)
        lines += ["", f"## {module}", "", "| file | what it is | pure | also needed by |", "|---|---|---|---|"]
        lines += [row(name, others(name, module)) for name in (start, *own)]
    lines += ["", "## Shared", "", "| file | what it is | pure | needed by |", "|---|---|---|---|", *(row(name, others(name)) for name in shared)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
