# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of the kubeconfig file. Without it and without O(host), the file named by E(KUBECONFIG), C(~/.kube/config),
        and at last the service account of the pod are tried.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_KUBECONFIG) is used instead.
    type: path
  context:
    description:
      - Name of the context in the kubeconfig file.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_CONTEXT) is used instead.
    type: str
  host:
    description:
      - URL of the API server, for use with O(api_key) instead of a kubeconfig file.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_HOST) is used instead.
    type: str
  api_key:
    description:
      - Bearer token.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_API_KEY) is used instead.
    type: str
  validate_certs:
    description:
      - Whether the API server's certificate is verified.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_VERIFY_SSL) is used instead.
      - Without either, what the kubeconfig file says counts.
    type: bool
  ca_cert:
    description:
      - Path of the certificate authority's file.
      - If the value is not specified in the task, the value of environment variable E(K8S_AUTH_SSL_CA_CERT) is used instead.
    type: path
  namespace:
    description:
      - Namespace of the objects this task works on.
    type: str
    default: default
notes:
  - Credentials are resolved by the Python library C(kubernetes), including exec plugins and token files; the calls
    themselves go over one plain TLS connection.
requirements:
  - kubernetes (Python library)
"""
