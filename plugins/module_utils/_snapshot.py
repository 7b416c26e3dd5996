# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine of the module workload_snapshot: keeps the before-image of a workload and brings it back. Private to this collection.

The image of the Deployment and its ConfigMaps lives in a ConfigMap, the image of its Secrets in a Secret of the same name,
so that a Secret's value is never anywhere but in Secrets. Neither passes through Ansible's variables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.signal.rollout.plugins.module_utils import _images, _kube
from ansible_collections.signal.rollout.plugins.module_utils._context import Context
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError, one_line

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **_kube.ARGUMENT_SPEC,
    "state": {"type": "str", "required": True, "choices": ["taken", "restored"]},
    "service": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "release": {"type": "str"},
    "workload": {"type": "str", "default": "missing", "choices": ["missing", "differs"]},
    "replicas": {"type": "int", "default": 2},
    "select_by": {"type": "str"},
}
SPEC_RULES: dict[str, Any] = {"required_if": [["state", "taken", ["release"]]]}
SUPPORTS_CHECK_MODE = True

IMAGE_KEY = "snapshot.json"
_SCHEMA = 1
_RELEASE = "signal.rollout/release"
_LABELS = {"app.kubernetes.io/managed-by": "signal.rollout"}
# A ConfigMap or Secret holds 1 MiB; names and metadata need a little of it.
_LARGEST = 1_000_000
_PLURALS = {"ConfigMap": "configmaps", "Secret": "secrets"}
_FORBIDDEN = (401, 403)


def snapshot_name(service: str) -> str:
    """Return the name that the snapshot's ConfigMap and Secret share."""
    return f"signal-rollout-{service}-snapshot"


def run(params: dict[str, Any], context: Context) -> dict[str, Any]:
    """Take the before-image of a workload, or bring the workload back to it.

    Returns ``changed, snapshot, restored, problems, restarted``. Raises :class:`RolloutError` when the workload is missing
    and cannot be brought back, or its image cannot be kept.
    """
    return Keeper(params, context, _kube.connect(params)).run()


@dataclass(frozen=True)
class Image:
    """A before-image as it is kept. ``secrets`` are names; their content is read only when one must be put back."""

    release: str
    taken: str
    deployment: dict[str, Any]
    configmaps: list[dict[str, Any]]
    secrets: list[str]
    unreadable: list[str]


