# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the lab that need no running lab."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from siglab import oci, processes
from siglab.cache import Cache, digest
from siglab.daemons import render
from siglab.processes import PidFile
from siglab.settings import LabError


def test_half_built_entry_is_never_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise LabError("the build was interrupted")

    with pytest.raises(LabError):
        cache.build("part", "0123456789abcdef", interrupted)
    assert not cache.has("part", "0123456789abcdef")
    # A killed build cannot clean up after itself.
    left = tmp_path / ".building-part-0123456789abcdef-999"
    left.mkdir()
    (left / "half").write_text("half")
    assert not cache.has("part", "0123456789abcdef")
    assert cache.sweep() == [left.name]
    built = cache.build("part", "0123456789abcdef", lambda folder: (folder / "whole").touch())
    assert [path.name for path in built.iterdir()] == ["whole"]
    # A complete entry is taken as it is.
    assert cache.build("part", "0123456789abcdef", interrupted) == built


def test_digest_follows_content_and_mode_but_not_bytecode(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    first = digest(tmp_path, "flags")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("x")
    assert digest(tmp_path, "flags") == first
    assert digest(tmp_path, "other flags") != first
    (tmp_path / "a.py").chmod(0o755)
    assert digest(tmp_path, "flags") != first


def test_pid_file_does_not_take_another_process_for_its_own(tmp_path: Path) -> None:
    mine = PidFile(tmp_path / "self.pid")
    mine.write(os.getpid())
    assert mine.alive() == os.getpid()
    started = processes.start_time(os.getpid())
    assert started is not None
    # The same number, used again by a process that started at another time.
    mine.path.write_text(f"{os.getpid()} {started + 1}\n")
    assert mine.alive() is None


def test_unknown_placeholder_is_refused() -> None:
    assert render("a: @NODE@ @type", {"NODE": "lab"}) == "a: lab @type"
    with pytest.raises(LabError, match="@MISSING@"):
        render("a: @MISSING@", {"NODE": "lab"})


def test_layer_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print()")
    first = oci.Layer.of_files({"opt/app/app.py": tmp_path / "app.py"})
    (tmp_path / "copy.py").write_text("print()")
    second = oci.Layer.of_files({"opt/app/app.py": tmp_path / "copy.py"})
    assert first.digest == second.digest
    archive = io.BytesIO()
    oci.write_archive(archive, [oci.Image("localhost/x:1", [oci.Layer("0" * 64, 1), first], {}, ["true"])], "amd64")
    with tarfile.open(fileobj=io.BytesIO(archive.getvalue())) as tar:
        names = tar.getnames()
    assert f"blobs/sha256/{first.digest}" in names
    assert f"blobs/sha256/{'0' * 64}" not in names, "the base layer must not be written again"
