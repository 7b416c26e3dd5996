# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boxes of the checklist on the lab: each red by a real defect, and green without it."""

from __future__ import annotations

from ..lab.conftest import kube, mesh, shared_mesh

# Fixtures: pytest finds them here by name.
__all__ = ["kube", "mesh", "shared_mesh"]
