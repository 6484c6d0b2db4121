"""What travels over a connection: bodies, JSON and warnings, all within bounds.

Whatever a server sends is untrusted. Sizes and nesting are limited before other code
sees the data, so that it may recurse over it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import Denied, InvalidResponse

CHUNK = 64 * 1024  # bytes read at once
MAX_ERROR_BYTES = 1024 * 1024  # of a response that is not 2xx
MAX_DEPTH = 100  # of nested JSON; chart values may have 64
MAX_WARNINGS = 16
MAX_WARNING = 1_000  # characters


def read_bounded(raw: Any, *, limit: int) -> bytes:
    """Return the body of a response of urllib3.

    :param limit: as for `check_size`
    :raise InvalidResponse: it is larger, or compressed
    """
    check_encoding(raw)
    content = bytearray()
    while chunk := raw.read(CHUNK, decode_content=False):
        content += chunk
        check_size(len(content), status=raw.status, limit=limit)
    return bytes(content)


def check_size(size: int, *, status: int, limit: int) -> None:
    """Refuse a body that is too large.

    :param size: bytes that came so far
    :param limit: bytes; of a response that is not 2xx, at most 1 MiB
    :raise InvalidResponse: it is larger
    """
    if not 200 <= status < 300:
        limit = min(limit, MAX_ERROR_BYTES)
    if size > limit:
        raise InvalidResponse(
            f"The server's answer is larger than {limit:,} bytes.", reason="TooLarge"
        )


def check_encoding(raw: Any) -> None:
    """Refuse a compressed answer: nobody asked for it, and it may unpack without end.

    :raise InvalidResponse: the response is compressed
    """
    if raw.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidResponse("The server compressed its answer without being asked.")


# Raw, YAML's reader refuses them, and an apply is read as YAML.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def encode_json(body: Any) -> bytes:
    """Return `body` as JSON that is YAML as well.

    Characters beyond the BMP stay as they are: YAML knows no surrogate pairs.

    :raise Denied: it holds what JSON has no form for
    """
    try:
        text = json.dumps(
            body, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
        return _NOT_IN_YAML.sub(lambda m: f"\\u{ord(m[0]):04x}", text).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise Denied(
            "The manifest holds a text or number that JSON cannot carry "
            f"({type(exc).__name__}).",
            reason="NotJson",
            hint="Look in the values for infinite numbers and for broken characters.",
        ) from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse_json(content: bytes) -> Any:
    """Return the JSON value in `content`.

    :raise InvalidResponse: it is not JSON, or nested deeper than 100
    """
    try:
        data = _DECODER.decode(content.decode("utf-8"))
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise InvalidResponse("The server's answer is not JSON.") from None
    if _is_nested_deep(content):
        raise _too_deep()
    return data


def _too_deep() -> InvalidResponse:
    return InvalidResponse(
        f"The server's answer is nested deeper than {MAX_DEPTH}.", reason="TooDeep"
    )


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _is_nested_deep(content: bytes) -> bool:
    """Tell whether valid JSON is nested deeper than MAX_DEPTH.

    Taking out innermost pairs, one or two levels per turn, empties the brackets of
    ordinary answers at a few microseconds per event. Only what is left after half as
    many turns as levels (deep, or with odd brackets in its texts) is counted exactly.
    """
    brackets = content.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    depth = 0
    for byte in _STRING.sub(b"", content).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


_WARNING = re.compile(r'\b\d{3} \S+ "((?:[^"\\]|\\.)*)"')


def parse_warnings(headers: list[str]) -> tuple[str, ...]:
    """Return the texts of `Warning: 299 - "…"` headers (RFC 7234, 5.5)."""
    texts = (
        re.sub(r"\\(.)", r"\1", text)[:MAX_WARNING]
        for header in headers
        for text in _WARNING.findall(header)
    )
    return tuple(dict.fromkeys(texts))[:MAX_WARNINGS]
