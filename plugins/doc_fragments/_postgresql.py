# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the database server, or the absolute path of its socket directory.
      - URLs and connection strings are refused.
    type: str
    default: localhost
  login_port:
    description:
      - Port of the database server.
    type: int
    default: 5432
  login_user:
    description:
      - Role that opens the session.
    type: str
    required: true
  login_password:
    description:
      - Password of the role. It needs at least 8 characters, since masking a shorter text would mangle results.
      - Without it, the client library looks into its password file (E(PGPASSFILE), C(~/.pgpass)).
    type: str
  login_db:
    description:
      - Name of the database.
    type: str
    required: true
  ssl_mode:
    description:
      - How the connection is encrypted and the server is verified, in the words of the PostgreSQL client library.
      - V(verify-full) is what a production server should be reached with.
    type: str
    default: prefer
    choices:
      - disable
      - allow
      - prefer
      - require
      - verify-ca
      - verify-full
  ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed the server's certificate.
    type: path
  connect_timeout:
    description:
      - How long to wait for a connection, in seconds, 1 to 60. The client library waits 2 seconds at least.
    type: int
    default: 5
requirements:
  - psycopg2 >= 2.8 (Python library)
"""
