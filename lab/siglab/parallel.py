# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs side by side on threads, with their errors brought back to the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .settings import LabError


class Background:
    """A job that starts at once; its error is raised where it is joined."""

    def __init__(self, job: Callable[[], None]) -> None:
        self.error: BaseException | None = None

        def guarded() -> None:
            try:
                job()
            except BaseException as error:  # raised again by join
                self.error = error

        self._thread = threading.Thread(target=guarded, daemon=True)
        self._thread.start()

    def wait(self) -> BaseException | None:
        self._thread.join()
        return self.error

    def join(self) -> None:
        if error := self.wait():
            raise error


def in_parallel(*jobs: Callable[[], None]) -> None:
    """Run jobs side by side and wait for all of them; when some fail, one LabError names each reason."""
    errors = [error for job in [Background(job) for job in jobs] if (error := job.wait())]
    for error in errors:
        if not isinstance(error, LabError):
            raise error
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise LabError("\n".join(str(error) for error in errors))
