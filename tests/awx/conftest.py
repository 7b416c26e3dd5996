# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What AWX would be told, read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load(path: str) -> Any:
    """One YAML file of the checkout; Ansible's own tags stand for their text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))
    return yaml.load((ROOT / path).read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)


@pytest.fixture(scope="session")
def data() -> dict[str, Any]:
    """playbooks/vars/awx.yml."""
    return load("playbooks/vars/awx.yml")
