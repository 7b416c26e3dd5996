# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decisions about hypertables, without a database; reading one is tested on the lab."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import (
    _hypertable_catalog,
    _hypertable_declaration,
    _hypertable_suggestion,
    _hypertable_verdict,
    _intervals,
    _postgresql,
)
from ansible_collections.signal.rollout.plugins.module_utils import _hypertables as hv
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError
from hypothesis import given
from hypothesis import strategies as st

DAY = 86_400_000_000
CONNECTION = {"login_user": "signal_owner", "login_db": "signal_db", "login_password": "s3cret-of-the-test"}


def params(**options: Any) -> dict[str, Any]:
    """Options as the argument spec completes them."""
    checked = ArgumentSpecValidator(hv.ARGUMENT_SPEC).validate({**CONNECTION, **options})
    assert not checked.error_messages, checked.error_messages
    return checked.validated_parameters


def declared(**options: Any) -> dict[str, Any]:
    """The declaration of public.signal_greeks, validated."""
    declaration = _hypertable_declaration.Declaration(params(hypertables=[{"table": "signal_greeks", **options}]))
    return declaration.hypertables["public", "signal_greeks"]


def index(name: str = "signal_greeks_time_idx", **changes: Any) -> dict[str, Any]:
    seen = {
        "names": [name],
        "columns": ["time"],
        "key_columns": ["time"],
        "unique": False,
        "method": "btree",
        "predicate": "",
        "expressions": "",
        "chunks": 3,
        "covered": 3,
        "invalid": 0,
        "missing": [],
    }
    return {**seen, **changes}


def observed(**changes: Any) -> dict[str, Any]:
    """A healthy hypertable with three chunks of a day each."""
    seen = {
        "oid": 16400,
        "kind": "hypertable",
        "owner": "signal_owner",
        "dimensions": [
            {"column": "time", "type": "timestamp with time zone", "kind": "Time", "interval": {"microseconds": DAY}, "partitions": None},
        ],
        "chunks": 3,
        "foreign_owned_chunks": 0,
        "has_prefix": True,
        "compression": False,
        "license": "apache",
        "grants": [],
        "indexes": [index()],
        "invalid_indexes": [],
        "privileges": {},
        "policies": {},
        "canary": None,
    }
    return {**seen, **changes}


EVERYTHING = {
    "time_column": "time",
    "time_type": "timestamptz",
    "chunk_interval": "24 hours",
    "space_dimensions": [],
    "min_chunks": 3,
    "owner": "signal_owner",
    "indexes": ["signal_greeks_time_idx", {"columns": ["time"], "unique": False}],
    "compression": False,
}


def only(problems: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(problems) == 1, problems
    return problems[0]


# --- intervals


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1 day", DAY),
        ("1 days", DAY),
        ("7d", 7 * DAY),
        ("24 hours", DAY),
        ("12h", DAY // 2),
        ("90 minutes", 5_400_000_000),
        ("1 day 06:00", DAY + 21_600_000_000),
        ("00:00:01.5", 1_500_000),
        ("1.5 hours", 5_400_000_000),
        ("2 weeks 1 day", 15 * DAY),
        ("1 month", 30 * DAY),
        ("250 ms", 250_000),
        ("5 us", 5),
        (" 1   DAY ", DAY),
    ],
)
def test_interval_is_read(text: str, microseconds: int) -> None:
    assert _intervals.parse_interval(text) == microseconds


@pytest.mark.parametrize("text", ["", "day", "1", "0 days", "-1 day", "1 dya", "1 day;", "1 day x", "one day", "1 day 25", "00:00", "1e3 s"])
def test_interval_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number with a unit"):
        _intervals.parse_interval(text)


@given(st.integers(min_value=1, max_value=10**15))
def test_interval_survives_being_printed(microseconds: int) -> None:
    assert _intervals.parse_interval(_intervals.format_interval(microseconds)) == microseconds


