# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of the boxes, and that none is called automatic without a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_automatic_box_is_shown_by_a_test_and_the_page_of_the_boxes_is_up_to_date(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/boxes.py", "--check"], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
