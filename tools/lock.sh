#!/bin/sh
# Write requirements.txt and requirements-test.txt anew from their .in files: exact versions, hashes, no addresses.
# UPGRADE=1 takes the newest versions that the .in files allow; otherwise locked versions stay.
set -eu

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-/usr/bin/python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pip-tools
for name in requirements requirements-test; do
    echo "locking $name.in"
    env -u PIP_FIND_LINKS "$work/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras \
        --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        ${UPGRADE:+--upgrade} --output-file "$name.txt" "$name.in"
done