@pytest.mark.parametrize(("microseconds", "text"), [(DAY, "1 day"), (7 * DAY, "7 days"), (DAY // 2, "12 hours"), (1_500_000, "1500 milliseconds")])
def test_interval_is_printed_in_the_largest_exact_unit(microseconds: int, text: str) -> None:
    assert _intervals.format_interval(microseconds) == text


# --- judge


def test_table_as_declared_passes() -> None:
    assert _hypertable_verdict.judge(observed(), declared(**EVERYTHING)) == ("pass", [])


def test_what_is_not_declared_is_not_judged() -> None:
    strange = observed(owner="somebody", chunks=0, indexes=[], dimensions=[{**observed()["dimensions"][0], "column": "ts", "type": "bigint"}])
    assert _hypertable_verdict.judge(strange, declared()) == ("pass", [])


def test_absent_table_is_missing() -> None:
    verdict, problems = _hypertable_verdict.judge(None, declared(**EVERYTHING))
    assert verdict == "missing"
    assert only(problems)["message"] == "public.signal_greeks: existence: no such table; expected a hypertable"


@pytest.mark.parametrize("kind", ["table", "view", "partitioned table", "materialized view", "foreign table"])
def test_other_relation_is_no_hypertable(kind: str) -> None:
    verdict, problems = _hypertable_verdict.judge(observed(kind=kind), declared(**EVERYTHING))
    assert verdict == "not_hypertable"
    assert only(problems)["seen"] == f"a {kind}"
    assert "create_hypertable('public.signal_greeks', by_range('time')" in only(problems)["next"]


TIME = observed()["dimensions"][0]
SPACE = {"column": "instrument", "type": "text", "kind": "Space", "interval": None, "partitions": 4}


@pytest.mark.parametrize(
    ("change", "declaration", "check", "seen", "expected"),
    [
        ({"dimensions": [{**TIME, "column": "ts"}]}, {"time_column": "time"}, "time_column", "ts", "time"),
        ({"dimensions": []}, {"time_column": "time"}, "time_column", "no time dimension", "time"),
        ({"dimensions": [SPACE]}, {}, "time_column", "no time dimension", "a time dimension"),
        (
            {"dimensions": [{**TIME, "type": "timestamp without time zone"}]},
            {"time_type": "timestamptz"},
            "time_type",
            "timestamp without time zone",
            "timestamp with time zone",
        ),
        ({"dimensions": [{**TIME, "interval": {"microseconds": 7 * DAY}}]}, {"chunk_interval": "1 day"}, "chunk_interval", "7 days", "1 day"),
        ({"dimensions": [{**TIME, "interval": {"integer": 1000}}]}, {"chunk_interval": "1 day"}, "chunk_interval", "1000", "1 day"),
        ({"dimensions": [{**TIME, "interval": {"integer": 1000}}]}, {"chunk_interval": "2000"}, "chunk_interval", "1000", "2000"),
        ({"dimensions": [{**TIME, "interval": None}]}, {"chunk_interval": "1 day"}, "chunk_interval", "none", "1 day"),
        ({}, {"space_dimensions": [{"column": "instrument"}]}, "space_dimensions", "no dimension instrument", "dimension instrument"),
        (
            {"dimensions": [TIME, SPACE]},
            {"space_dimensions": [{"column": "instrument", "partitions": 8}]},
            "space_dimensions",
            "4 partitions by instrument",
            "8 partitions by instrument",
        ),
        ({"dimensions": [TIME, SPACE]}, {"space_dimensions": []}, "space_dimensions", "also instrument", "none"),
        ({}, {"min_chunks": 4}, "min_chunks", "3 chunks", "at least 4"),
        ({"owner": "postgres"}, {"owner": "signal_owner"}, "owner", "postgres", "signal_owner"),
        ({"foreign_owned_chunks": 2}, {"owner": "signal_owner"}, "owner", "2 of 3 chunks owned by another role", "signal_owner"),
        ({}, {"indexes": ["other_idx"]}, "indexes", "signal_greeks_time_idx", "index other_idx"),
        ({"indexes": []}, {"indexes": ["other_idx"]}, "indexes", "no index", "index other_idx"),
        ({}, {"indexes": [{"columns": ["instrument", "time"]}]}, "indexes", "signal_greeks_time_idx", "index on (instrument, time)"),
        ({}, {"indexes": [{"columns": ["time"], "unique": True}]}, "indexes", "signal_greeks_time_idx", "unique index on (time)"),
        ({"indexes": [index(predicate="(delta > 0)")]}, {"indexes": [{"columns": ["time"]}]}, "indexes", "signal_greeks_time_idx", "index on (time)"),
        (
            {"indexes": [index(covered=2, missing=["_timescaledb_internal._hyper_1_2_chunk"])]},
            {},
            "chunk_indexes",
            "index signal_greeks_time_idx (time) missing on 1 of 3 chunks: _timescaledb_internal._hyper_1_2_chunk",
            "a valid one on each of 3 chunks",
        ),
        (
            {"indexes": [index(covered=2, invalid=1)], "invalid_indexes": [{"index": "i.broken", "table": "i._hyper_1_2_chunk"}]},
            {},
            "invalid_index",
            "invalid index i.broken on i._hyper_1_2_chunk",
            "valid and ready",
        ),
        ({}, {"privileges": {"nobody": ["SELECT"]}}, "privileges", "no role nobody", "role nobody"),
        (
            {"privileges": {"signal_user": {"usage": True, "granted": ["SELECT"]}}},
            {"privileges": {"signal_user": ["SELECT", "INSERT"]}},
            "privileges",
            "signal_user has SELECT",
            "signal_user has SELECT, INSERT",
        ),
        (
            {"privileges": {"signal_user": {"usage": False, "granted": ["SELECT"]}}},
            {"privileges": {"signal_user": ["SELECT"]}},
            "privileges",
            "signal_user may not use schema public",
            "USAGE",
        ),
        ({"license": "timescale"}, {"compression": True}, "compression", "compression off", "compression on"),
        ({"license": "timescale", "compression": True}, {"compression": False}, "compression", "compression on", "compression off"),
        ({"license": "timescale"}, {"policies": {"retention": "90 days"}}, "policies", "retention policy: none", "retention policy: 90 days"),
        (
            {"license": "timescale", "policies": {"compression": 7 * DAY}},
            {"policies": {"compression": "14 days"}},
            "policies",
            "compression policy: 7 days",
            "compression policy: 14 days",
        ),
        (
            {"license": "timescale", "policies": {"reorder": "a_idx"}},
            {"policies": {"reorder": "b_idx"}},
            "policies",
            "reorder policy: a_idx",
            "reorder policy: b_idx",
        ),
        ({"canary": {"routed": False, "chunk": None, "reason": "privilege: permission denied"}}, {}, "canary_insert", "privilege: permission denied", None),
    ],
)
def test_each_defect_is_named(change: dict[str, Any], declaration: dict[str, Any], check: str, seen: str, expected: str | None) -> None:
    verdict, problems = _hypertable_verdict.judge(observed(**change), declared(**declaration))
    found = only(problems)
    assert (verdict, found["check"], found["seen"]) == ("mismatch", check, seen)
    assert expected is None or found["expected"] == expected
    assert found["next"]
    assert found["message"] == f"public.signal_greeks: {check}: {seen}; expected {found['expected']}"


def test_defects_are_all_reported_together() -> None:
    wrong = observed(owner="postgres", chunks=1, dimensions=[{**TIME, "interval": {"microseconds": 7 * DAY}}], indexes=[])
    verdict, problems = _hypertable_verdict.judge(wrong, declared(**EVERYTHING))
    assert verdict == "mismatch"
    assert [item["check"] for item in problems] == ["chunk_interval", "min_chunks", "owner", "indexes", "indexes"]


def test_index_invalid_on_a_chunk_is_not_also_called_missing() -> None:
    half = observed(
        indexes=[index(covered=1, invalid=1, missing=["c._hyper_1_3_chunk"])],
        invalid_indexes=[{"index": "c.broken", "table": "c._hyper_1_2_chunk"}],
    )
    checks = [item["check"] for item in _hypertable_verdict.judge(half, declared())[1]]
    assert checks == ["chunk_indexes", "invalid_index"]
    assert "missing on 1 of 3 chunks" in _hypertable_verdict.judge(half, declared())[1][0]["seen"]


def test_many_invalid_indexes_are_summed_up() -> None:
    many = [{"index": f"c.i{number}", "table": "c.t"} for number in range(12)]
    problems = _hypertable_verdict.judge(observed(invalid_indexes=many), declared())[1]
    assert len(problems) == 6
    assert problems[-1]["seen"] == "7 more invalid indexes"


@pytest.mark.parametrize("license_name", ["apache", None])
@pytest.mark.parametrize("declaration", [{"compression": True}, {"policies": {"retention": "90 days"}}])
def test_edition_without_the_feature_answers_unsupported_and_not_missing(license_name: str | None, declaration: dict[str, Any]) -> None:
    verdict, problems = _hypertable_verdict.judge(observed(license=license_name), declared(**declaration))
    assert verdict == "unsupported_license"
    assert f"{license_name or 'unknown'} license" in only(problems)["seen"]
    assert "missing" not in only(problems)["message"] and "none" not in only(problems)["message"]


def test_real_defect_outweighs_an_unsupported_feature() -> None:
    verdict, problems = _hypertable_verdict.judge(observed(owner="postgres"), declared(owner="signal_owner", compression=True))
    assert verdict == "mismatch"
    assert [item["check"] for item in problems] == ["owner", "license"]


def test_policy_that_is_as_declared_passes() -> None:
    seen = observed(license="timescale", compression=True, policies={"retention": 90 * DAY, "compression": 7 * DAY, "reorder": "a_idx"})
    wanted = {"compression": True, "policies": {"retention": "90 days", "compression": "1 week", "reorder": "a_idx"}}
    assert _hypertable_verdict.judge(seen, declared(**wanted)) == ("pass", [])


def test_routed_canary_passes() -> None:
    assert _hypertable_verdict.judge(observed(canary={"routed": True, "chunk": "c._hyper_1_3_chunk", "reason": None}), declared()) == ("pass", [])


def test_names_in_commands_are_quoted() -> None:
    declaration = _hypertable_declaration.Declaration(params(hypertables=[{"schema": "My Schema", "table": "Odd'Name", "owner": 'a"b'}]))
    problem = only(_hypertable_verdict.judge(observed(), declaration.hypertables["My Schema", "Odd'Name"])[1])
    assert problem["next"] == 'ALTER TABLE "My Schema"."Odd\'Name" OWNER TO "a""b"'


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (None, "missing"),
        (observed(kind="table"), "pass"),
        (observed(kind="partitioned table"), "pass"),
        (observed(kind="view"), "mismatch"),
        (observed(kind="hypertable"), "mismatch"),
        (observed(kind="table", invalid_indexes=[{"index": "public.i", "table": "public.t"}]), "mismatch"),
    ],
)
def test_plain_table(seen: dict[str, Any] | None, verdict: str) -> None:
    assert _hypertable_verdict.judge_table(seen, "public.signal_subscriptions")[0] == verdict


def test_undeclared_table_with_the_prefix() -> None:
    assert _hypertable_verdict.judge_undeclared(observed(), "public.signal_x", "signal_") == ("pass", [])
    verdict, problems = _hypertable_verdict.judge_undeclared(observed(kind="table"), "public.signal_x", "signal_")
    assert verdict == "undeclared"
    assert only(problems)["seen"] == "an undeclared table named signal_..."


def test_database_problems() -> None:
    healthy = {"database": "signal_db", "restoring": "off", "catalog_version": "2.19.3", "version": "2.19.3"}
    assert _hypertable_verdict.judge_database(healthy) == []
    assert _hypertable_verdict.judge_database({**healthy, "catalog_version": None, "restoring": None}) == []
    assert only(_hypertable_verdict.judge_database({**healthy, "restoring": "on"}))["check"] == "restoring"
    assert only(_hypertable_verdict.judge_database({**healthy, "catalog_version": "2.18.0"}))["seen"] == "catalog 2.18.0, extension 2.19.3"


@pytest.mark.parametrize(
    ("verdicts", "problems", "expected"),
    [
        ([], [], "fail"),
        (["pass"], [], "pass"),
        (["pass", "missing"], [], "fail"),
        (["pass"], [{"check": "restoring"}], "fail"),
        (["pass", "unsupported_license"], [], "unsupported_license"),
        (["unsupported_license", "mismatch"], [], "fail"),
        (["undeclared"], [], "fail"),
    ],
)
def test_overall_verdict(verdicts: list[str], problems: list[Any], expected: str) -> None:
    assert _hypertable_verdict.overall(verdicts, problems) == expected


@given(st.lists(st.sampled_from(["pass", "missing", "not_hypertable", "mismatch", "undeclared", "unsupported_license"])))
def test_only_passes_pass(verdicts: list[str]) -> None:
    assert (_hypertable_verdict.overall(verdicts, []) == "pass") == (bool(verdicts) and set(verdicts) == {"pass"})


# --- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing is declared"),
        ({"hypertables": [], "tables": []}, "nothing is declared"),
        ({"hypertables": [{"table": "public.a"}]}, "the schema goes into schema"),
        ({"hypertables": [{"table": ""}]}, "hypertables[0].table is ''"),
        ({"hypertables": [{"table": "a" * 64}]}, "expected 1 to 63 bytes"),
        ({"hypertables": [{"table": "a\x00b"}]}, "printable"),
        ({"hypertables": [{"table": "a"}, {"table": "a"}]}, "declares public.a a second time"),
        ({"hypertables": [{"table": "a"}], "tables": ["a"]}, "which hypertables declares too"),
        ({"tables": ["a", "public.a"]}, "declares public.a a second time"),
        ({"prefix": ""}, "prefix is ''"),
        ({"hypertables": [{"table": "a", "chunk_interval": "1 dya"}]}, "hypertables[0].chunk_interval: '1 dya' is no interval"),
        ({"hypertables": [{"table": "a", "min_chunks": -1}]}, "min_chunks is -1"),
        ({"hypertables": [{"table": "a", "indexes": [{"colums": ["x"]}]}]}, 'indexes[0] is {"colums": ["x"]}'),
        ({"hypertables": [{"table": "a", "indexes": [{"columns": []}]}]}, "expected an index name"),
        ({"hypertables": [{"table": "a", "indexes": [{"columns": ["x"], "unique": "yes"}]}]}, "unique (a boolean)"),
        ({"hypertables": [{"table": "a", "indexes": [7]}]}, "indexes[0] is 7"),
        ({"hypertables": [{"table": "a", "privileges": {"r": ["SELEKT"]}}]}, "privileges.r is SELEKT"),
        ({"hypertables": [{"table": "a", "privileges": {"r": []}}]}, "privileges.r is empty"),
        ({"hypertables": [{"table": "a", "policies": {"retention": "forever"}}]}, "policies.retention: 'forever'"),
        ({"prefix": "a", "query_timeout": 0}, "query_timeout is 0"),
        ({"prefix": "a", "query_timeout": float("nan")}, "query_timeout is nan"),
    ],
)
def test_unusable_option_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RolloutError) as refused:
        _hypertable_declaration.Declaration(params(**options))
    assert sentence in refused.value.message


