# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/checklist_proofs.md: the 98 boxes, what proves each, and the tests that show it red and green.

Run by the environment's Python after a change of the catalogue or of a test marked ``box``: ``.venv/bin/python tools/boxes.py``. With
``--check`` nothing is written; exit code 1 says that the page is not up to date, or which automatic boxes no test shows.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "checklist_proofs.md"
FOLDERS = ("tests/integration", "tests/e2e")


class Marked:
    """Collects which test is marked with which box."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("box"):
                for box in mark.args:
                    if name not in self.tests[box]:
                        self.tests[box].append(name)


def tests_of_boxes() -> dict[str, list[str]]:
    """Return the tests of each box, by its id. Raises :class:`RuntimeError` when they cannot be collected."""
    marked = Marked()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *(str(ROOT / folder) for folder in FOLDERS)], plugins=[marked])
    if code:
        raise RuntimeError(printed.getvalue())
    return marked.tests


def page(tests: dict[str, list[str]]) -> str:
    from ansible_collections.signal.rollout.plugins.module_utils import _catalogue

    automatic = [item for item in _catalogue.ITEMS if item.kind == _catalogue.AUTOMATIC]
    fallback = [item for item in automatic if item.fallback]
    lines = [
        "# What proves each box",
        "",
        "Made by `tools/boxes.py` from the catalogue (`plugins/module_utils/_catalogue.py`) and the tests. In the order and words of",
        "[the checklist](deployment_checklist.md).",
        "",
        f"Of {len(_catalogue.ITEMS)} boxes {len(automatic)} are automatic: a measurement ticks them, never a person. Where nothing could be measured,",
        f"{len(fallback)} of these may be attested by a person instead (\"or attested\"); a measurement that failed always counts more. The other",
        f"{len(_catalogue.ITEMS) - len(automatic)} are attested. A box for which there is no proof stays open.",
        "The tests break something real on the lab, see the box red, and green without the defect.",
    ]
    for section in _catalogue.SECTIONS:
        lines += ["", f"## {section.part}: {section.title}", ""]
        lines += ["| box | words | kind | task that proves it | what counts | shown by |", "|---|---|---|---|---|---|"]
        for item in section.items:
            kind = item.kind + (" or attested" if item.fallback else "")
            shown = "<br>".join(f"[{name.rpartition('::')[2]}](../{name.partition('::')[0]})" for name in sorted(tests.get(item.id, [])))
            lines.append(f"| `{item.id}` | {item.words} | {kind} | {_catalogue.proven_by(item)} | {_catalogue.what_counts(item)} | {shown} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    sys.path[:0] = [str(ROOT / "playbooks" / "collections"), str(ROOT / "tests")]
    from ansible_collections.signal.rollout.plugins.module_utils import _catalogue

    tests = tests_of_boxes()
    if arguments != ["--check"]:
        PAGE.write_text(page(tests), encoding="utf-8")
        return 0
    known = {item.id for item in _catalogue.ITEMS}
    wrong = [f"tests are marked with '{name}', which is no box" for name in sorted(set(tests) - known)]
    wrong += [f"no test shows {item.id}" for item in _catalogue.ITEMS if item.kind == _catalogue.AUTOMATIC and not tests.get(item.id)]
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(tests):
        wrong.append(f"{PAGE.relative_to(ROOT)} is not up to date. Next: .venv/bin/python tools/boxes.py")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
