# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-test sanity on the working tree, without a container engine.

Writes one line per sanity test, "ok NAME" or "not ok NAME", after the output of ansible-test. Arguments are passed on, for example
`python3 tools/sanity.py --test pep8`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import parts

# ansible-test asks the installed ansible-core which pip its environments get, so ask the same place.
_PIP_VERSION = """
import types
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(types.SimpleNamespace(version="{version}"))["pip"])
"""
_BOOTSTRAP = """\
# Put here by tools/sanity.py of signal.rollout: ansible-test would otherwise download a script for the same purpose.
import ensurepip

ensurepip.bootstrap(default_pip=True)
"""


def python_version() -> str:
    """Version of the virtual environment's Python as ansible-test names it, such as 3.11."""
    command = [parts.tool("python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def place_pip_bootstrap(version: str) -> None:
    """Give ansible-test the script that puts pip into its environments; an existing one stays as it is."""
    command = [parts.tool("python"), "-c", _PIP_VERSION.format(version=version)]
    pip = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    path = Path.home() / ".ansible/test/cache" / f"get_pip_{pip.replace('.', '_')}.py"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_BOOTSTRAP)


def copy_working_tree(target: Path) -> int:
    """Copy what git would commit (tracked files and untracked ones that are not ignored); return the number of files.

    ansible-test demands a real path ending in ansible_collections/NAMESPACE/NAME, and a copy shows what a clone would lack.
    The lab is left out: it is no part of the collection, and files with several Kubernetes objects, which are usual there, are
    against the rules for collections. The lint suite checks it.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=parts.ROOT, check=True, capture_output=True, timeout=60
    )
    names = [name for name in listing.stdout.decode().split("\0") if name and not name.startswith("lab/")]
    count = 0
    for name in names:
        source = parts.ROOT / name
        if not source.is_symlink() and not source.is_file():
            continue  # deleted in the working tree, or a nested repository
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, destination, follow_symlinks=False)
        count += 1
    # ansible-test finds the files of a collection by git.
    subprocess.run(["git", "init", "--quiet", str(target)], check=True, timeout=60, capture_output=True)
    return count


def main(arguments: list[str]) -> int:
    version = python_version()
    place_pip_bootstrap(version)
    with tempfile.TemporaryDirectory(prefix="signal-rollout-sanity-") as scratch:
        copy = Path(scratch) / "ansible_collections/signal/rollout"
        print(f"copied {copy_working_tree(copy)} files of the working tree", flush=True)
        command = [parts.tool("ansible-test"), "sanity", "--local", "--python", version, "--color", "no", *arguments]
        listing = subprocess.run([*command, "--list-tests"], cwd=copy, env=parts.environment(), capture_output=True, text=True, timeout=120, check=False)
        planned = listing.stdout.split()
        if listing.returncode or not planned:
            print(listing.stdout + listing.stderr)
            print("not ok list-tests")
            return 1
        process = subprocess.Popen(command, cwd=copy, env=parts.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            print(line, end="", flush=True)
        code = process.wait(timeout=60)
    # The closing message names the failed tests, one a line, after this sentence.
    summary = re.search(r"sanity test\(s\) listed below .*? failed\..*?\n(.*)", "".join(output), re.DOTALL)
    failed = set(summary.group(1).split()) & set(planned) if summary else set()
    if code and not failed:
        # It ended before its summary: whatever was not run counts as failed.
        ran = set(re.findall(r'Running sanity test "([^"]+)"', "".join(output)))
        failed = {name for name in planned if name not in ran} or set(planned)
    for name in planned:
        print(f"{'not ok' if name in failed else 'ok'} {name}")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
