"""Waiting for a condition with a deadline, never for a time to pass."""

from collections.abc import Callable
from typing import Any

from environment.processes import wait_until
from environment.progress import Failure

TIMEOUT = 20.0  # s


def eventually(
    read: Callable[[], Any], *, what: str, equals: Any = None, timeout: float = TIMEOUT
) -> Any:
    """Wait until `read()` gives something true, or what it must equal; return it.

    :param what: what is waited for, for the failure
    :param timeout: in s
    :raise AssertionError: with what was waited for and what was seen last
    """
    seen: Any = "nothing"

    def holds() -> bool:
        nonlocal seen
        seen = read()
        return bool(seen if equals is None else seen == equals)

    try:
        wait_until(holds, what=what, timeout=timeout)
    except Failure as exc:
        raise AssertionError(f"{exc}\nSeen last: {seen!r}") from None
    return seen
