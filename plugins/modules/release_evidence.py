#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_evidence
short_description: Prove boxes of the checklist by the reports, scans, reviews and documents of a release
version_added: 1.1.0
description:
  - Reads what a pipeline has written (reports of tests, coverage, benchmarks and scanners), the review of the commit, the documents and the
    API document, and says for each box of the checklist whether that proves it.
  - Nothing is taken on trust. Tests and lines are counted one by one, not read from a report's head, and each file must say, or an evidence
    manifest must say of its very bytes, that it was made from O(commit) or is for O(image). Of another commit or image, older than
    O(max_age_hours), or changed since, it fails its box.
  - A box whose files are missing or cannot be read is not in RV(proofs), and stays open. RV(undecided) says why.
  - The task fails only when its options cannot be used. It writes nothing, and asks no address but the named ones.
extends_documentation_fragment:
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup
author:
  - The signal.rollout authors (@signal-rollout)
options:
  root:
    description:
      - Folder that relative paths of all other options begin at.
    type: path
    required: true
  version:
    description:
      - Version that is released, as documents call it.
    type: str
    required: true
  version_names:
    description:
      - Further names of that version in documents, such as V(2.0.0).
    type: list
    elements: str
    default: []
  commit:
    description:
      - Full hash of the commit that is released. It must come from elsewhere than the evidence.
      - At least one of O(commit) and O(image) is needed, unless O(openapi) alone is asked of an address, which answers for itself.
    type: str
  image:
    description:
      - Digest of the image that is released, alone or in a reference such as V(registry.example.com/signal-service@sha256:...).
    type: str
  manifest:
    description:
      - Evidence manifest, a JSON object of C(commit), C(image), C(created) (ISO 8601), and C(files), which gives the SHA-256 of each file by
        its path relative to the manifest. It binds files that say nothing of their origin themselves.
    type: str
  max_age_hours:
    description:
      - How old evidence may be, in hours. Without it, any age is taken.
    type: float
  unit_tests:
    description:
      - JUnit reports of the unit tests. Paths may hold C(*), C(?) and C(**).
      - Together with O(coverage) and O(coverage_above_percent) they prove C(code.unit_tests).
    type: list
    elements: str
    default: []
  coverage:
    description:
      - Coverage of the unit tests, as Cobertura XML or as the JSON of coverage.py. A line that ran in one of several reports has run.
    type: list
    elements: str
    default: []
  coverage_above_percent:
    description:
      - The share of lines that ran must be above this, in percent.
    type: float
  integration_tests:
    description:
      - JUnit reports of the integration tests, for C(code.integration_tests).
    type: list
    elements: str
    default: []
  benchmarks:
    description:
      - Results of benchmarks, for C(code.benchmarks). Each is a summary of k6 (C(--summary-export) or C(handleSummary)), whose thresholds must have
        held, or any JSON object with figures.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Path of the file.
        type: str
        required: true
      limits:
        description:
          - Limits on figures in the file. A file without thresholds of k6 needs at least one.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - What messages call the figure.
            type: str
            required: true
          value:
            description:
              - JMESPath expression that finds it, such as V(metrics.http_req_duration."p(99\)").
            type: str
            required: true
          unit:
            description:
              - Its unit, for messages.
            type: str
            default: ''
          below:
            description:
              - It must be below this. Exactly one of the four bounds is needed.
            type: float
          at_most:
            description:
              - It must be at most this.
            type: float
          above:
            description:
              - It must be above this.
            type: float
          at_least:
            description:
              - It must be at least this.
            type: float
  scans:
    description:
      - Reports of scanners as SARIF 2.1.0 or as JSON of Trivy, for C(code.security_scan) and C(code.vulnerabilities).
      - A finding of SARIF has the severity of its C(security-severity), or else of its level (C(error) is high). Suppressions in a report do not count.
    type: list
    elements: str
    default: []
  forbidden_severities:
    description:
      - Severities that no finding may have, unless it is in O(accepted_risks). Required with O(scans).
    type: list
    elements: str
    default: []
    choices: [critical, high, medium, low, unknown]
  accepted_risks:
    description:
      - YAML file with a list of accepted findings. Each has C(id), C(reason), C(by) and C(expires), its last day. After it, the finding counts again.
    type: str
  review:
    description:
      - Who has approved O(commit), for C(code.review). Either a signed tag, or the answers of a Git provider. It must be somebody else than the author.
    type: dict
    suboptions:
      tag:
        description:
          - Annotated tag of the commit, signed with an SSH key.
        type: str
      repository:
        description:
          - Folder of the Git repository that has the tag.
        type: path
      allowed_signers:
        description:
          - File of who may sign and with which keys, as C(ssh-keygen) reads it.
        type: path
      provider:
        description:
          - Whose API O(review.request) and O(review.reviews) are from.
        type: str
        choices: [github, gitlab]
      request:
        description:
          - Address or file of the pull or merge request, as the API answers. Its head or merge commit must be O(commit).
        type: str
      reviews:
        description:
          - Address or file of its reviews (GitHub) or approvals (GitLab).
        type: str
      token:
        description:
          - Bearer token for these two addresses. It is sent to no other.
        type: str
  openapi:
    description:
      - Compares the API document with what a service of this version serves, for C(documentation.api_docs).
      - Servers, and the order of what has none, do not count.
    type: dict
    suboptions:
      document:
        description:
          - OpenAPI document of the release, JSON or YAML, file or address. Its C(info.version) must be the version.
        type: str
        required: true
      served:
        description:
          - Address where the service serves its document, or a file with what it has served in the pipeline. The file must be bound to the
            release like all evidence.
        type: str
        required: true
  documents:
    description:
      - Documents, as paths (patterns allowed) or addresses. Each must exist, say something, and name the version as a word of its own.
      - All relative links of Markdown must lead to a file. A picture or PDF names the version in its file name.
    type: dict
    suboptions:
      runbook:
        description:
          - For C(documentation.runbook).
        type: list
        elements: str
        default: []
      migration_guide:
        description:
          - For C(documentation.migration_guide).
        type: list
        elements: str
        default: []
      release_notes:
        description:
          - For C(documentation.release_notes).
        type: list
        elements: str
        default: []
      diagrams:
        description:
          - For C(documentation.diagrams).
        type: list
        elements: str
        default: []
  timeout:
    description:
      - How long one address, or one call of git, may take, in seconds.
    type: float
    default: 10.0
  validate_certs:
    description:
      - Whether certificates of servers are verified.
    type: bool
    default: true
  ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed them.
    type: path
