# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boxes that the steps of a release tick: red while something real is wrong, green once it is put right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _catalogue, _kube

from .conftest import LAB, ROOT, Stage

RELEASE = ROOT / "lab" / "signal_service" / "release"


@contextmanager
def database() -> Iterator[psycopg2.extensions.cursor]:
    password = (LAB / "secrets" / "signal_owner").read_text(encoding="utf-8")
    session = psycopg2.connect(host="10.79.0.50", dbname="signal_db", user="signal_owner", password=password, connect_timeout=5)
    session.autocommit = True
    try:
        with session.cursor() as cursor:
            yield cursor
    finally:
        session.close()


@pytest.mark.box("step_1.backup", "step_1.migrate", "step_1.tables", "step_1.indexes", "step_1.hypertables")
def test_an_index_that_the_release_forgot_leaves_step_1_red(quiet_stage: Stage, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(RELEASE, release)
    indexes = release / "sql" / "create_indexes.sql"
    whole = indexes.read_text(encoding="utf-8")
    statements = whole.split(";")
    left = [statement for statement in statements if "signal_greeks_instrument_time_idx" not in statement]
    assert len(left) == len(statements) - 1
    indexes.write_text(";".join(left), encoding="utf-8")
    refused = quiet_stage.play("deploy_v2", "--tags", "database_migration", rollout_release_dir=str(release))
    assert refused.code != 0 and "signal_greeks_instrument_time_idx" in refused.output, refused.output[-4000:]
    assert set(quiet_stage.boxes("step_1").values()) == {"failed"}

    indexes.write_text(whole, encoding="utf-8")
    done = quiet_stage.play("deploy_v2", "--tags", "database_migration", rollout_release_dir=str(release))
    assert done.code == 0, done.output[-4000:]
    # The schema is there already, so that nothing had to be saved first.
    assert quiet_stage.boxes("step_1") == {
        "step_1.backup": "not_needed", "step_1.migrate": "proven", "step_1.tables": "proven", "step_1.indexes": "proven", "step_1.hypertables": "proven",
    }


def test_programs_of_the_database_s_own_pod_make_the_backup(quiet_stage: Stage) -> None:
    done = quiet_stage.play(
        "deploy_v2",
        "--tags",
        "database_migration",
        # The deployer of the lab has no right to run programs beside the database.
        rollout_kubeconfig=str(LAB / "kubeconfig" / "admin"),
        database_migration_client_dir="",
        database_migration_backup_pod={"namespace": "signal-data", "selector": "app=timescaledb"},
    )
    assert done.code == 0, done.output[-4000:]
    assert quiet_stage.boxes("step_1.backup") == {"step_1.backup": "proven"}
    (backup,) = quiet_stage.record()["steps"]["database_migration"]["evidence"]["backups"]
    assert Path(backup["file"]).stat().st_size == backup["bytes"]


@pytest.mark.box("step_2.configmaps", "step_2.secrets")
def test_foreign_content_under_the_name_of_the_release_s_configuration_leaves_step_2_red(quiet_stage: Stage) -> None:
    name = "signal-service-config-v2"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "signal"}, "data": {"LOG_LEVEL": "nobody-knows"}}
    quiet_stage.kube.post(_kube.path_of("", "v1", "configmaps", "signal"), body)
    refused = quiet_stage.play("deploy_v2", "--tags", "configuration")
    assert refused.code != 0 and "LOG_LEVEL" in refused.output and "nobody-knows" not in refused.output, refused.output[-4000:]
    assert quiet_stage.boxes("step_2.configmaps", "step_2.secrets") == {"step_2.configmaps": "failed", "step_2.secrets": "failed"}

    quiet_stage.kube.delete(_kube.path_of("", "v1", "configmaps", "signal", name))
    done = quiet_stage.play("deploy_v2", "--tags", "configuration")
    assert done.code == 0, done.output[-4000:]
    assert quiet_stage.boxes("step_2.configmaps", "step_2.secrets") == {"step_2.configmaps": "proven", "step_2.secrets": "proven"}


