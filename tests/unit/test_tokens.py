"""Tokens: as entered, as they describe themselves, renewed, and read from a file."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import errors
from kube.connection import Connection
from kube.tokens import TokenFile, TokenInfo, check_token, read_token, request_token
from tests.unit.fakes import FakeServer

PATH = "/api/v1/namespaces/vworkspace-system/serviceaccounts/sa/token"


def make_token(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl"


# === CHECKED === #


def test_blanks_around_a_token_are_dropped() -> None:
    assert check_token("  abc.def\n") == "abc.def"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Enter"),
        (" \n", "Enter"),
        ("s3cret abc", "line breaks"),
        ("s3cret\nabc", "line breaks"),
        ("s3cret\u00a0abc", "line breaks"),
        ("s3crét", "characters"),
        ("s3cret\x00", "characters"),
        ("s3cret" * 5_000, "longer"),
    ],
)
def test_what_cannot_be_a_token_is_refused_without_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_token(text)
    assert "s3cr" not in str(caught.value)


# === READ === #


def test_claims_are_read() -> None:
    token = make_token(
        sub="system:serviceaccount:a:b",
        iss="https://i",
        aud=["x", "y"],
        iat=1_700_000_000,
        exp=1_700_000_600,
    )
    assert read_token(token) == TokenInfo(
        subject="system:serviceaccount:a:b",
        issuer="https://i",
        audiences=("x", "y"),
        issued_at=datetime.fromtimestamp(1_700_000_000, UTC),
        expires_at=datetime.fromtimestamp(1_700_000_600, UTC),
    )


def test_token_of_a_secret_has_no_end() -> None:
    info = read_token(make_token(sub="s"))
    assert info is not None
    assert info.expires_at is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": -1e18},
        {"aud": {"a": 1}, "sub": 5, "iss": []},
    ],
)
def test_odd_claims_count_as_none(claims: dict[str, Any]) -> None:
    assert read_token(make_token(**claims)) == TokenInfo(None, None, (), None, None)


@pytest.mark.parametrize(
    "token",
    ["", "abc", "a.b.c", "a.b", "a..c", "a.W10.c", "a." + "x" * 20_000 + ".c", "a.é.c"],
)
def test_other_text_is_no_token(token: str) -> None:
    assert read_token(token) is None


@given(st.text())
def test_reading_never_fails(text: str) -> None:
    read_token(text)
    read_token(f"a.{text}.c")


# === RENEWED === #


def test_new_token_comes_with_its_end(
    server: FakeServer, connection: Connection
) -> None:
    granted = {"token": "new", "expirationTimestamp": "2026-05-28T10:00:00Z"}
    server.on(PATH, lambda h: h.reply({"status": granted}, status=201))
    token, ends = request_token(
        connection, namespace="vworkspace-system", service_account="sa", seconds=60
    )
    assert (token, ends) == ("new", datetime(2026, 5, 28, 10, tzinfo=UTC))
    (request,) = server.requests
    assert request.body["spec"] == {"expirationSeconds": 600}


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"token": "s3cret"},
        {"token": "s3cret x", "expirationTimestamp": "2026-05-28T10:00:00Z"},
        {"token": "s3cret", "expirationTimestamp": "later"},
    ],
)
def test_answer_without_a_token_is_refused(
    server: FakeServer, connection: Connection, status: Any
) -> None:
    server.on(PATH, lambda h: h.reply({"status": status}, status=201))
    with pytest.raises(errors.InvalidResponse) as caught:
        request_token(
            connection, namespace="vworkspace-system", service_account="sa", seconds=600
        )
    assert "s3cret" not in str(caught.value)


# === FROM A FILE === #


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    """As the kubelet does it: another file takes the name."""
    path = tmp_path / "token"
    path.write_text("old\n")
    token = TokenFile(path)
    assert token() == "old"
    fresh = tmp_path / "fresh"
    fresh.write_text("new\n")
    fresh.replace(path)
    assert token() == "new"


def test_file_that_seems_unchanged_is_read_again_after_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    clock = Clock()
    token = TokenFile(path, clock=clock)
    assert token() == "old"
    before = path.stat()
    path.write_text("new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.now += 59
    assert token() == "old"
    clock.now += 1
    assert token() == "new"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "Enter"),
        (b"s3cret abc", "blanks"),
        (b"s3cret\xff", "no token"),
        (b"s3cret" * 10_000, "longer"),
    ],
)
def test_unusable_file_says_why_without_the_token(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.Unauthorized, match=words) as caught:
        TokenFile(path)()
    assert "s3cret" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_lost_file_that_comes_back_works_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = TokenFile(path)
    with pytest.raises(errors.Unauthorized):
        token()
    path.write_text("abc")
    assert token() == "abc"
