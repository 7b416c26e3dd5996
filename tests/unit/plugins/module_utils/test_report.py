# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of a release: what is drawn, what is written, and that nothing from outside becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _approvals, _catalogue, _checklist, _release_report, _report_chart, _report_page
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .test_checklist import COMPLETE

CHART = _report_chart.Chart(
    title="error rate",
    unit="%",
    points=[(1000.0, 0.0), (1001.0, 0.02), (1002.0, 0.05)],
    step=1.0,
    start=1000.0,
    end=1010.0,
    limit=0.1,
    condition="< 0.1",
    marks=[_report_chart.Mark(1001.0, "10 %")],
)


def drawn(chart: _report_chart.Chart) -> ElementTree.Element:
    return ElementTree.fromstring(_report_chart.svg(chart))


def heights(svg: ElementTree.Element, kind: str) -> list[float]:
    return [float(line.attrib["y1"]) for line in svg.iter("line") if line.attrib["class"] == kind]


def test_points_are_joined_in_order_and_values_above_the_limit_are_above_its_line() -> None:
    svg = drawn(replace(CHART, points=[(1000.0, 0.05), (1001.0, 0.2)]))
    (line,) = svg.iter("polyline")
    (_x0, low), (_x1, high) = (map(float, pair.split(",")) for pair in line.attrib["points"].split())
    (limit,) = heights(svg, "limit")
    assert high < limit < low


def test_a_time_without_data_is_a_gap_and_a_single_point_a_dot() -> None:
    svg = drawn(replace(CHART, points=[(1000.0, 0.0), (1001.0, 0.0), (1008.0, 0.0)]))
    assert len(list(svg.iter("polyline"))) == 1 and len(list(svg.iter("circle"))) == 1


def test_values_that_are_no_numbers_are_left_out_of_the_drawing() -> None:
    svg = drawn(replace(CHART, points=[(1000.0, float("nan")), (1001.0, float("inf"))], limit=None))
    assert not list(svg.iter("polyline")) and not list(svg.iter("circle"))
    assert svg.attrib["aria-label"] == "error rate: no data"


@pytest.mark.parametrize("highest", [0.0, 0.0007, 0.1, 1, 9.99, 20, 48000])
def test_everything_is_within_the_frame_whatever_the_values_are(highest: float) -> None:
    svg = drawn(replace(CHART, points=[(1000.0, 0.0), (1001.0, highest)]))
    (line,) = svg.iter("polyline")
    numbers = [float(number) for pair in line.attrib["points"].split() for number in pair.split(",")]
    assert min(numbers) >= 0 and max(numbers) <= _report_chart.WIDTH
    assert all(0 < height < _report_chart.HEIGHT for height in heights(svg, "limit"))


