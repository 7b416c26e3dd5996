#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: schema_migration
short_description: Migrates a PostgreSQL database by Alembic, one run at a time
version_added: 1.1.0
description:
  - Runs the release's Alembic scripts in an interpreter of their own, and says by what the database holds where it ended.
  - A state that a migration would make worse is refused before anything is written. That is more than one head, more than one row
    in Alembic's table, a revision that the release does not have, a divergent branch, a standby, and a connection through a pooler.
  - An advisory lock on a direct connection lets one run at a time migrate a database. Every connection that C(env.py) opens must see that
    lock, so that a script cannot migrate another database than O(login_db).
  - A statement waits for a lock no longer than O(lock_timeout), since queries of the running version wait behind it. Such an attempt is
    made again after a pause, and who was in the way is returned.
  - The scripts die with the run. The server then ends their statement within a second (PostgreSQL 14 and newer).
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
  - signal.rollout._postgresql
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - The revisions are in RV(before) and RV(after).
  idempotent:
    support: full
  in_process:
    support: full
options:
  state:
    description:
      - V(upgraded) brings the database to O(revision).
      - V(rehearsed) restores O(backup) into a database of its own, migrates that, tries O(stable_queries) on it, and drops it. The live database is
        only read.
      - V(downgraded) brings it back to O(revisions). It is refused where that takes rows or values away, without O(accept_data_loss).
      - V(shown) reads where it stands and what is pending. A state that cannot be migrated is then returned as RV(problem).
      - V(plan) also writes out the pending statements, with what each locks, and what the running version would not stand. It fails for
        a state that cannot be migrated, and not for findings. Check mode with V(upgraded) does the same and fails for findings too.
      - V(shown) and V(plan) are about the way back when O(revisions) is given.
    type: str
    required: true
    choices:
      - shown
      - plan
      - rehearsed
      - upgraded
      - downgraded
  alembic_ini:
    description:
      - Alembic's configuration file. Its folder is the working directory of the scripts.
      - C(env.py) finds host, port, user and database in the usual variables of the client library, E(PGHOST) and so on.
    type: path
    required: true
  alembic_command:
    description:
      - The C(alembic) program. The interpreter that its first line names runs the scripts.
      - Without this and O(python), the interpreter that runs the module does.
    type: str
  python:
    description:
      - The interpreter that Alembic and the scripts' own libraries are installed for.
    type: path
  environment:
    description:
      - Further environment variables for the scripts. Do not put secrets here, they would be shown.
    type: dict
    default: {}
  revision:
    description:
      - Where to go, the id of a revision or V(head).
    type: str
    default: head
  revisions:
    description:
      - Where to go back to, what RV(before) was before the migration. It is a list of one revision, V(base) for none.
    type: list
    elements: str
    default: []
  accept_data_loss:
    description:
      - What a downgrade may take away. V(yes) stands for everything, a number for so many rows and values at most, counted as in RV(loss).
      - What could not be counted, and statements whose effect is not known, take a V(yes).
    type: str
    default: ''
  scratch_db:
    description:
      - A database on the same server, restored from a backup of O(login_db), which is migrated first. When that fails, nothing else is done.
      - It must be at the same revision. It is migrated afterwards, and must be restored anew for the next rehearsal.
    type: str
  stable_queries:
    description:
      - A file of SQL statements that the running version sends, with values in place of parameters. Each is run on the migrated O(scratch_db), or
        on the copy of O(state=rehearsed), in a transaction that is rolled back. When one fails, nothing else is done.
    type: path
  backup:
    description:
      - A backup of O(login_db) for O(state=rehearsed), as RV(signal.rollout.database_backup#module:file). Its manifest lies beside it.
    type: path
  client_dir:
    description:
      - Folder with C(pg_restore) for O(state=rehearsed). Without it the one on the E(PATH) is taken.
    type: path
  scratch_login_user:
    description:
      - Superuser who restores the copy for O(state=rehearsed). TimescaleDB cannot be restored by any other role.
    type: str
  scratch_login_password:
    description:
      - Password of that superuser.
    type: str
  scratch_login_db:
    description:
      - Database that the superuser connects to first.
    type: str
    default: postgres
  version_table:
    description:
      - Alembic's table, with its schema or without.
    type: str
    default: alembic_version
  from_base:
    description:
      - Accept a database that has no revision at all. Without this it is taken for the wrong one.
    type: bool
    default: false
  expand_only:
    description:
      - What to do when a pending statement takes something away that the running version may use, or refuses what it may write.
        Dropped or renamed columns and tables, columns that become required, new constraints on old tables are such statements.
      - V(refuse) fails before anything is written, V(warn) goes on with a warning, V(ignore) does not look.
      - It is judged by the SQL that Alembic writes out without a database, by the linter squawk and by rules of this collection.
    type: str
    default: refuse
    choices:
      - refuse
      - warn
      - ignore
  lock_timeout:
    description:
      - How long a statement may wait for a lock, in seconds, 0.01 to 60. For so long the queries of the running version wait behind it.
    type: float
    default: 1.0
  statement_timeout:
    description:
      - How long one statement may take, in seconds.
    type: float
    default: 600.0
  timeout:
    description:
      - How long all may take, attempts and pauses included, in seconds.
    type: float
    default: 1800.0
  retries:
    description:
      - How many more attempts are made when a lock was not free in time, or two transactions were in each other's way.
    type: int
    default: 9
  retry_delay:
    description:
      - Pause before the second attempt, in seconds. Each further pause is twice as long, up to a minute.
    type: float
    default: 5.0
notes:
  - The role must own the schema. With C(pg_read_all_stats) it sees the statements of those in its way.
  - What a script has committed outside of its transaction and that is no object of the schema (rows, above all) is not seen by RV(outcome).
  - The password is handed to the scripts in the environment of their process, which only the same user can read.
requirements:
  - pglast >= 7 (Python library) and squawk-cli >= 2 (program), unless O(expand_only=ignore) outside check mode
  - Alembic >= 1.13 and SQLAlchemy >= 2.0, for the interpreter that runs the scripts
seealso:
  - module: signal.rollout.hypertable_verify
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Migrate to the release's newest revision
  signal.rollout.schema_migration:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    ssl_mode: verify-full
    state: upgraded
    alembic_ini: /srv/releases/v2/migrations/alembic.ini
    alembic_command: /srv/releases/v2/venv/bin/alembic

- name: Go back to where the database was before the release
  signal.rollout.schema_migration:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    state: downgraded
    revisions: ["0001"]
    accept_data_loss: 5000
    alembic_ini: /srv/releases/v2/migrations/alembic.ini

- name: See what is pending
  signal.rollout.schema_migration:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    state: shown
    alembic_ini: /srv/releases/v2/migrations/alembic.ini
"""

RETURN = r"""
outcome:
  description:
    - V(at_target) when the database is at the revision that was asked for, V(unchanged) when it is as it was before.
    - V(indeterminate) when it is neither, or could not be read. RV(objects) names what exists then.
    - It is null where nothing was run. The task fails unless it is V(at_target) or null.
  returned: always
  type: str
  sample: at_target
before:
  description: The rows of Alembic's table before.
  returned: always
  type: list
  elements: str
  sample: ["0001"]
after:
  description: The rows of Alembic's table afterwards.
  returned: always
  type: list
  elements: str
  sample: ["0004"]
heads:
  description: The release's newest revisions, one unless it is broken.
  returned: always
  type: list
  elements: str
  sample: ["0004"]
pending:
  description: The revisions that were to be applied, or undone, in that order.
  returned: always
  type: list
  elements: dict
  contains:
    revision:
      description: Its id.
      returned: always
      type: str
      sample: "0002"
    title:
      description: First line of the script.
      returned: always
      type: str
      sample: History of computed Greeks.
  sample:
    - revision: "0002"
      title: History of computed Greeks.
problem:
  description: Why the database cannot be migrated, with O(state=shown); null when it can.
  returned: always
  type: str
  sample: null
statements:
  description: The pending statements, where they were looked at.
  returned: always
  type: list
  elements: dict
  contains:
    sql:
      description: Its text.
      returned: always
      type: str
      sample: ALTER TABLE logs ADD COLUMN version text
    revision:
      description: The revision it belongs to.
      returned: always
      type: str
      sample: "0004"
    lock:
      description: Its strongest lock on something that existed before, null when there is none.
      returned: always
      type: str
      sample: ACCESS EXCLUSIVE
    relations:
      description: What it locks, each as C(relation) and C(lock).
      returned: always
      type: list
      elements: dict
      sample:
        - relation: logs
          lock: ACCESS EXCLUSIVE
    chunks:
      description: Number of chunks that are locked with their hypertables.
      returned: always
      type: int
      sample: 12
    blocks_reads:
      description: Whether queries wait for it.
      returned: always
      type: bool
      sample: true
    blocks_writes:
      description: Whether inserts and updates wait for it.
      returned: always
      type: bool
      sample: true
    rewrites:
      description: Whether it writes every row of a table.
      returned: always
      type: bool
      sample: false
    scans:
      description: Whether it reads every row of a table.
      returned: always
      type: bool
      sample: false
    unknown:
      description: Why its locks are not known, null when they are.
      returned: always
      type: str
      sample: null
  sample: []
findings:
  description: What speaks against the pending statements, the worst first.
  returned: always
  type: list
  elements: dict
  contains:
    level:
      description: V(fails) when PostgreSQL will refuse it, V(breaks) when the running version may not stand it, else V(warns).
      returned: always
      type: str
      sample: breaks
    rule:
      description: Name of the rule.
      returned: always
      type: str
      sample: ban-drop-column
    source:
      description: Whose rule it is, V(squawk) or V(signal.rollout).
      returned: always
      type: str
      sample: signal.rollout
    message:
      description: What is wrong.
      returned: always
      type: str
      sample: logs.level is dropped, which the running version may use
    revision:
      description: The revision of the statement.
      returned: always
      type: str
      sample: "0005"
    sql:
      description: The statement.
      returned: always
      type: str
      sample: ALTER TABLE logs DROP COLUMN level
  sample: []
loss:
  description:
    - What a downgrade takes away, by its statements that drop or empty tables and columns which hold something.
    - It is counted before the lock is taken. Rows that are written meanwhile come on top.
  returned: always
  type: list
  elements: dict
  contains:
    table:
      description: The table, null for a statement whose effect is not known before it runs.
      returned: always
      type: str
      sample: logs
    column:
      description: The column, null when the whole table goes.
      returned: always
      type: str
      sample: version
    rows:
      description: Rows of the table, or rows in which the column has a value, counted up to a million. Null when counting took too long.
      returned: always
      type: int
      sample: 1024
    revision:
      description: The revision that is undone.
      returned: always
      type: str
      sample: "0004"
  sample: []
proofs:
  description: What the rehearsal proves, for O(signal.rollout.release_checklist#module:proofs).
  returned: with O(state=rehearsed)
  type: dict
  sample:
    infrastructure.migrations_tested: {state: proven, evidence: "0002, 0003, 0004 on a restored copy in 2.5 s, 6 queries of the running version pass"}
rehearsed:
  description: The rehearsal on O(scratch_db) or on a restored copy, null when there was none.
  returned: always
  type: dict
  contains:
    database:
      description: The database.
      returned: always
      type: str
      sample: signal_db_scratch_20261128053000123
    seconds:
      description: How long the migration took there.
      returned: always
      type: float
      sample: 2.5
    backup:
      description: The backup that was restored.
      returned: with O(state=rehearsed)
      type: str
      sample: signal_db-rehearsal-20261128T053000Z.dump
    tables:
      description: Tables that were restored and compared with the manifest.
      returned: with O(state=rehearsed)
      type: int
      sample: 5
    rows:
      description: Their rows.
      returned: with O(state=rehearsed)
      type: int
      sample: 51001
    queries:
      description: Number of queries of O(stable_queries).
      returned: always
      type: int
      sample: 14
    failed:
      description: Those that failed, with their lines.
      returned: always
      type: list
      elements: str
      sample: []
  sample: null
attempts:
  description: How often the scripts were run.
  returned: always
  type: int
  sample: 1
blockers:
  description: Who kept an attempt waiting for a lock.
  returned: always
  type: list
  elements: dict
  contains:
    attempt:
      description: Number of the attempt, from 1.
      returned: always
      type: int
      sample: 1
    pid:
      description: Process id of the session, 0 for a prepared transaction.
      returned: always
      type: int
      sample: 4711
    user:
      description: Its role.
      returned: always
      type: str
      sample: signal_user
    application:
      description: What it calls itself.
      returned: always
      type: str
      sample: signal-service v1
    client:
      description: Its address.
      returned: always
      type: str
      sample: 10.0.3.17
    state:
      description: What it does.
      returned: always
      type: str
      sample: idle in transaction
    transaction_seconds:
      description: For how long its transaction is open.
      returned: always
      type: float
      sample: 312.4
    query:
      description: The beginning of its last statement.
      returned: always
      type: str
      sample: SELECT time, price FROM signal_ticks
    relation:
      description: The table that is waited for.
      returned: always
      type: str
      sample: logs
    mode:
      description: The lock that is waited for.
      returned: always
      type: str
      sample: AccessExclusiveLock
  sample: []
locked_by:
  description: Sessions of another run, when that has the lock. The keys are some of those of RV(blockers).
  returned: always
  type: list
  elements: dict
  sample: []
objects:
  description: What came, went or changed in the schema, when RV(outcome=indeterminate).
  returned: always
  type: list
  elements: str
  sample: []
invalid_indexes:
  description: Indexes that PostgreSQL does not use, left by a creation that failed.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the index.
      returned: always
      type: str
      sample: signal_greeks_instrument_time_idx
    table:
      description: Name of its table.
      returned: always
      type: str
      sample: signal_greeks
  sample: []
seconds:
  description: How long it took, in seconds.
  returned: always
  type: float
  sample: 1.27
"""

from ansible_collections.signal.rollout.plugins.module_utils import _schema_migration
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_schema_migration)


if __name__ == "__main__":
    main()
