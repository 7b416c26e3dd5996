# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
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
      - Destination that serves today (blue).
      - In a VirtualService the name of a subset, or the host of a destination without subset. In an HTTPRoute the name of the backend
        Service.
    type: str
    required: true
  canary:
    description: Destination that is being released (green), named as O(stable).
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
      - What is missing in one of them is taken from the main route; O(destination_host) only when it is of the same kind.
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
"""
