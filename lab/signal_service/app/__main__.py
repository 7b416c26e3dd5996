# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the service: ``python3 -m app``. Works as process 1 of a container."""

from __future__ import annotations

import sys

from . import knobs, logs
from .config import ConfigurationError, load


def main() -> int:
    """Run until TERM or INT; returns the exit code."""
    try:
        settings = load()
    except ConfigurationError as error:
        print(f"signal-service: {error}", file=sys.stderr)
        return 2
    # Before the heavy imports: a crash loop should crash at once.
    knobs.Knobs(settings.knobs_dir, settings.leak_cap_mb, settings.disk_dir).refresh()
    logs.configure(settings.version, settings.log_level)
    from .server import build
    from .web import Service

    server = build(Service(settings))
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
