#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_check
short_description: Find every reason why a release would fail, before it changes anything
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Looks at the cluster, the rights, the manifests, the mesh, the database, the backup folder, Prometheus, Redis and the addresses
    at the same time, and reports all problems in one go. Each names the variable, the rule, what was seen, what was expected and
    the next step.
  - A check is made when its options are set. One that depends on another is left out when that one has found a problem.
  - Writes nothing anywhere. Rights are asked by SelfSubjectAccessReviews, which the API server answers and does not keep.
extends_documentation_fragment:
  - signal.rollout._metrics.preflight
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
options:
  cluster_server:
    description:
      - URL of the API server that the credentials must lead to. Nothing is sent to any other.
    type: str
  environment:
    description:
      - What the namespace's label C(signal.rollout/environment) must say.
    type: str
  rights:
    description:
      - What the identity of the release must be allowed to do.
    type: list
    elements: dict
    suboptions:
      verb:
        description:
          - Verb, such as V(get) or V(patch).
        type: str
        required: true
      group:
        description:
          - API group. Empty for the core group.
        type: str
        default: ""
      resource:
        description:
          - Resource in the plural, with a subresource after a slash, such as V(deployments/scale).
        type: str
        required: true
      namespace:
        description:
          - Namespace. Without it O(namespace). An empty text stands for the cluster.
        type: str
      name:
        description:
          - Name of the one object. Without it all objects.
        type: str
  deployment:
    description:
      - Name of the Deployment that serves now (blue). It must exist and be healthy, since it is what a rollback goes back to.
    type: str
  stable_version:
    description:
      - The label C(version) of its pods.
    type: str
  version:
    description:
      - The label C(version) of the pods to be released (green). With it the manifests must bring a Deployment.
    type: str
  full_pods:
    description:
      - Pods of the new version that carry all traffic. Without it, as many as the stable Deployment has.
      - A ResourceQuota or LimitRange of the namespace, or a HorizontalPodAutoscaler of the new Deployment, that does not allow so many is a
        problem. Room on the nodes is not looked at. What may not be listed is told as a warning.
    type: int
  manifests:
    description:
      - What the release will apply. Each entry is an object, or the path of a YAML file. Values of Secrets are not looked at, so
        that a file may still hold templates in them.
      - Every object is of an allowed kind and in O(namespace) or in none.
      - A Deployment has its own name, pods that carry O(version) and do not match the selector of O(deployment), a readiness probe,
        limits of CPU and memory, a fixed image, and every ConfigMap and Secret it refers to exists or is among the manifests.
    type: list
    elements: raw
  allowed_kinds:
    description:
      - Kinds that the manifests may hold.
    type: list
    elements: str
    default: [ConfigMap, Deployment, Secret, Service]
  traffic_route:
    description:
      - The route whose weights will change. It must exist, hold both destinations with whole weights that sum to 100, and the mesh must
        know both, by a subset of a DestinationRule or by a Service.
      - An HTTPRoute must be accepted, and its parent Gateways programmed. The canary's Service may be one that O(manifests) bring.
    type: dict
    aliases: [virtual_service]
    suboptions:
      kind:
        description: Kind of the route object.
        type: str
        choices: [VirtualService, HTTPRoute]
        default: VirtualService
      name:
        description: Name of the route object.
        type: str
        required: true
      route:
        description: Name of the HTTP route or rule. May be omitted when the object has exactly one.
        type: str
      destination_host:
        description: Host of both destinations. Needed only when a subset name occurs with several hosts.
        type: str
      stable:
        description: Destination that serves today (blue), named as in M(signal.rollout.canary_weight).
        type: str
        required: true
      canary:
        description: Destination that is being released (green), named as in M(signal.rollout.canary_weight).
        type: str
        required: true
      extra_destinations:
        description: Whether further destinations may have a weight, as in M(signal.rollout.canary_weight).
        type: str
        choices: [refuse, keep]
        default: refuse
      others:
        description: Further routes that move together with this one. What is missing in one of them is taken from this one.
        type: list
        elements: dict
        suboptions:
          kind:
            description: Kind of the route object.
            type: str
            choices: [VirtualService, HTTPRoute]
          namespace:
            description: Namespace of the route object.
            type: str
          name:
            description: Name of the route object.
            type: str
          route:
            description: Name of the HTTP route or rule.
            type: str
          destination_host:
            description: Host of both destinations. Not taken from a main route of another kind.
            type: str
          stable:
            description: Destination that serves today (blue).
            type: str
          canary:
            description: Destination that is being released (green).
            type: str
      gateway_namespace:
        description: Namespace of the gateways, which decides what DestinationRules they see.
        type: str
        default: istio-system
  postgresql:
    description:
      - The database. It must take a connection, accept writes and have the extension.
    type: dict
    suboptions:
      login_host:
        description:
          - Host name or address of the database server, or the absolute path of its socket directory.
        type: str
        default: localhost
      login_port:
        description:
          - Port of the database server.
        type: int
        default: 5432
      login_user:
        description:
          - Role that opens the session.
        type: str
        required: true
      login_password:
        description:
          - Password of the role. It needs at least 8 characters.
        type: str
      login_db:
        description:
          - Name of the database.
        type: str
        required: true
      ssl_mode:
        description:
          - How the connection is encrypted and the server is verified.
        type: str
        default: prefer
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      ca_cert:
        description:
          - Path of the file with the certificate authorities that may have signed the server's certificate.
        type: path
      connect_timeout:
        description:
          - How long to wait for a connection, in seconds, 1 to 60.
        type: int
        default: 5
      extension:
        description:
          - Extension that must be installed in the database. An empty text checks none.
        type: str
        default: timescaledb
      pg_bin_dir:
        description:
          - Folder of C(pg_dump) and C(pg_restore). Without it they are looked for in E(PATH). Their version must not be older than
            the server's. They are looked at when this option or O(backup) is set.
        type: path
  backup:
    description:
      - Where the backup will be written.
    type: dict
    suboptions:
      path:
        description:
          - Absolute path of the folder. It must be writable, and private when it exists. Otherwise it must be possible to create it.
        type: path
        required: true
      free_factor:
        description:
          - The free space needed, as a multiple of the size of the database.
        type: float
        default: 1.2
      local_client:
        description:
          - Whether C(pg_dump) and C(pg_restore) of this host make it. With V(false) they are not looked for.
        type: bool
        default: true
        version_added: 1.1.0
      max_age_hours:
        description:
          - The newest backup of the database there proves the box C(infrastructure.backups) while it is not older, in hours. Without this it is
            not looked at. An old one is no problem of the release, which makes its own.
        type: float
      verified:
        description:
          - What must have been proved of it when it was made.
        type: str
        default: read
        choices: [read, restored]
  prometheus_url:
    description:
      - Base address of Prometheus, or of anything that answers its query API. It must answer.
    type: str
  prometheus_token:
    description:
      - Bearer token.
    type: str
  prometheus_token_file:
    description:
      - Path of a file with the bearer token. It is read again when it has changed, so that another program may renew it meanwhile.
    type: path
  prometheus_user:
    description:
      - User for basic authentication, together with O(prometheus_password).
    type: str
  prometheus_password:
    description:
      - Password for basic authentication.
    type: str
  prometheus_tenant:
    description:
      - Tenant of a multi-tenant server such as Mimir, sent as the header C(X-Scope-OrgID).
    type: str
  prometheus_headers:
    description:
      - Further HTTP headers. Their values are secrets.
    type: dict
  prometheus_client_cert:
    description:
      - Path of the client certificate that is shown to Prometheus, in PEM format.
    type: path
  prometheus_client_key:
    description:
      - Path of the key of O(prometheus_client_cert), in PEM format without a passphrase, unless the certificate's file holds it.
    type: path
  prometheus_validate_certs:
    description:
      - Whether Prometheus' certificate is verified.
    type: bool
    default: true
  prometheus_ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed Prometheus' certificate.
    type: path
  max_clock_skew:
    description:
      - How far Prometheus' clock may be from this host's, in seconds.
    type: float
    default: 30.0
  scrape_job:
    description:
      - Scrape job of the service, of which at least O(scrape_targets) targets must be up.
    type: str
  scrape_targets:
    description:
      - Number of targets that must be up.
    type: int
    default: 1
  minimum_requests:
    description:
      - The sample floor of the gates to come, as for M(signal.rollout.metric_gate).
    type: dict
    suboptions:
      query:
        description:
          - PromQL that gives exactly one number, a scalar or a vector of one series.
          - C($hold) in it stands for the time since the start of the hold, for example C(increase(x[$hold])).
          - Exactly one of O(minimum_requests.query) and O(minimum_requests.preset).
        type: str
      preset:
        description:
          - A ready-made query, with its traps handled. Each answers with nothing, and never with 0, when there is nothing to see.
          - V(error_percent) is the share of answers with a code of 500 or more in C(signal_requests_total), in C(%). It sees the
            very first error of a series that did not exist before, and is right across restarts of counters.
          - V(gateway_error_percent) is the same as Envoy's gateways see it by C(envoy_cluster_upstream_rq), which includes the 503
            for a version without a living pod. V(gateway_p99_ms) is the 99th percentile of C(envoy_cluster_upstream_rq_time), by
            Envoy's buckets (50, 100, 250, 500 ms), between which it is interpolated. V(gateway_requests) counts the requests.
          - V(istio_error_percent), V(istio_p99_ms) and V(istio_requests) are the same by C(istio_requests_total) and
            C(istio_request_duration_milliseconds), which Istio's own proxies report.
          - V(p99_ms) and V(websocket_p99_ms) are the 99th percentiles of C(signal_request_duration_seconds) and
            C(signal_websocket_latency_seconds), in C(ms).
          - V(cpu_percent_of_limit) and V(memory_percent_of_limit) are the use of the worst pod in percent of its limit, by the
            kubelet's C(container_cpu_usage_seconds_total) and C(container_memory_working_set_bytes).
          - V(requests) counts the requests of the window.
          - V(cache_hit_percent) is the share of C(signal_cache_hits_total) in all lookups, in C(%).
          - V(pods_seen) counts the pods that can be scraped, in C(pods). It is 0 only while pods of another version are seen.
        type: str
        choices:
          - cache_hit_percent
          - cpu_percent_of_limit
          - error_percent
          - gateway_error_percent
          - gateway_p99_ms
          - gateway_requests
          - istio_error_percent
          - istio_p99_ms
          - istio_requests
          - memory_percent_of_limit
          - p99_ms
          - pods_seen
          - requests
          - websocket_p99_ms
      preset_vars:
        description:
          - Variables of the preset. All take C(labels), a dictionary of further labels that the series must have.
          - V(error_percent), V(p99_ms), V(websocket_p99_ms), V(requests) and V(cache_hit_percent) need C(version) and C(window), a
            duration such as V(30s), or V($hold).
          - V(gateway_error_percent), V(gateway_p99_ms) and V(gateway_requests) need C(version) (the subset, V("") where the
            destination has none), C(host) (the full name of the service) and C(window).
          - V(istio_error_percent), V(istio_p99_ms) and V(istio_requests) need C(version) (of the label C(destination_version)),
            C(service), C(namespace) and C(window), and take C(reporter), which is V(source) (what callers saw, the default) or
            V(destination).
          - V(cpu_percent_of_limit) needs C(namespace), C(pod) (a regular expression), C(container), C(window) and C(limit_cores).
          - V(memory_percent_of_limit) needs C(namespace), C(pod), C(container) and C(limit_bytes).
          - V(pods_seen) needs C(version).
        type: dict
      at_least:
        description:
          - The number of requests that must be reached.
        type: float
        required: true
  redis_url:
    description:
      - URL of Redis, with its password if it has one. It must answer PING.
    type: str
  notification_targets:
    description:
      - Where messages will go, as for M(signal.rollout.notify). There must be at least one, and Apprise must understand each. Nothing
        is sent.
    type: list
    elements: str
  files:
    description:
      - Files that later phases read, as absolute paths by name. Each must be a file with something in it that can be read.
    type: dict
    version_added: 1.1.0
  urls:
    description:
      - Further addresses by name. Each must be an C(http) or C(https) URL without credentials whose host is known and not link-local.
        They are not called.
    type: dict
  variables:
    description:
      - What the user calls the options of this task, by option, such as C(environment) for C(rollout_environment). Suboptions are
        written with a dot, and one without an entry has the name of what it belongs to. Messages name these.
    type: dict
  timeout:
    description:
      - How long each check may take, in seconds.
    type: float
    default: 10.0
