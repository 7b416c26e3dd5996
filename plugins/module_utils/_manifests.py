# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifests of a release: read from their files, and judged by what may be applied and what would fail later. Private to this collection.

Nothing here talks to a server, and no value of a Secret is ever looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils._errors import one_line

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

LARGEST_FILE = 5 * 1024 * 1024
MOST_ALIASES = 100


@dataclass(frozen=True)
class Finding:
    """A broken rule: about which object, what was seen, what was expected, and what to do."""

    object: str
    rule: str
    seen: str
    expected: str
    next: str


@dataclass(frozen=True)
class Manifest:
    """One object of the release and where it was read."""

    body: dict[str, Any]
    source: str

    @property
    def kind(self) -> str:
        return str(self.body.get("kind") or "")

    @property
    def name(self) -> str:
        return str(_dict(self.body.get("metadata")).get("name") or "")

    @property
    def title(self) -> str:
        return f"{self.kind or 'object without kind'} {self.name or '(no name)'} in {self.source}"

    @property
    def pod_template(self) -> dict[str, Any]:
        return _dict(_dict(self.body.get("spec")).get("template"))

    @property
    def pod_spec(self) -> dict[str, Any]:
        return _dict(self.pod_template.get("spec"))

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [_dict(container) for container in _list(self.pod_spec.get("containers"))]


@dataclass(frozen=True)
class Reference:
    """A ConfigMap or Secret that a pod needs to start."""

    kind: str
    name: str
    needed_by: str


@dataclass(frozen=True)
class Rules:
    """What the manifests must agree with. Empty texts switch a rule off."""

    namespace: str
    kinds: tuple[str, ...]
    version: str = ""
    stable_name: str = ""


def read(entries: list[Any]) -> tuple[list[Manifest], list[Finding]]:
    """Return the objects in ``entries``, each a dictionary or the path of a YAML file, and what could not be read."""
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            manifests.append(Manifest(entry, f"entry {number}"))
        elif isinstance(entry, str):
            _read_file(entry, manifests, findings)
        else:
            findings.append(_shape(f"entry {number}", f"a {type(entry).__name__}", "a dictionary or the path of a YAML file"))
    return manifests, findings


def _read_file(path: str, manifests: list[Manifest], findings: list[Finding]) -> None:
    source = os.path.basename(path)
    try:
        size = os.path.getsize(path)
        if size > LARGEST_FILE:
            findings.append(_shape(path, f"{size} bytes", f"at most {LARGEST_FILE} bytes"))
            return
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        findings.append(_shape(path, one_line(reason), "a readable YAML file"))
        return
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if aliases > MOST_ALIASES:
            findings.append(_shape(path, f"{aliases} YAML aliases", f"at most {MOST_ALIASES}, since aliases of aliases grow without bound"))
            return
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        # The library's own message quotes the text, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        findings.append(_shape(path, f"{where}{one_line(getattr(error, 'problem', None) or 'not YAML', 120)}", "valid YAML"))
        return
    for document in documents:
        if document is None:
            continue
        if isinstance(document, dict):
            manifests.append(Manifest(document, source))
        else:
            findings.append(_shape(path, f"a document that is a {type(document).__name__}", "Kubernetes objects"))


def _shape(where: str, seen: str, expected: str) -> Finding:
    return Finding(where, "manifests can be read", seen, expected, "correct the file")


def check(manifests: list[Manifest], rules: Rules) -> list[Finding]:
    """Return every rule that the manifests break."""
    findings: list[Finding] = []
    known: dict[tuple[str, str], str] = {}
    for manifest in manifests:
        findings.extend(_check_object(manifest, rules))
        key = (manifest.kind, manifest.name)
        if all(key) and key in known:
            findings.append(
                Finding(manifest.title, "each object once", f"it is also in {known[key]}", "one manifest per object", "remove one of them")
            )
        known[key] = manifest.source
    deployments = [manifest for manifest in manifests if manifest.kind == "Deployment"]
    for deployment in deployments:
        findings.extend(_check_deployment(deployment, rules))
    if rules.version and not deployments:
        findings.append(
            Finding(
                "the manifests",
                "the release brings a Deployment",
                f"{len(manifests)} objects, none of them a Deployment",
                f"a Deployment of version {rules.version}",
                "add it to the release",
            )
        )
    return findings


def _check_object(manifest: Manifest, rules: Rules) -> Iterator[Finding]:
    if not manifest.kind or not manifest.name or not manifest.body.get("apiVersion"):
        yield Finding(
            manifest.title, "objects are complete", "apiVersion, kind or metadata.name is missing", "all three", "complete the manifest"
        )
        return
    if manifest.kind not in rules.kinds:
        yield Finding(
            manifest.title,
            "only kinds that a release may change",
            manifest.kind,
            ", ".join(rules.kinds),
            "have the platform's owner apply it apart from the release, or allow the kind",
        )
    namespace = _dict(manifest.body.get("metadata")).get("namespace")
    if namespace and namespace != rules.namespace:
        yield Finding(
            manifest.title,
            "objects are in the release's namespace",
            str(namespace),
            f"{rules.namespace}, or no namespace",
            "correct metadata.namespace: this manifest is for another place",
        )


