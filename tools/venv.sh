#!/bin/sh
# Create the virtual environment of the checkout and link it as .venv.
# It lives outside the checkout, named by the hash of the lock files, so that clones and branches with equal lock files
# share it and a changed lock file never meets old packages. A marker file says that the installation was completed; an
# environment without the marker is made anew.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-/usr/bin/python3}
cache=${SIGNAL_LAB_CACHE:-${HOME:?HOME is not set}/.cache/signal-lab}

if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))'); then
    echo "Python 3.11 or newer is needed, $python is ${version:-not there}. Name another one: make venv PYTHON=/path/to/python3.11" >&2
    exit 1
fi
hash=$({ echo "$python $version"; cat requirements.txt requirements-test.txt; } | sha256sum | cut -c 1-16)
venv=$cache/venv-$hash
marker=$venv/.complete

if [ ! -e "$marker" ]; then
    tools/prerequisites.sh python:ensurepip=python3-venv
    mkdir -p "$cache"
    # Two makes at once: the second waits here and then finds the work done.
    exec 9>"$cache/venv-$hash.lock"
    flock -w 1200 9 || { echo "another process has been creating $venv for 20 minutes; end it, then run make venv again" >&2; exit 1; }
fi
if [ ! -e "$marker" ]; then
    start=$(date +%s)
    echo "creating the virtual environment $venv (usually 1 to 2 minutes)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    log=$venv/install.log
    # Bytecode is compiled below, and only for what is run: the ansible bundle is large.
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --require-hashes \
        -r requirements.txt -r requirements-test.txt >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        echo "pip could not install the locked requirements (the end of its output is above; all of it: $log)." >&2
        exit 1
    fi
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Some packages carry templates that are no valid Python: compileall reports them by its exit code, which says nothing here.
    "$venv/bin/python" -m compileall -q -j 0 -x '/(ansible_collections|tests?)/' "$packages" >/dev/null || true
    "$venv/bin/python" -m compileall -q -j 0 \
        "$packages/ansible_collections/kubernetes" "$packages/ansible_collections/community/postgresql" >/dev/null || true
    : >"$marker"
    # Environments of older lock files, when no checkout has used them for two weeks.
    find "$cache" -maxdepth 2 -path "$cache/venv-*/.complete" -mtime +14 -exec sh -c 'rm -rf "${1%/.complete}"' sh {} \;
    echo "virtual environment ready in $(($(date +%s) - start)) s"
fi
touch "$marker"
if [ -e .venv ] && [ ! -L .venv ]; then
    echo ".venv is a folder of your own; make wants to link $venv there. Move it away, then run make venv again." >&2
    exit 1
fi
[ "$(readlink .venv)" = "$venv" ] || ln -sfn "$venv" .venv
