# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, service account keys, passwords and kubeconfigs of the lab."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from .processes import run
from .settings import API_URL, NODE_IP, NODE_NAME, Paths

DAYS = 365
_RENEW_BEFORE = 7 * 86400

# name: (subject, alternative names)
CERTIFICATES = {
    "apiserver": ("/CN=kube-apiserver", f"IP:{NODE_IP},IP:127.0.0.1,IP:10.79.0.1,DNS:kubernetes,DNS:kubernetes.default.svc"),
    "admin": ("/O=system:masters/CN=admin", "DNS:admin"),
    "istiod": ("/O=system:masters/CN=istiod", "DNS:istiod"),
    "kube-controller-manager": ("/CN=system:kube-controller-manager", "DNS:kube-controller-manager"),
    "kube-scheduler": ("/CN=system:kube-scheduler", "DNS:kube-scheduler"),
    "kube-proxy": ("/CN=system:kube-proxy", "DNS:kube-proxy"),
    "kubelet": (f"/O=system:nodes/CN=system:node:{NODE_NAME}", f"DNS:{NODE_NAME},IP:{NODE_IP}"),
}
PASSWORDS = ("postgres", "signal_owner", "signal_user")


def ensure(paths: Paths) -> None:
    """Create what is missing or about to expire: certificates, keys and passwords."""
    folder = paths.pki
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "complete").exists() or _expires_soon(folder / "ca.crt"):
        _create(folder)
        (folder / "complete").touch()
    paths.secrets.mkdir(parents=True, exist_ok=True)
    paths.secrets.chmod(0o700)
    for name in PASSWORDS:
        if not (paths.secrets / name).exists():
            write_private(paths.secrets / name, secrets.token_hex(16))


def password(paths: Paths, role: str) -> str:
    return (paths.secrets / role).read_text()


def _create(folder: Path) -> None:
    (folder / "complete").unlink(missing_ok=True)
    _key(folder / "ca.key")
    run(["openssl", "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=signal-lab-ca", "-days", str(DAYS), "-out", "ca.crt"], cwd=folder)
    for name, (subject, alternatives) in CERTIFICATES.items():
        _key(folder / f"{name}.key")
        run(["openssl", "req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr"], cwd=folder)
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run(
            # fmt: off
            ["openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
             "-days", str(DAYS), "-extfile", f"{name}.ext", "-out", f"{name}.crt"],
            # fmt: on
            cwd=folder,
        )
    run(["openssl", "genrsa", "-out", "sa.key", "2048"], cwd=folder)
    run(["openssl", "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"], cwd=folder)
    for path in folder.iterdir():
        path.chmod(0o600)


def _key(path: Path) -> None:
    run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(path)])


def _expires_soon(certificate: Path) -> bool:
    said = run(["sh", "-c", 'openssl x509 -checkend "$1" -noout -in "$2" || true', "sh", str(_RENEW_BEFORE), str(certificate)])
    return "will not expire" not in said


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.rename(path)


def write_kubeconfig(path: Path, ca: Path, user: dict[str, object], namespace: str = "default") -> None:
    """A kubeconfig (JSON is YAML) with one context named ``lab``; ``user`` as in a kubeconfig's users list."""
    path.parent.mkdir(parents=True, exist_ok=True)

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "lab", "cluster": {"server": API_URL, "certificate-authority-data": base64.b64encode(ca.read_bytes()).decode()}}
        ],
        "users": [{"name": path.name, "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": path.name, "namespace": namespace}}],
        "current-context": "lab",
    }
    write_private(path, json.dumps(document, indent=1) + "\n")


def certificate_user(folder: Path, name: str) -> dict[str, object]:

    return {
        "client-certificate-data": base64.b64encode((folder / f"{name}.crt").read_bytes()).decode(),
        "client-key-data": base64.b64encode((folder / f"{name}.key").read_bytes()).decode(),
    }