@pytest.mark.box("documentation.api_docs")
def test_an_api_that_green_does_not_serve_as_documented_stops_it_before_any_traffic(quiet_stage: Stage, tmp_path: Path) -> None:
    # What an earlier run of the pipeline has left must not speak for what runs.
    asked: dict[str, Any] = {"preflight_evidence_openapi": {}, "rollout_release_dir": str(tmp_path / "release")}
    shutil.copytree(RELEASE, tmp_path / "release")
    document = tmp_path / "release" / "docs" / "openapi.json"
    whole = document.read_text(encoding="utf-8")
    more = json.loads(whole)
    more["paths"]["/api/v2/forgotten"] = {"get": {"responses": {"200": {"description": "not built"}}}}
    document.write_text(json.dumps(more), encoding="utf-8")
    before = quiet_stage.virtual_service["metadata"]["resourceVersion"]
    refused = quiet_stage.play("deploy_v2", **asked)
    flat = " ".join(refused.output.split())
    assert refused.code != 0 and "paths > /api/v2/forgotten is documented and not served" in flat, refused.output[-4000:]
    assert quiet_stage.virtual_service["metadata"]["resourceVersion"] == before and quiet_stage.replicas("v2") == 0
    assert quiet_stage.record()["steps"]["blue_green"]["status"] == "failed"
    assert quiet_stage.boxes("documentation.api_docs") == {"documentation.api_docs": "failed"}

    document.write_text(whole, encoding="utf-8")
    done = quiet_stage.play("deploy_v2", "--tags", "blue_green", **asked)
    assert done.code == 0, done.output[-4000:]
    assert quiet_stage.boxes("documentation.api_docs") == {"documentation.api_docs": "proven"}


def test_a_secret_that_another_program_keeps_is_demanded_and_never_written(quiet_stage: Stage) -> None:
    kept: dict[str, Any] = {"configuration_secret_existing": "signal-service-vault", "configuration_secret_existing_keys": ["PGPASSWORD", "TOKEN"]}
    path = _kube.path_of("", "v1", "secrets", "signal")
    refused = quiet_stage.play("deploy_v2", "--tags", "configuration", **kept)
    assert refused.code != 0 and quiet_stage.record() == {} and "signal-service-vault" in refused.output, refused.output[-4000:]
    # The lab's deployer may read none but the release's own.
    kept["rollout_kubeconfig"] = str(LAB / "kubeconfig" / "admin")
    missing = quiet_stage.play("deploy_v2", "--tags", "configuration", **kept)
    assert missing.code != 0 and "Secret signal/signal-service-vault does not exist" in " ".join(missing.output.split()), missing.output[-4000:]
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "signal-service-vault", "namespace": "signal"}, "stringData": {"PGPASSWORD": "x"}}
    try:
        quiet_stage.kube.post(path, body)
        lacking = quiet_stage.play("deploy_v2", "--tags", "configuration", **kept)
        assert lacking.code != 0 and "has no key TOKEN" in " ".join(lacking.output.split()), lacking.output[-4000:]
        before = quiet_stage.find("", "v1", "secrets", "signal-service-vault")
        done = quiet_stage.play("deploy_v2", "--tags", "configuration", **{**kept, "configuration_secret_existing_keys": ["PGPASSWORD"]})
        assert done.code == 0, done.output[-4000:]
        assert quiet_stage.find("", "v1", "secrets", "signal-service-vault") == before
        assert quiet_stage.find("", "v1", "secrets", "signal-service-secrets-v2") is None
        assert quiet_stage.boxes("step_2.secrets") == {"step_2.secrets": "proven"}
    finally:
        quiet_stage.kube.delete(f"{path}/signal-service-vault")


@pytest.mark.box(*(item.id for item in _catalogue.ITEMS if item.step == "verification"))
def test_history_that_is_lost_leaves_what_the_verification_ticks_red(stage: Stage) -> None:
    with database() as cursor:
        cursor.execute("DELETE FROM signal_ticks WHERE time < '2024-02-01'")
        assert cursor.rowcount > 0
    ended = stage.play("deploy_v2")
    assert ended.code != 0 and "historical Greeks" in ended.output, ended.output[-4000:]
    assert stage.weights() == [100, 0]
    ticked = [item.id for item in _catalogue.ITEMS if item.step == "verification"]
    assert set(stage.boxes(*ticked).values()) == {"failed"}
