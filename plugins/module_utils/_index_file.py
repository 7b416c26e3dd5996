# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Indexes as they are declared: by a file of CREATE INDEX statements, or by a list. Private to this collection. Pure.

Only the frame of a statement is read here: name, table, UNIQUE, and where its WITH clause stands. What is between is handed to
PostgreSQL as it is, which knows its own expressions better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

MAX_NAME = 63
TRANSACTION_PER_CHUNK = "timescaledb.transaction_per_chunk"
# Statements that such files hold beside CREATE INDEX, and which the module's own options and sessions stand for.
_PASSED_OVER = ("SET", "RESET", "BEGIN", "START", "COMMIT", "END", "ANALYZE")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]|''|\\.)*')
  | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
  | (?P<quoted>"(?:[^"]|"")+")
  | (?P<dollar>\$(?P<tag>(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?)\$.*?\$(?P=tag)\$)
  | (?P<word>[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*)
  | (?P<number>\d[\d.]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """One word of SQL: ``kind`` is the name of its alternative above; ``start`` and ``end`` are places in the text."""

    kind: str
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words

    @property
    def name(self) -> str | None:
        """The identifier that it is, None when it is none."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"')
        return self.text.lower() if self.kind == "word" else None


@dataclass(frozen=True)
class Index:
    """One declared index. ``tail`` is what follows the table's name; ``schema`` None is left to the search path.

    ``options`` is the inside of its WITH clause without TimescaleDB's own parameters, ``before`` and ``after`` are the tail on
    both sides of that clause.
    """

    name: str
    schema: str | None
    table: str
    unique: bool
    before: str
    options: str
    after: str
    origin: str

    @property
    def table_name(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table

    def tail(self, *more_options: str) -> str:
        """Return method, columns, WITH (with ``more_options`` in it), TABLESPACE and WHERE."""
        options = ", ".join(part for part in (self.options, *more_options) if part)
        return " ".join(part for part in (self.before, f"WITH ({options})" if options else "", self.after) if part)


def parse(text: str, origin: str) -> tuple[list[Index], list[str]]:
    """Return the indexes that a file declares, in its order, and the statements that were passed over.

    Passed over are settings of the session and transactions. Raises :class:`RolloutError` that names, with its line, every other
    statement, an index without a name and one that is declared twice.
    """
    indexes: list[Index] = []
    passed: list[str] = []
    problems: list[str] = []
    for statement in _statements(text):
        where = f"{origin} line {text.count(chr(10), 0, statement[0].start) + 1}"
        words = text[statement[0].start : statement[-1].end]
        try:
            if statement[0].is_word(*_PASSED_OVER):
                _check_setting(statement)
                passed.append(one_line(words, 120))
            else:
                indexes.append(_index(text, statement, where))
        except ValueError as error:
            problems.append(f"{where} ({one_line(words, 60)}): {error}")
    _finish(indexes, problems, origin)
    return indexes, passed


def listed(entries: Sequence[Mapping[str, Any]]) -> list[Index]:
    """Return the indexes of the option ``indexes``. Raises :class:`RolloutError` that names every unusable entry."""
    indexes: list[Index] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        where = f"indexes[{number}]"
        schema, dot, table = entry["table"].rpartition(".")
        try:
            for name in (entry["name"], table, *([schema] if dot else [])):
                _check_name(name)
            definition = entry["definition"]
            tokens = [token for statement in _statements(definition) for token in statement]
            if len(list(_statements(definition))) != 1 or not (tokens[0].text == "(" or tokens[0].is_word("USING")):
                raise ValueError(f"definition is '{one_line(definition, 60)}', expected what follows the table in CREATE INDEX: '(instrument, time DESC)'")
            indexes.append(Index(entry["name"], schema or None, table, entry["unique"], *_tail(definition, tokens), origin=where))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    _finish(indexes, problems, "indexes")
    return indexes


def _finish(indexes: Sequence[Index], problems: list[str], origin: str) -> None:
    seen: dict[tuple[str | None, str], Index] = {}
    for index in indexes:
        first = seen.setdefault((index.schema, index.name), index)
        if first is not index:
            problems.append(f"{index.origin}: {index.name} is declared by {first.origin} already")
    if not indexes and not problems:
        problems.append("it declares no index, expected at least one")
    if problems:
        raise RolloutError(f"database_indexes cannot use {origin}: {'; '.join(problems)}. Next: correct it; nothing was written")


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or len(name.encode()) > MAX_NAME:
        raise ValueError(f"name '{one_line(name, 80)}', expected 1 to {MAX_NAME} bytes of printable text")


def _check_setting(statement: Sequence[Token]) -> None:
    if any(token.is_word("SEARCH_PATH", "ROLE", "AUTHORIZATION", "SCHEMA") for token in statement):
        raise ValueError("it changes what later names mean, or whose the indexes are; expected names with their schema, and login_user")


def _statements(text: str) -> Iterator[list[Token]]:
    """Yield the tokens of each statement, without comments and without the semicolon."""
    statement: list[Token] = []
    for token in _tokens(text):
        if token.text == ";" and token.kind == "mark":
            if statement:
                yield statement
            statement = []
        else:
            statement.append(token)
    if statement:
        yield statement


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise AssertionError("the last alternative takes any character")
        kind = str(match.lastgroup)
        end = _block_end(text, place) if kind == "block" else match.end()
        if kind not in ("space", "comment", "block"):
            yield Token(kind, text[place:end], place, end)
        place = end


def _block_end(text: str, start: int) -> int:
    """Return where a block comment ends; they nest in PostgreSQL. One that is not closed takes the rest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if match.group() == "/*" else -1
        if not depth:
            return match.end()
    return len(text)


class _Reader:
    """Goes through the tokens of one statement."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.place = 0

    def took(self, *words: str) -> bool:
        """Go past ``words`` if they are next."""
        next_ones = self.tokens[self.place : self.place + len(words)]
        if len(next_ones) < len(words) or not all(token.is_word(word) for token, word in zip(next_ones, words, strict=True)):
            return False
        self.place += len(words)
        return True

    def name(self, what: str) -> str:
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None or token.name is None:
            raise ValueError(f"{what} expected, seen '{token.text if token else 'the end'}'")
        self.place += 1
        _check_name(token.name)
        return token.name

    def took_dot(self) -> bool:
        if self.place < len(self.tokens) and self.tokens[self.place].text == ".":
            self.place += 1
            return True
        return False


def _index(text: str, statement: Sequence[Token], origin: str) -> Index:
    reader = _Reader(statement)
    unique = reader.took("CREATE", "UNIQUE", "INDEX")
    if not unique and not reader.took("CREATE", "INDEX"):
        raise ValueError("no CREATE INDEX; expected only such statements and settings of the session")
    reader.took("CONCURRENTLY")
    reader.took("IF", "NOT", "EXISTS")
    if reader.took("ON"):
        raise ValueError("the index has no name, and without one it cannot be found again")
    name = reader.name("the index's name")
    if not reader.took("ON"):
        raise ValueError(f"ON expected after the name '{name}' (an index is always in its table's schema)")
    if reader.took("ONLY"):
        raise ValueError("ON ONLY leaves the index invalid, expected ON TABLE")
    schema, table = None, reader.name("the table's name")
    if reader.took_dot():
        schema, table = table, reader.name("the table's name")
    rest = statement[reader.place :]
    if not rest or not (rest[0].text == "(" or rest[0].is_word("USING")):
        raise ValueError("USING or a list of columns expected after the table's name")
    return Index(name, schema, table, unique, *_tail(text, rest), origin=origin)


def _tail(text: str, tokens: Sequence[Token]) -> tuple[str, str, str]:
    """Return what stands before the WITH clause, inside it, and after it; without one it would stand before TABLESPACE and WHERE."""
    outer = _outermost(tokens)
    places = [place for place in outer if tokens[place].is_word("WITH", "TABLESPACE", "WHERE")]
    start = places[0] if places else len(tokens)
    if start == len(tokens) or not tokens[start].is_word("WITH"):
        return _joined(text, tokens[:start]), "", _joined(text, tokens[start:])
    end = next((place for place in outer if place > start + 1), len(tokens))
    if end < start + 4:
        raise ValueError("a list of parameters expected after WITH")
    return _joined(text, tokens[:start]), _without_timescale(text, tokens[start + 2 : end - 1]), _joined(text, tokens[end:])


def _outermost(tokens: Sequence[Token]) -> list[int]:
    """Return the places of the tokens that are inside no parentheses; of these themselves only the opening ones."""
    outer = []
    depth = 0
    for place, token in enumerate(tokens):
        if not depth and token.text not in (")", "]"):
            outer.append(place)
        if token.kind == "mark" and token.text in "([":
            depth += 1
        elif token.kind == "mark" and token.text in ")]":
            depth -= 1
            if depth < 0:
                break
    if depth:
        raise ValueError("its parentheses do not match")
    return outer


def _without_timescale(text: str, tokens: Sequence[Token]) -> str:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return ", ".join(_joined(text, part) for part in parts if part and part[0].name != "timescaledb")


def _joined(text: str, tokens: Sequence[Token]) -> str:
    """Return the source of ``tokens`` on one line, without the comments between them; strings stay as they are."""
    words: list[str] = []
    for token, before in zip(tokens, [None, *tokens], strict=False):
        if before is not None and token.start > before.end:
            words.append(" ")
        words.append(token.text)
    return "".join(words)
