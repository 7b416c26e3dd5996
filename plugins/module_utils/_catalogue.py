# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checklist as data: its 98 boxes in the order and words of docs/deployment_checklist.md. Pure, private to this collection.

A box with a proof is ticked by what a task has measured: ``step`` names the step of the record whose evidence is read, ``proof`` the rule of
:mod:`_checklist` that reads it. With the rule :data:`KEPT` the proof was made outside the steps (before the release begins, or days after it) and
is kept beside the record. A box without a proof is ticked by a person (an attestation).
"""

from __future__ import annotations

from dataclasses import dataclass

AUTOMATIC, ATTESTED = "automatic", "attested"
KEPT = "kept"


@dataclass(frozen=True)
class Item:
    """One box. ``nested``: it belongs to the one before it that is not. ``fallback``: people may attest it where nothing could be measured."""

    id: str
    words: str
    step: str = ""
    proof: str = ""
    nested: bool = False
    fallback: bool = False

    @property
    def for_people(self) -> bool:
        """Whether an attestation may tick it."""
        return not self.proof or self.fallback

    @property
    def kind(self) -> str:
        return AUTOMATIC if self.proof and not self.is_signoff else ATTESTED

    @property
    def is_signoff(self) -> bool:
        """Whether only the approval of the person in charge ticks it, which no attestation stands in for."""
        return self.proof.startswith("signoff ")

    @property
    def section(self) -> str:
        return self.id.split(".")[0]


@dataclass(frozen=True)
class Section:
    """One heading with its boxes: ``part`` is the heading above it."""

    id: str
    part: str
    title: str
    items: tuple[Item, ...]


SECTIONS: tuple[Section, ...] = (
    Section("code", "Pre-Deployment Phase", "Code Readiness", (
        Item("code.features", "All features implemented and tested"),
        Item("code.review", "Code review completed", "", KEPT, fallback=True),
        Item("code.unit_tests", "Unit tests passing (>90% coverage)", "", KEPT, fallback=True),
        Item("code.integration_tests", "Integration tests passing", "", KEPT, fallback=True),
        Item("code.benchmarks", "Performance benchmarks met", "", KEPT, fallback=True),
        Item("code.security_scan", "Security scan completed", "", KEPT, fallback=True),
        Item("code.vulnerabilities", "No critical/high vulnerabilities", "", KEPT),
    )),
    Section("documentation", "Pre-Deployment Phase", "Documentation", (
        Item("documentation.api_docs", "API documentation updated", "", KEPT, fallback=True),
        Item("documentation.diagrams", "Architecture diagrams current", "", KEPT, fallback=True),
        Item("documentation.runbook", "Runbook created", "", KEPT, fallback=True),
        Item("documentation.migration_guide", "Migration guide published", "", KEPT, fallback=True),
        Item("documentation.release_notes", "Release notes prepared", "", KEPT, fallback=True),
    )),
    Section("infrastructure", "Pre-Deployment Phase", "Infrastructure Preparation", (
        Item("infrastructure.capacity", "Kubernetes cluster capacity verified", "", KEPT),
        Item("infrastructure.migrations_tested", "Database migrations tested", "", KEPT, fallback=True),
        Item("infrastructure.redis", "Redis cluster ready", "", KEPT),
        Item("infrastructure.dashboards", "Monitoring dashboards created", "", KEPT, fallback=True),
        Item("infrastructure.alert_rules", "Alert rules configured", "", KEPT),
        Item("infrastructure.backups", "Backup procedures verified", "", KEPT, fallback=True),
    )),
    Section("dependencies", "Pre-Deployment Phase", "Dependencies", (
        Item("dependencies.instrument", "Instrument service integration tested", "", KEPT, fallback=True),
        Item("dependencies.ticker", "Ticker service compatibility verified", "", KEPT, fallback=True),
        Item("dependencies.subscription", "Subscription service quotas configured", "", KEPT, fallback=True),
        Item("dependencies.network_policies", "Network policies updated", "", KEPT, fallback=True),
        Item("dependencies.mesh", "Service mesh configuration ready", "", KEPT),
    )),
    Section("step_1", "Deployment Phase", "Step 1: Database Migration (30 minutes)", (
        Item("step_1.backup", "Backup current database", "database_migration", "backup"),
        Item("step_1.migrate", "Run migration scripts", "database_migration", "migrated"),
        Item("step_1.tables", "Verify new tables created", "database_migration", "tables"),
        Item("step_1.indexes", "Create indexes", "database_migration", "verified"),
        Item("step_1.hypertables", "Verify TimescaleDB hypertables", "database_migration", "verified"),
    )),
    Section("step_2", "Deployment Phase", "Step 2: Configuration Updates (15 minutes)", (
        Item("step_2.configmaps", "Update ConfigMaps", "configuration", "configmap"),
        Item("step_2.secrets", "Update Secrets", "configuration", "secret"),
        Item("step_2.environment", "Verify environment variables", "", KEPT, fallback=True),
    )),
    Section("step_3", "Deployment Phase", "Step 3: Blue-Green Deployment (45 minutes)", (
        Item("step_3.green", "Deploy new version (green)", "blue_green", "done"),
        Item("step_3.ready", "Wait for pods to be ready", "blue_green", "replicas"),
        Item("step_3.smoke", "Run smoke tests", "blue_green", "smoke"),
        Item("step_3.canary_10", "Route 10% traffic to green", "canary_10", "weight"),
        Item("step_3.hold_10", "Monitor metrics (15 minutes)", "canary_10", "gate"),
        Item("step_3.hold_10_errors", "Error rate < 0.1%", "canary_10", "metric error rate", nested=True),
        Item("step_3.hold_10_latency", "Latency p99 < 200ms", "canary_10", "metric latency p99", nested=True),
        Item("step_3.hold_10_cpu", "CPU usage < 70%", "canary_10", "metric CPU of limit", nested=True),
        Item("step_3.hold_10_memory", "Memory usage < 80%", "canary_10", "metric memory of limit", nested=True),
        Item("step_3.canary_50", "Route 50% traffic", "canary_50", "weight"),
        Item("step_3.hold_50", "Monitor metrics (15 minutes)", "canary_50", "gate"),
        Item("step_3.canary_100", "Route 100% traffic", "canary_100", "weight"),
    )),
    Section("step_4", "Deployment Phase", "Step 4: Post-Deployment Verification (30 minutes)", (
        Item("step_4.health", "API Health Checks", "verification", "check health"),
        Item("step_4.realtime", "Test real-time endpoints", "verification", "check real-time"),
        Item("step_4.historical", "Test historical endpoints", "verification", "check historical"),
        Item("step_4.websocket", "WebSocket connectivity", "verification", "check websocket"),
        Item("step_4.performance", "Performance validation", "verification", "load_test"),
    )),
    Section("step_5", "Deployment Phase", "Step 5: Cleanup (15 minutes)", (
        Item("step_5.remove_old", "Remove old deployment", "cleanup", "removed Deployment"),
        Item("step_5.service", "Update DNS/Service", "cleanup", "pinned"),
        Item("step_5.configmaps", "Clean up old ConfigMaps", "cleanup", "removed ConfigMap"),
    )),
    Section("dashboards", "Monitoring Checklist", "Dashboards to Monitor", (
        Item("dashboards.overview", "Service Overview Dashboard", "", KEPT, fallback=True),
        Item("dashboards.performance", "Performance Dashboard", "", KEPT, fallback=True),
        Item("dashboards.business", "Business Metrics Dashboard", "", KEPT, fallback=True),
    )),
    Section("alerts", "Monitoring Checklist", "Key Alerts to Watch", (
        Item("alerts.error_rate", "High error rate (>1%)", "", KEPT),
        Item("alerts.latency", "High latency (p99 > 500ms)", "", KEPT),
        Item("alerts.restarts", "Pod restarts", "", KEPT),
        Item("alerts.database", "Database connection failures", "", KEPT),
        Item("alerts.redis", "Redis connection issues", "", KEPT),
        Item("alerts.memory", "Memory pressure", "", KEPT),
        Item("alerts.disk", "Disk space warnings", "", KEPT),
    )),
    Section("communication_before", "Communication Plan", "Pre-Deployment", (
        Item("communication_before.t_24h", "T-24h: Send deployment notification to stakeholders", "", "message t_24h"),
        Item("communication_before.t_2h", "T-2h: Send reminder with maintenance window", "", "message t_2h"),
        Item("communication_before.t_30m", "T-30m: Post in #platform-status channel", "", "message t_30m"),
    )),
    Section("communication_during", "Communication Plan", "During Deployment", (
        Item("communication_during.start", "Start: Post deployment start in #platform-status", "", "message start"),
        Item("communication_during.milestones", "Milestones: Update on major steps completed", "", "message milestone"),
        Item("communication_during.issues", "Issues: Immediate notification of any problems", "", "message issue"),
    )),
    Section("communication_after", "Communication Plan", "Post-Deployment", (
        Item("communication_after.completion", "Completion: Announce successful deployment", "", "message completion"),
        Item("communication_after.metrics", "Metrics: Share performance improvements", "", "message metrics"),
        Item("communication_after.documentation", "Documentation: Share updated API docs link", "", "message documentation"),
    )),
    Section("technical", "Success Criteria", "Technical Metrics", (
        Item("technical.health", "All health checks passing", "verification", "check"),
        Item("technical.error_rate", "Error rate < 0.1%", "canary_100", "metric error rate"),
        Item("technical.latency", "API latency p99 < 200ms", "canary_100", "metric latency p99"),
        Item("technical.websocket_latency", "WebSocket latency < 50ms", "verification", "latency websocket"),
        Item("technical.cache_hits", "Cache hit rate > 80%", "", KEPT),
        Item("technical.memory_leaks", "No memory leaks detected", "canary_100", "slope memory growth"),
    )),
    Section("business", "Success Criteria", "Business Metrics", (
        Item("business.integrations", "All existing integrations working", "verification", "check existing integrations"),
        Item("business.user_issues", "No user-reported issues"),
        Item("business.slas", "Performance SLAs met", "", KEPT, fallback=True),
        Item("business.moneyness", "Successful moneyness calculations", "verification", "check moneyness"),
        Item("business.timeframes", "Custom timeframes working", "verification", "check timeframe"),
    )),
    Section("signoff", "Success Criteria", "Sign-off Required", (
        Item("signoff.devops", "DevOps Lead", "", "signoff devops"),
        Item("signoff.service_owner", "Service Owner", "", "signoff service_owner"),
        Item("signoff.qa", "QA Lead", "", "signoff qa"),
        Item("signoff.product", "Product Manager", "", "signoff product"),
        Item("signoff.security", "Security Team", "", "signoff security"),
    )),
    Section("day_1", "Post-Deployment Tasks", "Day 1", (
        Item("day_1.metrics", "Monitor metrics closely", "", KEPT, fallback=True),
        Item("day_1.error_logs", "Review error logs", "", KEPT, fallback=True),
        Item("day_1.feedback", "Gather user feedback"),
        Item("day_1.documentation", "Update documentation based on feedback"),
    )),
    Section("week_1", "Post-Deployment Tasks", "Week 1", (
        Item("week_1.tuning", "Performance tuning based on real load", "", KEPT, fallback=True),
        Item("week_1.cache", "Optimize cache settings", "", KEPT, fallback=True),
        Item("week_1.resources", "Review resource utilization", "", KEPT, fallback=True),
        Item("week_1.sprint", "Plan optimization sprint"),
    )),
    Section("month_1", "Post-Deployment Tasks", "Month 1", (
        Item("month_1.usage", "Analyze usage patterns", "", KEPT, fallback=True),
        Item("month_1.plans", "Plan next enhancements"),
        Item("month_1.capacity", "Update capacity planning", "", KEPT, fallback=True),
        Item("month_1.retrospective", "Conduct retrospective"),
    )),
)

ITEMS: tuple[Item, ...] = tuple(item for section in SECTIONS for item in section.items)
BY_ID: dict[str, Item] = {item.id: item for item in ITEMS}


def items_of(name: str) -> tuple[Item, ...]:
    """Return the boxes that ``name`` means: one by its id, or those of a section by the section's id. Empty for an unknown name."""
    if name in BY_ID:
        return (BY_ID[name],)
    return next((section.items for section in SECTIONS if section.id == name), ())


