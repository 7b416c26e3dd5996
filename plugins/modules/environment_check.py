#!/usr/bin/python

# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: environment_check
short_description: Prove that running pods have the environment that is declared
version_added: 1.1.0
author:
  - The signal.rollout authors (@signal-rollout)
description:
  - Works out the environment of every container of a Deployment from its template, ConfigMaps and Secrets as they are now, and compares it with what
    the processes of its ready pods really have (C(/proc/1/environ), by exec).
  - A pod that started before its ConfigMap was changed, or that was started from another one, is seen.
  - No value is shown or returned, only names, and a hash of all values together. Variables that come from the image are no difference.
  - Without the right to exec, or in an image without the program C(cat), nothing is proven; a warning says so.
extends_documentation_fragment:
  - signal.rollout._kubernetes
  - signal.rollout._attributes
  - signal.rollout._attributes.read_only
  - signal.rollout._attributes.actiongroup_kubernetes
options:
  name:
    description: Name of the Deployment.
    type: str
    required: true
  orphans:
    description: Labels of ConfigMaps. Those among them that no Deployment refers to are returned, with a warning.
    type: dict
  timeout:
    description: Seconds that the command in a container may take.
    type: float
    default: 10.0
  box:
    description: Id of the box of the checklist that this proves.
    type: str
    default: step_2.environment
"""

EXAMPLES = r"""
- name: Do the new pods run with the new configuration?
  signal.rollout.environment_check:
    namespace: signal
    name: signal-service-v2
    orphans: {app: signal-service}
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail), or V(unknown) when the environment could not be read.
  returned: when the Deployment could be read
  type: str
  sample: pass
containers:
  description: Every container whose environment was read.
  returned: when the Deployment could be read
  type: list
  elements: dict
  sample:
    - pod: signal-service-v2-7797bf7c47-bdbsg
      container: app
      names: [CACHE_TTL_SECONDS, PGHOST, PGPASSWORD]
      different: []
      missing: []
      sha256: 3f6c1a209b2d
  contains:
    pod:
      description: Name of the pod.
      returned: always
      type: str
      sample: signal-service-v2-7797bf7c47-bdbsg
    container:
      description: Name of the container.
      returned: always
      type: str
      sample: app
    names:
      description: Names of the declared variables.
      returned: always
      type: list
      elements: str
      sample: [CACHE_TTL_SECONDS, PGHOST, PGPASSWORD]
    different:
      description: Names whose value is another one.
      returned: always
      type: list
      elements: str
      sample: []
    missing:
      description: Declared names that the process does not have.
      returned: always
      type: list
      elements: str
      sample: []
    sha256:
      description: Beginning of the hash of all names and values together, without those that each pod has for itself.
      returned: always
      type: str
      sample: 3f6c1a209b2d
orphans:
  description: ConfigMaps with the labels of O(orphans) that no Deployment refers to.
  returned: when the Deployment could be read
  type: list
  elements: str
  sample: [signal-service-config-v0]
problems:
  description: What differs, without any value.
  returned: when the Deployment could be read
  type: list
  elements: str
  sample: []
proofs:
  description: For O(signal.rollout.release_checklist#module:proofs). Empty when the verdict is V(unknown).
  returned: when the Deployment could be read
  type: dict
  sample:
    step_2.environment: {state: proven, evidence: "13 variables in 2 pods equal the declared ones, sha256 of all 3f6c1a209b2d"}
"""

from ansible_collections.signal.rollout.plugins.module_utils import _environment_check
from ansible_collections.signal.rollout.plugins.module_utils._door import run_as_module


def main() -> None:
    run_as_module(_environment_check)


if __name__ == "__main__":
    main()
