# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether answers keep a contract."""

from __future__ import annotations

from typing import Any

import jmespath
import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _contract_rules, _service_contract
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError


@pytest.mark.parametrize(
    ("seen", "allowed", "fits"),
    [
        ("2.1.0", ">=2.1,<3", True),
        ("v2.1.0", ">=2.1,<3", True),
        ("2.10.0", ">=2.9", True),
        ("3.0.0", ">=2.1,<3", False),
        ("2.1.0-rc.1", ">=2.1", False),
        ("2.2.0-rc.1", ">=2.1", True),
        ("2.1.0+build7", ">=2.1", True),
        ("latest", ">=2.1", False),
        (2.1, ">=2.1", False),
        (None, ">=2.1", False),
    ],
)
def test_a_version_is_in_its_range(seen: Any, allowed: str, fits: bool) -> None:
    assert (_contract_rules.version_breach(seen, allowed) == "") is fits


@pytest.mark.parametrize(
    ("path", "wanted", "seen", "fits"),
    [
        ("a", "string", "x", True),
        ("a", "string", None, False),
        ("a", "integer", True, False),
        ("a", "integer", 1.5, False),
        ("a", "number", 1.5, True),
        ("a", "number", "1.5", False),
        ("a", "object", [], False),
        ("a[*].b", "string", ["x", "y"], True),
        ("a[*].b", "string", ["x", 1], False),
        ("a[*].b", "string", [], False),
    ],
)
def test_a_field_has_its_type(path: str, wanted: str, seen: Any, fits: bool) -> None:
    assert (_contract_rules.field_breach(path, wanted, seen) == "") is fits


@pytest.mark.parametrize(
    ("limits", "seen", "fits"),
    [
        ({"at_least": 5000.0}, 5000, True),
        ({"at_least": 5000.0}, 4999, False),
        ({"at_least": 5000.0}, "5000", False),
        ({"at_least": 5000.0}, None, False),
        ({"at_most": 10.0, "at_least": 1.0}, 11, False),
        ({"equals": "true"}, True, True),
        ({"equals": True}, False, False),
        ({"equals": "5"}, 5, True),
        ({"equals": "five"}, 5, False),
        ({"equals": 0}, 1, False),
        ({"equals": "gold"}, "gold", True),
    ],
)
def test_a_value_is_as_declared(limits: dict[str, Any], seen: Any, fits: bool) -> None:
    assert (_contract_rules.value_breach("quota", limits, seen) == "") is fits


def test_a_field_that_some_entries_lack_is_a_breach() -> None:
    document = {"list": [{"a": 1}, {"b": 2}]}
    request = {"fields": [{"json_path": "list[*].a", "type": "integer"}]}
    found, _kept = _contract_rules.breaches(request, lambda path: jmespath.search(path, document))
    assert found == ["list[*].a is missing in 1 of 2, expected it in all"]


def test_wrong_contracts_are_all_named_before_anything_is_asked() -> None:
    request = {
        "path": "version", "status": 200, "latency_below_ms": None, "version": {"json_path": "a[", "range": "two"},
        "fields": None, "values": [{"json_path": "b", "equals": None, "at_least": None, "at_most": None}],
    }
    service = {"name": "x", "url": "ftp://x", "box": None, "headers": None, "token": None, "requests": [request]}
    params = {"services": [service], "validate_certs": True, "ca_cert": None, "client_cert": None, "client_key": None, "timeout": 5.0}
    with pytest.raises(RolloutError) as refused:
        _service_contract.run(params, Context())
    for words in ("ftp", "does not begin with /", "'two'", "'a['", "values.b has no limit", "Nothing was asked"):
        assert words in refused.value.message
