"""Conditions in the standard Kubernetes shape."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Object = Mapping[str, Any]


class Wanted(NamedTuple):
    """A condition as it should be; `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str = ""


def status_of(obj: Object | None, type: str) -> str:
    """Return the status of a condition: True, False, or Unknown when it is missing."""
    for condition in (obj or {}).get("status", {}).get("conditions", []):
        if condition["type"] == type:
            return condition["status"]
    return "Unknown"


def are_met(obj: Object, wanted: Iterable[Wanted]) -> bool:
    """Tell whether an object reports all of `wanted`, with these reasons."""
    current = {
        (condition["type"], condition["status"], condition["reason"])
        for condition in obj.get("status", {}).get("conditions", [])
    }
    return all((item.type, item.status, item.reason) in current for item in wanted)


def render(obj: Object, wanted: Iterable[Wanted], *, at: str) -> list[dict[str, Any]]:
    """Return `wanted` as status conditions.

    `at` (RFC 3339) is when those whose status differs from the object's changed; the
    others keep their time, as the Kubernetes API conventions ask.
    """
    since = {
        (condition["type"], condition["status"]): condition["lastTransitionTime"]
        for condition in obj.get("status", {}).get("conditions", [])
    }
    return [
        {
            "type": item.type,
            "status": item.status,
            "reason": item.reason,
            "message": item.message,
            "lastTransitionTime": since.get((item.type, item.status), at),
            "observedGeneration": obj["metadata"]["generation"],
        }
        for item in wanted
    ]