# Rule of a step to what it takes as proof.
_RULE_WORDS = {
    "done": "the new version's objects were applied and are available",
    "backup": "a backup with its sha256 that was read or restored in full; not needed when nothing was pending",
    "migrated": "the revision before and the one at the target",
    "tables": "the tables that exist afterwards, by name",
    "verified": "hypertable_verify passed: tables, hypertables, every index, privileges",
    "configmap": "the ConfigMap of this version with the release's keys, read back",
    "secret": "the Secret of this version with the release's keys",
    "replicas": "available pods, steady for the demanded time",
    "smoke": "every smoke check answered as it must, on green alone",
    "weight": "the weight is confirmed in the proxies, not only written",
    "gate": "the gate's verdict is pass: every metric kept its limit for the whole hold, with enough requests",
    "metric": "this metric kept its limit for the whole hold; worst value and number of samples",
    "check": "every check of that name answered as it must",
    "latency": "99th percentile of real round trips under the limit",
    "load_test": "k6 kept its thresholds",
    "slope": "the growth of the memory, with its confidence interval, is within the limit",
    "removed": "the object was deleted with a precondition, after a copy was kept; not needed when it was gone",
    "pinned": "the Service selects the new version, and lists only its pods",
    "message": "the message was sent, once",
    "signoff": "the approval of whoever the inventory names for the role, authenticated, for this version, plan and these images, not expired",
}