requirements:
  - requests (Python library), for addresses
  - jmespath (Python library), for limits of benchmarks
  - PyYAML (Python library), for accepted risks and API documents in YAML
  - git and ssh-keygen, for signed tags
seealso:
  - module: signal.rollout.release_checklist
"""

EXAMPLES = r"""
- name: What does the pipeline's evidence prove?
  signal.rollout.release_evidence:
    root: /srv/releases/signal-service-2.0.0
    version: v2
    version_names: ["2.0.0"]
    commit: 3f6c1a2090b1d7e4c5a8f2b6d9e0c3a7b4f1e8d2
    image: registry.example.com/signal-service@sha256:9f2b0c1d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d
    manifest: evidence.json
    max_age_hours: 168
    unit_tests: [reports/unit/*.xml]
    coverage: [reports/coverage.xml]
    coverage_above_percent: 90
    integration_tests: [reports/integration/*.xml]
    benchmarks:
      - path: reports/k6-summary.json
        limits:
          - {name: latency p99, value: 'metrics.http_req_duration."p(99)"', below: 200, unit: ms}
    scans: [reports/bandit.sarif, reports/trivy.json]
    forbidden_severities: [critical, high]
    accepted_risks: accepted_risks.yml
    review:
      provider: github
      request: https://api.github.com/repos/example/signal-service/pulls/412
      reviews: https://api.github.com/repos/example/signal-service/pulls/412/reviews?per_page=100
      token: "{{ github_token }}"
    openapi:
      document: docs/openapi.json
      served: https://signal-service.staging.example.com/api/v2/openapi.json
    documents:
      runbook: [docs/runbook.md]
      migration_guide: [docs/migration.md]
      release_notes: [docs/release_notes.md]
      diagrams: [docs/architecture*.svg]
  register: evidence

- name: Keep what is proven
  signal.rollout.release_checklist:
    namespace: signal
    service: signal-service
    version: v2
    state: proven
    proofs: "{{ evidence.proofs }}"
"""

RETURN = r"""
proofs:
  description: What was judged, by the id of the box. A box that could not be judged is not in it.
  returned: when the options could be used
  type: dict
  contains:
    state:
      description: V(proven) or V(failed).
      returned: always
      type: str
      sample: proven
    evidence:
      description: What was measured, in one line of at most 300 characters.
      returned: always
      type: str
      sample: "unit tests: 130 tests, 0 failures, 0 errors, 0 skipped; 98.43 % of lines covered (314 of 319), > 90 %"
  sample:
    code.integration_tests:
      state: failed
      evidence: it.xml was made from commit 1f0c3a2090b1, expected 3f6c1a2090b1
undecided:
  description: The boxes that could not be judged, each with the reason.
  returned: when the options could be used
  type: list
  elements: str
  sample: ["code.benchmarks: k6-summary.json: there is no such file in /srv/releases/signal-service-2.0.0"]
notes:
  description: What is no reason to fail, such as an accepted risk that no scan finds any more, or an entry that does not count.
  returned: when the options could be used
  type: list
  elements: str
  sample: ["accepted risk CVE-2025-1234 is found by no scan: it can be removed"]
files:
  description: The files that were read and accepted.
  returned: when the options could be used
  type: list
  elements: dict
  contains:
    path:
      description: Path of the file.
      returned: always
      type: str
      sample: /srv/releases/signal-service-2.0.0/reports/coverage.xml
    sha256:
      description: Hash of its bytes.
      returned: always
      type: str
      sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    bound_by:
      description: What binds it to the release - the V(manifest), the V(file) itself, or, for a document, the V(version) that it names.
      returned: always
      type: str
      sample: manifest
seconds:
  description: How long all took, in seconds.
  returned: when the options could be used
  type: float
  sample: 0.084
"""

from ansible_collections.signal.rollout.plugins.module_utils import _evidence
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_evidence)


if __name__ == "__main__":
    main()
