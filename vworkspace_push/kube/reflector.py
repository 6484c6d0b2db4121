"""List, watch, relist: keeps a handler informed of one kind, for ever.

As client-go's Reflector (notes in its reflector.go): a complete list, then a watch from
its resourceVersion with bookmarks; a stream that ends is resumed where it stopped; one
that is too old (410) is listed anew. Silence longer than bookmarks allow counts as a
dead connection. An error never reads as "everything was deleted": only a complete list
replaces what is known. Every wait and every exchange can be interrupted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from .apply import list_all
from .connection import Cancellation, Connection
from .errors import (
    Expired,
    Forbidden,
    InvalidResponse,
    KubeError,
    NotFound,
    Throttled,
    TlsFailed,
    Unauthorized,
    Unreachable,
    from_status,
)
from .resources import Resource, metadata_text

_logger = logging.getLogger(__name__)

INACTIVITY_TIMEOUT = 90.0  # s; bookmarks come every 60 s
SERVER_TIMEOUT = (300, 600)  # s, chosen at random: a revoked right ends no open watch
LIST_TIMEOUT = 60.0  # s for one page
SHORT_WATCH = 1.0  # s; a watch that ends sooner, without an event, is a failure
UNAUTHORIZED_WAIT = 30.0  # s until a refused credential is tried again
RECHECK_WAIT = 60.0  # s until missing rights or definitions are looked for again
RELIST_SPREAD = 10.0  # s over which streams spread their lists after a restart
POLL = 1.0  # s between two looks for an interruption while waiting


@dataclass(frozen=True)
class Scope:
    """What one stream covers."""

    resource: Resource
    namespace: str | None  # None is the whole cluster


@dataclass(frozen=True)
class StreamState:
    """What a stream does now, and why it waits."""

    phase: Literal["listing", "watching", "waiting"]
    error: KubeError | None = None
    until: datetime | None = None  # aware, UTC; end of the wait


class Handler(Protocol):
    """Receives what a stream learns, on the stream's own thread, in order.

    What it raises makes the stream list again later, since the news may be lost.
    """

    def replaced(
        self, scope: Scope, items: list[dict[str, Any]], resource_version: str
    ) -> None:
        """Take a complete list: what is not in it does not exist."""

    def changed(self, scope: Scope, event_type: str, obj: dict[str, Any]) -> None:
        """Take one event: ADDED, MODIFIED or DELETED (with the final object)."""

    def heard(self, scope: Scope) -> None:
        """Note that the server spoke just now: a list, a watch's start, any event."""

    def state(self, scope: Scope, state: StreamState) -> None:
        """Take what the stream does now, for logs and the cluster's page."""