def proven_by(item: Item) -> str:
    """Return the task that ticks a box, for people."""
    if item.proof == KEPT:
        return _KEPT_WORDS.get(item.id, ("", ""))[0]
    if item.step:
        return f"role {item.step.partition('_')[0] if item.step.startswith('canary') else item.step}, step {item.step}"
    if item.is_signoff:
        return "playbooks/signoff.yml"
    return "role communication" if item.proof else "playbooks/attest.yml"


def what_counts(item: Item) -> str:
    """Return what is taken as proof of a box, for people."""
    if item.proof == KEPT:
        return _KEPT_WORDS.get(item.id, ("", ""))[1]
    return _RULE_WORDS[item.proof.partition(" ")[0]] if item.proof else "a person whom the API server has authenticated, for this version and plan"


# Box whose proof is kept to the task that makes it and to what it takes as proof.
_KEPT_WORDS = {
    "code.review": ("release_evidence", "a signed tag, or approvals at a Git provider, of this commit by somebody else than its author"),
    "code.unit_tests": ("release_evidence", "JUnit: tests > 0, failures and errors 0; coverage of lines above the limit; of this commit or image"),
    "code.integration_tests": ("release_evidence", "JUnit: tests > 0, failures and errors 0; of this commit or image"),
    "code.benchmarks": ("release_evidence", "thresholds of k6 and stated limits held; of this commit or image"),
    "code.security_scan": ("release_evidence", "SARIF or Trivy: a completed scan of this commit or image"),
    "code.vulnerabilities": ("release_evidence", "SARIF or Trivy: no finding of a forbidden severity, but for accepted risks that have not expired"),
    "documentation.api_docs": (
        "release_evidence, in the role blue_green or the preflight",
        "the API document names this version and equals what green serves, or what the service served in the pipeline",
    ),
    "documentation.diagrams": ("release_evidence", "exists, names this version, all relative links resolve"),
    "documentation.runbook": ("release_evidence", "exists, names this version, all relative links resolve"),
    "documentation.migration_guide": ("release_evidence", "exists, names this version, all relative links resolve"),
    "documentation.release_notes": ("release_evidence", "exists, names this version, all relative links resolve"),
    "infrastructure.capacity": ("preflight_check", "quota, limits, autoscaler and free requests of the nodes take all pods of both versions at once"),
    "dependencies.instrument": ("service_contract", "its version is in the declared range, and its answers have the fields that the release reads"),
    "dependencies.ticker": ("service_contract", "its version is in the declared range, and its answers have the fields that the release reads"),
    "dependencies.subscription": ("service_contract", "its quotas are those that the release needs"),
    "step_2.environment": ("environment_check", "the processes of all new pods have the declared variables with the declared values"),
    "infrastructure.migrations_tested": ("playbooks/rehearse.yml", "the migration ran on a restored copy, and the running version's queries work on it"),
    "infrastructure.backups": ("preflight_check or playbooks/rehearse.yml", "the newest backup is young and was read in full, or was restored and compared"),
    "dependencies.network_policies": ("network_check", "the policies let pass the declared connections and no forbidden one, as tried from a new pod"),
    "dependencies.mesh": ("preflight_check", "gateways, subsets, labels and TLS fit, and the mesh accepts a new weight on trial"),
    "infrastructure.redis": ("redis_check", "reachable, topology, memory policy, persistence and latency within their limits"),
    "infrastructure.dashboards": ("role monitoring", "the three dashboards exist with the document's panels, and every query finds series"),
    "infrastructure.alert_rules": ("role monitoring", "all seven alerts are loaded with their expressions, healthy, and measure what exists"),
    **dict.fromkeys(
        ("dashboards.overview", "dashboards.performance", "dashboards.business"),
        ("role monitoring", "every panel shows a number at the end of the release"),
    ),
    **dict.fromkeys(
        ("alerts.error_rate", "alerts.latency", "alerts.restarts", "alerts.database", "alerts.redis", "alerts.memory", "alerts.disk"),
        ("role monitoring", "the alert was loaded as written, its query gave a number in 90 % of the release, and it did not fire"),
    ),
    "day_1.metrics": ("role post_deployment", "a day of figures since the release, within the limits, beside those of the old version"),
    "day_1.error_logs": ("role post_deployment", "a day of logs, their errors by type, fewer per hour than the limit"),
    "week_1.tuning": ("role post_deployment", "sizes computed from enough samples under real load"),
    "week_1.cache": ("role post_deployment", "hit rate of a week above the limit, settings and evictions read"),
    "week_1.resources": ("role post_deployment", "a week of usage, 95th percentiles within the limits"),
    "month_1.usage": ("role post_deployment", "a month of requests by endpoint, hour and weekday"),
    "month_1.capacity": ("role post_deployment", "trends over a month, none of which certainly meets its limit within the horizon"),
    "technical.cache_hits": ("role verification, measurement", "the measured hit rate of the new version over the window is above the limit"),
    "business.slas": ("role verification, measurement", "every SLA that the inventory declares was measured and kept"),
}