def test_unusable_options_are_named_together() -> None:
    with pytest.raises(RolloutError) as refused:
        _hypertable_declaration.Declaration(params(hypertables=[{"table": "a.b", "chunk_interval": "x", "min_chunks": -1}], query_timeout=-1))
    assert refused.value.message.count(";") >= 4


def test_privileges_may_be_written_as_text() -> None:
    assert declared(privileges={"signal_user": "select, insert"})["privileges"] == {"signal_user": ["SELECT", "INSERT"]}


@pytest.mark.parametrize(
    ("prefix", "pattern"), [("signal_", r"signal\_%"), ("50%", r"50\%%"), ("a\\b", "a\\\\b%"), ("plain", "plain%"), (None, None)]
)
def test_wildcards_of_a_prefix_stand_for_themselves(prefix: str | None, pattern: str | None) -> None:
    assert _hypertable_catalog.like_pattern(prefix) == pattern


# --- connection options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"login_host": "db host"}, "login_host is 'db host'"),
        ({"login_host": "db;evil"}, "expected one host name"),
        ({"login_host": "db\nevil"}, "expected one host name"),
        ({"login_host": "postgresql://u:hunter2hunter2@db/x"}, "no connection string"),
        ({"login_host": "host=db password=x"}, "expected one host name"),
        ({"login_host": ""}, "login_host is ''"),
        ({"login_host": "/run/\x01"}, "control character"),
        ({"login_port": 0}, "login_port is 0"),
        ({"login_port": 70000}, "login_port is 70000"),
        ({"login_db": "dbname=x password=y"}, "looks like a connection string"),
        ({"login_db": "postgres://h/x"}, "looks like a connection string"),
        ({"login_user": ""}, "login_user is ''"),
        ({"connect_timeout": 0}, "connect_timeout is 0"),
        ({"connect_timeout": 10**9}, "connect_timeout is 1000000000"),
        ({"ca_cert": "/nonexistent/ca.pem"}, "expected an existing file"),
        ({"login_password": "$ANSIBLE_VAULT;1.1;AES256\n6162"}, "still encrypted"),
        ({"login_password": "correct-horse\n"}, "trailing newline"),
        ({"login_password": "short"}, "has 5 characters"),
    ],
)
def test_unusable_connection_option_is_named_without_the_password(options: dict[str, Any], sentence: str) -> None:
    given_params = params(prefix="x", **options)
    problems = _postgresql.option_problems(given_params)
    assert any(sentence in problem for problem in problems), problems
    assert not options.get("login_password") or options["login_password"] not in "".join(problems)


