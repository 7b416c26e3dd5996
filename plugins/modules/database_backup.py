#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_backup
short_description: Back up a PostgreSQL or TimescaleDB database, and prove that the backup can be read
version_added: 1.1.0
description:
  - Makes a backup with C(pg_dump) and, beside it, a manifest of what it holds. For each table the manifest has the exact number of rows,
    the first and last time, the chunks, indexes and constraints, all seen in the very snapshot that is dumped.
  - A backup gets its name only when it is complete, on the disk and, by default, read back in full. When the run is killed, the disk
    fills up or the connection is lost, there is no file under that name.
  - Files are for their owner only. No shell is used, and no password is on a command line or on the disk.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
  - signal.rollout._postgresql
attributes:
  check_mode:
    support: full
    details:
      - Connects, compares versions and free space, and says what would be made and removed. Nothing is written.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Every run with O(state=create) makes another backup.
  in_process:
    support: full
options:
  state:
    description:
      - V(create) makes a backup.
      - V(verify) reads the backup O(name), or the newest one of O(login_db). It connects to a database with O(verify=restored) only.
      - V(listed) returns the backups of O(login_db) in O(dest), and those that nobody can tell the database of.
    type: str
    default: create
    choices:
      - create
      - verify
      - listed
  dest:
    description:
      - Folder that the backups are kept in. It is made, for its owner only.
    type: path
    required: true
  name:
    description:
      - Name of the backup, without an ending. An existing one is never overwritten.
      - The default is the name of the database with the time in UTC.
    type: str
  format:
    description:
      - V(custom) is one file, V(directory) is a folder that several O(jobs) can write.
    type: str
    default: custom
    choices:
      - custom
      - directory
  compression:
    description:
      - V(zstd), V(lz4), V(gzip) or V(none), with a level after a colon.
      - A client that cannot do it falls back to gzip, with a warning.
    type: str
    default: zstd:3
  jobs:
    description:
      - How many tables are dumped at once with O(format=directory).
    type: int
    default: 1
  client_dir:
    description:
      - Folder of C(pg_dump) and C(pg_restore). The default is to find them on the E(PATH).
      - They must not be older than the server.
    type: path
  via:
    description:
      - V(local) runs C(pg_dump) and C(pg_restore) on the host of the task.
      - V(pod) runs them in the container O(pod), which is usually the database's own and so has those of the server's version. The backup is
        streamed through the Kubernetes API into O(dest), and back into the container to be read. No client is needed on the host. The
        container needs C(sh), which ends C(pg_dump) there when the connection is lost.
      - Either way rows are counted over a connection of the task's own to O(login_host), in the snapshot that is dumped.
      - With V(pod) the format is V(custom), and O(verify=restored) is not possible.
    type: str
    default: local
    choices:
      - local
      - pod
    version_added: 1.1.0
  pod:
    description:
      - The container for O(via=pod). Needs C(get) and C(list) on C(pods), and C(get) and C(create) on C(pods/exec), of Kubernetes 1.30 or newer.
    type: dict
    version_added: 1.1.0
    suboptions:
      name:
        description:
          - Name of the pod. One of O(pod.name) and O(pod.selector) is required.
        type: str
      selector:
        description:
          - Labels that exactly one ready pod has. Select the primary, for example V(app=postgres,role=primary).
        type: str
      container:
        description:
          - Name of the container. The default is the first one.
        type: str
      bin_dir:
        description:
          - Folder of C(pg_dump) and C(pg_restore) in the container. The default is to find them on its E(PATH).
        type: str
      login_host:
        description:
          - The database as the container reaches it, an address or the folder of its socket. It must be the server that O(login_host) is.
          - On an address of the container itself TLS is not asked for, on another O(ssl_mode) counts.
        type: str
        default: 127.0.0.1
      login_port:
        description:
          - Its port, there.
        type: int
        default: 5432
      kubeconfig:
        description:
          - As for the modules that work on Kubernetes, for example M(signal.rollout.workload_ready), as the next ones.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
        type: str
      host:
        description:
          - URL of the API server, for use with O(pod.api_key) instead of a kubeconfig file.
        type: str
      api_key:
        description:
          - Bearer token.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file.
        type: path
      namespace:
        description:
          - Namespace of the pod.
        type: str
        default: default
  timeout:
    description:
      - How long all of it may take, in seconds.
    type: float
    default: 3600.0
  lock_timeout:
    description:
      - How long to wait for the lock of one table, in seconds. A backup only needs the lock of a reader.
    type: float
    default: 10.0
  space_factor:
    description:
      - Free space that O(dest) must have, as a multiple of the size of the database.
    type: float
    default: 1.2
  verify:
    description:
      - V(read) reads the whole backup back, decompresses every block, and compares the rows in it with the manifest. A table of contents
        alone would prove nothing.
      - V(restored) does that, then restores the backup into a new database, compares everything with the manifest, and drops that database. It
        needs a superuser, see O(scratch_login_user), and as much time and space as a restore.
      - V(none) trusts C(pg_dump) with O(state=create), and compares checksums only with O(state=verify).
      - The default proves that the backup is readable and complete, not that it can be restored. V(zstd) has no checksum of its own, so a value
        that the disk changed before the backup's checksum was taken is not seen.
      - Rows of compressed chunks and continuous aggregates cannot be told from the dump, and are not compared.
    type: str
    default: read
    choices:
      - none
      - read
      - restored
  scratch_login_host:
    description:
      - Server that O(verify=restored) restores on. The default is O(login_host).
    type: str
  scratch_login_port:
    description:
      - Its port. The default is O(login_port).
    type: int
  scratch_login_user:
    description:
      - Superuser of that server. TimescaleDB cannot be restored by any other role. The default is O(login_user).
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
  keep:
    description:
      - Older backups of the same database that stay. The others are removed, after the new one is proved.
      - The newest whole backup, and the newest one that was verified, always stay. A damaged one is never removed.
    type: dict
    suboptions:
      count:
        description:
          - That many of the newest stay, the new one counted. V(0) leaves it to O(keep.days).
        type: int
        default: 0
      days:
        description:
          - What is younger stays. V(0) leaves it to O(keep.count).
        type: float
        default: 0.0
  encrypt:
    description:
      - For whom the backup is encrypted, before it touches the disk. Only with O(format=custom).
    type: dict
    suboptions:
      age_recipients:
        description:
          - Public keys for the program C(age).
        type: list
        elements: str
        default: []
      gpg_recipients:
        description:
          - Keys in the keyring of C(gpg), by fingerprint or address.
        type: list
        elements: str
        default: []
  decrypt:
    description:
      - How an encrypted backup is read with O(state=verify). For C(gpg) its own keyring is used.
    type: dict
    suboptions:
      identity_file:
        description:
          - Private key file for C(age).
        type: path
        required: true
  progress_interval:
    description:
      - Seconds between two lines of progress while C(pg_dump) runs.
    type: float
    default: 10.0
