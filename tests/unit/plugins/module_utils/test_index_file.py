# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared indexes, and the statements that make them; what PostgreSQL says about them is tested on the lab."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _database_indexes as di
from ansible_collections.signal.rollout.plugins.module_utils import _index_file, _index_state
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given, settings
from hypothesis import strategies as st

LOGIN = {"login_user": "signal_owner", "login_db": "signal_db", "login_password": "s3cret-of-the-test", "login_host": "127.0.0.1", "login_port": 1}


def only(text: str) -> _index_file.Index:
    indexes, _passed = _index_file.parse(text, "x.sql")
    assert len(indexes) == 1
    return indexes[0]


def entry(**changes: Any) -> dict[str, Any]:
    return {"table": "signal_greeks", "name": "greeks_idx", "definition": "(time)", "unique": False, **changes}


@pytest.mark.parametrize(
    ("text", "name", "table", "tail"),
    [
        ("create index a on t (x)", "a", "t", "(x)"),
        ('CREATE INDEX CONCURRENTLY IF NOT EXISTS "A b" ON "S"."T""x" USING gin (x)', "A b", 'S.T"x', "USING gin (x)"),
        ("create index A on S.T(x desc) where y = 'a;b -- c'", "a", "s.t", "(x desc) where y = 'a;b -- c'"),
        ("create index a on t (x) /* one /* two */ ; */ include (y) tablespace z;", "a", "t", "(x) include (y) tablespace z"),
        ("create index a on t (x) where f($q$ ; ) $q$, E'\\';')", "a", "t", "(x) where f($q$ ; ) $q$, E'\\';')"),
        ("create index a on t (x) with (fillfactor = 70, timescaledb.transaction_per_chunk) where y", "a", "t", "(x) WITH (fillfactor = 70) where y"),
        ("create index a on t (x) with (timescaledb.transaction_per_chunk)", "a", "t", "(x)"),
        ("create index a on t ((x -- why\n + 1))", "a", "t", "((x + 1))"),
    ],
)
def test_statement_is_read(text: str, name: str, table: str, tail: str) -> None:
    index = only(text)
    assert (index.name, index.table_name, index.tail()) == (name, table, tail)


def test_parameter_goes_where_the_clause_stands() -> None:
    assert only("create index a on t (x) where y").tail("p") == "(x) WITH (p) where y"
    assert only("create index a on t (x) with (fillfactor = 70) tablespace z").tail("p") == "(x) WITH (fillfactor = 70, p) tablespace z"
    assert only("create index a on t (x) where ((with_x) = (1))").tail("p") == "(x) WITH (p) where ((with_x) = (1))"


def test_settings_and_transactions_are_passed_over() -> None:
    indexes, passed = _index_file.parse("set lock_timeout = '5s'; begin; create unique index a on t (x); commit; reset all;", "x.sql")
    assert [index.unique for index in indexes] == [True]
    assert passed == ["set lock_timeout = '5s'", "begin", "commit", "reset all"]


def test_every_unusable_statement_is_named_with_its_line() -> None:
    text = """create index on t (x);
    create index a on t (x); drop table t;
    create index a on t (y);
    set search_path to x;
    create index b on only t (x);
    create index c on t (x;
    create index d on t;
    """
    with pytest.raises(RolloutError) as failure:
        _index_file.parse(text, "x.sql")
    for words in (
        "line 1 (create index on t (x)): the index has no name",
        "line 2 (drop table t): no CREATE INDEX",
        "line 3: a is declared by x.sql line 2 already",
        "line 4 (set search_path to x): it changes what later names mean",
        "line 5 (create index b on only t (x)): ON ONLY leaves the index invalid",
        "line 6 (create index c on t (x): its parentheses do not match",
        "line 7 (create index d on t): USING or a list of columns expected",
        "nothing was written",
    ):
        assert words in failure.value.message


def test_file_without_an_index_is_refused() -> None:
    with pytest.raises(RolloutError, match="declares no index"):
        _index_file.parse("-- nothing\n;", "x.sql")


def test_list_is_read() -> None:
    indexes = _index_file.listed([entry(), entry(table="hv.T", name="B", definition=" using hash (x) ", unique=True)])
    assert [(index.table_name, index.name, index.unique, index.tail()) for index in indexes] == [
        ("signal_greeks", "greeks_idx", False, "(time)"),
        ("hv.T", "B", True, "using hash (x)"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"definition": "(time); drop table t"}, "expected what follows the table"),
        ({"definition": "time"}, "expected what follows the table"),
        ({"definition": ""}, "expected what follows the table"),
        ({"definition": "(time"}, "parentheses"),
        ({"definition": "(time) with fillfactor"}, "a list of parameters expected after WITH"),
        ({"name": ""}, "expected 1 to 63 bytes"),
        ({"name": "x" * 64}, "expected 1 to 63 bytes"),
        ({"table": ".t"}, "expected 1 to 63 bytes"),
    ],
)
def test_unusable_entry_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RolloutError, match="indexes\\[0\\]") as failure:
        _index_file.listed([entry(**changes)])
    assert words in failure.value.message


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RolloutError):
        _index_file.parse(text, "x.sql")


