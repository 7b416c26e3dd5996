# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make lab-evidence`: the pipeline of the lab's own service, whose reports the preflight of a release in the lab reads.

Unit tests with coverage, a scan of the code by Bandit, then one pod of v2's image with a database of its own: integration tests against it, a short
load test by k6, and the API document as it is served. Everything is bound to the commit, so the service's files must be committed. The reports are in the
folder evidence/ of the lab.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import parts

sys.path.insert(0, str(parts.ROOT / "lab"))

from siglab import database, settings  # noqa: E402
from siglab.processes import run as command  # noqa: E402
from siglab.settings import Paths  # noqa: E402

SERVICE = "lab/signal_service"
NAME = "signal-evidence"
DATABASE = "signal_evidence"
# What has no server, database or cache in it. The rest is tested where these are: by the integration tests, on the lab.
UNITS = ("config", "instruments", "market", "pricing", "requests")
UNIT_TESTS = ("instruments", "market", "pricing", "settings_and_requests")
# A short one: the release's own load test at full length is part of the verification.
LOAD = {"RATE": "50", "DURATION": "5s"}


class Pipeline:
    """Writes all reports into ``target``, bound to ``commit``; without it, to the last commit that changed the service."""

    def __init__(self, target: Path, commit: str = "") -> None:
        self.paths = Paths.from_environment()
        self.commit = commit
        self.target = target
        self.folder = target.with_name(target.name + ".partial")

    def run(self) -> None:
        commit = self.commit or committed()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.unit_tests()
        self.scan()
        with self.instance() as url:
            self.integration_tests(url)
            self.load_test(url)
            with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as answer:
                (self.folder / "openapi-served.json").write_bytes(answer.read())
        playbook = ["playbooks/evidence_manifest.yml", "-e", f"evidence_dir={self.folder}", "-e", f"evidence_commit={commit}"]
        self.step("manifest", [parts.tool("ansible-playbook"), *playbook])
        shutil.rmtree(self.target, ignore_errors=True)
        self.folder.rename(self.target)
        print(f"evidence of commit {commit[:12]} is in {self.target}")

    def step(self, name: str, arguments: Sequence[str], **environment: str) -> int:
        """Run one step; that tests fail is for the reports to say."""
        print(f"==> {name}", flush=True)
        log = self.folder.parent / f"{NAME}.log"
        with contextlib.ExitStack() as stack:
            before = {key: os.environ.get(key) for key in environment}
            stack.callback(lambda: [os.environ.pop(key) if value is None else os.environ.update({key: value}) for key, value in before.items()])
            os.environ.update(environment)
            return parts.run(list(arguments), deadline=300, log=log).code

    def unit_tests(self) -> None:
        kept = self.folder.parent / f"{NAME}.coverage"
        data = f"--data-file={kept}"
        python = parts.tool("python")
        included = ",".join(f"{SERVICE}/app/{name}.py" for name in UNITS)
        tests = [f"tests/unit/signal_service/test_{name}.py" for name in UNIT_TESTS]
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, f"--junitxml={self.folder / 'unit.xml'}"]
        self.step("unit tests", [python, "-m", "coverage", "run", data, f"--include={included}", *pytest])
        self.step("coverage", [python, "-m", "coverage", "xml", data, "-o", str(self.folder / "coverage.xml")])
        kept.unlink(missing_ok=True)

    def scan(self) -> None:
        self.step("scan", [parts.tool("bandit"), "-q", "-r", f"{SERVICE}/app", "-f", "sarif", "-o", str(self.folder / "bandit.sarif")])

    def integration_tests(self, url: str) -> None:
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"{SERVICE}/tests", f"--junitxml={self.folder / 'integration.xml'}"]
        self.step("integration tests", [parts.tool("python"), *arguments], SIGNAL_URL=url)

    def load_test(self, url: str) -> None:
        given = [word for name, value in {"BASE_URL": url, **LOAD}.items() for word in ("-e", f"{name}={value}")]
        script = f"{SERVICE}/release/k6/load_test.js"
        self.step("load test", [parts.tool("k6"), "run", "-q", f"--summary-export={self.folder / 'k6.json'}", *given, script])

    # -- one instance of v2, beside everything else ----------------------------------------------

    @contextlib.contextmanager
    def instance(self) -> Iterator[str]:
        """Yield the address of a pod of v2's image with its own namespace and database."""
        self.clean()
        try:
            self.database()
            self.kubectl("apply", "-f", "-", stdin=json.dumps(self.objects()))
            self.kubectl("-n", NAME, "wait", "--for=condition=Ready", "pod/v2", "--timeout=60s")
            pod = json.loads(self.kubectl("-n", NAME, "get", "pod", "v2", "-o", "json"))
            yield f"http://{pod['status']['podIP']}:8080"
        finally:
            self.clean()

    def clean(self) -> None:
        self.kubectl("delete", "namespace", NAME, "--ignore-not-found", "--timeout=60s")
        self.sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")

    def sql(self, statement: str) -> None:
        database.sql(self.paths, statement)

    def database(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.sql(f"CREATE DATABASE {DATABASE} TEMPLATE {database.TEMPLATE} OWNER {database.OWNER}")
                break
            except settings.LabError as error:
                # A reset of the lab copies the same template.
                if "being accessed by other users" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        self.sql(f"GRANT CONNECT ON DATABASE {DATABASE} TO {database.APPLICATION}")
        password = (self.paths.state / "secrets" / database.OWNER).read_text()
        address = {"PGHOST": settings.DATABASE_IP, "PGDATABASE": DATABASE, "PGUSER": database.OWNER, "PGPASSWORD": password}
        alembic = ["-B", "-m", "alembic", "-c", f"{SERVICE}/release/migrations/alembic.ini", "upgrade", "head"]
        if self.step("migrations", [parts.tool("python"), *alembic], **address):
            raise parts.Stop(f"the migrations ended with an error: {parts.last_line(self.folder.parent / f'{NAME}.log')}")

    def objects(self) -> dict[str, object]:
        data = {"PGPASSWORD": base64.b64encode((self.paths.state / "secrets" / database.APPLICATION).read_bytes()).decode()}
        plain = {"PGHOST": settings.DATABASE_IP, "PGDATABASE": DATABASE, "PGUSER": database.APPLICATION, "REDIS_URL": f"redis://{settings.REDIS_IP}:6379/9"}
        secret = {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "PGPASSWORD"}}}
        container = {
            "name": "app",
            "image": f"{settings.SERVICE_IMAGE}:v2",
            "imagePullPolicy": "Never",
            "workingDir": "/opt/signal-service",
            "command": ["python3", "-m", "app"],
            "env": [*({"name": name, "value": value} for name, value in plain.items()), secret],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
            "resources": {"limits": {"cpu": "1", "memory": "256Mi"}},
        }
        pod = {"automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": 2, "containers": [container]}
        return {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}},
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME, "namespace": NAME}, "data": data},
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "v2", "namespace": NAME}, "spec": pod},
            ],
        }

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        program = [str(self.paths.bin / "kubectl"), "--kubeconfig", str(self.paths.kubeconfig / "admin"), *arguments]
        return command(program, timeout=90, stdin=stdin)


def committed() -> str:
    """Return the last commit that changed the service: later ones release the same. Raises :class:`parts.Stop` when its files differ from it."""
    changed = command(["git", "-C", str(parts.ROOT), "status", "--porcelain", "--", SERVICE], timeout=30).strip()
    if changed:
        raise parts.Stop(f"{SERVICE} differs from the commit that evidence is bound to: {changed}. Commit it, then run make lab-evidence again.")
    return command(["git", "-C", str(parts.ROOT), "log", "-1", "--format=%H", "--", SERVICE], timeout=30).strip()


def main() -> int:
    os.chdir(parts.ROOT)
    try:
        Pipeline(parts.STATE / "evidence").run()
    except (parts.Stop, settings.LabError) as error:
        print(f"make lab-evidence: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