notes:
  - The role needs to read everything, C(pg_read_all_data) for example, and C(BYPASSRLS) where row security is used. It need not be a superuser.
  - Connect to the server itself. A pooler that shares sessions cannot hand out the snapshot.
  - No statement that rewrites or drops a table can run until the backup has ended. Reads and writes go on.
seealso:
  - module: community.postgresql.postgresql_db
author:
  - The signal.rollout authors (@signal-rollout)
"""

EXAMPLES = r"""
- name: Back up before a migration, and keep a week
  signal.rollout.database_backup:
    login_host: timescaledb.example.com
    login_user: signal_backup
    login_password: "{{ rollout_db_backup_password }}"
    login_db: signal_db
    ssl_mode: verify-full
    dest: /var/backups/signal
    keep:
      count: 3
      days: 7

- name: Back up for the holders of a key only
  signal.rollout.database_backup:
    login_host: timescaledb.example.com
    login_user: signal_backup
    login_password: "{{ rollout_db_backup_password }}"
    login_db: signal_db
    dest: /var/backups/signal
    encrypt:
      gpg_recipients: [dba@example.com]

- name: Read the newest backup again
  signal.rollout.database_backup:
    state: verify
    login_user: signal_backup
    login_db: signal_db
    dest: /var/backups/signal

- name: Back up by the programs that the database's own pod has
  signal.rollout.database_backup:
    login_host: timescaledb.example.com
    login_user: signal_backup
    login_password: "{{ backup_password }}"
    login_db: signal_db
    dest: /var/backups/signal
    via: pod
    pod:
      namespace: signal-data
      selector: app=timescaledb
"""

RETURN = r"""
file:
  description: Path of the backup, a folder with O(format=directory).
  returned: always
  type: str
  sample: /var/backups/signal/signal_db-20260102T030405Z.dump
manifest_file:
  description: Path of its manifest.
  returned: always
  type: str
  sample: /var/backups/signal/signal_db-20260102T030405Z.json
manifest:
  description: What the manifest holds. Empty in check mode, and when there is no backup.
  returned: always
  type: dict
  sample:
    version: 1
    database: signal_db
    alembic: ["0001"]
    snapshot: "765:765:"
    tables:
      - schema: public
        name: signal_ticks
        kind: hypertable
        rows: 50000
        chunks: 35
bytes:
  description: Size of the backup.
  returned: always
  type: int
  sample: 281400
sha256:
  description: SHA-256 of the backup. Of a folder it is that of the list of its files, as C(sha256sum) prints it.
  returned: always
  type: str
  sample: e2843d328e6f4d300123789ea3430411b1ce758760121d75c4152a0be7cca559
verified:
  description: What was proved, V(none), V(read) or V(restored).
  returned: always
  type: str
  sample: read
removed:
  description: Names of the backups that retention removed, or would remove in check mode.
  returned: always
  type: list
  elements: str
  sample: []
backups:
  description: The backups in O(dest), the newest first.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name for O(name).
      returned: always
      type: str
      sample: signal_db-20260102T030405Z
    file:
      description: Path of the backup.
      returned: always
      type: str
      sample: /var/backups/signal/signal_db-20260102T030405Z.dump
    problem:
      description: Why it cannot be relied on, as far as its manifest and size tell. Empty for a whole one.
      returned: always
      type: str
      sample: ""
    database:
      description: Database that it is of, empty when nobody can tell.
      returned: always
      type: str
      sample: signal_db
    created:
      description: When it was made, in UTC.
      returned: always
      type: str
      sample: "2026-01-02T03:04:05Z"
    format:
      description: Its format.
      returned: always
      type: str
      sample: custom
    bytes:
      description: Its size.
      returned: always
      type: int
      sample: 281400
    rows:
      description: Number of rows in all tables.
      returned: always
      type: int
      sample: 51001
    alembic:
      description: Revisions of the schema.
      returned: always
      type: list
      elements: str
      sample: ["0001"]
    encrypted:
      description: Program that it is encrypted with, V(age) or V(gpg). Empty when it is not.
      returned: always
      type: str
      sample: ""
    verified:
      description: What was proved when it was made.
      returned: always
      type: str
      sample: read
  sample: []
seconds:
  description: How long it took, in seconds.
  returned: always
  type: float
  sample: 0.99
"""

from ansible_collections.signal.rollout.plugins.module_utils import _database_backup
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_database_backup)


if __name__ == "__main__":
    main()
