"""JSON and warnings within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kube import content
from kube.errors import Denied, InvalidResponse

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def _nested(depth: int, *, text: str = "") -> bytes:
    return b"[" * depth + json.dumps(text).encode() + b"]" * depth


@given(_JSON)
def test_json_survives_the_way(value: Any) -> None:
    assert content.parse_json(content.encode_json(value)) == value


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_is_yaml_as_well(text: str) -> None:
    assert yaml.safe_load(content.encode_json({"a": text})) == {"a": text}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object()])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(Denied, match="cannot carry"):
        content.encode_json({"values": value})


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"a":', b"NaN", b"\xff\xfe", b"9" * 5_000, b"{}{}"]
)
def test_what_is_not_json_is_an_invalid_response(body: bytes) -> None:
    with pytest.raises(InvalidResponse, match="not JSON"):
        content.parse_json(body)


@pytest.mark.parametrize("text", ["", "[{" * 200, ']}"\\' * 200])
def test_nesting_is_bounded_whatever_the_texts_hold(text: str) -> None:
    content.parse_json(_nested(content.MAX_DEPTH, text=text))
    with pytest.raises(InvalidResponse, match="nested deeper"):
        content.parse_json(_nested(content.MAX_DEPTH + 1, text=text))


def test_ten_thousand_brackets_are_refused() -> None:
    with pytest.raises(InvalidResponse, match="nested deeper"):
        content.parse_json(_nested(10_000))


@pytest.mark.parametrize(
    ("headers", "texts"),
    [
        ([], ()),
        (['299 - "deprecated"'], ("deprecated",)),
        (['299 - "say \\"no\\"", 299 - "second"'], ('say "no"', "second")),
        (['299 - "same"', '299 host "same" "Wed, 21 Oct 2026"'], ("same",)),
        (["nonsense"], ()),
        (['299 - "' + "x" * 5_000 + '"'], ("x" * content.MAX_WARNING,)),
    ],
)
def test_warnings_are_read_from_headers(
    headers: list[str], texts: tuple[str, ...]
) -> None:
    assert content.parse_warnings(headers) == texts
