# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipe of the AWX image becomes a build context that holds what the modules need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parents[2]


def test_the_context_of_the_image_holds_libraries_programs_and_collections(ansible: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    made = ansible("ansible-builder", "create", "--file", str(ROOT / "execution-environment.yml"), "--context", str(tmp_path), cwd=ROOT)
    assert made.returncode == 0, made.stdout + made.stderr
    build = tmp_path / "_build"
    for name, words in {"requirements.txt": ["kubernetes", "psycopg2", "redis"], "bindep.txt": ["postgresql"], "requirements.yml": ["kubernetes.core"]}.items():
        text = (build / name).read_text(encoding="utf-8")
        assert [word for word in words if word not in text] == []
    # Named for the container engine that is there.
    (recipe,) = [path for path in tmp_path.iterdir() if path.name in ("Containerfile", "Dockerfile")]
    steps = recipe.read_text(encoding="utf-8")
    assert "ansible-core" in steps and "ansible-runner" in steps and "bindep" in steps