def test_usable_connection_options_have_no_problem() -> None:
    for host in ("localhost", "10.79.0.50", "::1", "db-1.example.com", "/run/postgresql"):
        assert _postgresql.option_problems(params(prefix="x", login_host=host)) == []


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ('FATAL:  password authentication failed for user "u"', "check login_user and login_password"),
        ("fe_sendauth: no password supplied", "give login_password"),
        ('FATAL:  database "x" does not exist', "check login_db"),
        ("Connection refused", "pg_isready -h localhost -p 5432"),
        ("timeout expired", "pg_isready"),
        ("SSL error: certificate verify failed", "check ssl_mode and ca_cert"),
        ("server does not support SSL, but SSL was required", "check ssl_mode"),
        ("FATAL:  sorry, too many clients already", "close idle sessions"),
        ("something with s3cret-of-the-test inside", "********"),
    ],
)
def test_connection_message_hints_and_never_holds_the_password(reason: str, hint: str) -> None:
    message = _postgresql.connection_message(params(prefix="x"), reason)
    assert hint in message
    assert "signal_owner" in message and "localhost:5432/signal_db" in message
    assert CONNECTION["login_password"] not in message


def test_unreachable_server_is_a_clean_failure_with_all_keys() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(RolloutError) as refused:
        hv.run(params(prefix="signal_", login_host="127.0.0.1", login_port=port), Context())
    assert "Connection refused" in refused.value.message
    assert CONNECTION["login_password"] not in str(refused.value.result) + refused.value.message
    assert {"changed", "verdict", "tables", "existing", "problems", "extension", "server", "queries", "seconds"} <= set(refused.value.result)
    assert refused.value.result["verdict"] == "error"


