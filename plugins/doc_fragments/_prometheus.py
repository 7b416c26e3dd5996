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
      - A path is kept, such as C(/prometheus) of Mimir. A user or a password in it is refused, and redirects are not followed.
      - Long queries are sent by POST. Thanos is told to fail rather than to answer with a part of the data.
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
requirements:
  - requests (Python library)
  - jmespath (Python library), for figures by HTTP
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
