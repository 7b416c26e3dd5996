#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: metric_gate
short_description: Hold while figures from Prometheus keep their limits, and put traffic back when they do not
version_added: 1.0.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Watches figures for a time and passes only with evidence. Every figure must have kept its strict limit at every poll, must have
    been seen for the whole duration, and the last sample must be good.
  - The verdict is V(pass), V(breach), V(no_data), V(error), V(insufficient) or V(cancelled). The task fails for every verdict but
    V(pass), with the same result keys.
  - By default the first sample over its limit is a breach. Counting rules, two bands with a sequential test, a comparison with the
    stable version, and a limit of growth can be set for each metric; none of them lets a metric pass that is over its limit at the
    end. Rules that could never fail, or never pass, are refused.
  - A breach ends the hold at once. While a figure cannot be seen (no answer, no series, NaN, several series, a warning of Prometheus,
    an old sample) the hold waits with its clock stopped, up to O(outage_budget). Too little evidence at the end extends the hold, up
    to O(extension).
  - With O(abort_route), every verdict but V(pass) puts all traffic back inside this task, before it fails.
  - Mistakes in the options are found before the first query, all at once. Every query is asked once before the hold begins, and one
    that Prometheus cannot understand, or that gives several series, ends the task with Prometheus' own words.
requirements:
  - scipy (Python library), for O(metrics[].baseline) and O(metrics[].slope)
extends_documentation_fragment:
  - signal.rollout._metrics
  - signal.rollout._prometheus
  - signal.rollout._prometheus.tls
  - signal.rollout._attributes
  - signal.rollout._attributes.actiongroup
attributes:
  check_mode:
    support: partial
    details:
      - A plan has no numbers. In check mode only the options and the queries are validated, the verdict is V(none), and nothing is
        written.
  diff_mode:
    support: none
  idempotent:
    support: N/A
    details:
      - The answer depends on the observed system. The only write is the way back.
  in_process:
    support: full
    details:
      - Live lines are shown only in the controller's process. A module's output is read when it has ended.