class Backoff:
    """Growing delays, which start over after a healthy time.

    :param first: s; doubles with each failure
    :param limit: s; with jitter the delay is between one and two times the base
    :param reset_after: s since the last failure, after which `first` is next again
    """

    def __init__(
        self,
        *,
        first: float = 0.8,
        limit: float = 30.0,
        reset_after: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._limit = limit
        self._reset_after = reset_after
        self._clock = clock
        self._base = first
        self._last = clock()

    def next(self, rand: random.Random) -> float:
        """Return the s to wait after one more failure."""
        now = self._clock()
        if now - self._last > self._reset_after:
            self._base = self._first
        self._last = now
        delay = self._base * (1 + rand.random())
        self._base = min(self._base * 2, self._limit)
        return delay


class Reflector:
    """One stream; `run` it in a thread of its own.

    :param connection: called for every attempt, since credentials get replaced
    :param stop: ends the stream once set; call `interrupt` then, to end it at once
    :param inactivity_timeout: s without event or bookmark until a watch counts as dead
    :param server_timeout: s, least and most that a watch is asked to last
    :param relist_spread: s over which a list after 410 is delayed at random, since
        all streams of a server are then listed anew
    """

    def __init__(
        self,
        connection: Callable[[], Connection],
        scope: Scope,
        handler: Handler,
        *,
        stop: threading.Event,
        backoff: Backoff | None = None,
        inactivity_timeout: float = INACTIVITY_TIMEOUT,
        server_timeout: tuple[int, int] = SERVER_TIMEOUT,
        relist_spread: float = RELIST_SPREAD,
        rand: random.Random | None = None,
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._handler = handler
        self._stop = stop
        self._backoff = backoff or Backoff()
        self._inactivity_timeout = inactivity_timeout
        self._server_timeout = server_timeout
        self._relist_spread = relist_spread
        self._rand = rand or random.Random()  # noqa: S311 spreads load, hides nothing
        self._version: str | None = None  # resourceVersion to watch from; None: list
        self._silences = 0  # watches in a row that brought nothing at all
        self._lock = threading.Lock()
        self._cancellation = Cancellation()

    def __repr__(self) -> str:
        namespace = self._scope.namespace or "*"
        return f"<Reflector {self._scope.resource.plural} in {namespace}>"

    def run(self) -> None:
        """Follow the kind until `stop` is set; then return within a second."""
        while (cancellation := self._begin()) is not None:
            listed = self._version is None
            try:
                self._attempt(cancellation)
                error, delay = None, 0.0
            except KubeError as exc:
                error, delay = self._recover(exc, listed=listed)
            except Exception as exc:
                _logger.exception("%r: unexpected failure; listing again", self)
                error, delay = self._give_up_position(exc)
            if cancellation.cancelled:
                continue  # interrupted on purpose: no failure, and no wait
            if error is not None:
                self._wait(error, delay, cancellation)

    def interrupt(self) -> None:
        """End the exchange or the wait that is under way, from another thread.

        The next attempt starts at once, with the connection then given; after `stop`
        there is none.
        """
        with self._lock:
            self._cancellation.cancel()

    # === ONE ATTEMPT === #

    def _begin(self) -> Cancellation | None:
        """Return what cancels the next attempt; None when it is time to stop.

        `stop` is read after the new cancellation is in place: whoever sets `stop` and
        then interrupts meets either the check or the cancellation.
        """
        with self._lock:
            self._cancellation = Cancellation()
        return None if self._stop.is_set() else self._cancellation

    def _attempt(self, cancellation: Cancellation) -> None:
        connection = self._connection()
        if self._version is None:
            self._list(connection, cancellation)
        self._watch(connection, cancellation)

    def _list(self, connection: Connection, cancellation: Cancellation) -> None:
        self._report(StreamState("listing"))
        items, version = list_all(
            connection,
            self._scope.resource,
            namespace=self._scope.namespace,
            timeout=LIST_TIMEOUT,
            cancellation=cancellation,
        )
        self._handler.heard(self._scope)
        self._handler.replaced(self._scope, items, version)
        self._version = version

    def _watch(self, connection: Connection, cancellation: Cancellation) -> None:
        """Follow one watch to its end; a clean one leaves the position to resume at."""
        opened = time.monotonic()
        events = 0
        with connection.stream(
            self._scope.resource.collection_path(self._scope.namespace),
            query=self._query(),
            read_timeout=self._inactivity_timeout,
            cancellation=cancellation,
        ) as stream:
            self._report(StreamState("watching"))
            self._handler.heard(self._scope)
            for event in stream:
                self._handler.heard(self._scope)
                events += 1
                self._silences = 0
                self._take(event)
                if cancellation.cancelled:
                    return
        if not events and time.monotonic() - opened < SHORT_WATCH:
            raise Unreachable(
                f"{connection.server} ends watches as soon as they begin.",
                reason="ShortWatch",
            )

    def _query(self) -> dict[str, str]:
        return {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(self._rand.randint(*self._server_timeout)),
        }

    def _take(self, event: dict[str, Any]) -> None:
        """Handle one event, and only then move the position past it."""
        event_type, obj = event.get("type"), event["object"]
        if event_type == "ERROR":
            raise from_status(obj)
        version = metadata_text(obj, "resourceVersion")
        if not version:
            raise InvalidResponse("The watch sent an event without a resourceVersion.")
        if event_type in ("ADDED", "MODIFIED", "DELETED"):
            self._handler.changed(self._scope, event_type, obj)
        elif event_type != "BOOKMARK":
            raise InvalidResponse("The watch sent an event of an unknown type.")
        self._version = version

    # === FAILURES AND WAITS === #

    def _recover(self, error: KubeError, *, listed: bool) -> tuple[KubeError, float]:
        """Decide from where to go on after `error`, and after how many s.

        :param listed: whether the attempt that failed began with a list
        """
        if isinstance(error, Unreachable) and error.reason == "Inactive":
            return error, self._after_silence()
        if isinstance(error, Throttled) and error.retry_after:
            return error, error.retry_after * (1 + self._rand.random())
        if isinstance(error, Expired):
            self._version = None
            if not listed:
                return error, self._rand.uniform(0, self._relist_spread)
        if isinstance(error, (NotFound, InvalidResponse)):
            self._version = None  # a definition made anew has other versions
        if isinstance(error, Unauthorized):
            return error, UNAUTHORIZED_WAIT
        if isinstance(error, (Forbidden, NotFound, TlsFailed)):
            return error, RECHECK_WAIT
        return error, max(error.retry_after or 0, self._backoff.next(self._rand))

    def _after_silence(self) -> float:
        """Resume at once after a silence; list after two in a row.

        A server restored from a backup stays silent on a position of its future.
        """
        self._silences += 1
        if self._silences > 1:
            self._silences = 0
            self._version = None
        return 0.0

    def _give_up_position(self, exc: Exception) -> tuple[KubeError, float]:
        """List again after a failure of the handler: an event may be lost."""
        self._version = None
        error = KubeError(
            f"{type(exc).__name__} while handling what the server sent.",
            reason="InternalError",
            hint="See the log; the stream starts over by itself.",
            retryable=True,
        )
        return error, self._backoff.next(self._rand)

    def _wait(self, error: KubeError, delay: float, cancellation: Cancellation) -> None:
        until = datetime.now(UTC) + timedelta(seconds=delay)
        self._report(StreamState("waiting", error=error, until=until))
        deadline = time.monotonic() + delay
        while not cancellation.cancelled:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._stop.wait(min(remaining, POLL)):
                return

    def _report(self, state: StreamState) -> None:
        try:
            self._handler.state(self._scope, state)
        except Exception:
            _logger.exception("%r: the handler failed to take a state", self)
