"""Service-account tokens: checked, read, renewed, and taken from a file.

What a token says of itself is shown and warned about, and never decides on access:
nobody here can verify it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .connection import Connection
from .errors import InvalidResponse, Unauthorized, bounded

MAX_TOKEN = 16 * 1024  # characters; an API server's are about 1,000
MAX_AUDIENCES = 16
REREAD_AFTER = 60.0  # s, as the clients of Kubernetes do
MIN_SECONDS = 600  # that an API server grants


def check_token(text: str) -> str:
    """Return a token as a person entered it, without blanks around it.

    :raise ValueError: with one sentence that says what to change, never with the token
    """
    token = text.strip()
    if not token:
        raise ValueError("Enter the service account's token.")
    if len(token) > MAX_TOKEN:
        raise ValueError("This is longer than any token; enter the token alone.")
    if re.search(r"\s", token):
        raise ValueError(
            "The token contains blanks or line breaks; copy it again as one line, "
            "without what stands before or after it."
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("The token contains characters that no token has; copy it.")
    return token


# === WHAT A TOKEN SAYS === #


@dataclass(frozen=True)
class TokenInfo:
    """What a token says of itself, unverified."""

    subject: str | None  # "system:serviceaccount:<namespace>:<name>"
    issuer: str | None
    audiences: tuple[str, ...]
    issued_at: datetime | None  # aware
    expires_at: datetime | None  # aware; None: it does not expire, or does not say


def read_token(token: str) -> TokenInfo | None:
    """Return what `token` says of itself, None if it is not a JSON Web Token."""
    claims = _claims(token)
    if claims is None:
        return None
    audiences = claims.get("aud")
    audiences = audiences if isinstance(audiences, list) else [audiences]
    return TokenInfo(
        subject=bounded(claims.get("sub"), 253) or None,
        issuer=bounded(claims.get("iss"), 253) or None,
        audiences=tuple(
            text for entry in audiences[:MAX_AUDIENCES] if (text := bounded(entry, 253))
        ),
        issued_at=_time(claims.get("iat")),
        expires_at=_time(claims.get("exp")),
    )


def _claims(token: str) -> Mapping[str, Any] | None:
    parts = token.strip().split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN:
        return None
    body = parts[1]
    try:
        content = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        claims = json.loads(content)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


# === RENEWAL === #


def request_token(
    connection: Connection, *, namespace: str, service_account: str, seconds: int
) -> tuple[str, datetime]:
    """Ask for a new token of a service account (TokenRequest).

    :param seconds: its wished lifetime, at least 600; the server may grant another
    :return: the token, and when it expires (aware), in the server's words
    :raise Forbidden: the right to do so was not granted
    """
    path = (
        f"/api/v1/namespaces/{quote(namespace, safe='')}"
        f"/serviceaccounts/{quote(service_account, safe='')}/token"
    )
    answer = connection.request(
        "POST",
        path,
        body={
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": max(seconds, MIN_SECONDS)},
        },
    ).data
    status = answer.get("status") if isinstance(answer, dict) else None
    status = status if isinstance(status, dict) else {}
    try:
        token = check_token(str(status.get("token") or ""))
        expires = datetime.fromisoformat(str(status.get("expirationTimestamp")))
        return token, expires.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidResponse(
            "The server's answer to the request for a token holds none."
        ) from None


# === FROM A FILE === #


class TokenFile:
    """The token in a file that somebody else renews, such as a projected one.

    Called for the token, it reads the file again when it changed, and at the latest
    after a minute. It may be called from any thread.
    """

    def __init__(
        self, path: str | Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        :param clock: in s, for tests
        """
        self._path = Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._version: tuple[int, ...] = ()
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"<TokenFile {self._path}>"

    def __call__(self) -> str:
        """Return the token.

        :raise Unauthorized: the file cannot be read, or holds no token
        """
        with self._lock:
            try:
                return self._current()
            except OSError as exc:
                why = bounded(exc.strerror, 200) or type(exc).__name__
            except ValueError as exc:  # a sentence, or undecodable
                why = "it holds no token"
                if not isinstance(exc, UnicodeError):
                    why = str(exc).rstrip(".")
        raise Unauthorized(
            f"The token file {self._path} cannot be used: {why}.",
            reason="TokenFile",
            hint="Check that Odoo runs in a pod with a service account's token.",
        )

    def _current(self) -> str:
        found = os.stat(self._path)
        version = (found.st_mtime_ns, found.st_ino, found.st_size)
        now = self._clock()
        if version != self._version or now - self._read_at >= REREAD_AFTER:
            with self._path.open("rb") as file:
                content = file.read(MAX_TOKEN + 1)
            self._token = check_token(content.decode("ascii"))
            self._version, self._read_at = version, now
        return self._token
