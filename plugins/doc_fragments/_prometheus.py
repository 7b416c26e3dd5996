# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  prometheus_url:
    description:
      - Base address of Prometheus, or of anything that answers its query API, such as C(https://prometheus.example.com).
      - A path is kept. A user or a password in it is refused, and redirects are not followed.
    type: str
    required: true
  prometheus_token:
    description:
      - Bearer token.
    type: str
  prometheus_user:
    description:
      - User for basic authentication, together with O(prometheus_password).
    type: str
  prometheus_password:
    description:
      - Password for basic authentication.
    type: str
  prometheus_headers:
    description:
      - Further HTTP headers, such as the tenant of a multi-tenant server.
    type: dict
requirements:
  - requests (Python library)
"""

    # Apart: a module that also talks to Kubernetes has options of these names for that already.
    TLS = r"""
options:
  validate_certs:
    description:
      - Whether Prometheus' certificate is verified.
    type: bool
    default: true
    aliases: [prometheus_validate_certs]
  ca_cert:
    description:
      - Path of the file with the certificate authorities that may have signed Prometheus' certificate.
    type: path
    aliases: [prometheus_ca_cert]
"""
