# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

from ansible_collections.signal.rollout.plugins.module_utils import _network_check
from ansible_collections.signal.rollout.plugins.plugin_utils._in_process import InProcessAction


class ActionModule(InProcessAction):
    engine = _network_check
