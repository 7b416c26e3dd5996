# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the lab's own programs importable: app (the service), traffic and sink."""

from __future__ import annotations

import sys
from pathlib import Path

_LAB = Path(__file__).resolve().parents[3] / "lab"
for folder in (_LAB, _LAB / "signal_service"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
