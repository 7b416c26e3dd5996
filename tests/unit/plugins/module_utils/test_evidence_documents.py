# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents of a release, and the API against its document."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _evidence_documents as documents
from ansible_collections.signal.rollout.plugins.module_utils._evidence_files import Refused, Unusable

NAMES = ("v2", "2.0.0")


@pytest.mark.parametrize("text", ["Signal service v2", "Version 2.0.0.", "From v1 to V2: ...", "(v2)", "signal-service-v2-green"])
def test_a_version_is_named_as_a_word(text: str) -> None:
    assert documents.names_version(text, NAMES)


@pytest.mark.parametrize("text", ["v20", "v2.1", "12.0.0", "2.0.0-rc1", "2.0.0.1", "GET /api/v2/status", "the new version"])
def test_another_version_or_a_path_does_not_name_it(text: str) -> None:
    assert not documents.names_version(text, NAMES)


def test_a_runbook_with_links_that_resolve(tmp_path: Path) -> None:
    (tmp_path / "going back.md").write_text("x")
    text = "# Runbook of v2\n\nSee [going back](<going back.md>) or [this](going%20back.md#top), [site](https://x.example/no.md), [above](#runbook).\n"
    path = tmp_path / "runbook.md"
    assert documents.judge_document("runbook.md", text.encode(), NAMES, str(path)) == "runbook.md (12 words, 2 links resolve)"


@pytest.mark.parametrize(
    "text", ["[gone](gone.md)", "![gone](img/gone.png 'title')", "[gone]: gone.md", '<img src="gone.svg">', "[a](<gone file.md>)"]
)
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused, match=r"runbook\.md links to (img/)?gone.*, which is not there"):
        documents.judge_document("runbook.md", f"Runbook of v2\n\n{text}\n".encode(), NAMES, str(tmp_path / "runbook.md"))


def test_code_is_no_link(tmp_path: Path) -> None:
    text = "Runbook of v2: `[a](gone.md)`\n\n```sh\n[b](gone.md)\n```\n"
    assert documents.judge_document("runbook.md", text.encode(), NAMES, str(tmp_path / "runbook.md")) == "runbook.md (7 words)"


@pytest.mark.parametrize(
    ("name", "data", "error", "said"),
    [
        ("notes.md", b"# Release notes of v2\n\n---\n## Changes\n", Refused, "has headings only"),
        ("notes.md", b"Release notes of v1.9", Refused, "does not name v2 or 2.0.0"),
        ("notes.md", b"\xff\xfe\x00", Unusable, "neither text in UTF-8"),
        ("v2.png", b"GIF89a", Refused, "is no PNG file"),
        ("architecture.png", b"\x89PNG\r\n\x1a\n...", Refused, "in its file name"),
    ],
)
def test_a_document_that_says_nothing_of_this_version_is_none(name: str, data: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        documents.judge_document(name, data, NAMES)


def test_a_picture_names_the_version_in_its_file_name() -> None:
    assert documents.judge_document("docs/architecture_v2.png", b"\x89PNG\r\n\x1a\n...", NAMES) == "docs/architecture_v2.png (11 bytes)"


# --- the API ---------------------------------------------------------------------------------------------------------

API: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Signal service", "version": "v2"},
    "servers": [{"url": "https://a.example"}],
    "paths": {
        "/health": {"get": {"summary": "Health", "responses": {"200": {"description": "OK"}}}},
        "/greeks/{key}": {
            "get": {
                "parameters": [{"name": "key", "in": "path", "required": True}, {"name": "from", "in": "query"}],
                "responses": {"200": {"description": "Successful"}},
            }
        },
    },
    "components": {"schemas": {"Server": {"required": ["b", "a"], "properties": {"servers": {"type": "integer"}, "a": {"type": "string"}}}}},
}


def judged(served: dict[str, Any], document: dict[str, Any] | None = None) -> str:
    return documents.judge_openapi(API if document is None else document, served, NAMES, "http://x")


def test_the_same_api_in_another_order_and_place_is_the_same() -> None:
    served = copy.deepcopy(API)
    served["servers"] = [{"url": "http://b.example"}]
    served["paths"] = dict(reversed(served["paths"].items()))
    served["paths"]["/greeks/{key}"]["get"]["parameters"].reverse()
    served["components"]["schemas"]["Server"]["required"].reverse()
    served["paths"]["/health"]["get"]["summary"] = "Health\n"
    assert judged(served) == "API document v2, 2 operations, equal to what is served at http://x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda api: api["paths"].pop("/health"), "paths > /health is documented and not served"),
        (lambda api: api["paths"].update({"/new": {"get": {}}}), "paths > /new is served and not documented"),
        (lambda api: api["info"].update(version="v1"), 'info > version is "v1", documented as "v2"'),
        (lambda api: api["paths"]["/greeks/{key}"]["get"]["parameters"][0].update(required=1), "required is 1, documented as true"),
        (lambda api: api["components"]["schemas"]["Server"]["properties"].pop("servers"), "properties > servers is documented and not served"),
    ],
)
def test_what_differs_is_named(change: Any, said: str) -> None:
    served = copy.deepcopy(API)
    change(served)
    with pytest.raises(Refused) as caught:
        judged(served)
    assert said in caught.value.message


def test_a_document_of_another_version_is_refused() -> None:
    old = copy.deepcopy(API)
    old["info"]["version"] = "v1"
    with pytest.raises(Refused, match="the API document is of version 'v1', expected v2"):
        judged(old, old)


def test_yaml_and_json_are_the_same_document() -> None:
    text = "openapi: 3.1.0\ninfo: {title: Signal service, version: v2}\npaths:\n  /a: {get: {summary: 2026-01-01}}\n"
    same = {"openapi": "3.1.0", "info": {"title": "Signal service", "version": "v2"}, "paths": {"/a": {"get": {"summary": "2026-01-01"}}}}
    assert documents.read_openapi("api.yaml", text.encode()) == documents.read_openapi("api.json", json.dumps(same).encode())


@pytest.mark.parametrize(
    "text",
    ["[]", "openapi: 3.1.0", "x: [", "a: &a [x]\nopenapi: 3.1.0\ninfo: {}\npaths: {b: *a}", "!!python/name:os.system"],
)
def test_what_is_no_plain_api_document_is_not_judged(text: str) -> None:
    with pytest.raises(Unusable):
        documents.read_openapi("api.yaml", text.encode())
