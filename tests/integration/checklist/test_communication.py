# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages tick their boxes when somebody has had them: not when nobody answers, and not outside their time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _release_checklist
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from ..lab.conftest import connection
from ..lab.test_messages import DEAD, OwnRelease, moment, namespace, tell
from ..lab.test_rollout_record import PLAN

# Fixtures: pytest finds them here by name.
__all__ = ["namespace"]
BEFORE = ["t_24h", "t_2h", "t_30m"]
AFTER = ["metrics", "documentation"]


@pytest.fixture
def release(kube: _kube.Kube, namespace: str) -> OwnRelease:  # noqa: F811
    return OwnRelease(kube, namespace)


def boxes(release: OwnRelease, events: list[str], plan: dict[str, Any] | None = None) -> set[str]:
    given = {**connection(namespace=release.namespace), "service": release.service, "version": "v2", "plan": PLAN if plan is None else plan}
    checked = ArgumentSpecValidator(_release_checklist.ARGUMENT_SPEC).validate({key: value for key, value in given.items() if value is not None})
    answer = _release_checklist.run(checked.validated_parameters, Context())
    return {entry["state"] for entry in answer["items"] if entry["section"].startswith("communication") and entry["id"].rpartition(".")[2] in events}


@pytest.mark.box("communication_before.t_24h", "communication_before.t_2h", "communication_before.t_30m")
def test_a_message_before_the_release_ticks_its_box_only_when_it_arrived_in_its_time(release: OwnRelease) -> None:
    start = datetime.now(timezone.utc) + timedelta(hours=1)
    for event in BEFORE:
        tell(release, event, occasion=start.isoformat(), targets=[DEAD])
        with pytest.raises(RolloutError, match="too early"):
            tell(release, event, occasion="other", moment=moment(start + timedelta(hours=9)))
    assert boxes(release, BEFORE) == {"open"}
    for event in BEFORE:
        assert tell(release, event, occasion=start.isoformat(), moment=moment(start))["sent"]
    assert boxes(release, BEFORE) == {"proven"}
    release.begin()
    assert boxes(release, BEFORE) == {"proven"}
    assert boxes(release, BEFORE, {**PLAN, "steps": [100]}) == {"open"}


@pytest.mark.box("communication_after.metrics", "communication_after.documentation")
def test_a_message_after_the_release_ticks_its_box_for_this_deployment_only(release: OwnRelease) -> None:
    release.begin()
    for event in AFTER:
        tell(release, event, targets=[DEAD])
    assert boxes(release, AFTER) == {"open"}
    for event in AFTER:
        assert tell(release, event)["sent"]
    assert boxes(release, AFTER) == {"proven"}
    release.act("finish", outcome="rolled_back")
    release.begin()
    assert boxes(release, AFTER) == {"open"}