class Keeper:
    """Reads and writes the snapshot of one service, and what it is an image of."""

    def __init__(self, params: dict[str, Any], context: Context, kube: _kube.Kube) -> None:
        self.params = params
        self.context = context
        self.kube = kube
        self.namespace: str = params["namespace"]
        self.title = f"Deployment {self.namespace}/{params['name']}"
        self.kept_as = snapshot_name(params["service"])
        self.restored: list[dict[str, Any]] = []
        # What is left to be done by hand, and what is only worth knowing.
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.restarted: list[str] = []

    def run(self) -> dict[str, Any]:
        return self._take() if self.params["state"] == "taken" else self._restore()

    # --- taking ------------------------------------------------------------------------------------------------------

    def _take(self) -> dict[str, Any]:
        kept = self.kube.find(self._path("configmaps", self.kept_as))
        image = self._image(kept)
        if image is not None and image.release == self.params["release"]:
            # What is there now may already have been changed by this release or by others.
            return self._keep_secrets(image)
        deployment = self.kube.find(self._deployment_path())
        if deployment is None:
            raise RolloutError(
                f"{self.title} does not exist, so nothing of it can be kept for the way back. Nothing was written. "
                "Next: check rollout_stable_version, the version that serves now."
            )
        configmaps, secrets, unreadable = self._read_references(deployment)
        image = Image(
            self.params["release"],
            datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            _images.cleaned(deployment, "Deployment", "apps/v1"),
            configmaps,
            sorted(secrets),
            unreadable,
        )
        text = json.dumps({"schema": _SCHEMA, **vars(image)})
        sizes = {"ConfigMaps": len(text), "Secrets": sum(map(len, secrets.values()))}
        large = [f"{name} {size} bytes" for name, size in sizes.items() if size > _LARGEST]
        if large:
            raise RolloutError(
                f"The before-image of {self.title} is too large to be kept in the cluster: {', '.join(large)}, expected at most "
                f"{_LARGEST}. Nothing was written. Next: keep it elsewhere and set preflight_snapshot to false."
            )
        if not self.context.check_mode:
            # The Secret first: the ConfigMap says that the image is complete.
            self._store("secrets", {"type": "Opaque", "data": secrets})
            self._store("configmaps", {"data": {IMAGE_KEY: text}}, kept)
        return self._answer(image, changed=True)

    def _keep_secrets(self, image: Image) -> dict[str, Any]:
        """Complete an image whose Secret is gone; otherwise there is nothing to do."""
        if not image.secrets or self.kube.find(self._path("secrets", self.kept_as)) is not None:
            return self._answer(image, changed=False)
        secrets = {}
        for name in image.secrets:
            found = self.kube.find(self._path("secrets", name))
            if found is not None:
                secrets[name] = _images.sealed(_images.cleaned(found, "Secret", "v1"))
        if not self.context.check_mode:
            self._store("secrets", {"type": "Opaque", "data": secrets})
        return self._answer(image, changed=True)

    def _read_references(self, deployment: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
        configmaps: list[dict[str, Any]] = []
        secrets: dict[str, str] = {}
        unreadable: list[str] = []
        for reference in _images.references(deployment["spec"]["template"]):
            try:
                found = self.kube.find(self._path(_PLURALS[reference.kind], reference.name))
            except _kube.KubeError as error:
                if error.status not in _FORBIDDEN:
                    raise
                unreadable.append(f"{reference.kind} {reference.name}")
                continue
            if found is None:
                continue
            image = _images.cleaned(found, reference.kind, "v1")
            if reference.kind == "Secret":
                secrets[reference.name] = _images.sealed(image)
            else:
                configmaps.append(image)
        if unreadable:
            self.problems.append(f"{', '.join(unreadable)}: no right to read, so not in the snapshot and not put back by a rollback")
        return configmaps, secrets, unreadable

    def _store(self, plural: str, content: dict[str, Any], known: dict[str, Any] | None = None) -> None:
        path = self._path(plural, self.kept_as)
        live = known or self.kube.find(path)
        body = {
            "apiVersion": "v1",
            "kind": "Secret" if plural == "secrets" else "ConfigMap",
            "metadata": {
                "name": self.kept_as,
                "namespace": self.namespace,
                "labels": _LABELS,
                "annotations": {_RELEASE: self.params.get("release") or ""},
            },
            **content,
        }
        if live is None:
            self.kube.post(self._path(plural), body)
        else:
            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]  # type: ignore[index]
            self.kube.put(path, body)

    # --- bringing back -----------------------------------------------------------------------------------------------

    def _restore(self) -> dict[str, Any]:
        image = self._image(self.kube.find(self._path("configmaps", self.kept_as)))
        if image is not None and image.deployment["metadata"]["name"] != self.params["name"]:
            self.remarks.append(f"the snapshot is of Deployment {image.deployment['metadata']['name']}, not of {self.params['name']}")
            image = None
        live = self.kube.find(self._deployment_path())
        if image is not None:
            changed_at = self._restore_configuration(image)
            live = self._create_deployment(image) if live is None else live
        elif live is not None:
            changed_at = self._look_for_gaps(live)
        else:
            raise RolloutError(
                f"{self.title} does not exist, and there is no snapshot of it (ConfigMap {self.namespace}/{self.kept_as})"
                f"{': ' + self.remarks[0] if self.remarks else ''}. It cannot be rebuilt. Nothing was written. "
                "Next: apply its manifest from Git with its ConfigMap and Secret, then run playbooks/rollback.yml again.",
                **self._answer(None, changed=False),
            )
        if self.params["workload"] == "differs":
            live = self._restore_deployment(image, live)
        if self.params["select_by"]:
            self._let_in(live)
        self._restart(live, changed_at)
        return self._answer(image, changed=bool(self.restored))

    def _restore_configuration(self, image: Image) -> str:
        """Put back what is missing or differs. Returns when the last change that was undone had been made, or ''."""
        changed_at = ""
        for kept in image.configmaps:
            changed_at = max(changed_at, self._restore_object("ConfigMap", kept))
        if image.secrets:
            store = self._secret_store()
            for name in image.secrets:
                kept = store.get(name)
                if kept is None:
                    self.problems.append(f"Secret {name} is not in the snapshot any more (Secret {self.kept_as})")
                else:
                    changed_at = max(changed_at, self._restore_object("Secret", kept))
        return changed_at

    def _secret_store(self) -> dict[str, dict[str, Any]]:
        found = self.kube.find(self._path("secrets", self.kept_as)) or {}
        store = {}
        for name, value in (found.get("data") or {}).items():
            try:
                store[name] = _images.unsealed(value)
            except ValueError:
                self.problems.append(f"Secret {self.kept_as}: {name} is not what was kept")
        return store

    def _restore_object(self, kind: str, kept: dict[str, Any]) -> str:
        name = kept["metadata"]["name"]
        path = self._path(_PLURALS[kind], name)
        live = self.kube.find(path)
        if live is None:
            self._note(kind, name, "missing", [], {"manager": "unknown", "time": ""})
            self._write(lambda: self.kube.post(self._path(_PLURALS[kind]), kept))
            return ""
        keys = _images.changed_keys(kept, live)
        if not keys:
            return ""
        writer = _images.writer_of(live, "data", "binaryData")
        self._note(kind, name, "changed", keys, writer)
        self._write(lambda: self._replace(kind, path, kept, live))
        # Without a time, every pod may have started with the changed content.
        return writer["time"] or "0"

    def _replace(self, kind: str, path: str, kept: dict[str, Any], live: dict[str, Any]) -> None:
        metadata = live["metadata"]
        if live.get("immutable") or kept.get("type") != live.get("type"):
            self.kube.delete(path, metadata["uid"], metadata["resourceVersion"])
            self.kube.post(self._path(_PLURALS[kind]), kept)
            return
        content = {field: kept[field] for field in ("data", "binaryData", "immutable", "type") if field in kept}
        self.kube.put(path, {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content})

    def _look_for_gaps(self, live: dict[str, Any]) -> str:
        """Without a snapshot, say which objects the pods need and do not find."""
        for reference in _images.references(live["spec"]["template"]):
            try:
                found = self.kube.find(self._path(_PLURALS[reference.kind], reference.name))
            except _kube.KubeError as error:
                if error.status in _FORBIDDEN:
                    continue
                raise
            if found is None and not reference.optional:
                self.problems.append(
                    f"{reference.kind} {reference.name}, which {self.title} needs to start pods, does not exist, and there is no snapshot"
                )
        return ""

    def _create_deployment(self, image: Image) -> dict[str, Any]:
        body = json.loads(json.dumps(image.deployment))
        # Somebody may have scaled it down before the snapshot; with 0 pods it could not take the traffic.
        body["spec"]["replicas"] = body["spec"].get("replicas") or self.params["replicas"]
        self._note("Deployment", body["metadata"]["name"], "missing", [], {"manager": "unknown", "time": ""})
        self._write(lambda: self.kube.post(_kube.path_of("apps", "v1", "deployments", self.namespace), body))
        return body

    def _restore_deployment(self, image: Image | None, live: dict[str, Any]) -> dict[str, Any]:
        """Give the workload its pods back: the template of the image, and at least its number of replicas."""
        wanted = image.deployment["spec"].get("replicas", 1) if image is not None else 0
        wanted = wanted or self.params["replicas"]
        has = live["spec"].get("replicas", 1)
        patch: dict[str, Any] = {}
        if has < wanted and (image is not None or has == 0):
            patch["replicas"] = wanted
        if image is not None and not _images.same_template(image.deployment, live):
            patch["template"] = image.deployment["spec"]["template"]
        if not patch:
            return live
        self._note("Deployment", live["metadata"]["name"], "changed", sorted(patch), _images.writer_of(live, "spec"))
        body = {**live, "spec": {**live["spec"], **patch}}
        self._write(lambda: self.kube.put(self._deployment_path(), body))
        return body

    def _let_in(self, deployment: dict[str, Any]) -> None:
        """Take out of the Service's selector what shuts out the workload's pods, as cleanup's pin does."""
        path = self._path("services", self.params["select_by"])
        service = self.kube.find(path)
        if service is None:
            self.problems.append(f"Service {self.params['select_by']} does not exist")
            return
        keys = _images.excluding_keys((service.get("spec") or {}).get("selector") or {}, deployment)
        if not keys:
            return
        self._note("Service", self.params["select_by"], "changed", keys, _images.writer_of(service, "spec"))
        operations = [{"op": "replace", "path": "/metadata/resourceVersion", "value": service["metadata"]["resourceVersion"]}]
        operations += [{"op": "remove", "path": f"/spec/selector/{key.replace('~', '~0').replace('/', '~1')}"} for key in keys]
        self._write(lambda: self.kube.patch(path, operations))

    def _restart(self, deployment: dict[str, Any], changed_at: str) -> None:
        """Pods read environment variables once: those that started with changed content must start again."""
        new_pods = any(item["kind"] == "Deployment" and item["keys"] != ["replicas"] for item in self.restored)
        if not changed_at or new_pods:
            return
        labels = (deployment["spec"].get("selector") or {}).get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        pods = self.kube.list(self._path("pods"), {"labelSelector": selector})
        self.restarted = _images.started_after(pods, changed_at)
        if not self.restarted:
            return
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        template = {"metadata": {"annotations": {_images.RESTARTED: now}}}
        self._write(lambda: self.kube.patch(self._deployment_path(), {"spec": {"template": template}}, _kube.MERGE_PATCH))

    # --- both --------------------------------------------------------------------------------------------------------

    def _image(self, kept: dict[str, Any] | None) -> Image | None:
        text = ((kept or {}).get("data") or {}).get(IMAGE_KEY)
        if not text:
            return None
        try:
            document = json.loads(text)
            return Image(**{name: document[name] for name in Image.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            self.remarks.append(f"ConfigMap {self.kept_as} holds no usable snapshot: {one_line(error, 100)}")
            return None

    def _note(self, kind: str, name: str, what: str, keys: list[str], writer: dict[str, str]) -> None:
        words = f"{kind} {name} was missing"
        if what == "changed":
            words = f"{kind} {name} was changed ({', '.join(keys)}) by '{writer['manager']}' at {writer['time'] or 'an unknown time'}"
        self.restored.append({"kind": kind, "name": name, "was": what, "keys": keys, **writer, "words": words})

    def _write(self, write: Any) -> None:
        if not self.context.check_mode:
            write()

    def _answer(self, image: Image | None, changed: bool) -> dict[str, Any]:
        shown = None
        if image is not None:
            shown = {
                "release": image.release,
                "taken": image.taken,
                "deployment": image.deployment["metadata"]["name"],
                "replicas": image.deployment["spec"].get("replicas", 1),
                "configmaps": [item["metadata"]["name"] for item in image.configmaps],
                "secrets": image.secrets,
            }
        return {
            "changed": changed,
            "snapshot": shown,
            "restored": self.restored,
            "restarted": self.restarted,
            "problems": self.problems,
            "warnings": [f"{self.title}: {text}" for text in (*self.problems, *self.remarks)],
        }

    def _deployment_path(self) -> str:
        return _kube.path_of("apps", "v1", "deployments", self.namespace, self.params["name"])

    def _path(self, plural: str, name: str | None = None) -> str:
        return _kube.path_of("", "v1", plural, self.namespace, name)
