#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_indexes
short_description: Create declared indexes in a PostgreSQL or TimescaleDB database that is in use
version_added: 1.1.0
description:
  - Creates the indexes of an SQL file, or of a list, that the database does not have yet, without holding up its writers where that
    is possible. A plain table takes C(CREATE INDEX CONCURRENTLY), a hypertable C(WITH (timescaledb.transaction_per_chunk)).
  - Each declared index is first created on an empty temporary copy of its table and rolled back. So PostgreSQL itself says whether
    the declaration is correct, and whether the index that has its name is the same. All problems are named before the first write.
  - An invalid index, as a failed or killed creation leaves it, is dropped and created again. A run that is killed at any time is
    completed by the next.
  - A statement that does not get its lock in time gives way to the application, and is tried again. Who held the lock is in the message.
extends_documentation_fragment:
  - signal.rollout._postgresql
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
attributes:
  check_mode:
    support: full
    details:
      - The temporary copies are made in check mode too, and rolled back.
  diff_mode:
    support: none
  idempotent:
    support: full
  in_process:
    support: full
options:
  src:
    description:
      - File of C(CREATE INDEX) statements, on the host that the task runs on.
      - C(CONCURRENTLY) and C(IF NOT EXISTS) may be there or not, since the module decides about both. Every index needs a name.
      - Settings of the session and transactions are passed over and listed in RV(passed_over), except C(search_path) and roles, which
        are refused like every other statement.
      - One of O(src) and O(indexes) is required.
    type: path
  indexes:
    description:
      - The indexes as a list.
    type: list
    elements: dict
    suboptions:
      table:
        description:
          - Name of the table, as V(name) or V(schema.name). Without a schema the search path of the role finds it.
        type: str
        required: true
      name:
        description:
          - Name of the index.
        type: str
        required: true
      definition:
        description:
          - What follows the table's name in C(CREATE INDEX), for example V((instrument, time DESC)) or V(USING gin (payload\)).
        type: str
        required: true
      unique:
        description:
          - Whether the index is unique.
        type: bool
        default: false
  concurrently:
    description:
      - V(auto) creates without blocking writes where that is possible. It is not for a unique index on a hypertable and for any index on
        a partitioned table. RV(indexes[].method) says what was used.
      - V(never) is for an empty database. It is faster, and blocks writes.
    type: str
    default: auto
    choices:
      - auto
      - never
  invalid:
    description:
      - What is done about a declared index that is there and invalid. V(rebuild) drops and creates it, V(report) fails.
      - Invalid indexes of the same tables that are not declared are never dropped. They are listed in RV(leftovers), with a warning.
    type: str
    default: rebuild
    choices:
      - rebuild
      - report
  lock_timeout:
    description:
      - How long a statement may wait for a lock, in seconds. Writers may have to wait behind it for so long.
    type: float
    default: 1.0
  retries:
    description:
      - How often a statement that did not get its lock is tried again.
    type: int
    default: 9
  retry_delay:
    description:
      - Pause before such a try, in seconds.
    type: float
    default: 5.0
  timeout:
    description:
      - How long the whole task may take, in seconds. After that the statement is stopped.
    type: float
    default: 1800.0
  progress_interval:
    description:
      - How often progress is told while an index is created, in seconds.
    type: float
    default: 10.0
notes:
  - Needs a role that is the owner of the tables or a member of it, and the privilege C(TEMPORARY) on the database, which everybody has by default.
  - Two runs on one database take turns, by an advisory lock. It needs a direct connection, not one through a pooler.
  - The tablespace of an index is not compared.
seealso:
  - module: signal.rollout.hypertable_verify
  - module: community.postgresql.postgresql_idx
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Create the indexes of version 2
  signal.rollout.database_indexes:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    ssl_mode: verify-full
    src: releases/v2/sql/create_indexes.sql

- name: Create one index, and give way to the application for at most a tenth of a second at a time
  signal.rollout.database_indexes:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    indexes:
      - table: signal_greeks
        name: signal_greeks_instrument_time_idx
        definition: (instrument, time DESC)
    lock_timeout: 0.1
    retries: 100
    retry_delay: 2
"""

RETURN = r"""
indexes:
  description: One entry for each declared index, in their order. After a failure too, as far as it got.
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
      description: Its table, with the schema.
      returned: always
      type: str
      sample: public.signal_greeks
    kind:
      description: V(table), V(hypertable), V(partitioned table) or V(materialized view).
      returned: always
      type: str
      sample: hypertable
    action:
      description: V(created), V(rebuilt) or V(unchanged). What would be done in check mode, what was to be done after a failure.
      returned: always
      type: str
      sample: created
    method:
      description: V(concurrently), V(transaction_per_chunk) or V(blocks_writes), null when nothing is to be done.
      returned: always
      type: str
      sample: transaction_per_chunk
    statement:
      description: The statement that creates it, null when nothing is to be done.
      returned: always
      type: str
      sample: >-
        CREATE INDEX "signal_greeks_instrument_time_idx" ON "public"."signal_greeks" (instrument, time DESC)
        WITH (timescaledb.transaction_per_chunk)
    valid:
      description: Whether the index is valid now, null when it does not exist.
      returned: always
      type: bool
      sample: true
    attempts:
      description: How many tries it took.
      returned: always
      type: int
      sample: 1
    seconds:
      description: How long it took, with all tries.
      returned: always
      type: float
      sample: 12.408
  sample:
    - name: signal_greeks_instrument_time_idx
      table: public.signal_greeks
      kind: hypertable
      action: unchanged
      method: null
      statement: null
      valid: true
      attempts: 0
      seconds: 0.0
leftovers:
  description: Invalid indexes of the declared tables that are not declared themselves.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the index.
      returned: always
      type: str
      sample: signal_greeks_time_idx_ccnew
    table:
      description: Its table, with the schema.
      returned: always
      type: str
      sample: public.orders
    drop:
      description: Statement that drops it.
      returned: always
      type: str
      sample: DROP INDEX CONCURRENTLY "public"."signal_greeks_time_idx_ccnew"
  sample: []
passed_over:
  description: Statements of O(src) that were not run.
  returned: always
  type: list
  elements: str
  sample: ["SET lock_timeout = '5s'"]
seconds:
  description: How long it took, in seconds.
  returned: always
  type: float
  sample: 12.6
"""

from ansible_collections.signal.rollout.plugins.module_utils import _database_indexes
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_database_indexes)


if __name__ == "__main__":
    main()
