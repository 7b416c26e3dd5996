# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Break green during a release and measure how long it takes until all traffic is back, on the lab.

    python tests/bench/breach.py [--trials 3] [--ratio 0.05] [--rate 100]

Each trial: lab at its baseline, traffic on, deploy_v2 with the lab's own inventory (30 s holds, 1 s polls, 1 s scrapes); some seconds into the
hold at 10 % the error ratio of green is raised. Clocks: the first 500 that a pod of green counts (its /metrics read every 20 ms), and the moment
the VirtualService says 0 (read every 10 ms). Prints a Markdown table. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = Path(os.environ.get("SIGNAL_LAB_DIR", "/var/lib/signal-lab"))
sys.path.insert(0, str(ROOT / "playbooks" / "collections"))

from ansible_collections.signal.rollout.plugins.module_utils import _canary_weight, _kube  # noqa: E402

ERRORS = re.compile(r'^signal_requests_total\{.*code="5\d\d".*\} ([0-9.e+]+)$', re.MULTILINE)


def labctl(*arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "lab" / "labctl"), *arguments], check=True, capture_output=True, timeout=180)


def green_addresses(kube: _kube.Kube) -> list[str]:
    pods = kube.list(_kube.path_of("", "v1", "pods", "signal"), {"labelSelector": "version=v2"})
    return [pod["status"]["podIP"] for pod in pods if (pod.get("status") or {}).get("podIP")]


def errors_at(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}:8080/metrics", timeout=2) as answer:
        return sum(float(value) for value in ERRORS.findall(answer.read().decode()))


class FirstError(threading.Thread):
    """Notes when green first counts a 500."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(daemon=True)
        self.addresses = addresses
        self.seen: float | None = None
        self.done = threading.Event()

    def run(self) -> None:
        while self.seen is None and not self.done.wait(0.02):
            if any(errors_at(address) for address in self.addresses):
                self.seen = time.time()


def wait_for(kube: _kube.Kube, weight: int, pause: float, seconds: float) -> float:
    path = _kube.path_of(*_canary_weight.ISTIO, "virtualservices", "signal", "signal-service")
    deadline = time.time() + seconds
    while time.time() < deadline:
        routes = kube.get(path)["spec"]["http"][0]["route"]
        if routes[1].get("weight", 0) == weight:
            return time.time()
        time.sleep(pause)
    sys.exit(f"green did not get {weight} % within {seconds:g} s")


def trial(ratio: float, rate: int) -> dict[str, object]:
    labctl("heal")
    labctl("reset")
    labctl("traffic", "start", "--rate", str(rate), "--websockets", "20", "--duration", "600")
    options = dict.fromkeys(_kube.ARGUMENT_SPEC)
    kube = _kube.connect({**options, "kubeconfig": str(LAB / "kubeconfig" / "admin")})
    playbook = Path(sys.executable).with_name("ansible-playbook")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    process = subprocess.Popen(
        [str(playbook), "playbooks/deploy_v2.yml"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for(kube, 10, 0.1, 120)
    time.sleep(random.uniform(6, 12))
    watcher = FirstError(green_addresses(kube))
    watcher.start()
    labctl("break", "error-ratio", str(ratio))
    back = wait_for(kube, 0, 0.01, 60)
    watcher.done.set()
    code = process.wait(120)
    labctl("traffic", "stop")
    totals = json.loads((LAB / "traffic.json").read_text(encoding="utf-8"))["totals"]
    labctl("heal")
    if watcher.seen is None:
        sys.exit("green never counted an error: nothing was measured")
    return {"seconds": back - watcher.seen, "code": code, "sent": totals["sent"], "causes": totals["causes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.05)
    parser.add_argument("--rate", type=int, default=100)
    options = parser.parse_args()
    print("| trial | first bad answer -> weights back, s | exit code | requests | failed, by cause |")
    print("|---|---|---|---|---|")
    times = []
    for number in range(1, options.trials + 1):
        result = trial(options.ratio, options.rate)
        times.append(float(str(result["seconds"])))
        print(f"| {number} | {result['seconds']:.2f} | {result['code']} | {result['sent']} | {result['causes'] or 'none'} |", flush=True)
    print(f"\nmedian {statistics.median(times):.2f} s, max {max(times):.2f} s of {len(times)}")


if __name__ == "__main__":
    main()
