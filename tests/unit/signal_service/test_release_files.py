# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab and the collection take from the service's folder: manifests, migrations and SQL that fit together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from alembic.config import Config
from alembic.script import ScriptDirectory

SERVICE = Path(__file__).resolve().parents[3] / "lab" / "signal_service"
RELEASE = SERVICE / "release"
INI = RELEASE / "migrations" / "alembic.ini"


def _objects(folder: Path) -> dict[tuple[str, str], dict]:
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[document["kind"], document["metadata"]["name"]] = document
    return found


BASELINE = _objects(SERVICE / "baseline")
GREEN = _objects(RELEASE / "k8s")


def test_every_object_belongs_to_the_services_namespace():
    for document in (*BASELINE.values(), *GREEN.values()):
        assert document["metadata"]["namespace"] == "signal"


def test_the_release_touches_nothing_of_v1():
    assert not BASELINE.keys() & GREEN.keys()
    assert {name for _kind, name in GREEN} == {
        "signal-service-config-v2",
        "signal-service-secrets-v2",
        "signal-service-v2",
        "signal-service-green",
    }


@pytest.mark.parametrize(("objects", "version"), [(BASELINE, "v1"), (GREEN, "v2")])
def test_a_deployment_uses_the_configuration_of_its_version(objects, version):
    deployment = objects["Deployment", f"signal-service-{version}"]
    labels = {"app": "signal-service", "version": version}
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"] == labels
    (container,) = template["spec"]["containers"]
    assert container["name"] == "app"
    assert container["image"] == f"localhost/signal-service:{version}"
    config, secret = f"signal-service-config-{version}", f"signal-service-secrets-{version}"
    assert container["envFrom"] == [{"configMapRef": {"name": config}}, {"secretRef": {"name": secret}}]
    assert objects["ConfigMap", config]["immutable"] is True
    assert ("Secret", secret) in objects
    (volume,) = template["spec"]["volumes"]
    assert volume["configMap"] == {"name": f"signal-service-knobs-{version}", "optional": True}
    # The wait before TERM, the closing of connections and ten seconds for requests must fit.
    assert template["spec"]["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 10


def test_both_versions_run_under_the_same_limits():
    def container(objects: dict, version: str) -> dict:
        spec = objects["Deployment", f"signal-service-{version}"]["spec"]["template"]["spec"]["containers"][0]
        return {name: value for name, value in spec.items() if name not in ("image", "envFrom")}

    assert container(BASELINE, "v1") == container(GREEN, "v2")


def test_services_and_routes_fit_the_pods():
    main, green = BASELINE["Service", "signal-service"]["spec"], GREEN["Service", "signal-service-green"]["spec"]
    assert main["selector"] == {"app": "signal-service"}
    assert green["selector"] == {"app": "signal-service", "version": "v2"}
    assert (main["clusterIP"], green["clusterIP"]) == ("10.79.0.70", "10.79.0.71")
    headless = BASELINE["Service", "signal-service-pods"]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True
    subsets = {subset["name"]: subset["labels"] for subset in BASELINE["DestinationRule", "signal-service"]["spec"]["subsets"]}
    assert subsets == {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
    by_header, route = BASELINE["VirtualService", "signal-service"]["spec"]["http"]
    assert (by_header["name"], route["name"]) == ("by-header", "primary")
    assert [part["destination"]["subset"] for part in by_header["route"]] == ["v2"]
    assert [(part["destination"]["subset"], part["weight"]) for part in route["route"]] == [("v1", 100), ("v2", 0)]
    rule, ruled_by_header = BASELINE["HTTPRoute", "signal-service"]["spec"]["rules"]
    assert (rule["name"], ruled_by_header["name"]) == ("primary", "by-header")
    assert [backend["name"] for backend in ruled_by_header["backendRefs"]] == ["signal-service-v2"]
    assert [(backend["name"], backend["weight"]) for backend in rule["backendRefs"]] == [("signal-service-v1", 100), ("signal-service-v2", 0)]
    for backend in rule["backendRefs"]:
        selector = BASELINE["Service", backend["name"]]["spec"]["selector"]
        assert selector == {"app": "signal-service", "version": backend["name"].removeprefix("signal-service-")}
    host = BASELINE["DestinationRule", "signal-service"]["spec"]["host"]
    assert {part["destination"]["host"] for part in route["route"]} == {host}


def test_no_password_is_in_the_files():
    assert BASELINE["Secret", "signal-service-secrets-v1"]["stringData"] == {"PGPASSWORD": "@SIGNAL_USER_PASSWORD@"}
    assert GREEN["Secret", "signal-service-secrets-v2"]["data"] == {"PGPASSWORD": "{{ configuration_secret_values.PGPASSWORD | b64encode }}"}


def _alembic(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_URL", "SIGNAL_"))}
    return subprocess.run(
        [sys.executable, "-B", "-m", "alembic", "-c", str(INI), *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_revisions_are_one_line_from_v1_on():
    script = ScriptDirectory.from_config(Config(str(INI)))
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert revisions == ["0004", "0003", "0002", "0001"]
    assert script.get_heads() == ["0004"]


def test_the_way_to_v2_only_adds():
    done = _alembic("upgrade", "0001:head", "--sql")
    assert done.returncode == 0, done.stderr
    sql = done.stdout
    assert "CREATE TABLE signal_greeks" in sql
    # v1 keeps writing its rows: nothing may go, be renamed, change its type or become mandatory.
    for word in ("DROP ", "RENAME", " TYPE ", "TRUNCATE", "DELETE FROM", "SET NOT NULL"):
        assert word not in sql, word
    added = re.findall(r"ADD COLUMN (.*);", sql)
    assert added == ["version text", "version text"]


def test_the_schema_uses_only_what_the_apache_edition_has():
    sql = _alembic("upgrade", "head", "--sql").stdout + (RELEASE / "sql" / "create_indexes.sql").read_text()
    for word in ("compress", "columnstore", "add_retention_policy", "add_job", "continuous", "time_bucket_gapfill"):
        assert word not in sql.lower(), word
    assert sql.count("SELECT create_hypertable(") == 5


def test_every_table_of_the_application_is_granted_to_its_role_only():
    sql = _alembic("upgrade", "head", "--sql", SIGNAL_APP_ROLE="another_role").stdout
    tables = set(re.findall(r"CREATE TABLE (\w+)", sql)) - {"alembic_version"}
    granted = {name for names in re.findall(r"GRANT [A-Z, ]+ ON ([\w, ]+) TO another_role;", sql) for name in names.split(", ")}
    assert granted == tables
    assert "signal_user" not in sql


def test_the_way_back_undoes_each_step():
    up, down = _alembic("upgrade", "0001:head", "--sql").stdout, _alembic("downgrade", "head:0001", "--sql").stdout
    assert sorted(re.findall(r"CREATE TABLE (\w+)", up)) == sorted(re.findall(r"DROP TABLE (\w+)", down))
    assert len(re.findall("ADD COLUMN", up)) == len(re.findall("DROP COLUMN", down))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "missing: PGHOST, PGUSER, PGDATABASE"),
        ({"PGHOST": "127.0.0.1", "PGUSER": "x", "PGDATABASE": "y", "PGPORT": "none"}, "PGPORT"),
        ({"PGHOST": "127.0.0.1", "PGUSER": "x", "PGDATABASE": "y", "PGPORT": "1"}, "cannot connect"),
        ({"DATABASE_URL": "postgresql://x:hunter2hunter2@127.0.0.1:1/y"}, "cannot connect"),
        ({"PGHOST": "127.0.0.1", "PGUSER": "x", "PGDATABASE": "y", "SIGNAL_LOCK_TIMEOUT": "5s -c x=y"}, "SIGNAL_LOCK_TIMEOUT"),
        ({"SIGNAL_APP_ROLE": "x; DROP TABLE y"}, "SIGNAL_APP_ROLE"),
    ],
)
def test_a_database_that_cannot_be_reached_is_a_plain_error(environment, message):
    done = _alembic("upgrade", "head", **environment)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert message in output
    assert "Traceback" not in output
    assert "hunter2" not in output


def test_the_index_file_can_be_repeated_and_suits_hypertables():
    sql = re.sub(r"--.*", "", (RELEASE / "sql" / "create_indexes.sql").read_text())
    statements = [" ".join(text.split()) for text in sql.split(";") if text.strip()]
    creates = [text for text in statements if text.startswith("CREATE")]
    assert len(creates) == 5
    assert all(text.startswith("CREATE INDEX IF NOT EXISTS ") for text in creates)
    assert "CONCURRENTLY" not in sql
    assert [text for text in statements if not text.startswith("CREATE")] == ["SET lock_timeout = '5s'", "RESET lock_timeout"]