requirements:
  - psycopg2 >= 2.8 (Python library), for O(postgresql)
  - requests (Python library), for O(prometheus_url)
  - jmespath (Python library), for O(metrics[].http)
  - redis (Python library), for O(redis_url)
  - apprise (Python library), for O(notification_targets)
  - PyYAML (Python library), for O(manifests)
seealso:
  - module: signal.rollout.metric_gate
"""

EXAMPLES = r"""
- name: See whether the release can begin
  signal.rollout.preflight_check:
    kubeconfig: ~/.kube/config
    namespace: signal
    environment: production
    cluster_server: https://kubernetes.example.com:6443
    deployment: signal-service-v1
    stable_version: v1
    version: v2
    rights:
      - {verb: patch, group: apps, resource: deployments/scale, name: signal-service-v2}
      - {verb: get, resource: pods/proxy, namespace: istio-system}
    manifests:
      - release/k8s/configmaps/signal-service-config.yaml
      - release/k8s/deployments/signal-service-v2-green.yaml
    traffic_route: {name: signal-service, stable: v1, canary: v2}
    postgresql:
      login_host: timescaledb.example.com
      login_user: signal_owner
      login_password: "{{ vault_signal_owner_password }}"
      login_db: signal_db
      ssl_mode: verify-full
    backup:
      path: /var/backups/signal
    prometheus_url: https://prometheus.example.com
    scrape_job: signal-service
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
    redis_url: "{{ vault_redis_url }}"
    notification_targets: "{{ vault_notification_targets }}"
    files:
      alembic_ini: /srv/release/migrations/alembic.ini
    urls:
      base_url: https://signal.example.com
    variables:
      environment: rollout_environment
      cluster_server: rollout_cluster_server
      postgresql.login_password: rollout_db_owner_password
      files.alembic_ini: database_migration_alembic_ini
      urls.base_url: rollout_base_url
