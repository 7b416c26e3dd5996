#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: hypertable_verify
short_description: Compare declared TimescaleDB hypertables with the live database
version_added: 1.0.0
description:
  - Compares what is declared about hypertables with what the database holds, and fails with every difference named.
  - For each table it checks that it exists, that it is a hypertable, its time column and type, its chunk interval, its
    space dimensions, its number of chunks, its owner, its indexes and its privileges. What is not declared is not
    checked, with one exception. Every index of a declared hypertable must be there, valid and ready on every chunk.
  - All is read in one read-only snapshot with at most 8 statements, however many tables and chunks there are.
  - In the Apache edition of TimescaleDB, compression and policies cannot exist. Where they are declared, the verdict is
    V(unsupported_license) then, and not a missing policy.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
  - signal.rollout._postgresql
options:
  hypertables:
    description:
      - Hypertables that must exist, and what must be true of them.
    type: list
    elements: dict
    default: []
    suboptions:
      table:
        description:
          - Name of the table, without its schema.
        type: str
        required: true
      schema:
        description:
          - Schema of the table.
        type: str
        default: public
      time_column:
        description:
          - Name of the column that the hypertable is partitioned by first.
        type: str
      time_type:
        description:
          - Data type of that column, as PostgreSQL prints it or in a common short form such as V(timestamptz).
        type: str
      chunk_interval:
        description:
          - How much time one new chunk covers, for example V(1 day), V(12 hours) or V(7d). A month counts 30 days.
          - A bare number is the interval of an integer time column.
        type: str
      space_dimensions:
        description:
          - The further dimensions. An empty list says that there must be none.
        type: list
        elements: dict
        suboptions:
          column:
            description:
              - Name of the column.
            type: str
            required: true
          partitions:
            description:
              - Number of hash partitions.
            type: int
      min_chunks:
        description:
          - How many chunks there must be at least.
        type: int
      owner:
        description:
          - Role that must own the table and all its chunks.
        type: str
      indexes:
        description:
          - Indexes that the table must have.
          - An element is the name of an index, or a dictionary with C(columns) (the list of columns in their order) and
            optionally C(unique). A partial index never counts for a dictionary.
        type: list
        elements: raw
      privileges:
        description:
          - Privileges that roles must hold on the table, as a list of names by role. The role V(public) stands for everybody.
          - Known names are C(SELECT), C(INSERT), C(UPDATE), C(DELETE), C(TRUNCATE), C(REFERENCES) and C(TRIGGER).
          - The role must also be allowed to use the schema.
        type: dict
      compression:
        description:
          - Whether compression must be on, or off.
        type: bool
      policies:
        description:
          - Policies that must be scheduled for the table.
        type: dict
        suboptions:
          retention:
            description:
              - Age after which chunks are dropped, as an interval.
            type: str
          compression:
            description:
              - Age after which chunks are compressed, as an interval.
            type: str
          reorder:
            description:
              - Name of the index that chunks are reordered by.
            type: str
  tables:
    description:
      - Plain tables that must exist, as V(name) or V(schema.name), with valid indexes.
    type: list
    elements: str
    default: []
  prefix:
    description:
      - Every table whose name starts with this text is listed in RV(existing). The characters C(_) and C(%) stand for themselves.
      - A plain table among them that is not declared in O(tables) is a difference, and so is finding no table at all.
    type: str
  canary_insert:
    description:
      - Insert one row into each declared hypertable, see which chunk takes it, and roll it back.
      - The row is a copy of one in the newest chunk, one microsecond later. An empty table gets a made-up row of the present time.
      - Triggers fire, and sequences do not go back. The role needs C(SELECT) and C(INSERT).
      - Left out in check mode, with a warning. It takes up to three statements per table.
    type: bool
    default: false
  state:
    description:
      - V(verified) compares and fails on a difference.
      - V(suggest) returns the declaration that the database satisfies as it is, of the tables named by O(prefix) and
        O(hypertables), or of every hypertable without O(prefix).
    type: str
    default: verified
    choices:
      - verified
      - suggest
  query_timeout:
    description:
      - How long one statement may take, in seconds.
    type: float
    default: 30.0
notes:
  - Reading needs no privilege on the tables, since only catalogs are read.
  - Versions 2.14 to 2.29 of TimescaleDB have the columns that are read. All of it has been tried on a server with version 2.19 of the
    Apache edition. The other versions, and the checks of compression and policies, which read C(timescaledb_information.jobs), have
    been tried on a real server with tables in the place of these views.
  - Run as a superuser, it warns. The role needs no more than C(USAGE) of the schema.
seealso:
  - module: community.postgresql.postgresql_query
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Verify the hypertables of version 2
  signal.rollout.hypertable_verify:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    ssl_mode: verify-full
    prefix: signal_
    hypertables:
      - table: signal_greeks
        time_column: time
        time_type: timestamptz
        chunk_interval: 1 day
        owner: signal_owner
        indexes:
          - signal_greeks_instrument_time_idx
          - columns: [instrument, time]
            unique: true
        privileges:
          signal_user: [SELECT, INSERT]
    tables:
      - signal_subscriptions

- name: Prove that rows are routed into chunks
  signal.rollout.hypertable_verify:
    login_host: timescaledb.example.com
    login_user: signal_user
    login_password: "{{ application_db_password }}"
    login_db: signal_db
    hypertables:
      - table: signal_greeks
    canary_insert: true

