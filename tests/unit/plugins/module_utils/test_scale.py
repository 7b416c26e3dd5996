# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of an autoscaler's minimum."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _scale
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given
from hypothesis import strategies as st

COUNTS = st.integers(1, 20)


def note(text: str | None) -> dict[str, str]:
    return {} if text is None else {_scale.ANNOTATION: text}


@given(minimum=COUNTS, steps=st.lists(COUNTS, min_size=1, max_size=6))
def test_minimum_only_rises_and_comes_back_to_where_it_began(minimum: int, steps: list[int]) -> None:
    now, remembered = minimum, None
    for wanted in steps:
        after, remembered = _scale.raised(now, 20, note(remembered), wanted)
        assert after == max(now, wanted)
        now = after
    back = _scale.restored(now, note(remembered))
    assert back == (minimum if now > minimum else None)


def test_more_than_the_maximum_is_refused() -> None:
    with pytest.raises(RolloutError, match="allows at most 2 pods, but 3 are needed"):
        _scale.raised(1, 2, {}, 3)


def test_minimum_that_somebody_else_has_set_since_stays() -> None:
    _after, remembered = _scale.raised(1, 9, {}, 3)
    assert _scale.restored(4, note(remembered)) is None
    # And a later raise remembers theirs, not ours.
    after, again = _scale.raised(4, 9, note(remembered), 6)
    assert after == 6 and _scale.restored(6, note(again)) == 4


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"before": 1}', '{"before": "x", "set": 2}'])
def test_annotation_that_is_not_ours_is_not_believed(text: str) -> None:
    assert _scale.restored(2, {_scale.ANNOTATION: text}) is None