"""

RETURN = r"""
break_glass:
  description:
    - A shell line of kubectl that puts all traffic of O(traffic_route) back to the stable destination and needs nothing of this
      collection. It fails rather than to touch other destinations than those that were read. Empty when the route could not be read.
  returned: always
  type: str
  sample: >-
    kubectl -n signal patch virtualservice signal-service --type=json -p
    '[{"op":"add","path":"/spec/http/0/route/0/weight","value":100},{"op":"add","path":"/spec/http/0/route/1/weight","value":0}]'
problems:
  description: Every reason not to begin. Empty on success.
  returned: always
  type: list
  elements: dict
  sample:
    - check: namespace
      object: Namespace signal
      variable: rollout_environment
      rule: its label signal.rollout/environment names the environment of the inventory
      seen: staging
      expected: production
      next: use the inventory of that environment
  contains:
    check:
      description: The check that found it.
      returned: always
      type: str
      sample: namespace
    object:
      description: What was looked at.
      returned: always
      type: str
      sample: Namespace signal
    variable:
      description: The variable or option to change.
      returned: always
      type: str
      sample: rollout_environment
    rule:
      description: What must hold.
      returned: always
      type: str
      sample: its label signal.rollout/environment names the environment of the inventory
    seen:
      description: What was seen instead.
      returned: always
      type: str
      sample: staging
    expected:
      description: What was expected.
      returned: always
      type: str
      sample: production
    next:
      description: What to do about it.
      returned: always
      type: str
      sample: use the inventory of that environment
