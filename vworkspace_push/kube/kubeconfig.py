"""A kubeconfig that somebody uploaded → what a connection needs, by allow-list.

To kubectl a kubeconfig is a program: it may run commands, and read any file and send it
anywhere. Here it is hostile text: only the fields known to be harmless are taken, from
the current context alone, and those that do more are refused by name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .address import check_server
from .certificates import check_ca, check_client_certificate
from .errors import bounded
from .strict_yaml import YamlError, load_yaml
from .tokens import check_token

MAX_BYTES = 64 * 1024
MAX_LISTED = 10  # names in a note


class KubeconfigError(ValueError):
    """What is refused, why, and what to do instead, in one sentence; no secrets."""


@dataclass(frozen=True, kw_only=True)
class Kubeconfig:
    """What was taken from a kubeconfig; at least a token or a client certificate."""

    context: str
    cluster: str
    user: str
    server: str  # in its normal form
    ca_pem: str | None = field(repr=False)
    tls_server_name: str | None
    namespace: str | None
    token: str | None = field(repr=False)
    client_cert_pem: str | None = field(repr=False)
    client_key_pem: str | None = field(repr=False)
    insecure: bool
    notes: tuple[str, ...]  # sentences on what was not read


def parse_kubeconfig(text: str | bytes, *, allow_insecure: bool = False) -> Kubeconfig:
    """Return what the current context of a kubeconfig says.

    :param allow_insecure: accept insecure-skip-tls-verify
    :raise KubeconfigError: it is not one, or holds what is not accepted
    """
    document = _document(_text(text))
    name = _current_context(document)
    context = _entry(document, "context", name)
    _refuse_other_than_text(context, f'the context "{name}"')
    cluster_name = _reference(context, "cluster", name)
    user_name = _reference(context, "user", name)
    cluster = _entry(document, "cluster", cluster_name)
    user = _entry(document, "user", user_name)
    _refuse(cluster, _REFUSED_OF_CLUSTER, f'the cluster "{cluster_name}"')
    _refuse(user, _REFUSED_OF_USER, f'the user "{user_name}"')
    cert_pem, key_pem = _client_certificate(user, user_name)
    token = _token(user, user_name)
    if token is None and cert_pem is None:
        raise KubeconfigError(
            f'The user "{user_name}" holds neither a token nor a client certificate; '
            'save what "kubectl config view --minify --raw" prints.'
        )
    return Kubeconfig(
        context=name,
        cluster=cluster_name,
        user=user_name,
        server=_server(cluster, cluster_name),
        ca_pem=_ca(cluster, cluster_name),
        tls_server_name=_tls_server_name(cluster, cluster_name),
        namespace=_namespace(context, name),
        token=token,
        client_cert_pem=cert_pem,
        client_key_pem=key_pem,
        insecure=_insecure(cluster, cluster_name, allowed=allow_insecure),
        notes=_notes(document, name, context=context, cluster=cluster, user=user),
    )


# === THE DOCUMENT === #


def _text(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "ignore"))
    if size > MAX_BYTES:
        raise KubeconfigError(
            "The kubeconfig is larger than 64 KiB; save what "
            '"kubectl config view --minify --raw" prints and use that.'
        )
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise KubeconfigError(_NOT_TEXT) from None
    if "\0" in text:
        raise KubeconfigError(_NOT_TEXT)
    return text


_NOT_TEXT = "This is not a text file; choose a kubeconfig, as kubectl writes it."


def _document(text: str) -> Mapping[str, Any]:
    try:
        document = load_yaml(text)
    except YamlError as exc:
        raise KubeconfigError(
            f"The kubeconfig cannot be read: {bounded(str(exc), 200)}."
        ) from None
    if not isinstance(document, dict) or (
        document.get("kind", "Config"),
        document.get("apiVersion", "v1"),
    ) != ("Config", "v1"):
        raise KubeconfigError(
            'This is not a kubeconfig: it must have "kind: Config" and "apiVersion: '
            'v1".'
        )
    return document


def _current_context(document: Mapping[str, Any]) -> str:
    name = document.get("current-context")
    if not isinstance(name, str) or not name:
        raise KubeconfigError(
            "The kubeconfig names no current context; choose one with "
            '"kubectl config use-context NAME".'
        )
    return _printable(name)


def _entry(document: Mapping[str, Any], what: str, name: str) -> Mapping[str, Any]:
    """Return the one entry `name` of the list of contexts, clusters or users."""
    found = [
        entry.get(what)
        for entry in _list(document, f"{what}s")
        if isinstance(entry, dict) and entry.get("name") == name
    ]
    if not found:
        raise KubeconfigError(
            f'The kubeconfig has no {what} "{name}", which it refers to.'
        )
    if len(found) > 1:
        raise KubeconfigError(
            f'The kubeconfig has {len(found)} {what}s named "{name}"; keep the one '
            "that is meant."
        )
    if not isinstance(found[0], dict):
        raise KubeconfigError(f'The {what} "{name}" of the kubeconfig is empty.')
    return found[0]


def _list(document: Mapping[str, Any], name: str) -> Sequence[Any]:
    entries = document.get(name)
    return entries if isinstance(entries, list) else []


def _reference(context: Mapping[str, Any], what: str, name: str) -> str:
    value = context.get(what)
    if not isinstance(value, str) or not value:
        raise KubeconfigError(f'The context "{name}" names no {what}.')
    return _printable(value)


def _printable(name: str) -> str:
    if bounded(name, 253) != name:
        raise KubeconfigError(
            "A name in the kubeconfig is too long or holds control characters."
        )
    return name


# === WHAT IS REFUSED === #

_NO_FILES = (
    "it names a file on this machine, which is not read; have it embedded by "
    '"kubectl config view --minify --raw --flatten"'
)
_INSTEAD = (
    'enter a token instead, as "kubectl create token" prints it for the service account'
)
_NO_PROGRAMS = f"it runs a program on this machine, which is not done; {_INSTEAD}"
_NO_PASSWORDS = f"API servers take no passwords; {_INSTEAD}"
_NO_OTHERS = (
    "acting as somebody else needs more rights than we ask for; use the credential of "
    "the service account itself"
)

_REFUSED_OF_CLUSTER = {
    "certificate-authority": _NO_FILES,
    "proxy-url": "a proxy is not taken from a file; an admin sets it on the cluster",
}
_REFUSED_OF_USER = {
    "exec": _NO_PROGRAMS,
    "auth-provider": _NO_PROGRAMS,
    "tokenFile": _NO_FILES,
    "client-certificate": _NO_FILES,
    "client-key": _NO_FILES,
    "username": _NO_PASSWORDS,
    "password": _NO_PASSWORDS,
    "as": _NO_OTHERS,
    "as-uid": _NO_OTHERS,
    "as-groups": _NO_OTHERS,
    "as-user-extra": _NO_OTHERS,
    "impersonate": _NO_OTHERS,
    "impersonate-groups": _NO_OTHERS,
    "impersonate-user-extra": _NO_OTHERS,
}


def _refuse(entry: Mapping[str, Any], refused: Mapping[str, str], where: str) -> None:
    for name, why in refused.items():
        if entry.get(name):
            raise KubeconfigError(f'"{name}" in {where} is not accepted: {why}.')
    _refuse_other_than_text(entry, where)


def _refuse_other_than_text(entry: Mapping[str, Any], where: str) -> None:
    for name in _TAKEN_AS_TEXT & entry.keys():
        if not isinstance(entry[name], str | None):
            raise KubeconfigError(f'"{name}" in {where} must be text.')


_TAKEN = {
    "context": {"cluster", "user", "namespace"},
    "cluster": {
        "server",
        "certificate-authority-data",
        "tls-server-name",
        "insecure-skip-tls-verify",
    },
    "user": {"token", "client-certificate-data", "client-key-data"},
}
_TAKEN_AS_TEXT = set[str]().union(*_TAKEN.values()) - {"insecure-skip-tls-verify"}


# === WHAT IS TAKEN === #


def _server(cluster: Mapping[str, Any], name: str) -> str:
    try:
        return check_server(cluster.get("server") or "")
    except ValueError as exc:
        raise _unusable("server", f'the cluster "{name}"', exc) from None


def _ca(cluster: Mapping[str, Any], name: str) -> str | None:
    where = f'the cluster "{name}"'
    pem = _decoded(cluster, "certificate-authority-data", where)
    try:
        return None if pem is None else check_ca(pem)
    except ValueError as exc:
        raise _unusable("certificate-authority-data", where, exc) from None


def _tls_server_name(cluster: Mapping[str, Any], name: str) -> str | None:
    value: str = cluster.get("tls-server-name") or ""
    if not re.fullmatch(r"[A-Za-z0-9.:_*-]{0,253}", value):
        raise KubeconfigError(
            f'"tls-server-name" in the cluster "{name}" is not the name of a server.'
        )
    return value or None


def _insecure(cluster: Mapping[str, Any], name: str, *, allowed: bool) -> bool:
    value = cluster.get("insecure-skip-tls-verify") or False
    if not isinstance(value, bool):
        raise KubeconfigError(
            f'"insecure-skip-tls-verify" in the cluster "{name}" must be true or false.'
        )
    if value and not allowed:
        raise KubeconfigError(
            f'"insecure-skip-tls-verify" in the cluster "{name}" is not accepted: '
            "whoever is on the way could take the token; use "
            '"certificate-authority-data", or have an admin mark it as a test cluster.'
        )
    return value


def _namespace(context: Mapping[str, Any], name: str) -> str | None:
    value: str = context.get("namespace") or ""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|", value):
        raise KubeconfigError(
            f'"namespace" in the context "{name}" is not the name of a namespace.'
        )
    return value or None


def _token(user: Mapping[str, Any], name: str) -> str | None:
    try:
        return check_token(user["token"]) if user.get("token") else None
    except ValueError as exc:
        raise _unusable("token", f'the user "{name}"', exc) from None


def _client_certificate(
    user: Mapping[str, Any], name: str
) -> tuple[str | None, str | None]:
    where = f'the user "{name}"'
    cert_pem = _decoded(user, "client-certificate-data", where)
    key_pem = _decoded(user, "client-key-data", where)
    if cert_pem is None and key_pem is None:
        return None, None
    try:
        check_client_certificate(cert_pem or "", key_pem or "")
    except ValueError as exc:
        raise _unusable("client-certificate-data", where, exc) from None
    return cert_pem, key_pem


def _decoded(entry: Mapping[str, Any], name: str, where: str) -> str | None:
    if not entry.get(name):
        return None
    try:
        text = "".join(entry[name].split())
        return base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise KubeconfigError(
            f'"{name}" in {where} is not the base64 of a PEM file; copy it again.'
        ) from None


def _unusable(name: str, where: str, exc: ValueError) -> KubeconfigError:
    return KubeconfigError(f'"{name}" in {where} cannot be used: {exc}')


# === WHAT WAS NOT READ === #


def _notes(
    document: Mapping[str, Any], current: str, **entries: Mapping[str, Any]
) -> tuple[str, ...]:
    names = (
        entry.get("name")
        for entry in _list(document, "contexts")
        if isinstance(entry, dict)
    )
    others = [name for name in names if isinstance(name, str) and name != current]
    unused = [
        name
        for what, entry in entries.items()
        for name in entry
        if name not in _TAKEN[what]
    ]
    notes = []
    if others:
        notes.append(
            f'The current context is "{current}"; the others ({_listed(others)}) were '
            "not read."
        )
    if unused:
        notes.append(f"These fields were not used: {_listed(unused)}.")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(bounded(name, 64) for name in names[:MAX_LISTED])
    return f"{shown}, …" if len(names) > MAX_LISTED else shown
