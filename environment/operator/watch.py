"""Follow one kind in the whole cluster: list, watch, list again, until stopped.

Any end of a stream leads to a new list, whatever its cause (410 Expired, end of file,
a restarted server), so that nothing depends on what a stream may have missed.
"""

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import Any

from .api import ApiError, ApiServer
from .resources import Kind

SHORTEST_PAUSE = 0.2  # s
LONGEST_PAUSE = 5.0  # s
HEALTHY_STREAM = 5.0  # s

_logger = logging.getLogger(__name__)


def follow(
    api: ApiServer,
    kind: Kind,
    *,
    on_list: Callable[[list[dict[str, Any]]], None],
    on_event: Callable[[str, dict[str, Any]], None],
    stopping: Event,
) -> None:
    """Report all objects of a kind, then each change, until `stopping` is set."""
    pause = SHORTEST_PAUSE
    said = ""
    while not stopping.is_set():
        started = time.monotonic()
        try:
            _follow_once(api, kind, on_list=on_list, on_event=on_event)
            said = ""
        except ApiError as error:
            if str(error) != said:
                said = str(error)
                _logger.warning("%s: %s; listing again", kind.plural, said)
        if time.monotonic() - started > HEALTHY_STREAM:
            pause = SHORTEST_PAUSE
        stopping.wait(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _follow_once(
    api: ApiServer,
    kind: Kind,
    *,
    on_list: Callable[[list[dict[str, Any]]], None],
    on_event: Callable[[str, dict[str, Any]], None],
) -> None:
    listed = api.get(kind.path())
    on_list(listed["items"])
    version = listed["metadata"]["resourceVersion"]
    for event in api.watch(kind.path(), resource_version=version):
        if event["type"] != "BOOKMARK":
            on_event(event["type"], event["object"])
