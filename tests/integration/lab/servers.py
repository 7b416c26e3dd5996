# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL servers of one's own in the lab, a primary and its standby, on disks of a known size."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.signal.rollout.plugins.module_utils import _kube, _pod_process

from .conftest import wait_until

_DEPLOYMENT = _kube.path_of("apps", "v1", "deployments", "signal-data", "timescaledb")
_START = """
set -eu
as="setpriv --reuid postgres --regid postgres --init-groups" bin=/usr/lib/postgresql/17/bin
install -d -o postgres -m 700 /data/pg && install -d -o postgres /var/run/postgresql
if [ -n "$PRIMARY" ]; then
  $as "$bin/pg_basebackup" --dbname="host=$PRIMARY user=postgres" --pgdata=/data/pg --write-recovery-conf --checkpoint=fast --no-sync
else
  printf %s "$PGPASSWORD" >/tmp/password && chown postgres /tmp/password
  $as "$bin/initdb" -D /data/pg -A scram-sha-256 --pwfile=/tmp/password --no-sync -E UTF8 --locale=C.UTF-8
  printf 'host all all 0.0.0.0/0 scram-sha-256\\nhost replication all 0.0.0.0/0 scram-sha-256\\n' >>/data/pg/pg_hba.conf
fi
exec $as "$bin/postgres" -D /data/pg -c shared_preload_libraries=timescaledb -c timescaledb.telemetry_level=off -c listen_addresses='*' \
  -c fsync=off -c shared_buffers=16MB -c max_wal_size=64MB -c min_wal_size=32MB
"""


@dataclass
class Server:
    """One server, as its superuser reaches it."""

    container: _pod_process.Container
    host: str
    password: str

    @property
    def login(self) -> dict[str, Any]:
        return {"login_host": self.host, "login_port": 5432, "login_user": "postgres", "login_password": self.password}

    def connect(self, database: str = "postgres") -> Any:
        connection = psycopg2.connect(host=self.host, dbname=database, user="postgres", password=self.password, connect_timeout=3)
        connection.autocommit = True
        return connection

    def run(self, statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(statements)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        with contextlib.suppress(psycopg2.Error):
            return bool(self.run("select 1"))
        return False


@contextlib.contextmanager
def servers(kube: _kube.Kube) -> Iterator[Servers]:
    """A namespace to start servers in, gone with them at the end."""
    namespace = f"x-pg-{uuid.uuid4().hex[:8]}"
    kube.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        yield Servers(kube, namespace, uuid.uuid4().hex)
    finally:
        kube.delete(f"/api/v1/namespaces/{namespace}")


@dataclass
class Servers:
    """Starts servers that share one password."""

    kube: _kube.Kube
    namespace: str
    password: str

    def start(self, name: str, primary: Server | None = None, megabytes: int = 256) -> Server:
        image = self.kube.get(_DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["image"]
        container = {
            "name": "postgres", "image": image, "imagePullPolicy": "Never", "command": ["bash", "-c", _START],
            "env": [
                {"name": "PRIMARY", "value": primary.host if primary else ""},
                {"name": "PGPASSWORD", "value": self.password},
                {"name": "LANG", "value": "C.UTF-8"},
            ],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }  # fmt: skip
        spec = {
            "automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": 0, "containers": [container],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": f"{megabytes}Mi"}}],
        }  # fmt: skip
        pods = _kube.path_of("", "v1", "pods", self.namespace)
        self.kube.post(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        path = _kube.path_of("", "v1", "pods", self.namespace, name)
        host = wait_until(f"{name} has an address", lambda: self.kube.get(path)["status"].get("podIP"))
        server = Server(_pod_process.Container(self.kube, self.namespace, name, "postgres"), host, self.password)
        wait_until(f"{name} answers", server.answers, 60)
        return server