class Text(HTMLParser):
    """Collects tags and text; ``open`` must be empty at the end of a page that is whole."""

    VOID = ("meta", "line", "circle", "polyline", "br", "wbr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(record: dict[str, Any] = COMPLETE, **changes: Any) -> Text:
    whole = {"service": "signal-service", "outcome": "complete", "order": list(record["steps"]), **record}
    parser = Text()
    parser.feed(_report_page.page(_report_page.Report(whole, _checklist.ticks(whole, {}), "2026-11-24T15:00:00Z", **changes)))
    return parser


def test_the_page_is_whole_and_shows_every_box_in_the_words_of_the_document() -> None:
    found = page(charts=[CHART])
    assert found.open == [] and "svg" in found.tags
    flat = " ".join(found.text.split())
    places = [flat.index(item.words, flat.index("Checklist")) for item in _catalogue.ITEMS]
    assert len(places) == 98
    assert "x.dump, 10 bytes, verified: read in full" in flat and "Start deployment" in flat


def test_nothing_from_outside_becomes_markup() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    record = {
        **COMPLETE, "service": evil, "holder": evil, "notes": evil, "break_glass": evil, "messages": [evil],
        "steps": {**COMPLETE["steps"], "cleanup": {"status": "failed", "notes": evil, "evidence": {}}},
    }
    found = page(record, charts=[replace(CHART, title=evil, unit=evil, marks=[_report_chart.Mark(1001.0, evil)])],
                 charts_missing=evil, people=_report_page.People(contacts=[{"role": evil, "name": evil, "contact": evil}]))
    assert found.open == [] and "script" not in found.tags and "img" not in found.tags
    assert found.text.count("<script>alert(1)</script>") >= 8


APPROVAL = {
    "role": "qa", "decision": "approve", "by": "system:serviceaccount:people:quinn", "time": "2026-11-24T14:10:00.123456Z",
    "until": "2026-11-27T14:10:00Z", "images": [f"app=sha256:{'ab' * 32}"], "comment": "381 of 381 cases",
}


def row_of(text: str, words: str) -> list[str]:
    """The cells of the row in which ``words`` stand."""
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", text) if words in row)
    return [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]


def written(approvals: dict[str, Any] | None = None, attestations: dict[str, Any] | None = None, proofs: dict[str, Any] | None = None) -> str:
    people = _report_page.People(approvals or {}, attestations or {})
    return _report_page.page(_report_page.Report(COMPLETE, _checklist.ticks(COMPLETE, attestations or {}, proofs), "", people=people))


def judged(state: str, words: str = "", **entry: Any) -> dict[str, Any]:
    return {role: _approvals.Judged(role, state, words, entry) if role == "qa" else _approvals.Judged(role, "missing", "") for role in _approvals.ROLES}


def test_an_approval_is_shown_with_who_when_until_and_the_images_it_is_bound_to() -> None:
    text = written(judged("approved", **APPROVAL))
    assert row_of(text, "QA Lead") == [
        "QA Lead", "approved", APPROVAL["by"], "2026-11-24 14:10", "2026-11-27 14:10", "app abababababab", "381 of 381 cases",
    ]
    assert row_of(text, "Security Team") == ["Security Team", "nobody yet", "–", "–", "–", "–", "–"]


def test_an_approval_that_counts_no_more_says_why_and_a_rejection_is_bound_to_nothing() -> None:
    void = row_of(written(judged("void", "the approval of quinn has expired at 2026-11-27T14:10:00Z", **APPROVAL)), "QA Lead")
    assert void[1] == "approved, does not count" and void[6] == "the approval of quinn has expired at 2026-11-27 14:10 UTC; 381 of 381 cases"
    rejected = row_of(written(judged("rejected", **{**APPROVAL, "decision": "reject"})), "QA Lead")
    assert (rejected[1], rejected[4], rejected[5]) == ("rejected", "–", "–")
    assert row_of(written(judged("missing", **{**APPROVAL, "decision": "revoke"})), "QA Lead")[1] == "taken back"


def test_what_a_decision_or_an_attestation_lacks_is_a_dash() -> None:
    text = written(judged("approved", role="qa", decision="approve"), {"code.features": {"by": "ann", "time": ""}})
    assert row_of(text, "QA Lead") == ["QA Lead", "approved", "–", "–", "–", "none", "–"]
    assert row_of(text, "All features implemented and tested") == ["All features implemented and tested", "ann", "–", "–"]


def test_without_a_decision_or_an_attestation_the_page_says_so_in_words() -> None:
    for approvals in ({}, judged("missing")):
        text = written(approvals)
        assert "Nobody has decided. Asked are: DevOps Lead, Service Owner, QA Lead, Product Manager, Security Team." in text
        assert "Nobody has attested a box of the checklist." in text


def test_attestations_stand_in_the_order_of_the_document_and_one_that_was_measured_since_says_so() -> None:
    said = {"by": "ann", "time": "2026-11-24T09:00:00Z", "comment": "pull request 412"}
    text = written({}, {"unknown.box": said, "code.unit_tests": said, "code.features": said}, {"code.unit_tests": {"state": "failed", "evidence": "1 of 9"}})
    table = text[text.index("Attested by people") : text.index("<h2>Checklist")]
    assert re.findall(r"<tr><td>(.*?)</td>", table) == ["All features implemented and tested", "Unit tests passing (&gt;90% coverage)", "unknown.box"]
    assert row_of(table, "All features") == ["All features implemented and tested", "ann", "2026-11-24 09:00", "pull request 412"]
    assert row_of(table, "Unit tests")[3] == "a measurement counts instead; pull request 412"


def test_nothing_that_people_say_becomes_markup() -> None:
    evil = "<script>alert(1)</script>:<img src=x>"
    parser = Text()
    entry = {**APPROVAL, "by": evil, "comment": evil, "until": evil, "time": evil, "images": [evil]}
    parser.feed(written(judged("void", evil, **entry), {evil: {"by": evil, "time": evil, "comment": evil}}))
    assert parser.open == [] and "script" not in parser.tags and "img" not in parser.tags


def test_paper_is_light_whatever_the_screen_is() -> None:
    dark = [line for line in written().splitlines() if "prefers-color-scheme: dark" in line]
    assert dark == ["@media screen and (prefers-color-scheme: dark) {"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = _report_page.page(_report_page.Report({**COMPLETE, "service": "signal-service"}, _checklist.ticks(COMPLETE, {}), ""))
    assert not re.search(r"(src|href|url|@import)\s*[=(]", text)


def test_a_folder_gets_a_file_of_its_own_for_each_deployment(tmp_path: Path) -> None:
    record = {"service": "signal-service", "version": "v2/../x", "started": "2026-11-24T12:05:12.123Z"}
    assert _release_report._file(str(tmp_path), record).name == "signal-service-v2_.._x-20261124T120512.html"
    assert _release_report._file(f"{tmp_path}/new/", record).parent == tmp_path / "new"
    assert _release_report._file(str(tmp_path / "page.html"), record) == tmp_path / "page.html"


def test_a_page_that_cannot_be_written_leaves_the_old_one_and_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.mkdir()
    with pytest.raises(RolloutError, match="cannot be written"):
        _release_report._write(target, "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_weight_that_was_taken_back_is_marked_with_the_moment_of_its_end() -> None:
    went_back = {"confirmed": {"state": "confirmed"}, "aborted": {"done": True, "after": {"stable": 100, "canary": 0}}}
    record = {
        "weights": [{"time": "2026-11-24T12:00:00Z", "weight": 10, "step": "canary_10"}, {"time": "2026-11-24T12:00:50Z", "weight": 0, "step": "rollback"}],
        "steps": {
            "canary_10": {"status": "done", "started": "2026-11-24T12:00:00Z", "evidence": {"confirmed": {"state": "confirmed"}}},
            "canary_50": {"status": "failed", "started": "2026-11-24T12:00:30Z", "finished": "2026-11-24T12:00:40Z", "evidence": went_back},
            "canary_100": {"status": "started", "started": "2026-11-24T12:01:00Z"},
        },
    }
    marks = _release_report._marks(record)
    assert [mark.words for mark in marks] == ["10 %", "50 %", "0 %"]
    assert [mark.time - marks[0].time for mark in marks] == [0, 30, 40]


def test_the_metrics_of_all_holds_are_drawn_once_as_they_were_judged_last() -> None:
    first, last = ({"name": "error rate", "worst": worst, "queries": {"value": "rate(x[$hold])"}} for worst in (1, 2))
    by_http = {"name": "orders", "http": {"url": "http://127.0.0.1"}, "queries": {"value": "a.b"}}
    record = {
        "order": ["canary_10", "canary_100"],
        "steps": {"canary_10": {"evidence": {"metrics": [first, by_http]}}, "canary_100": {"evidence": {"metrics": [last]}}},
    }
    assert _release_report._metrics(record) == {"error rate": last}