- name: Print a declaration of what exists, to start an inventory with
  signal.rollout.hypertable_verify:
    login_host: timescaledb.example.com
    login_user: signal_owner
    login_password: "{{ rollout_db_owner_password }}"
    login_db: signal_db
    state: suggest
  register: found

- name: Show it
  ansible.builtin.debug:
    msg: "{{ found.suggestion_yaml }}"
"""

RETURN = r"""
verdict:
  description:
    - V(pass) when everything is as declared, V(fail) when something is not, V(unsupported_license) when only what this edition
      of TimescaleDB cannot do is missing, V(suggested) with O(state=suggest), V(error) when there was no answer.
    - The task fails unless it is V(pass) or V(suggested). All keys are returned then too.
  returned: always
  type: str
  sample: pass
tables:
  description: One entry for each declared table, then for each table that was found by O(prefix) only.
  returned: always
  type: list
  elements: dict
  contains:
    table:
      description: Name with its schema.
      returned: always
      type: str
      sample: public.signal_greeks
    verdict:
      description:
        - V(pass), V(missing), V(not_hypertable), V(mismatch), V(undeclared) or V(unsupported_license).
      returned: always
      type: str
      sample: mismatch
    kind:
      description: What the table is, null when it does not exist.
      returned: always
      type: str
      sample: hypertable
    chunks:
      description: Number of chunks.
      returned: always
      type: int
      sample: 12
    canary_chunk:
      description: Chunk that took the canary row, null when none did.
      returned: when O(canary_insert=true), for hypertables
      type: str
      sample: _timescaledb_internal._hyper_1_12_chunk
    problems:
      description: What is not as declared.
      returned: always
      type: list
      elements: dict
      contains:
        check:
          description: What was checked, the name of the suboption in most cases.
          returned: always
          type: str
          sample: chunk_interval
        seen:
          description: What the database holds.
          returned: always
          type: str
          sample: 7 days
        expected:
          description: What was declared.
          returned: always
          type: str
          sample: 1 day
        message:
          description: Table, check, what was seen and what was expected in one line.
          returned: always
          type: str
          sample: "public.signal_greeks: chunk_interval: 7 days; expected 1 day"
        next:
          description: What to do about it, an SQL statement in most cases.
          returned: always
          type: str
          sample: SELECT set_chunk_time_interval('public.signal_greeks', INTERVAL '1 day') (counts for new chunks)
  sample:
    - table: public.signal_greeks
      verdict: pass
      kind: hypertable
      chunks: 12
      problems: []
existing:
  description: Tables whose name starts with O(prefix).
  returned: always
  type: list
  elements: dict
  contains:
    table:
      description: Name with its schema.
      returned: always
      type: str
      sample: public.signal_greeks
    kind:
      description: What it is.
      returned: always
      type: str
      sample: hypertable
    chunks:
      description: Number of chunks.
      returned: always
      type: int
      sample: 12
  sample:
    - table: public.signal_greeks
      kind: hypertable
      chunks: 12
problems:
  description: Problems of the whole database, such as a restore that was never finished. The keys are those of RV(tables[].problems).
  returned: always
  type: list
  elements: dict
  sample: []
extension:
  description: The extension, null when the database was not reached.
  returned: always
  type: dict
  contains:
    version:
      description: Version of the extension in this database.
      returned: always
      type: str
      sample: 2.19.3
    catalog_version:
      description: Version that the extension's own catalog was written by.
      returned: always
      type: str
      sample: 2.19.3
    license:
      description: Value of C(timescaledb.license).
      returned: always
      type: str
      sample: apache
  sample:
    version: 2.19.3
    catalog_version: 2.19.3
    license: apache
server:
  description: The server, null when the database was not reached.
  returned: always
  type: dict
  contains:
    version:
      description: Version of the server.
      returned: always
      type: str
      sample: "17.6"
    database:
      description: Name of the database.
      returned: always
      type: str
      sample: signal_db
    in_recovery:
      description: Whether the server is a standby.
      returned: always
      type: bool
      sample: false
  sample:
    version: "17.6"
    database: signal_db
    in_recovery: false
suggestion:
  description: Values for O(hypertables) and O(tables) that the database satisfies.
  returned: when O(state=suggest)
  type: dict
  sample:
    hypertables:
      - table: signal_greeks
        schema: public
        owner: signal_owner
        time_column: time
        time_type: timestamp with time zone
        chunk_interval: 1 day
        space_dimensions: []
        indexes:
          - signal_greeks_time_idx
        privileges:
          signal_user:
            - SELECT
            - INSERT
    tables:
      - signal_subscriptions
suggestion_yaml:
  description: The same as YAML, to be copied into an inventory.
  returned: when O(state=suggest)
  type: str
  sample: |
    hypertables:
      - table: "signal_greeks"
        time_column: "time"
        chunk_interval: "1 day"
    tables:
      - "signal_subscriptions"
queries:
  description: Number of statements that were sent.
  returned: always
  type: int
  sample: 6
seconds:
  description: How long it took, in seconds.
  returned: always
  type: float
  sample: 0.061
"""

from ansible_collections.signal.rollout.plugins.module_utils import _hypertables
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_hypertables)


if __name__ == "__main__":
    main()