checks:
  description: The checks that were asked for.
  returned: always
  type: list
  elements: dict
  sample:
    - {check: namespace, ok: true, problems: 0, skipped: "", seconds: 0.041}
  contains:
    check:
      description: Name of the check.
      returned: always
      type: str
      sample: namespace
    ok:
      description: Whether it was made and found nothing.
      returned: always
      type: bool
      sample: true
    problems:
      description: How many problems it found.
      returned: always
      type: int
      sample: 0
    skipped:
      description: Why it was left out, empty when it was not.
      returned: always
      type: str
      sample: ""
    seconds:
      description: How long it took.
      returned: always
      type: float
      sample: 0.041
proofs:
  description:
    - What the checks prove of the checklist, for O(signal.rollout.release_checklist#module:proofs). The box C(infrastructure.capacity) needs
      O(manifests) and the right to list nodes and pods of the cluster, C(dependencies.mesh) needs O(traffic_route) and the right to read its
      Gateways, PeerAuthentications and DestinationRules. Without them a box is left out, and a warning says so.
  returned: always
  type: dict
  sample:
    dependencies.mesh: {state: proven, evidence: "both destinations known, labels and TLS fit, 1 gateway(s), a weight of 1 accepted on trial"}
seconds:
  description: How long all of it took.
  returned: always
  type: float
  sample: 0.264
"""

from ansible_collections.signal.rollout.plugins.module_utils import _preflight
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_preflight)


if __name__ == "__main__":
    main()
