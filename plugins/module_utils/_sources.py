# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sources of a gate as one: each question goes where it belongs, all of them at the same time. Private to this collection."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.signal.rollout.plugins.module_utils import _http_json, _prometheus
from ansible_collections.signal.rollout.plugins.module_utils._gate_model import Reading
from ansible_collections.signal.rollout.plugins.module_utils._lanes import Lanes
from ansible_collections.signal.rollout.plugins.module_utils._question import Question, Request


class Sources:
    """Answers questions to Prometheus and to HTTP addresses.

    ``prometheus`` may be None when no question needs it. Figures of the same request share one answer: a request is sent
    once however many questions are asked of it, and all of them are answered together.
    """

    def __init__(self, prometheus: _prometheus.Prometheus | None) -> None:
        self._prometheus = prometheus
        self._http = _http_json.HttpJson()
        self._lanes = Lanes()
        self._waiting: dict[Request, list[Question]] = {}

    def ask(self, question: Question, hold: float, timeout: float | None = None) -> bool:
        """Ask ``question``, ``hold`` seconds into the hold; False while its previous answer is still to come.

        ``timeout`` in seconds is how long Prometheus may take for this question. A request brings its own.
        """
        request = question.request
        if request is not None:
            return self._ask_http(question, request)
        if self._prometheus is None:
            raise RuntimeError("a question to Prometheus without an address of it")
        prometheus, text = self._prometheus, question.at(hold)
        seconds = timeout or prometheus.timeout
        return self._lanes.ask(question, lambda: prometheus.read(text, seconds), seconds)

    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._lanes.waiting()

    def answers(self, wait: float) -> list[tuple[Question, Reading]]:
        """Return the answers that are there, waiting up to ``wait`` seconds for the first one."""
        found: list[tuple[Question, Reading]] = []
        for key, answer in self._lanes.answers(wait):
            if isinstance(key, Request):
                for question in self._waiting.pop(key, []):
                    found.append((question, answer if isinstance(answer, Reading) else _http_json.interpret(question, answer)))
            elif isinstance(key, Question):
                found.append((key, answer))
        return found

    def close(self) -> None:
        self._lanes.close()

    def _ask_http(self, question: Question, request: Request) -> bool:
        waiting = self._waiting.get(request, [])
        if question in waiting:
            return False
        self._http.prepare(request)
        if not waiting and not self._lanes.ask(request, lambda: self._http.fetch(request), request.timeout):
            return False
        self._waiting.setdefault(request, []).append(question)
        return True


def ask_once(prometheus: _prometheus.Prometheus | None, questions: Iterable[Question], hold: float) -> dict[Question, Reading]:
    """Return an answer to each of ``questions``, ``hold`` seconds into a hold that is only imagined."""
    sources = Sources(prometheus)
    try:
        for question in dict.fromkeys(questions):
            sources.ask(question, hold)
        readings: dict[Question, Reading] = {}
        while sources.waiting():
            readings.update(sources.answers(1.0))
        return readings
    finally:
        sources.close()
