# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments of ``labctl`` and what it answers with.

Exit codes: 0 done, 1 failed (with the reason), 2 wrong use or a missing prerequisite, 3 ``status`` of an unhealthy lab,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import breaks, builds, settings, status, traffic
from .cache import Cache
from .cluster import Cluster
from .lifecycle import Lab
from .progress import Progress
from .settings import LabError, Paths, PrerequisiteError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="labctl", description="A one-node Kubernetes with Istio and the signal service, without Docker.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="build what is missing and bring the lab up; repairs a damaged one")
    commands.add_parser("down", help="stop the lab and remove everything but the build cache, logs and passwords")
    commands.add_parser("status", help="parts, health, pids, memory, addresses (exit code 3 when not healthy)")
    logs = commands.add_parser("logs", help="the end of a part's log; without PART, the names of the parts")
    logs.add_argument("part", nargs="?", metavar="PART")
    logs.add_argument("--lines", type=int, default=100)
    commands.add_parser("reset", help="back to v1 at 100 %%, fresh database, no record, no faults")
    for name in ("break", "heal"):
        sub = commands.add_parser(name, help={"break": "cause a fault", "heal": "undo a fault, or all"}[name])
        sub.add_argument("what", nargs=None if name == "break" else "?", metavar="WHAT", help=", ".join(breaks.NAMES))
        if name == "break":
            sub.add_argument("value", nargs="?", metavar="VALUE")
        sub.add_argument(
            "--version",
            choices=settings.SERVICE_VERSIONS,
            default=os.environ.get("VERSION") or (breaks.DEFAULT_VERSION if name == "break" else None),
            help="which version of the service a knob acts on (default: the environment's VERSION, else v2)",
        )
    generator = commands.add_parser("traffic", help="the traffic generator: start, stop, report")
    generator.add_argument("action", choices=("start", "stop", "report"))
    generator.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the generator")
    return top


def main(argv: list[str]) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    version = getattr(arguments, "version", None)
    if version not in (None, *settings.SERVICE_VERSIONS):
        top.error(f"VERSION is {version!r} in the environment, expected one of {', '.join(settings.SERVICE_VERSIONS)}")
    # A root shell made by su may lack the folders of the system's own programs.
    os.environ["PATH"] = builds.SEARCH_PATH
    paths = Paths.from_environment()
    progress = Progress(Cache(paths.cache).history)
    try:
        return run(arguments, paths, progress)
    except PrerequisiteError as error:
        print(f"labctl: {error}", file=sys.stderr)
        return 2
    except LabError as error:
        print(f"labctl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has seen enough; the interpreter would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("labctl: interrupted. labctl up repairs, labctl down removes", file=sys.stderr)
        return 130
    finally:
        progress.close()


def run(arguments: argparse.Namespace, paths: Paths, progress: Progress) -> int:
    lab = Lab(paths, progress)
    command = arguments.command
    if command == "up":
        lab.up()
    elif command == "down":
        _root("down")
        lab.down()
    elif command == "reset":
        _root("reset")
        lab.reset()
    elif command == "status":
        _root("status")
        return status.show(lab)
    elif command == "logs":
        _root("logs")
        return status.logs(lab, arguments.part, arguments.lines)
    elif command == "traffic":
        if arguments.action == "start":
            return traffic.start(paths, arguments.arguments)
        return traffic.stop(paths) if arguments.action == "stop" else traffic.report(paths, arguments.arguments)
    elif command == "break" and arguments.what == "help":
        print(breaks.overview())
    else:
        _root(command)
        if lab.node.alive("kube-apiserver") is None:
            raise LabError("the lab is not up. Run: labctl up")
        cluster = Cluster(paths)
        if command == "break":
            print(breaks.apply(cluster, arguments.what, arguments.value, arguments.version))
        else:
            print("\n".join(breaks.heal(cluster, arguments.what, arguments.version)) or "nothing was broken")
    return 0


def _root(command: str) -> None:
    if os.geteuid() != 0:
        raise PrerequisiteError(f"running as user id {os.geteuid()}, expected root (0). Run: sudo labctl {command}")