options:
  label:
    description:
      - How live lines and messages name this hold, such as V(canary 10%).
    type: str
    default: gate
  duration:
    description:
      - How long every figure must have been watched, in seconds. Time in which it could not be seen does not count.
    type: float
    required: true
  interval:
    description:
      - Time from one poll to the next, in seconds, at least 0.1. Polls keep to an absolute schedule.
    type: float
    default: 1.0
  initial_delay:
    description:
      - Time before the first poll, in seconds, in which nothing is judged.
    type: float
    default: 0.0
  query_timeout:
    description:
      - How long one query may take, in seconds. Queries run at the same time, and a slow one does not delay the others.
    type: float
    default: 5.0
  minimum_samples:
    description:
      - How many good samples each figure needs for a pass. Without it, half of the polls that fit O(duration).
    type: int
  minimum_requests:
    description:
      - How much traffic there must have been for a pass. An error rate of 0 in ten requests proves nothing.
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
  extension:
    description:
      - How long the hold may go on after O(duration) to gather the evidence that is still missing, in seconds. After that the verdict
        is V(insufficient).
    type: float
    default: 0.0
  outage_budget:
    description:
      - How long a figure may be out of sight in the whole hold, all gaps together, in seconds. The weight stays as it is meanwhile.
        After that the verdict is V(no_data) or V(error).
    type: float
    default: 600.0
  outage_notice:
    description:
      - One message to people when a figure is out of sight for longer than O(outage_notice.after), whatever comes of it. It says what
        cannot be seen, at which weight the traffic stays, for how long, and what comes then.
      - It is sent beside the hold, which waits for nobody. A target that does not take it is a warning.
      - Nothing is sent in check mode.
    type: dict
    suboptions:
      targets:
        description:
          - Apprise addresses, as in O(signal.rollout.notify#module:targets).
        type: list
        elements: str
        required: true
      event:
        description:
          - Name of the message, by which the record knows that it was sent.
        type: str
        required: true
      title:
        description:
          - Title of the message.
        type: str
        required: true
      after:
        description:
          - How long a figure must be out of sight before people are told, in seconds.
        type: float
        default: 60.0
      sent_events:
        description:
          - What was sent before, as in O(signal.rollout.notify#module:sent_events). An event that is in it is not sent again.
        type: list
        elements: str
        default: []
      timeout:
        description:
          - How long one target may take, in seconds.
        type: float
        default: 10.0
  max_age:
    description:
      - How old the newest scrape behind a figure may be, in seconds. An older figure is no data.
    type: float
    default: 30.0
  scrape_interval:
    description:
      - How often Prometheus scrapes the service, in seconds. With it, worst-case detection times are told, and windows that are too
        short for it are refused.
    type: float
  abort_route:
    description:
      - The route on which all traffic is put back to the stable subset for every verdict but V(pass). The options are those of
        M(signal.rollout.canary_weight), and the weight is always 0.
      - A weight that somebody else has changed meanwhile is put back too.
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
        type: str
      host:
        description:
          - URL of the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
        type: str
      api_key:
        description:
          - Bearer token for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
        type: path
      namespace:
        description:
          - Namespace of the route.
        type: str
        default: default
      kind:
        description:
          - Kind of the route object. V(VirtualService) is Istio's (C(networking.istio.io/v1)), V(HTTPRoute) the Gateway API's
            (C(gateway.networking.k8s.io/v1)).
        type: str
        choices: [VirtualService, HTTPRoute]
        default: VirtualService
      name:
        description: Name of the route object.
        type: str
        required: true
      route:
        description: Name of the HTTP route (VirtualService) or rule (HTTPRoute). May be omitted when the object has exactly one.
        type: str
      destination_host:
        description: Host of both destinations of a VirtualService. Needed only when a subset name occurs with several hosts.
        type: str
      stable:
        description:
          - Destination that gets all traffic (blue).
          - In a VirtualService the name of a subset, or the host of a destination without subset. In an HTTPRoute the name of the backend
            Service.
        type: str
        required: true
      canary:
        description: Destination that is being released (green), named as O(abort_route.stable).
        type: str
        required: true
      extra_destinations:
        description:
          - What becomes of a third destination that has a weight. V(refuse) fails the task, V(keep) leaves its weight, and stable and canary
            share what is left of 100.
        type: str
        choices: [refuse, keep]
        default: refuse
      others:
        description:
          - Further routes that move together with this one. All are read and checked before the first write.
          - What is missing in one of them is taken from the main route; O(abort_route.destination_host) only when it is of the same kind.
          - When a later write fails on the way up, the routes that were written already go back to what they were. On the way down (weight 0)
            every route is tried whatever becomes of the others, and the error says which are back.
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
            description: Host of both destinations.
            type: str
          stable:
            description: Destination that serves today (blue).
            type: str
          canary:
            description: Destination that is being released (green).
            type: str
      capacity:
        description:
          - How many ready pods a share needs. A share that grows beyond what the ready pods of its subset can carry is refused before
            anything is written. Needed are O(abort_route.capacity.full) times the share, rounded up, and at least one pod.
          - Without this option one ready pod is enough for any share. An empty dictionary takes all numbers from the live objects.
          - The way to weight 0 is never refused for too few pods as long as one is ready, since few pods of the stable subset serve
            better than a canary that somebody wants to leave. RV(shift) tells of it.
          - A HorizontalPodAutoscaler whose C(maxReplicas) is less than the needed pods is refused too.
          - Reads the Service, and lists its pods and the Deployments, HorizontalPodAutoscalers and PodDisruptionBudgets of the namespace.
        type: dict
        suboptions:
          full:
            description:
              - Pods that carry all traffic. Without it, what the stable subset's Deployment wants, or C(minReplicas) of its
                HorizontalPodAutoscaler when that is more. When the canary has all traffic, or the stable Deployment stands at 0, the
                canary's number counts too if it is more.
            type: int
          disruptions:
            description:
              - What becomes of a share that the pods can carry, but not those that PodDisruptionBudgets leave after evictions.
              - V(warn) tells it in RV(shift), V(refuse) refuses the change. Pods without a budget are not judged.
            type: str
            choices: [warn, refuse]
            default: warn
      confirm:
        description:
          - How the change is confirmed in the mesh. A change that nothing confirms fails the task, unless O(abort_route.confirm.accept_unconfirmed) is set;
            the weights stay written.
          - Every gateway that is ready must show the weights, also one that becomes ready meanwhile; one that goes away is no longer waited for.
          - A proxy that rejects the configuration ends the wait with the proxy's own reason. This is never accepted.
        type: dict
        suboptions:
          method:
            description:
              - V(envoy) reads the route configuration of every ready gateway from Envoy's admin port, through the API server's pod proxy.
              - V(exec) reads it by a command in the pod (pilot-agent, curl or bash), which also reaches an admin port on 127.0.0.1 as
                a stock istio-proxy has it. Needs the verbs get and create on pods/exec.
              - V(observed) takes the canary's share of the requests that Prometheus counts after the write, see O(abort_route.confirm.observed).
              - V(auto) is V(envoy), for a pod whose port cannot be reached V(exec), and V(observed) where a pod allows neither.
              - V(none) confirms nothing and is content with that.
            type: str
            choices: [auto, envoy, exec, observed, none]
            default: auto
          namespace:
            description: Namespace of the gateways.
            type: str
            default: istio-system
          selector:
            description: Label selector of the gateway pods.
            type: str
            default: istio=ingressgateway
          admin_port:
            description: Port of Envoy's admin interface.
            type: int
            default: 15000
          container:
            description: Container with Envoy, of gateways and sidecars.
            type: str
            default: istio-proxy
          timeout:
            description: Seconds that the proxies may take to show the weights.
            type: float
            default: 10.0
          sidecars:
            description:
              - Callers whose sidecars must show the weights too, when the route applies to the mesh.
              - Needed for a route that applies to sidecars only.
            type: dict
            suboptions:
              namespace:
                description: Namespace of the callers. Without it the route's own.
                type: str
              selector:
                description: Label selector of the callers' pods. Those that are ready and have O(abort_route.confirm.container) count.
                type: str
                required: true
              sample:
                description: How many of them are asked, chosen at random.
                type: int
                default: 3
          observed:
            description:
              - Counters of the requests to both destinations, from which the canary's share is taken.
              - The counting begins after the write, one scrape later at the earliest. The share must be within three standard deviations
                of a binomial share around the weight, among so many requests that the weight before would not be.
            type: dict
            suboptions:
              prometheus_url:
                description: Address of Prometheus.
                type: str
                required: true
              prometheus_token:
                description: Bearer token.
                type: str
              prometheus_token_file:
                description: Path of a file with the bearer token, read again when it has changed.
                type: path
              prometheus_user:
                description: User for basic authentication.
                type: str
              prometheus_password:
                description: Password for basic authentication.
                type: str
              prometheus_tenant:
                description: Tenant of a multi-tenant server, sent as the header C(X-Scope-OrgID).
                type: str
              prometheus_headers:
                description: Further HTTP headers. Their values are secrets.
                type: dict
              prometheus_client_cert:
                description: Path of the client certificate that is shown to Prometheus, in PEM format.
                type: path
              prometheus_client_key:
                description: Path of its key, in PEM format without a passphrase, unless the certificate's file holds it.
                type: path
              validate_certs:
                description: Whether Prometheus' certificate is verified.
                type: bool
                default: true
                aliases: [prometheus_validate_certs]
              ca_cert:
                description: Path of the file with the certificate authorities that may have signed Prometheus' certificate.
                type: path
                aliases: [prometheus_ca_cert]
              preset:
                description:
                  - Which counters, instead of O(abort_route.confirm.observed.stable_query) and O(abort_route.confirm.observed.canary_query).
                  - V(requests) are the service's own (C(signal_requests_total), whose label C(version) is the subset, or the
                    name of the Service of a destination without one), V(gateway_requests) Envoy's
                    (C(envoy_cluster_upstream_rq) by cluster), V(istio_requests) Istio's (C(istio_requests_total), reporter source).
                type: str
                choices: [requests, gateway_requests, istio_requests]
              labels:
                description: Further labels that the preset's counters must carry.
                type: dict
              stable_query:
                description: PromQL for the counters of requests to the stable destination, without C(rate) or C(increase).
                type: str
              canary_query:
                description: The same for the canary.
                type: str
              minimum_requests:
                description: Requests that must have been counted at least.
                type: int
                default: 100
              scrape_interval:
                description: Seconds between two scrapes of these counters.
                type: float
                default: 15.0
              timeout:
                description: Seconds that the share may take to prove the weight.
                type: float
                default: 120.0
          istiod:
            description:
              - Where istiod counts rejected configuration (C(pilot_xds_rds_reject) and its siblings). It is read beside the write and while
                the proxies lag. An istiod that is not found or does not answer is no error.
            type: dict
            suboptions:
              url:
                description: Address of istiod's monitoring port, as in C(http://istiod.istio-system:15014). Without it, the pods below are asked.
                type: str
              namespace:
                description: Namespace of istiod's pods.
                type: str
                default: istio-system
              selector:
                description: Label selector of istiod's pods.
                type: str
                default: app=istiod
              port:
                description: Their monitoring port, read through the API server's pod proxy.
                type: int
                default: 15014
          accept_unconfirmed:
            description:
              - Whether weights that are written but not confirmed are a result, with C(shift.confirmed.state=unconfirmed), instead of an error.
              - More traffic for the canary is then also written when it is clear before that nothing can confirm it.
            type: bool
            default: false
  shift:
    description:
      - A weight change that this task makes and confirms before the hold begins, on the route that O(abort_route) names.
      - The weight is then looked at as often as the metrics. Somebody else's edit ends the hold with V(error) and is left alone.
      - One task for both leaves no moment in which the canary has traffic and nobody would take it back.
      - When the change is refused (drift, no ready pod) nothing is moved, and O(abort_route) is not taken either. The same holds when
        somebody else changes the weights before the gateways have them.
    type: dict
    suboptions:
      weight:
        description: Percent of requests for the canary, from 0 to 100.
        type: int
        required: true
      expected_weight:
        description: Weight the canary must have before the change; any other is drift.
        type: int
  abort_timeout:
    description:
      - How long putting traffic back is tried again while the API server is in trouble, in seconds.
    type: float
    default: 60.0
  on_interrupt:
    description:
      - What an interruption (INT, TERM, HUP, or the death of the controller's process) does. V(back) puts traffic back by
        O(abort_route) inside the signal handler, V(hold) leaves it as it is.
    type: str
    choices: [back, hold]
    default: back
  lease:
    description:
      - The Lease of the release, renewed during the hold every third of its duration, as by M(signal.rollout.rollout_record).
      - When somebody else has taken it, the hold ends with the verdict V(error), and nothing is written any more.
      - Connection options that are not given are those of O(abort_route).
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
        type: str
      host:
        description:
          - URL of the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
        type: str
      api_key:
        description:
          - Bearer token for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
        type: path
      namespace:
        description:
          - Namespace of the Lease.
        type: str
        required: true
      name:
        description:
          - Name of the Lease.
        type: str
        required: true
      holder:
        description:
          - Identity of this run, as RV(signal.rollout.rollout_record#module:holder) gave it.
        type: str
        required: true
      duration:
        description:
          - For how long the Lease is valid after a renewal, in seconds.
        type: float
        default: 60.0
  standby:
    description:
      - The Deployment that traffic would go back to, looked at every second, or every O(interval) when that is longer.
      - While fewer of its pods are ready than O(standby.at_least) that is told at once, and the hold does not pass. Without any ready
        pod traffic does not go back to it, whatever the verdict, since a canary in breach serves better than nothing. When the Deployment is
        deleted or scaled to 0, the hold ends with V(error) at once.
      - Connection options that are not given are those of O(abort_route).
    type: dict
    suboptions:
      kubeconfig:
        description:
          - Path of the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
        type: path
      context:
        description:
          - Name of the context in the kubeconfig file.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
        type: str
      host:
        description:
          - URL of the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
        type: str
      api_key:
        description:
          - Bearer token for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
        type: str
      validate_certs:
        description:
          - Whether the API server's certificate is verified.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
        type: bool
      ca_cert:
        description:
          - Path of the certificate authority's file for the API server.
          - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
        type: path
      namespace:
        description:
          - Namespace of the Deployment.
        type: str
        required: true
      name:
        description:
          - Name of the Deployment.
        type: str
        required: true
      at_least:
        description:
          - How many of its pods must be ready for a pass.
        type: int
        default: 1
      enough:
        description:
          - How many ready pods all traffic would need. Fewer are told at once and warned about, but do not keep the hold from passing,
            since an autoscaler may have taken pods that had nothing to do.
        type: int
  synthetic:
    description:
      - Requests that this task sends to the new version while users send too few to judge it by. The mesh must route them there by a
        header, whatever the weights are.
      - Before the weight is changed, five requests must be answered by the new version, else the verdict is V(error). During the
        hold, an answer of another version ends the sending.
      - They are traffic like any other, and what becomes of them counts only through the metrics. They carry the headers
        C(User-Agent) V(signal.rollout synthetic) and C(X-Signal-Rollout) V(synthetic), are evenly spaced, use kept connections, and
        end with the verdict or an interruption at once.
      - Nothing is sent in check mode.
    type: dict
    suboptions:
      url:
        description:
          - Address to ask, at the entrance that users take.
        type: str
        required: true
      method:
        description:
          - HTTP method. The requests must be harmless.
        type: str
        choices: [GET, HEAD, POST]
        default: GET
      headers:
        description:
          - HTTP headers, among them the one by which the mesh routes to the new version.
        type: dict
        required: true
      secret_headers:
        description:
          - Further HTTP headers whose values are secrets.
        type: dict
      body:
        description:
          - Body of a POST.
        type: str
      expect:
        description:
          - By what an answer of the new version is known.
        type: dict
        required: true
        suboptions:
          header:
            description:
              - Header of the answer that names the version.
              - Exactly one of O(synthetic.expect.header) and O(synthetic.expect.json_path).
            type: str
          json_path:
            description:
              - JMESPath expression that finds the version in the answer's JSON.
            type: str
          value:
            description:
              - What it must be.
            type: str
            required: true
      rate:
        description:
          - How many requests are sent per second at most, up to 200. Requests that would have to wait for others are left out.
        type: float
        default: 10.0
      timeout:
        description:
          - How long an answer may take, in seconds, at most 60.
        type: float
        default: 5.0
      max_requests:
        description:
          - How many requests are sent in the whole hold at most.
        type: int
        default: 10000
      when:
        description:
          - V(below_floor) sends while users alone would not reach O(minimum_requests) by the end of the hold. It does not end when
            these requests have reached it, since rates of the rest of the hold could not be seen without any.
          - V(always) sends during the whole hold.
        type: str
        choices: [always, below_floor]
        default: below_floor
      validate_certs:
        description:
          - Whether the certificate of the address is verified.
        type: bool
        default: true
      ca_cert:
        description:
          - Path of the file with the certificate authorities that may have signed it.
        type: path
seealso:
  - module: signal.rollout.canary_weight
  - module: signal.rollout.preflight_check
"""

EXAMPLES = r"""
- name: Hold 10 % for fifteen minutes
  signal.rollout.metric_gate:
    prometheus_url: https://prometheus.example.com
    label: canary 10%
    duration: 900
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
      - name: p99
        preset: p99_ms
        preset_vars: {version: v2, window: 1m}
        below: 200
        unit: ms
      - name: queue
        query: max(signal_queue_length{version="v2"})
        freshness: min(timestamp(signal_queue_length{version="v2"}))
        at_most: 100
        unit: messages
        failure_limit: 2
    minimum_requests:
      preset: requests
      preset_vars: {version: v2, window: $hold}
      at_least: 2995
    extension: 900
    scrape_interval: 5
    abort_route:
      namespace: signal
      name: signal-service
      stable: v1
      canary: v2

- name: Judge few requests fairly, compare with the stable version, and look for a memory leak
  signal.rollout.metric_gate:
    prometheus_url: https://prometheus.example.com
    label: canary 10%
    duration: 900
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
        bands:
          far: 50
      - name: p99
        preset: p99_ms
        preset_vars: {version: v2, window: 1m}
        below: 200
        unit: ms
        baseline:
          preset: p99_ms
          preset_vars: {version: v1, window: 1m}
          tolerance: 20
          tolerance_percent: 25
      - name: memory
        preset: memory_percent_of_limit
        preset_vars: {namespace: signal, pod: signal-service-v2-.*, container: app, limit_bytes: 268435456}
        below: 80
        unit: "%"
        interval: 15
        slope:
          at_most: 20
          warm_up: 120
      - name: replication_lag
        query: max(pg_replication_lag_seconds)
        below: 5
        unit: s
        interval: 30
        count: 10
        failure_limit: 2
        consecutive_success_limit: 3
    standby:
      namespace: signal
      name: signal-service-v1
    abort_route:
      namespace: signal
      name: signal-service
      stable: v1
      canary: v2

- name: Only see whether the queries are valid
  signal.rollout.metric_gate:
    prometheus_url: https://prometheus.example.com
    duration: 900
    metrics:
      - name: error_rate
        preset: error_percent
        preset_vars: {version: v2, window: 1m}
        below: 0.1
        unit: "%"
  check_mode: true
"""

RETURN = r"""
verdict:
  description:
    - V(pass), V(breach), V(no_data), V(error), V(insufficient) or V(cancelled). V(none) in check mode.
  returned: always
  type: str
  sample: pass
reason:
  description: Why, in one sentence with the numbers.
  returned: always
  type: str
  sample: error_rate is 4.87 %, expected < 0.1 %
metrics:
  description: What each metric has shown.
  returned: always
  type: list
  elements: dict
  sample:
    - name: error_rate
      verdict: pass
      worst: 0.04
      last: 0.0
      detail: ""
      limit: 0.1
      condition: < 0.1
      unit: "%"
      samples: 901
      good: 899
      suspect: 0
      breaches: 0
      blind: 2
      dry_run: false
      query: max(signal_queue_length{version="v2"})
      queries: {"value": 'max(signal_queue_length{version="v2"})'}
      rule: < 0.1 %; the first sample over it is a breach
      evidence: {}
  contains:
    name:
      description: Name of the metric.
      returned: always
      type: str
      sample: error_rate
    verdict:
      description: The metric's own verdict, in the words of RV(verdict).
      returned: always
      type: str
      sample: pass
    worst:
      description: The value nearest to the limit, or furthest beyond it. Null when there was none.
      returned: always
      type: float
      sample: 0.04
    last:
      description: The last value. Null when the last poll saw none.
      returned: always
      type: float
      sample: 0.0
    detail:
      description: Why the last poll saw no value.
      returned: always
      type: str
      sample: ""
    limit:
      description: The limit.
      returned: always
      type: float
      sample: 0.1
    condition:
      description: The limit with its comparison.
      returned: always
      type: str
      sample: < 0.1
    unit:
      description: Unit of values and limit.
      returned: always
      type: str
      sample: "%"
    samples:
      description: Number of samples, the sum of the next four.
      returned: always
      type: int
      sample: 901
    good:
      description: Samples within the limit.
      returned: always
      type: int
      sample: 899
    suspect:
      description: Samples slightly over the limit of a metric with O(metrics[].bands), for the sequential test to decide.
      returned: always
      type: int
      sample: 0
    breaches:
      description: Samples over the limit.
      returned: always
      type: int
      sample: 0
    blind:
      description: Polls that saw no usable value.
      returned: always
      type: int
      sample: 2
    dry_run:
      description: Whether the metric was only shown.
      returned: always
      type: bool
      sample: false
    query:
      description: The PromQL that was asked.
      returned: always
      type: str
      sample: max(signal_queue_length{version="v2"})
    queries:
      description:
        - Everything that was asked for the metric, by C(value), C(freshness), C(errors), C(requests), C(baseline) and
          C(baseline freshness).
      returned: always
      type: dict
      sample: {"value": 'max(signal_queue_length{version="v2"})'}
    rule:
      description: The rule by which the metric is judged, in words.
      returned: always
      type: str
      sample: "< 0.1 %; the first sample over it is a breach"
    evidence:
      description: What the rules C(bands), C(baseline) and C(slope) have found, for each that the metric has.
      returned: always
      type: dict
      sample:
        bands: {"errors": 1.0, "requests": 3120.0, "likelihood_ratio": 0.05, "breach_from": 285.0}
series:
  description:
    - For each metric a bounded list of C([unix time, value]) for charts. When it is full, neighbours are merged and the worse value
      is kept. Value null means that the metric could not be seen.
  returned: always
  type: dict
  sample: {"error_rate": [[1795519126.0, 0.0], [1795519127.0, 0.02]]}
requests:
  description: Requests counted and needed. Null without O(minimum_requests), or when the hold did not begin.
  returned: always
  type: dict
  sample: {"count": 3120.0, "at_least": 2995.0}
detection:
  description:
    - For each metric with a known window the longest time in seconds from the start of a breach to the poll that sees it, for figures
      that are 2, 10 and 50 times over the limit. Null when no single sample decides. With O(metrics[].bands) C(requests) is about how
      many requests the sequential test needs. Empty without O(scrape_interval). For a percentile it is the share of slow requests
      that is over the share allowed.
  returned: always
  type: list
  elements: dict
  sample:
    - metric: error_rate
      worst_case:
        - {times: 2, seconds: 32.0, requests: null}
        - {times: 10, seconds: 8.0, requests: null}
        - {times: 50, seconds: 3.2, requests: null}
detection_time_s:
  description:
    - Time in seconds from the last good sample of the metric to the verdict, an upper bound of how long the breach could be seen in
      Prometheus before it was. Null for other verdicts.
  returned: always
  type: float
  sample: 1.01
shift:
  description: The weight change that O(shift) asked for, with the keys of M(signal.rollout.canary_weight). Null without one.
  returned: always
  type: dict
  sample:
    changed: true
    before: {"stable": 100, "canary": 0}
    after: {"stable": 90, "canary": 10}
    resource_version: "4711"
    confirmed: {"method": "envoy", "state": "confirmed", "seconds": 0.112, "proxies": 2, "gateways": 2, "sidecars": 0, "reason": ""}
    drift: null
drift:
  description: What somebody else changed on the route before or during the hold. Such an edit ends the hold and is left alone.
  returned: always
  type: dict
  sample: {"field": "weight of the canary", "expected": 10, "seen": 25, "manager": "kubectl-edit", "time": "2026-11-24T10:58:46Z"}
aborted:
  description: How traffic was put back. Null when it was not tried.
  returned: always
  type: dict
  sample:
    done: true
    changed: true
    before: {"stable": 90, "canary": 10}
    after: {"stable": 100, "canary": 0}
    confirmed: {"method": "envoy", "state": "confirmed", "seconds": 0.112, "proxies": 2, "gateways": 2, "sidecars": 0, "reason": ""}
    routes: []
    seconds: 0.15
    error: ""
  contains:
    done:
      description: Whether the canary's weight in the API server is 0.
      returned: always
      type: bool
      sample: true
    changed:
      description: Whether that took a write.
      returned: always
      type: bool
      sample: true
    before:
      description: Weights found, in percent.
      returned: always
      type: dict
      sample: {"stable": 90, "canary": 10}
    after:
      description: Weights afterwards.
      returned: always
      type: dict
      sample: {"stable": 100, "canary": 0}
    confirmed:
      description: How the weights were confirmed in the mesh. Null when they were not.
      returned: always
      type: dict
      sample: {"method": "envoy", "state": "confirmed", "seconds": 0.112, "proxies": 2, "gateways": 2, "sidecars": 0, "reason": ""}
    routes:
      description: Every route that was put back with its own result, as RV(signal.rollout.canary_weight#module:routes).
      returned: always
      type: list
      elements: dict
      sample: []
    seconds:
      description: How long it took, confirmation included.
      returned: always
      type: float
      sample: 0.15
    error:
      description: What went wrong, empty when nothing did.
      returned: always
      type: str
      sample: ""
outages:
  description: What could not be seen during the hold, for how long, and why. Each is also a warning. The weight was frozen meanwhile.
  returned: always
  type: list
  elements: dict
  sample:
    - metrics: [error_rate, p99]
      since: "2026-11-24T12:41:02Z"
      seconds: 480.2
      reason: "error: cannot reach http://prometheus.example.com:9090: Connection refused"
outage_notice:
  description: The message that O(outage_notice) has sent. Null when none was due, or without that option.
  returned: always
  type: dict
  sample:
    event: canary_10/outage
    sent: true
    record_events: [canary_10/outage]
    error: ""
  contains:
    event:
      description: Name of the message.
      returned: always
      type: str
      sample: canary_10/outage
    sent:
      description: Whether a target took it.
      returned: always
      type: bool
      sample: true
    record_events:
      description: What to keep for O(outage_notice.sent_events), as RV(signal.rollout.notify#module:record_events).
      returned: always
      type: list
      elements: str
      sample: [canary_10/outage]
    error:
      description: Which targets did not take it and why, empty when all did.
      returned: always
      type: str
      sample: ""
synthetic:
  description:
    - What O(synthetic) has sent and what came back. Null without it, or when the options were refused. Requests under way at the end
      are sent, but neither answered nor failed.
  returned: always
  type: dict
  sample:
    sent: 480
    answered: 479
    failed: 1
    statuses: {"200": 479}
    last_failure: no answer from https://signal.example.com within 5 s
    misrouted: ""
  contains:
    sent:
      description: Requests sent.
      returned: always
      type: int
      sample: 480
    answered:
      description: Requests with an answer, whatever its status.
      returned: always
      type: int
      sample: 479
    failed:
      description: Requests without one.
      returned: always
      type: int
      sample: 1
    statuses:
      description: How many answers had which HTTP status.
      returned: always
      type: dict
      sample: {"200": 479}
    last_failure:
      description: Why the last of the failed requests had no answer. Empty when none failed.
      returned: always
      type: str
      sample: no answer from https://signal.example.com within 5 s
    misrouted:
      description: The other version that has answered, which ended the sending. Empty when none has.
      returned: always
      type: str
      sample: ""
started:
  description: When the task began, in UTC. Null when its options were refused.
  returned: always
  type: str
  sample: "2026-11-24T12:38:46Z"
seconds:
  description: How long the task took.
  returned: always
  type: float
  sample: 900.3
"""

from ansible_collections.signal.rollout.plugins.module_utils import _metric_gate
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_metric_gate)


if __name__ == "__main__":
    main()
