#!/bin/sh
# Make sure that the system packages given as "command-or-python-module=debian-package" pairs are there.
#   tools/prerequisites.sh git=git shellcheck=shellcheck python:ensurepip=python3-venv
# Asks apt only for what is missing, so a second call costs nothing.
set -eu

python=${PYTHON:-/usr/bin/python3}
missing=""
for pair in "$@"; do
    what=${pair%%=*}
    package=${pair#*=}
    case $what in
        python:*) "$python" -c "import ${what#python:}" 2>/dev/null || missing="$missing $package" ;;
        *) command -v "$what" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing system packages:$missing. This is not a Debian system, so install their equivalents by hand, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Missing system packages:$missing. Run as root: apt-get install$missing" >&2
    exit 1
fi
echo "installing system packages:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Another apt may hold the lock for a while (unattended upgrades on a fresh machine), so wait for it with a limit.
# shellcheck disable=SC2086  # one word per package is wanted
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 $missing; } >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    echo "apt-get could not install:$missing (the end of its output is above)." >&2
    exit 1
fi