def _check_deployment(manifest: Manifest, rules: Rules) -> Iterator[Finding]:
    def broken(rule: str, seen: str, expected: str, then: str) -> Finding:
        return Finding(manifest.title, rule, seen, expected, then)

    spec = _dict(manifest.body.get("spec"))
    selector = _dict(_dict(spec.get("selector")).get("matchLabels"))
    labels = _dict(_dict(manifest.pod_template.get("metadata")).get("labels"))
    if rules.stable_name and manifest.name == rules.stable_name:
        yield broken("green is not blue", f"the name of the stable Deployment, {manifest.name}", "a name of its own", "rename it")
    if rules.version:
        for place, found in (("spec.selector.matchLabels", selector), ("spec.template.metadata.labels", labels)):
            if found.get("version") != rules.version:
                yield broken(
                    "pods carry the version",
                    f"{place}.version={found.get('version') or 'none'}",
                    f"version={rules.version}",
                    "correct the label: subsets and metrics tell the versions apart by it",
                )
    missing = sorted(f"{key}={value}" for key, value in selector.items() if labels.get(key) != value)
    if missing:
        yield broken(
            "the selector matches the pods", f"the pod labels lack {', '.join(missing)}", "every label of the selector", "correct the labels"
        )
    replicas = spec.get("replicas", 1)
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        yield broken("pods are started", f"spec.replicas={replicas}", "at least 1", "correct spec.replicas")
    if not manifest.containers:
        yield broken("pods have a container", "none", "at least one", "complete the pod template")
    for number, container in enumerate(manifest.containers):
        for rule, seen, expected, then in _check_container(container, serves=number == 0 or bool(container.get("ports"))):
            yield broken(rule, f"container {container.get('name') or number}: {seen}", expected, then)


def _check_container(container: dict[str, Any], serves: bool) -> Iterator[tuple[str, str, str, str]]:
    if serves and not container.get("readinessProbe"):
        yield (
            "readiness is probed",
            "no readinessProbe",
            "a readinessProbe",
            "add one: without it a pod gets traffic as soon as its process exists",
        )
    limits = _dict(_dict(container.get("resources")).get("limits"))
    lacking = [name for name in ("cpu", "memory") if not limits.get(name)]
    if lacking:
        yield (
            "resources are limited",
            f"no resources.limits.{' and no resources.limits.'.join(lacking)}",
            "limits of cpu and memory",
            "set them: usage in percent has no meaning without",
        )
    image = str(container.get("image") or "")
    tag = image_tag(image)
    if not image or tag in ("", "latest"):
        yield (
            "the image is a fixed one",
            f"image={image or 'none'}",
            "a tag other than latest, or a digest",
            "name the very image that was tested",
        )


def image_tag(image: str) -> str:
    """Return the digest or else the tag of an image's name; empty when it has neither."""
    if "@" in image:
        return image.rpartition("@")[2]
    last = image.rpartition("/")[2]
    return last.partition(":")[2]


def references(manifest: Manifest) -> list[Reference]:
    """Return the ConfigMaps and Secrets without which the pods of a Deployment do not start, each once."""
    found: list[Reference] = []

    def add(kind: str, source: Any, key: str) -> None:
        entry = _dict(source)
        if entry.get(key) and not entry.get("optional"):
            found.append(Reference(kind, str(entry[key]), manifest.title))

    pod = manifest.pod_spec
    for container in [*manifest.containers, *(_dict(item) for item in _list(pod.get("initContainers")))]:
        for source in _list(container.get("envFrom")):
            add("ConfigMap", _dict(source).get("configMapRef"), "name")
            add("Secret", _dict(source).get("secretRef"), "name")
        for variable in _list(container.get("env")):
            origin = _dict(_dict(variable).get("valueFrom"))
            add("ConfigMap", origin.get("configMapKeyRef"), "name")
            add("Secret", origin.get("secretKeyRef"), "name")
    for volume in _list(pod.get("volumes")):
        entry = _dict(volume)
        add("ConfigMap", entry.get("configMap"), "name")
        add("Secret", entry.get("secret"), "secretName")
        for source in _list(_dict(entry.get("projected")).get("sources")):
            add("ConfigMap", _dict(source).get("configMap"), "name")
            add("Secret", _dict(source).get("secret"), "name")
    return list(dict.fromkeys(found))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
