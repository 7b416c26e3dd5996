# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison with other tools claims nothing without a test that shows it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/compared_with_argo_and_flagger.md"
LINK = re.compile(r"\[test\]\(([^)#\s]+)#([^)\s]+)\)")


@cache
def defined_tests(path: Path) -> frozenset[str]:
    """Names of the test functions that a file defines, also inside classes."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"))


def rows() -> list[list[str]]:
    """Cells of every row of every table, without heads and rulers."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[1] != "signal.rollout" and not set("".join(row)) <= {"-", ""}]


def test_there_are_rows_and_each_has_four_cells() -> None:
    assert len(rows()) >= 30
    assert [row for row in rows() if len(row) != 4 or not all(row)] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_claim_links_to_a_test_that_exists(row: list[str]) -> None:
    links = LINK.findall(row[1])
    assert links, "no test is named"
    missing = []
    for target, name in links:
        path = (DOCUMENT.parent / target).resolve()
        if not path.is_file() or not path.is_relative_to(ROOT / "tests") or name not in defined_tests(path):
            missing.append(f"{target}#{name}")
    assert missing == []
    assert row[1].count("](") == len(links) + row[1].count("](measurements.md"), "a link of another form"


def test_the_others_are_ahead_in_some_rows() -> None:
    """A comparison that its author wins everywhere is an advertisement."""
    assert sum("**" in row[2] + row[3] for row in rows()) >= 5
