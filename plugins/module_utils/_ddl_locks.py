# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each statement of a migration locks, rewrites, and takes from the version that runs. Private to this collection. Pure.

The locks are those of PostgreSQL's documentation (explicit locking, and the page of each command). A table that the same script
creates is nobody's yet, so that locks on it hold nobody up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line, require

try:
    import pglast
    from pglast import ast, enums
    from pglast.visitors import Visitor
except ImportError:
    pglast = None

ACCESS_SHARE = "ACCESS SHARE"
ROW_SHARE = "ROW SHARE"
ROW_EXCLUSIVE = "ROW EXCLUSIVE"
SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
SHARE = "SHARE"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
EXCLUSIVE = "EXCLUSIVE"
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
# In the order of their numbers in the server, from 1.
MODES = (ACCESS_SHARE, ROW_SHARE, ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, SHARE, SHARE_ROW_EXCLUSIVE, EXCLUSIVE, ACCESS_EXCLUSIVE)
_BLOCKS_WRITES = MODES[4:]

FAILS = "fails"
BREAKS = "breaks"
WARNS = "warns"

_RUNNING = re.compile(r"^-- Running (?:upgrade \S* -> (?P<up>\S+)|downgrade (?P<down>\S+) -> )", re.MULTILINE)
_SERIAL = ("serial", "serial2", "serial4", "serial8", "smallserial", "bigserial")
# Functions that give each row another value, so that adding a column by them writes every row.
_VOLATILE = ("clock_timestamp", "gen_random_uuid", "nextval", "random", "timeofday", "uuid_generate_v4", "uuidv4", "uuidv7")
_STABLE = ("now", "transaction_timestamp", "statement_timestamp", "current_setting", "to_timestamp", "lower", "upper", "make_interval")
# Subcommands of ALTER TABLE that take less than ACCESS EXCLUSIVE.
_GENTLE = {
    "AT_SetStatistics": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ValidateConstraint": SHARE_UPDATE_EXCLUSIVE,
    "AT_ClusterOn": SHARE_UPDATE_EXCLUSIVE,
    "AT_DropCluster": SHARE_UPDATE_EXCLUSIVE,
    "AT_AttachPartition": SHARE_UPDATE_EXCLUSIVE,
    "AT_AlterConstraint": ACCESS_EXCLUSIVE,
    **{f"AT_{word}": SHARE_ROW_EXCLUSIVE for word in (
        "EnableTrig", "EnableAlwaysTrig", "EnableReplicaTrig", "DisableTrig", "EnableTrigAll", "DisableTrigAll", "EnableTrigUser", "DisableTrigUser",
    )},
}  # fmt: skip
_REWRITES = ("AT_AlterColumnType", "AT_SetTableSpace", "AT_SetLogged", "AT_SetUnLogged", "AT_SetAccessMethod", "AT_SetExpression")
_GENTLE_OPTIONS = re.compile(r"fillfactor|autovacuum_.*|toast_tuple_target|parallel_workers|log_autovacuum_min_duration|vacuum_.*|user_catalog_table")


@dataclass(frozen=True)
class Hypertable:
    """What the catalog says of one hypertable."""

    chunks: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """What exists before the migration: hypertables by name, tables that hold rows, the table of each index."""

    hypertables: Mapping[str, Hypertable] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()
    index_tables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Statement:
    """One statement, its strongest locks on relations that existed before, and what is wrong with it."""

    sql: str
    revision: str
    position: int
    locks: dict[str, str] = field(default_factory=dict)
    rewrites: bool = False
    scans: bool = False
    opaque: str = ""
    # Tables, or (table, column), that were there before and whose content goes.
    drops: list[tuple[str, str | None]] = field(default_factory=list)
    findings: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def mode(self) -> str:
        return max(self.locks.values(), key=MODES.index, default="")

    def result(self, catalog: Catalog) -> dict[str, Any]:
        """Return the entry of the module's result."""
        return {
            "sql": one_line(self.sql, 1000),
            "revision": self.revision,
            "lock": self.mode or None,
            "relations": [{"relation": name, "lock": mode} for name, mode in sorted(self.locks.items())],
            "chunks": sum(catalog.hypertables[name].chunks for name in self.locks if name in catalog.hypertables),
            "blocks_reads": self.mode == ACCESS_EXCLUSIVE,
            "blocks_writes": self.mode in _BLOCKS_WRITES,
            "rewrites": self.rewrites,
            "scans": self.scans,
            "unknown": self.opaque or None,
        }


