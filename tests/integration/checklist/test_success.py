# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Success criteria that are measured once: of the lab's v1, by the queries of the role and of the lab's inventory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.signal.rollout.plugins.module_utils import _measurement
from ansible_collections.signal.rollout.plugins.module_utils._context import Context

ROOT = Path(__file__).resolve().parents[3]
GREEKS = "http://10.79.0.60/api/v1/realtime/greeks/NSE@NIFTY@OPTION@{strike}@CALL"
CACHE, SLAS = "technical.cache_hits", "business.slas"
# Seconds of traffic before a figure is read, and of the window it is read over.
TRAFFIC, WINDOW = 8.0, 5.0


def load(path: str, name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))[name]


def measured(measurements: list[dict[str, Any]], version: str = "v1", url: str = "http://10.79.0.52:9090") -> dict[str, Any]:
    given = {"prometheus_url": url, "version": version, "window": WINDOW, "measurements": measurements}
    checked = ArgumentSpecValidator(_measurement.ARGUMENT_SPEC, **_measurement.SPEC_RULES).validate(given)
    assert not checked.error_messages, checked.error_messages
    return _measurement.run(checked.validated_parameters, Context())


def ask(strike: Callable[[int], int]) -> None:
    """Send requests for a while; answers of any kind count as traffic."""
    end = time.monotonic() + TRAFFIC
    with requests.Session() as session:
        for number in range(100_000):
            if time.monotonic() >= end:
                return
            session.get(GREEKS.format(strike=strike(number)), headers={"Host": "signal-service.lab"}, timeout=10)
            time.sleep(0.01)


def labctl(*words: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "lab/labctl"), *words], check=True, capture_output=True, timeout=120)


@pytest.fixture
def healed() -> Iterator[None]:
    yield
    labctl("heal")


@pytest.mark.alone
@pytest.mark.box(CACHE)
def test_a_cache_that_everybody_misses_fails_its_box_and_a_warm_one_proves_it() -> None:
    cache = load("roles/verification/defaults/main.yml", "verification_measurements")
    base = int(time.time()) % 100_000 + 20_000
    ask(lambda number: base + number)
    cold = measured(cache)
    assert cold["proofs"][CACHE]["state"] == "failed" and "expected > 80 %" in cold["proofs"][CACHE]["evidence"]
    ask(lambda _number: 21500)
    assert measured(cache)["proofs"][CACHE]["state"] == "proven"
    assert measured(cache, version="v9")["proofs"] == {}
    assert measured(cache, url="http://10.79.0.52:9")["measurements"][0]["verdict"] == "error"


@pytest.mark.alone
@pytest.mark.box(SLAS)
def test_a_service_that_breaks_its_sla_fails_the_box_and_a_healed_one_proves_it(healed: None) -> None:
    slas = [{**entry, "box": SLAS} for entry in load("inventories/lab/group_vars/release/main.yml", "verification_slas")]
    labctl("break", "error-ratio", "0.3", "--version", "v1")
    ask(lambda _number: 21500)
    found = measured(slas)["proofs"][SLAS]
    assert found["state"] == "failed" and "requests without error" in found["evidence"]
    labctl("heal")
    ask(lambda _number: 21500)
    assert measured(slas)["proofs"][SLAS]["state"] == "proven"