@settings(deadline=None)
@given(st.text(alphabet="ab'\"$;()-/*E\\ \n", max_size=40))
def test_tokens_lose_nothing_but_space_and_comments(text: str) -> None:
    tokens = list(_index_file._tokens(text))
    assert all(text[token.start : token.end] == token.text for token in tokens)
    assert all(first.end <= second.start for first, second in zip(tokens, tokens[1:], strict=False))


@pytest.mark.parametrize(
    ("kind", "unique", "concurrently", "method", "create", "drop"),
    [
        ("table", False, True, "concurrently", 'CREATE INDEX CONCURRENTLY "a" ON "s"."t" (x)', 'DROP INDEX CONCURRENTLY "s"."a"'),
        ("table", True, False, "blocks_writes", 'CREATE UNIQUE INDEX "a" ON "s"."t" (x)', 'DROP INDEX "s"."a"'),
        ("partitioned table", False, True, "blocks_writes", 'CREATE INDEX "a" ON "s"."t" (x)', 'DROP INDEX "s"."a"'),
        ("hypertable", True, True, "blocks_writes", 'CREATE UNIQUE INDEX "a" ON "s"."t" (x)', 'DROP INDEX "s"."a"'),
        (
            "hypertable",
            False,
            True,
            "transaction_per_chunk",
            'CREATE INDEX "a" ON "s"."t" (x) WITH (timescaledb.transaction_per_chunk)',
            'DROP INDEX "s"."a"',
        ),
    ],
)
def test_each_kind_of_table_has_its_statement(kind: str, unique: bool, concurrently: bool, method: str, create: str, drop: str) -> None:
    index = only(f"create {'unique ' if unique else ''}index a on t (x)")
    assert _index_state.statements(index, "s", kind, concurrently) == (method, create, drop)


def test_signature_leaves_names_out_and_keeps_uniqueness() -> None:
    one = _index_state.signature("CREATE UNIQUE INDEX a ON pg_temp_3.t USING btree (x) WHERE (y > 0)")
    assert one == _index_state.signature("CREATE UNIQUE INDEX b ON public.t USING btree (x) WHERE (y > 0)") == "UNIQUE USING btree (x) WHERE (y > 0)"
    assert one != _index_state.signature("CREATE INDEX a ON public.t USING btree (x) WHERE (y > 0)")


def test_progress_is_put_into_words() -> None:
    seen = {
        "blockers": None,
        "phase": "building index: scanning table",
        "relation": "t",
        "blocks_done": 1,
        "blocks_total": 4,
        "tuples_done": 0,
        "tuples_total": 0,
    }
    assert di.progress(seen) == "building index: scanning table on t, 25 %"
    assert di.progress({**seen, "blockers": "process 7 of signal_user (app, active)"}) == "waits for process 7 of signal_user (app, active)"
    assert di.progress({**seen, "phase": None}) == "at work"
    assert di.progress({**seen, "blocks_total": 0}) == "building index: scanning table on t"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"src": "/absent/x.sql"}, "cannot read src"),
        ({"indexes": [entry()], "lock_timeout": 0.0}, "lock_timeout is 0, expected 0.01 to 3600"),
        ({"indexes": [entry()], "retries": -1}, "retries is -1"),
        ({"indexes": [entry()]}, "cannot connect"),
        ({"indexes": []}, "declares no index"),
    ],
)
def test_failure_has_the_keys_of_a_success(changes: dict[str, Any], words: str) -> None:
    checked = ArgumentSpecValidator(di.ARGUMENT_SPEC).validate({**LOGIN, **changes})
    assert not checked.error_messages
    with pytest.raises(RolloutError) as failure:
        di.run(checked.validated_parameters, Context())
    assert words in failure.value.message and "s3cret" not in failure.value.message
    assert set(failure.value.result) == {"changed", "indexes", "leftovers", "passed_over", "seconds"}


def test_release_file_of_the_lab_is_readable() -> None:
    path = Path(__file__).parents[4] / "lab" / "signal_service" / "release" / "sql" / "create_indexes.sql"
    indexes, passed = _index_file.parse(path.read_text(encoding="utf-8"), path.name)
    assert len(indexes) == 5 and len(passed) == 2