def plain(schema: str | None, name: str) -> str:
    """Return a relation's name without the schema that everybody has."""
    return name if schema in (None, "", "public") else f"{schema}.{name}"


def analyse(text: str, catalog: Catalog | None = None) -> list[Statement]:
    """Return the statements of a migration's SQL; those that only begin, end or note it in Alembic's table are left out.

    Raises :class:`RolloutError` for text that PostgreSQL's parser refuses.
    """
    require("pglast", pglast)
    try:
        parsed = pglast.parse_sql(text)
    except pglast.parser.ParseError as error:
        raise RolloutError(f"The SQL of the migration cannot be parsed: {one_line(error)}. Next: read it by alembic upgrade --sql") from None
    marks = [(match.start(), match["up"] or match["down"]) for match in _RUNNING.finditer(text)]
    script = _Script(catalog or Catalog())
    for raw in parsed:
        start, length = raw.stmt_location, raw.stmt_len or len(text)
        sql = text[start : start + length].strip()
        revision = next((name for position, name in reversed(marks) if position < start), "")
        script.add(raw.stmt, Statement(sql, revision, start))
    return script.statements


class _Script:
    """Follows a script: what it has created is not locked by anybody, and may be a hypertable from then on."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.statements: list[Statement] = []
        self.created: set[str] = set()
        self.hypertables: dict[str, tuple[str, ...]] = {name: found.columns for name, found in catalog.hypertables.items()}
        self._kinds: dict[str, Callable[[Any, Statement], None]] = {
            "CreateStmt": self._create_table, "CreateTableAsStmt": self._create_as, "IndexStmt": self._index, "AlterTableStmt": self._alter_table,
            "RenameStmt": self._rename, "DropStmt": self._drop, "TruncateStmt": self._truncate, "SelectStmt": self._select, "DoStmt": self._do,
            "GrantStmt": self._grant, "CreateTrigStmt": self._trigger, "AlterObjectSchemaStmt": self._schema, "RefreshMatViewStmt": self._refresh,
            "ReindexStmt": self._reindex, "VacuumStmt": self._vacuum, "ClusterStmt": self._cluster, "LockStmt": self._lock, "ViewStmt": self._view,
            "CommentStmt": self._comment, "InsertStmt": self._write, "UpdateStmt": self._write, "DeleteStmt": self._write,
            "CreatePolicyStmt": self._policy, "CreateSeqStmt": self._sequence, "CallStmt": self._do,
        }  # fmt: skip

    def add(self, node: Any, statement: Statement) -> None:
        kind = type(node).__name__
        if kind in ("TransactionStmt", "VariableSetStmt") or _on_version_table(node):
            return
        self.statements.append(statement)
        handler = self._kinds.get(kind)
        if handler:
            handler(node, statement)

    # --- helpers

    def _name(self, relation: Any) -> str:
        return plain(relation.schemaname, relation.relname)

    def _held(self, statement: Statement, name: str, mode: str) -> bool:
        """Note a lock; False when the script itself has created what it is on."""
        if name in self.created:
            return False
        if MODES.index(mode) >= MODES.index(statement.locks.get(name, MODES[0])):
            statement.locks[name] = mode
        return True

    # --- one method per kind of statement

    def _create_table(self, node: Any, statement: Statement) -> None:
        name = self._name(node.relation)
        for parent in node.inhRelations or ():
            self._held(statement, self._name(parent), ACCESS_EXCLUSIVE if node.partbound else SHARE_UPDATE_EXCLUSIVE)
        for constraint in _constraints(node.tableElts or ()):
            if constraint.contype == enums.ConstrType.CONSTR_FOREIGN:
                self._held(statement, self._name(constraint.pktable), SHARE_ROW_EXCLUSIVE)
        self.created.add(name)

    def _create_as(self, node: Any, statement: Statement) -> None:
        self._reads(node.query, statement)
        self.created.add(self._name(node.into.rel))

    def _sequence(self, node: Any, statement: Statement) -> None:
        self.created.add(self._name(node.sequence))

    def _view(self, node: Any, statement: Statement) -> None:
        name = self._name(node.view)
        if node.replace and self._held(statement, name, ACCESS_EXCLUSIVE):
            statement.findings.append((WARNS, "replace-view", f"{name} may be a view that the running version reads"))
        elif not node.replace:
            self.created.add(name)

    def _index(self, node: Any, statement: Statement) -> None:
        name = self._name(node.relation)
        hypertable = self.hypertables.get(name)
        if node.concurrent and hypertable is not None:
            statement.findings.append((FAILS, "hypertable-concurrent-index", f"{name} is a hypertable, which refuses CREATE INDEX CONCURRENTLY"))
        columns = [element.name for element in node.indexParams or ()]
        if node.unique:
            self._unique(statement, name, columns)
        if self._held(statement, name, SHARE_UPDATE_EXCLUSIVE if node.concurrent else SHARE):
            statement.scans = True
            if node.unique:
                statement.findings.append((BREAKS, "disallowed-unique-constraint", f"{name} will refuse rows that the running version may write"))
            by_chunk = any(option.defname == "transaction_per_chunk" for option in node.options or ())
            if name in self.catalog.hypertables and not node.concurrent and not by_chunk:
                words = f"writes to all chunks of {name} wait until the index is built; WITH (timescaledb.transaction_per_chunk) holds up one at a time"
                statement.findings.append((WARNS, "hypertable-index-lock", words))
        self.created.add(plain(node.relation.schemaname, node.idxname or ""))

    def _unique(self, statement: Statement, name: str, columns: Iterable[str | None]) -> None:
        lacking = [column for column in self.hypertables.get(name, ()) if column not in set(columns)]
        if lacking:
            statement.findings.append(
                (FAILS, "hypertable-unique-columns", f"a unique index of the hypertable {name} must have its partition column {', '.join(lacking)} (TS103)")
            )

    def _alter_table(self, node: Any, statement: Statement) -> None:
        name = self._name(node.relation)
        if node.objtype == enums.ObjectType.OBJECT_INDEX:
            self._held(statement, self.catalog.index_tables.get(name, name), SHARE_UPDATE_EXCLUSIVE)
            return
        for command in node.cmds:
            self._alter(enums.AlterTableType(command.subtype).name, command, name, statement)

    def _alter(self, kind: str, command: Any, name: str, statement: Statement) -> None:
        mode = _GENTLE.get(kind, ACCESS_EXCLUSIVE)
        if kind in ("AT_SetRelOptions", "AT_ResetRelOptions"):
            gentle = all(not option.defnamespace and _GENTLE_OPTIONS.fullmatch(option.defname) for option in command.def_)
            mode = SHARE_UPDATE_EXCLUSIVE if gentle else ACCESS_EXCLUSIVE
        elif kind in ("AT_AttachPartition", "AT_DetachPartition"):
            self._held(statement, self._name(command.def_.name), ACCESS_EXCLUSIVE)
            mode = SHARE_UPDATE_EXCLUSIVE if kind == "AT_AttachPartition" or command.def_.concurrent else ACCESS_EXCLUSIVE
        elif kind == "AT_AddConstraint" and command.def_.contype == enums.ConstrType.CONSTR_FOREIGN:
            mode = SHARE_ROW_EXCLUSIVE
            self._held(statement, self._name(command.def_.pktable), mode)
        found: list[tuple[str, str, str]] = []
        unique = (enums.ConstrType.CONSTR_UNIQUE, enums.ConstrType.CONSTR_PRIMARY)
        if kind == "AT_AddConstraint" and command.def_.contype in unique and not command.def_.indexname:
            self._unique(statement, name, [key.sval for key in command.def_.keys or ()])
        if not self._held(statement, name, mode):
            return
        if kind in _REWRITES:
            statement.rewrites = True
        if kind == "AT_AddColumn":
            found += self._add_column(command.def_, name, statement)
        elif kind == "AT_AddConstraint":
            statement.scans = statement.scans or not (command.def_.skip_validation or command.def_.indexname)
            found.append((BREAKS, "added-constraint", f"{name} will refuse rows that the running version may write"))
        elif kind in ("AT_SetNotNull", "AT_ValidateConstraint"):
            statement.scans = True
        if kind == "AT_DropColumn":
            statement.drops.append((name, command.name))
        if kind in _BROKEN:
            rule, words = _BROKEN[kind]
            found.append((BREAKS, rule, words.format(column=f"{name}.{command.name}", table=name)))
        elif kind == "AT_ColumnDefault" and command.def_ is None:
            found.append((BREAKS, "dropped-default", f"{name}.{command.name} loses the value that the running version's inserts may count on"))
        statement.findings += found

    def _add_column(self, column: Any, name: str, statement: Statement) -> list[tuple[str, str, str]]:
        constraints = {constraint.contype: constraint for constraint in column.constraints or ()}
        kind = column.typeName.names[-1].sval
        default = constraints.get(enums.ConstrType.CONSTR_DEFAULT)
        generated = {enums.ConstrType.CONSTR_IDENTITY, enums.ConstrType.CONSTR_GENERATED} & constraints.keys() or kind in _SERIAL
        if generated or (default is not None and _volatile(default.raw_expr)):
            statement.rewrites = True
        found = []
        required = {enums.ConstrType.CONSTR_NOTNULL, enums.ConstrType.CONSTR_PRIMARY} & constraints.keys()
        if required and default is None and not generated:
            words = f"{name}.{column.colname} is required and has no default: inserts of the running version fail"
            found.append((BREAKS, "adding-required-field", words))
            if name in self.catalog.filled:
                found.append((FAILS, "required-field-in-filled-table", f"{name} holds rows, which would have no {column.colname}"))
        if constraints.keys() & {enums.ConstrType.CONSTR_UNIQUE, enums.ConstrType.CONSTR_CHECK, enums.ConstrType.CONSTR_FOREIGN}:
            statement.scans = True
        return found

    def _rename(self, node: Any, statement: Statement) -> None:
        kind = enums.ObjectType(node.renameType).name.removeprefix("OBJECT_")
        if node.relation is None:
            statement.findings.append((WARNS, "renaming-object", f"a {kind.lower()} gets another name"))
            return
        name = self._name(node.relation)
        if kind == "INDEX":
            self._held(statement, self.catalog.index_tables.get(name, name), SHARE_UPDATE_EXCLUSIVE)
        elif self._held(statement, name, ACCESS_EXCLUSIVE) and kind in ("COLUMN", "TABLE", "VIEW", "MATVIEW", "SEQUENCE"):
            what = f"{name}.{node.subname}" if kind == "COLUMN" else name
            rule = {"COLUMN": "renaming-column", "TABLE": "renaming-table"}.get(kind, "renaming-object")
            statement.findings.append((BREAKS, rule, f"{what} becomes {node.newname}, which the running version does not know"))

    def _drop(self, node: Any, statement: Statement) -> None:
        kind = enums.ObjectType(node.removeType).name.removeprefix("OBJECT_")
        for target in node.objects:
            if not isinstance(target, tuple):
                statement.findings.append((BREAKS, "dropping-object", f"a {kind.lower()} is dropped that the running version may use"))
                continue
            parts = [part.sval for part in target]
            if kind in ("TRIGGER", "POLICY", "RULE"):
                self._held(statement, plain(".".join(parts[:-2]), parts[-2]), ACCESS_EXCLUSIVE)
                continue
            name = plain(".".join(parts[:-1]), parts[-1])
            if kind == "INDEX":
                self._held(statement, self.catalog.index_tables.get(name, name), SHARE_UPDATE_EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE)
            elif self._held(statement, name, ACCESS_EXCLUSIVE):
                rule = "ban-drop-table" if kind == "TABLE" else "dropping-object"
                if kind == "TABLE":
                    statement.drops.append((name, None))
                statement.findings.append((BREAKS, rule, f"{name} is dropped, which the running version may use"))

    def _truncate(self, node: Any, statement: Statement) -> None:
        for relation in node.relations:
            if self._held(statement, self._name(relation), ACCESS_EXCLUSIVE):
                statement.drops.append((self._name(relation), None))
                statement.findings.append((BREAKS, "truncating-table", f"{self._name(relation)} loses its rows"))

    def _schema(self, node: Any, statement: Statement) -> None:
        if node.relation is not None and self._held(statement, self._name(node.relation), ACCESS_EXCLUSIVE):
            statement.findings.append((BREAKS, "changing-schema", f"{self._name(node.relation)} moves to schema {node.newschema}"))

    def _refresh(self, node: Any, statement: Statement) -> None:
        self._held(statement, self._name(node.relation), EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE)

    def _reindex(self, node: Any, statement: Statement) -> None:
        if node.relation is not None:
            name = self._name(node.relation)
            gentle = any(option.defname == "concurrently" for option in node.params or ())
            # The index itself is locked too, which every query of the table opens.
            self._held(statement, self.catalog.index_tables.get(name, name), SHARE_UPDATE_EXCLUSIVE if gentle else ACCESS_EXCLUSIVE)
            statement.scans = True

    def _vacuum(self, node: Any, statement: Statement) -> None:
        full = any(option.defname == "full" for option in node.options or ())
        statement.rewrites = full
        for item in node.rels or ():
            self._held(statement, self._name(item.relation), ACCESS_EXCLUSIVE if full else SHARE_UPDATE_EXCLUSIVE)

    def _cluster(self, node: Any, statement: Statement) -> None:
        statement.rewrites = True
        if node.relation is not None:
            self._held(statement, self._name(node.relation), ACCESS_EXCLUSIVE)

    def _lock(self, node: Any, statement: Statement) -> None:
        for relation in node.relations:
            self._held(statement, self._name(relation), MODES[node.mode - 1])

    def _comment(self, node: Any, statement: Statement) -> None:
        kind = enums.ObjectType(node.objtype).name.removeprefix("OBJECT_")
        if kind in ("TABLE", "COLUMN") and isinstance(node.object, tuple):
            parts = [part.sval for part in node.object][: -1 if kind == "COLUMN" else None]
            self._held(statement, plain(".".join(parts[:-1]), parts[-1]), SHARE_UPDATE_EXCLUSIVE)

    def _trigger(self, node: Any, statement: Statement) -> None:
        if self._held(statement, self._name(node.relation), SHARE_ROW_EXCLUSIVE):
            statement.findings.append((WARNS, "added-trigger", f"{self._name(node.relation)} gets a trigger that runs for the running version too"))

    def _policy(self, node: Any, statement: Statement) -> None:
        self._held(statement, self._name(node.table), ACCESS_EXCLUSIVE)

    def _grant(self, node: Any, statement: Statement) -> None:
        if not node.is_grant:
            statement.findings.append((BREAKS, "revoked-privilege", "a privilege is taken away that the running version may need"))

    def _write(self, node: Any, statement: Statement) -> None:
        self._reads(node, statement)
        name = self._name(node.relation)
        whole = type(node).__name__ != "InsertStmt" and node.whereClause is None
        if self._held(statement, name, ROW_EXCLUSIVE) and whole:
            if isinstance(node, ast.DeleteStmt):
                statement.drops.append((name, None))
                statement.findings.append((BREAKS, "deleting-all-rows", f"{name} loses its rows"))
            else:
                statement.findings.append((WARNS, "updating-all-rows", f"every row of {name} stays locked until the migration commits"))

    def _do(self, node: Any, statement: Statement) -> None:
        statement.opaque = "a block of code: what it locks is not known before it runs"

    def _select(self, node: Any, statement: Statement) -> None:
        self._reads(node, statement)
        for target in node.targetList or ():
            call = target.val
            if isinstance(call, ast.FuncCall):
                self._called(call.funcname[-1].sval, call, statement)

    def _called(self, function: str, call: Any, statement: Statement) -> None:
        first = _constant(call.args[0]) if call.args else None
        if function == "create_hypertable" and first:
            name = first.removeprefix("public.")
            named = {argument.name for argument in call.args if isinstance(argument, ast.NamedArgExpr)}
            self.hypertables[name] = tuple(column for column in [_partition_column(call.args)] if column)
            if self._held(statement, name, ACCESS_EXCLUSIVE):
                statement.rewrites = "migrate_data" in named
                if name in self.catalog.filled and "migrate_data" not in named:
                    statement.findings.append((FAILS, "hypertable-of-filled-table", f"{name} holds rows, and migrate_data is not given"))
        elif function in ("add_dimension", "drop_chunks", "set_chunk_time_interval") and first:
            if self._held(statement, first.removeprefix("public."), ACCESS_EXCLUSIVE) and function == "drop_chunks":
                statement.findings.append((BREAKS, "dropping-chunks", f"{first} loses rows"))
        elif function not in ("set_config", "pg_sleep", "setval", *_STABLE):
            statement.opaque = f"what the function {function} locks is not known"

    def _reads(self, node: Any, statement: Statement) -> None:
        tables = _Tables()
        tables(node)
        for name in tables.found:
            self._held(statement, name, ACCESS_SHARE)


_BROKEN = {
    "AT_DropColumn": ("ban-drop-column", "{column} is dropped, which the running version may use"),
    "AT_SetNotNull": ("adding-not-nullable-field", "{column} must not be null any more: inserts of the running version may fail"),
    "AT_AlterColumnType": ("changing-column-type", "{column} gets another type, which the running version does not expect"),
    "AT_EnableRowSecurity": ("row-security", "{table} hides rows by policy, also from the running version"),
    "AT_ForceRowSecurity": ("row-security", "{table} hides rows by policy, also from the running version"),
    "AT_DetachPartition": ("detaching-partition", "{table} loses rows"),
    "AT_ChangeOwner": ("changing-owner", "{table} gets another owner, which may take privileges from the running version"),
}

if pglast is not None:

    class _Tables(Visitor):
        """Collects the tables that a query reads."""

        def __init__(self) -> None:
            self.found: set[str] = set()

        def visit_RangeVar(self, ancestors: Any, node: Any) -> None:
            self.found.add(plain(node.schemaname, node.relname))


def _on_version_table(node: Any) -> bool:
    relation = getattr(node, "relation", None)
    return getattr(relation, "relname", "") == "alembic_version"


def _constraints(elements: Iterable[Any]) -> list[Any]:
    found = []
    for element in elements:
        found += [element] if isinstance(element, ast.Constraint) else list(getattr(element, "constraints", None) or ())
    return found


def _volatile(node: Any) -> bool:
    """Whether a default may give each row another value; unknown functions may."""
    if isinstance(node, ast.FuncCall):
        function = node.funcname[-1].sval
        return function in _VOLATILE or function not in _STABLE or any(_volatile(argument) for argument in node.args or ())
    if isinstance(node, ast.TypeCast):
        return _volatile(node.arg)
    return not isinstance(node, (ast.A_Const, ast.SQLValueFunction, ast.A_ArrayExpr, ast.A_Expr))


def _constant(node: Any) -> str | None:
    if isinstance(node, ast.TypeCast):
        node = node.arg
    value = getattr(node, "val", None) if isinstance(node, ast.A_Const) else None
    return getattr(value, "sval", None)


def _partition_column(arguments: Any) -> str | None:
    if len(arguments) < 2:
        return None
    second = arguments[1]
    if isinstance(second, ast.FuncCall) and second.args:
        return _constant(second.args[0])
    return _constant(second)
