# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of preflight_check: Prometheus, Redis, where messages go, and addresses. Private to this collection."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ansible_collections.signal.rollout.plugins.module_utils import _gate_model, _gate_plan, _http, _prometheus, _sources
from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line, require
from ansible_collections.signal.rollout.plugins.module_utils._preflight_site import Ask, Problem, Site

try:
    import redis
except ImportError:
    redis = None  # type: ignore[assignment]

_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))


def check_prometheus(site: Site, problem: Ask) -> Iterator[Problem]:
    wrong = _prometheus.problems_of(site.prometheus_params)
    for text in wrong:
        option, _colon, seen = text.partition(": ")
        option = "prometheus_ca_cert" if option == "ca_cert" else option
        yield problem(option, "Prometheus", "its address and credentials can be used", seen, "usable ones", "correct the option")
    if wrong:
        return
    client = site.prometheus()
    title = f"Prometheus {client.url}"
    before = time.time()
    reading = client.read("time()")
    if reading.state != _gate_model.GOOD or reading.value is None:
        yield problem(
            "prometheus_url", title, "Prometheus answers queries", reading.detail, "a number", "correct the address, or repair Prometheus"
        )
        return
    skew = reading.value - (before + time.time()) / 2
    if abs(skew) > site.params["max_clock_skew"]:
        yield problem(
            "prometheus_url",
            title,
            "its clock and this host's agree",
            f"{abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            f"at most {site.params['max_clock_skew']:g} s",
            "set the clocks: the age of figures could not be judged",
        )


def check_scrapes(site: Site, problem: Ask) -> Iterator[Problem]:
    job, needed = site.params["scrape_job"], site.params["scrape_targets"]
    title = f"scrape job {job}"
    try:
        data = site.prometheus().ask("/api/v1/targets", {"state": "active"}).get("data") or {}
    except _prometheus.PrometheusError as error:
        yield problem("prometheus_url", title, "Prometheus shows its targets", error.message, "the list of targets", "see Prometheus' log")
        return
    targets = [target for target in data.get("activeTargets") or [] if (target.get("labels") or {}).get("job") == job]
    down = [target for target in targets if target.get("health") != "up"]
    if len(targets) - len(down) < needed:
        reasons = "".join(f"; {(target.get('labels') or {}).get('instance')}: {one_line(target.get('lastError'), 100)}" for target in down[:3])
        yield problem(
            "scrape_job",
            title,
            "the service is scraped",
            f"{len(targets) - len(down)} of {len(targets)} targets up{reasons}",
            f"at least {needed} up",
            "repair the scraping: without it no gate can pass",
        )


def check_queries(site: Site, problem: Ask) -> Iterator[Problem]:
    mistakes: list[str] = []
    metrics = _gate_plan.read_metrics(site.params["metrics"], mistakes, site.warnings)
    requests = _gate_plan.read_requests(site.params["minimum_requests"], mistakes, site.warnings)
    for text in mistakes:
        where, _colon, seen = text.partition(": ")
        yield problem("metrics", where, "the gate's options are right", seen or where, "a metric with query, limit and unit", "correct it")
    uses = [
        (f"metric {metric.name}" if role == _gate_model.VALUE else f"{role} of metric {metric.name}", question)
        for metric in metrics
        for role, question in metric.questions.items()
    ]
    if requests is not None:
        uses.append(("minimum_requests", requests.question))
    readings = _sources.ask_once(site.prometheus(), [question for _where, question in uses], 60.0)
    for where, question in uses:
        reading = readings[question]
        # No data is fine: the version that is to be watched does not run yet.
        if reading.state == _gate_model.ERROR:
            yield problem(
                "metrics",
                where,
                f"{question.request or 'Prometheus'} can answer the question",
                reading.detail,
                "one number, or no series yet",
                f"correct the query, or its source: {one_line(question, 120)}",
            )


def check_redis(site: Site, problem: Ask) -> Iterator[Problem]:
    require("redis", redis)
    url = site.params["redis_url"]
    trouble = _http.url_problem(url, ("redis", "rediss"))
    if trouble:
        yield problem("redis_url", "Redis", "its address is usable", trouble, "redis://host:port/db", "correct the address")
        return
    parts = urlsplit(url)
    title = f"Redis {parts.hostname}:{parts.port or 6379}"
    seconds = min(5.0, site.params["timeout"] / 2)
    try:
        client = redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=None)
        try:
            client.ping()
        finally:
            client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        text = one_line(error, 160)
        for secret in (url, parts.password):
            text = text.replace(secret, "********") if secret else text
        yield problem("redis_url", title, "Redis answers PING", text, "PONG", "correct address and password, or repair Redis")


def check_notifications(site: Site, problem: Ask) -> Iterator[Problem]:
    targets = site.params["notification_targets"]
    if not targets:
        yield problem("notification_targets", "messages", "somebody is told", "no target", "at least one", "name where messages go")
        return
    try:
        import apprise
    except ImportError:
        require("apprise", None)
        return
    # Its own messages repeat the address, which is a secret.
    logger = logging.getLogger("apprise")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    for number, target in enumerate(targets, 1):
        if apprise.Apprise.instantiate(target, suppress_exceptions=True) is None:
            yield problem(
                "notification_targets",
                f"target {number} of {len(targets)}",
                "it is an address that Apprise understands",
                f"a text of {len(target)} characters that is none",
                "such as mailtos://... or json://...",
                "correct it; nothing was sent",
            )


def check_urls(site: Site, problem: Ask) -> Iterator[Problem]:
    for name, url in sorted(site.params["urls"].items()):
        trouble = _http.url_problem(str(url)) or _host_problem(str(url))
        if trouble:
            yield problem(f"urls.{name}", f"the address {name}", "it is an address that may be called", trouble, "http(s)://host", "correct it")


def _host_problem(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        addresses = {item[4][0] for item in socket.getaddrinfo(host, parts.port or 80, type=socket.SOCK_STREAM)}
    except OSError as error:
        return f"its host {host} is not known ({error.strerror or error})"
    for text in sorted(addresses):
        address = ipaddress.ip_address(str(text).partition("%")[0])
        if any(address in network for network in _LINK_LOCAL if network.version == address.version):
            return f"its host {host} is the link-local address {text}, where clouds keep credentials"
    return ""
