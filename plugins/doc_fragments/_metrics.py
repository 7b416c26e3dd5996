# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  metrics:
    description:
      - The figures. At least one that is not a dry run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the figure in messages and results. Each name once.
        type: str
        required: true
      query:
        description:
          - PromQL that gives exactly one number, a scalar or a vector of one series.
          - C($hold) in it stands for the time since the start of the hold, for example C(increase(x[$hold])).
          - Exactly one of O(metrics[].query), O(metrics[].preset) and O(metrics[].http).
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
      http:
        description:
          - Ask an HTTP address for a JSON document, and take the figure from it, instead of asking Prometheus.
          - Figures with the same address and options share one request per poll. Redirects are not followed.
        type: dict
        suboptions:
          url:
            description:
              - Address of the document. What follows a C(?) is not shown in messages.
            type: str
            required: true
          json_path:
            description:
              - JMESPath expression that gives exactly one number, such as V(checks.latency.p99), V(orders[0].rejected) or
                V(sum(queues[].length\)). Null is no data. A text is refused unless C(to_number(\)) makes a number of it.
            type: str
            required: true
          time_path:
            description:
              - JMESPath expression for the time the figure stands for, in unix seconds or as ISO 8601 with a zone, by which its age
                is judged. Without it that is the moment of the answer.
            type: str
          method:
            description:
              - HTTP method.
            type: str
            choices: [GET, POST]
            default: GET
          body:
            description:
              - Body of a POST.
            type: str
          headers:
            description:
              - Further HTTP headers. Their values are secrets.
            type: dict
          token:
            description:
              - Bearer token.
            type: str
          status:
            description:
              - Status codes that count as an answer. Without any, 200 to 299.
            type: list
            elements: int
            default: []
          timeout:
            description:
              - How long the answer may take, in seconds, at most 60.
            type: float
            default: 5.0
          validate_certs:
            description:
              - Whether the certificate of the address is verified.
            type: bool
            default: true
          ca_cert:
            description:
              - Path of the file with the certificate authorities that may have signed it.
            type: path
          client_cert:
            description:
              - Path of the client certificate that is shown, in PEM format.
            type: path
          client_key:
            description:
              - Path of the key of O(metrics[].http.client_cert), in PEM format without a passphrase, unless the certificate's file
                holds it.
            type: path
      below:
        description:
          - The figure must be less than this. A figure equal to it breaks the limit.
          - Exactly one of O(metrics[].below), O(metrics[].at_most), O(metrics[].above) and O(metrics[].at_least) is needed.
        type: float
      at_most:
        description:
          - The figure must be this or less.
        type: float
      above:
        description:
          - The figure must be more than this. A figure equal to it breaks the limit.
        type: float
      at_least:
        description:
          - The figure must be this or more.
        type: float
      unit:
        description:
          - Unit of the figure and its limit, such as V(%) or V(ms). It is needed for every metric and never guessed.
          - With a preset it must be the preset's own unit.
        type: str
      failure_limit:
        description:
          - How many samples of the whole hold may be over the limit. One more is a breach.
          - V(-1) forgives any number, and is refused unless O(metrics[].consecutive_failure_limit) or
            O(metrics[].consecutive_success_limit) limits them in another way.
        type: int
        default: 0
      consecutive_failure_limit:
        description:
          - How many samples in a row may be over the limit. One more is a breach.
          - It matters only with a larger O(metrics[].failure_limit), or V(-1); otherwise it is refused.
        type: int
      consecutive_error_limit:
        description:
          - How many samples in a row may show nothing usable. One more ends the hold with V(no_data) or V(error), whatever is left of
            the outage budget. Without it only the budget counts.
        type: int
      consecutive_success_limit:
        description:
          - How many good samples in a row are needed at the end.
        type: int
        default: 1
      count:
        description:
          - The metric is done after so many samples that could be seen, good or forgiven, when the last
            O(metrics[].consecutive_success_limit) of them are good. Samples without a usable figure do not count.
          - When all metrics have a count, the hold passes as soon as all are done. Otherwise the others are watched for the whole
            duration.
          - A metric whose last samples are not good when it has its count goes on to be measured until the end of the hold.
          - Needs O(metrics[].interval), and must be at least O(metrics[].failure_limit) + O(metrics[].consecutive_success_limit).
        type: int
      interval:
        description:
          - Time from one sample to the next, in seconds, at least 0.1. Without it that of the gate.
        type: float
      initial_delay:
        description:
          - Time from the start of the hold to the first sample, in seconds. The metric is then watched for the rest of the hold.
        type: float
        default: 0.0
      query_timeout:
        description:
          - How long one query for this metric may take, in seconds. Without it that of the gate.
        type: float
      bands:
        description:
          - Two bands over the limit, for a share of errors whose single errors weigh much while there are few requests. Far over the
            limit the first sample is a breach. Slightly over it, a sequential test of the errors and requests of the hold decides
            (A. Wald, 1945), as soon as the evidence is sufficient. Until then the sample is neither good nor a breach, and the hold
            does not pass on it.
          - At the end of the hold the limit stands as it is written, for the last sample and for the hold as a whole. What is over it
            then extends the hold up to its extension, and is a breach after that.
          - For O(metrics[].below) and O(metrics[].at_most) with the unit V(%) or V(ratio). Cannot be combined with
            O(metrics[].failure_limit), O(metrics[].consecutive_failure_limit) or O(metrics[].count).
        type: dict
        suboptions:
          far:
            description:
              - From how many times the limit on one sample decides. Exactly one of O(metrics[].bands.far) and
                O(metrics[].bands.breach_at) is needed.
            type: float
          breach_at:
            description:
              - From which figure on one sample decides, in the metric's unit.
            type: float
          acceptable:
            description:
              - The share at which a release shall not be aborted, in the metric's unit. Without it half the limit.
            type: float
          unacceptable:
            description:
              - The share at which it shall be, in the metric's unit. Without it twice the limit.
              - The test is also made against the far band and against the share half-way to it, on a logarithmic scale, so that worse
                is seen sooner.
            type: float
          alpha:
            description:
              - The chance of an abort by the sequential test at the acceptable share.
            type: float
            default: 0.01
          beta:
            description:
              - The chance of missing the unacceptable share, given enough requests.
            type: float
            default: 0.05
          errors:
            description:
              - PromQL for the number of errors in the hold so far, such as C(sum(increase(errors_total[$hold]))). Presets of a share
                bring both counts.
            type: str
          requests:
            description:
              - PromQL for the number of requests in the hold so far.
            type: str
      baseline:
        description:
          - Compares the figure with the same one of the stable version, at the same moments, beside the limit of the metric, which
            always stands.
          - A breach when it is worse by more than the tolerance (the median of all pairwise differences, Hodges and Lehmann) and the
            difference is significant (Mann and Whitney's U, one-sided).
          - Samples are taken one window apart, since those of overlapping windows are not independent. While the stable version's
            figure cannot be seen, the metric cannot be seen either.
          - Needs the Python library scipy.
        type: dict
        suboptions:
          query:
            description:
              - PromQL for the stable version's figure. Exactly one of O(metrics[].baseline.query) and O(metrics[].baseline.preset).
            type: str
          preset:
            description:
              - A ready-made query, as for O(metrics[].preset).
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
              - Variables of the preset, as for O(metrics[].preset_vars).
            type: dict
          freshness:
            description:
              - PromQL for the unix time of the newest scrape behind the stable version's figure. Presets bring their own.
            type: str
          direction:
            description:
              - Which change is for the worse. Without it V(increase) for O(metrics[].below) and O(metrics[].at_most), V(decrease) for
                the other limits.
            type: str
            choices: [increase, decrease]
          tolerance:
            description:
              - The difference that is tolerated, in the metric's unit. At least one of O(metrics[].baseline.tolerance) and
                O(metrics[].baseline.tolerance_percent) is needed; with both, the larger one counts.
              - A relative tolerance of a figure that is 0 is 0. Give an absolute one where the stable version may have none.
            type: float
          tolerance_percent:
            description:
              - The difference that is tolerated, in percent of the stable version's median.
            type: float
          confidence:
            description:
              - The confidence that a difference is real, for all looks of a hold together.
            type: float
            default: 0.99
          minimum_samples:
            description:
              - How many windows must have been compared for a pass, at least 4. A hold that is too short for them is refused.
            type: int
            default: 8
      slope:
        description:
          - The fastest growth that is allowed, such as that of a memory leak, beside the limit of the metric.
          - A breach when the lower bound of Theil and Sen's slope is above it. Too few samples for a slope are V(insufficient).
          - Needs the Python library scipy.
        type: dict
        suboptions:
          at_most:
            description:
              - Growth in the metric's unit per hour.
            type: float
            required: true
          confidence:
            description:
              - The confidence of the interval around the slope, for all looks of a hold together.
            type: float
            default: 0.95
          warm_up:
            description:
              - Time after the metric's start whose samples are left out, in seconds.
            type: float
            default: 0.0
          minimum_span:
            description:
              - Over how many seconds samples are needed before the slope is judged. Without it half of the hold after the warm-up.
            type: float
          minimum_samples:
            description:
              - How many samples are needed before the slope is judged, at least 5.
            type: int
            default: 12
      no_data:
        description:
          - What a poll without data means. V(hold) is to wait and see, within the outage budget.
          - V(breach) counts it as a poll over the limit. Nothing makes it a pass.
        type: str
        choices: [hold, breach]
        default: hold
      dry_run:
        description:
          - Measure and show the figure, but never decide by it.
        type: bool
        default: false
      freshness:
        description:
          - PromQL for the unix time of the newest scrape behind the figure, such as C(min(timestamp(x))). Presets bring their own.
          - Without it only the time of Prometheus' own evaluation is looked at, by this host's clock. That shows an answer from a
            cache or a wrong clock, but not a target that is no longer scraped, whose last samples stay visible for some minutes.
        type: str
      window:
        description:
          - Length of the query's window in seconds. It is used to tell the worst-case detection time, and to refuse a window of
            fewer than two scrapes. Presets know theirs.
        type: float
"""

    # The same list before there is a hold, where it may be missing.
    PREFLIGHT: str = DOCUMENTATION.replace("    required: true\n    suboptions:", "    suboptions:", 1).replace(
        "The figures. At least one that is not a dry run.",
        "The metrics of the gates to come, as for M(signal.rollout.metric_gate). Their options must be right, and Prometheus must be able to "
        "answer their queries. No data is fine here.",
    )
