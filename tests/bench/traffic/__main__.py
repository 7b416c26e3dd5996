# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python tests/bench/traffic``: see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Started as a folder: give the package its name, so that its parts find each other.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from traffic.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