# --- suggestion


def test_suggestion_passes_its_own_verification() -> None:
    seen = observed(
        dimensions=[TIME, SPACE],
        indexes=[index(), index("signal_greeks_pkey", columns=["instrument", "time"], key_columns=["instrument", "time"], unique=True)],
        grants=[{"role": "signal_user", "privilege": "INSERT"}, {"role": "signal_user", "privilege": "SELECT"}, {"role": "x", "privilege": "MAINTAIN"}],
        privileges={"signal_user": {"usage": True, "granted": ["INSERT", "SELECT"]}},
    )
    tables = {("public", "signal_greeks"): seen, ("other", "plain"): observed(kind="table"), ("public", "v"): observed(kind="view")}
    snapshot = _hypertable_catalog.Snapshot({}, tables)
    suggestion = _hypertable_suggestion.suggest(snapshot, "signal_")
    assert suggestion["tables"] == ["other.plain"]
    assert suggestion["hypertables"][0]["privileges"] == {"signal_user": ["SELECT", "INSERT"]}
    text = yaml.safe_load(_hypertable_suggestion.suggestion_yaml(suggestion))
    assert text == suggestion
    declaration = _hypertable_declaration.Declaration(params(**text))
    assert _hypertable_verdict.judge(seen, declaration.hypertables["public", "signal_greeks"]) == ("pass", [])


def test_empty_suggestion_is_valid_yaml() -> None:
    assert yaml.safe_load(_hypertable_suggestion.suggestion_yaml({"hypertables": [], "tables": []})) == {"hypertables": [], "tables": []}


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_postgresql, "psycopg2", None)
    with pytest.raises(RolloutError, match="'psycopg2' is not installed"):
        hv.run(params(prefix="x"), Context())
