#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore
short_description: Go back to a backup of a PostgreSQL or TimescaleDB database, and say first what that loses
version_added: 1.1.0
description:
  - Restores a backup into a new database beside the live one, compares it with the backup's manifest row by row count, and
    gives it the live one's name. The old database is kept under another name until it is dropped on purpose.
  - Nothing is written before all of this is known. The backup is whole by its checksum, the role is a superuser, server, client
    and extensions have the backup's versions, the roles exist, and what would be lost is accepted.
  - Rows that the backup does not hold are told by the transactions that wrote them, so late arrivals and changed rows count
    as well. In another cluster, and in a database that was itself restored since the backup, they are estimated by the newest
    time and the numbers of rows.
  - A run that was killed is completed by running it again. What it left is known by a comment on the database.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
  - signal.rollout._postgresql
attributes:
  check_mode:
    support: full
    details:
      - Reads what would be lost, whatever the state. Nothing is written.
  diff_mode:
    support: none
  idempotent:
    support: full
  in_process:
    support: full
options:
  state:
    description:
      - V(plan) reads what would be lost, and changes nothing.
      - V(prepared) has a restored and compared database beside the live one.
      - V(swapped) has it in use under the name O(target). It is prepared first where that is missing. The live database takes no
        connections while its newest rows are counted and both are renamed, its sessions are ended.
      - V(returned) has the old database in use again. Rows written since the swap are lost, and asked for like the others.
      - V(cleaned) drops all databases of earlier restores that are not in use.
    type: str
    required: true
    choices:
      - plan
      - prepared
      - swapped
      - returned
      - cleaned
  src:
    description:
      - The backup, as O(ignore:file) in the result of M(signal.rollout.database_backup). Its manifest lies beside it.
      - Required for O(state=plan), O(state=prepared) and O(state=swapped).
    type: path
  target:
    description:
      - Name of the live database. O(login_db) must be another one, such as V(postgres).
    type: str
    required: true
  accept_data_loss:
    description:
      - The most rows that may be lost, or V(yes) for any number. Without it a restore that would lose a row is refused.
    type: str
    default: ''
  owner:
    description:
      - Role that owns the database when there is no live one to take the owner from. The default is O(login_user).
    type: str
  jobs:
    description:
      - How many connections restore at a time. More than 1 is refused for TimescaleDB, whose catalog would not survive it, and for an
        encrypted backup.
    type: int
    default: 1
  client_dir:
    description:
      - Folder with C(pg_restore) of the server's major version. Without it the one on the E(PATH) is taken.
    type: path
  timeout:
    description:
      - The longest time that one statement or the restoring program may take, in seconds.
    type: float
    default: 3600.0
  keep_old:
    description:
      - Whether O(state=swapped) keeps the old database. Otherwise there is no way back from the restore.
    type: bool
    default: true
  decrypt:
    description:
      - How an encrypted backup is read. GPG takes the key from the user's own keyring and needs no option.
    type: dict
    suboptions:
      identity_file:
        description:
          - File with the age identity.
        type: path
        required: true
seealso:
  - module: signal.rollout.database_backup
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: See what going back would lose
  signal.rollout.database_restore:
    state: plan
    login_user: postgres
    login_password: "{{ rollout_db_restore_password }}"
    login_db: postgres
    target: signal_db
    src: /var/backups/signal/signal_db-20261128T210000Z.dump
  register: plan

- name: Go back, losing no more rows than were shown
  signal.rollout.database_restore:
    state: swapped
    login_user: postgres
    login_password: "{{ rollout_db_restore_password }}"
    login_db: postgres
    target: signal_db
    src: /var/backups/signal/signal_db-20261128T210000Z.dump
    accept_data_loss: "{{ plan.loss.written }}"

- name: Drop what is not in use any more
  signal.rollout.database_restore:
    state: cleaned
    login_user: postgres
    login_password: "{{ rollout_db_restore_password }}"
    login_db: postgres
    target: signal_db
"""

RETURN = r"""
state:
  description: The state that was asked for.
  returned: success
  type: str
  sample: swapped
loss:
  description:
    - What is lost. C(written) counts rows that are gone, C(removed) rows that come back. C(exact) says whether all were told by their
      transactions. C(tables) has the same for each table.
    - None where nothing was counted.
  returned: always, unless it failed before it was counted
  type: dict
  sample:
    written: 129
    removed: 17
    exact: true
    tables:
      - table: public.signal_greeks
        rows: 698
        backup_rows: 577
        written: 121
        removed: 0
        method: transaction
        newest: "2026-01-08 00:00:00+00"
databases:
  description: The live database, and those that restores have left for it.
  returned: success
  type: list
  elements: dict
  sample:
    - name: signal_db
      state: live
      accepts_connections: true
      owner: signal_owner
compared:
  description: Number of tables that were compared with the manifest, every row counted.
  returned: success
  type: int
  sample: 3
next:
  description: What can be done next.
  returned: success
  type: str
  sample: "state: returned takes the old database back; state: cleaned drops it"
"""

from ansible_collections.signal.rollout.plugins.module_utils import _database_restore
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_database_restore)


if __name__ == "__main__":
    main()
