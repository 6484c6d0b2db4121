"""List, watch, relist: keeps a handler informed of one kind, for ever.

As client-go's Reflector (notes in its reflector.go): a complete list, then a watch from
its resourceVersion with bookmarks; a stream that ends is resumed where it stopped; one
that is too old (410) is listed anew. Silence longer than bookmarks allow counts as a
dead connection. An error never reads as "everything was deleted": only a complete list
replaces what is known. Every wait and every exchange can be interrupted.

One stream of a server can be its pulse: its watches are short, so that their ends show
every few seconds that the server still lives. It also notices when a server's
resourceVersions moved backwards (restored from a backup), on which every other stream
would wait in silence.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    ServerFailed,
    Throttled,
    TlsFailed,
    Unauthorized,
    Unreachable,
    from_status,
)
from .resources import Resource, metadata_text, newer

_logger = logging.getLogger(__name__)

INACTIVITY_TIMEOUT = 90.0  # s; bookmarks come every 60 s, from servers that send them
INACTIVITY_LIMIT = 300.0  # s; from others nothing comes while nothing happens
SERVER_TIMEOUT = (300, 600)  # s, chosen at random: a revoked right ends no open watch
LIST_TIMEOUT = 60.0  # s for one page
SHORT_WATCH = 1.0  # s; a watch that ends sooner, without an event, is a failure
# s until a refused credential is tried again, the first time and after that: a server
# that starts may refuse all for a moment.
UNAUTHORIZED_FIRST, UNAUTHORIZED_WAIT = 3.0, 30.0
# s until missing rights or definitions are looked for again; doubles while they miss.
# What was just granted takes the server a moment to know.
RECHECK_FIRST, RECHECK_LAST = 2.0, 60.0
RELIST_SPREAD = 10.0  # s over which streams spread their lists after a restart
PULSE_TIMEOUT = (25, 27)  # s; as SERVER_TIMEOUT, of the stream that is the pulse
PULSE_GRACE = 2.0  # s after which a pulse's end is overdue
PULSE_OPENING = 7.0  # s for a pulse's watch to begin
PULSE_LISTING = 30.0  # s for a pulse's list
PULSE_RETRY = 6.0  # s, the longest a pulse waits before it tries again
EARLY = 2.0  # s before its time that a watch's end makes doubt whether the server lives
PULSE_DOUBT = 180.0  # s without a bookmark, after which a pulse compares versions
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

    def moved(self, scope: Scope, resource_version: str) -> None:
        """Note that nothing else happened up to `resource_version` (a bookmark)."""

    def rewound(self, scope: Scope) -> None:
        """Note that the server's versions moved backwards: no position holds there."""

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
    :param version: resourceVersion to resume from; None begins with a list
    :param list_slots: bounds how many streams of a server list at the same time
    :param is_pulse: whether this stream is its server's pulse; see `expire`
    :param farthest: returns the newest version that any stream of the server has seen,
        which a pulse compares with the server's
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
        version: str | None = None,
        list_slots: threading.Semaphore | None = None,
        is_pulse: bool = False,
        backoff: Backoff | None = None,
        inactivity_timeout: float = INACTIVITY_TIMEOUT,
        server_timeout: tuple[int, int] = SERVER_TIMEOUT,
        relist_spread: float = RELIST_SPREAD,
        farthest: Callable[[], str] | None = None,
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
        self._version = version  # to watch from; None: list
        self._list_slots = list_slots
        self.is_pulse = is_pulse  # takes effect with the next watch
        self._doubts = version is not None  # the position may be of another life
        self._farthest = farthest or (lambda: "")
        self._wants_list = False
        self._due: float | None = None  # monotonic s; a pulse is overdue after it
        self._expired: Cancellation | None = None
        self._last_event = time.monotonic()
        self._silences = 0  # watches in a row that brought nothing at all
        self._rechecks = 0  # refusals in a row
        self._was_unauthorized = False  # the attempt before
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
                if cancellation is self._expired:
                    error, delay = self._recover(_silence(), listed=listed)
            except KubeError as exc:
                failure = _silence() if cancellation is self._expired else exc
                error, delay = self._recover(failure, listed=listed)
            except Exception as exc:
                _logger.exception("%r: unexpected failure; listing again", self)
                error, delay = self._give_up_position(exc)
            if cancellation.cancelled and cancellation is not self._expired:
                # Interrupted on purpose: no failure, and no wait. There might have been
                # one all the same.
                self._doubts = True
                continue
            if error is not None:
                self._wait(error, delay, cancellation)

    def interrupt(self) -> None:
        """End the exchange or the wait that is under way, from another thread.

        The next attempt starts at once, with the connection then given; after `stop`
        there is none.
        """
        with self._lock:
            self._cancellation.cancel()

    def list_again(self) -> None:
        """List anew, at once: what is known may be of another life of the server."""
        self._wants_list = True
        self.interrupt()

    def expire(self) -> None:
        """End the attempt of a pulse that is overdue; call it every second or so."""
        with self._lock:
            if self._due is not None and time.monotonic() > self._due:
                self._due = None
                self._expired = self._cancellation
                self._cancellation.cancel()

    # === ONE ATTEMPT === #

    def _begin(self) -> Cancellation | None:
        """Return what cancels the next attempt; None when it is time to stop.

        `stop` is read after the new cancellation is in place: whoever sets `stop` and
        then interrupts meets either the check or the cancellation.
        """
        with self._lock:
            self._cancellation = Cancellation()
            self._due = None
        if self._wants_list:
            self._wants_list, self._version = False, None
            self._doubts = False  # whoever asked for it had them
        return None if self._stop.is_set() else self._cancellation

    def _attempt(self, cancellation: Cancellation) -> None:
        connection = self._connection()
        compares = self.is_pulse or self._silences > 1
        if compares and self._doubts and self._version:
            self._compare(connection, cancellation)
        if self._version is None:
            with self._list_slot(cancellation):
                self._list(connection, cancellation)
        self._watch(connection, cancellation)

    def _compare(self, connection: Connection, cancellation: Cancellation) -> None:
        """Give the position up if the server has not come that far (any more)."""
        self._set_due(PULSE_OPENING)
        farthest = self._farthest()  # before: other streams go on meanwhile
        answer = connection.request(
            "GET",
            self._scope.resource.collection_path(self._scope.namespace),
            query={"limit": "1"},
            cancellation=cancellation,
        )
        self._handler.heard(self._scope)
        current = metadata_text(answer.data, "resourceVersion")
        if not current:
            raise InvalidResponse("The server's list has no resourceVersion.")
        if newer(self._version or "", current) or newer(farthest, current):
            self._version = None
            self._handler.rewound(self._scope)
        self._doubts = False

    @contextmanager
    def _list_slot(self, cancellation: Cancellation) -> Iterator[None]:
        slots = self._list_slots
        if slots is None:
            yield
            return
        while not slots.acquire(timeout=POLL):
            if cancellation.cancelled:
                raise Unreachable("The list was not begun.", reason="Cancelled")
        try:
            yield
        finally:
            slots.release()

    def _set_due(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds if self.is_pulse else None

    def _list(self, connection: Connection, cancellation: Cancellation) -> None:
        self._report(StreamState("listing"))
        self._set_due(PULSE_LISTING)
        farthest = self._farthest() if self.is_pulse and self._doubts else ""
        items, version = list_all(
            connection,
            self._scope.resource,
            namespace=self._scope.namespace,
            timeout=LIST_TIMEOUT,
            cancellation=cancellation,
        )
        self._handler.heard(self._scope)
        if farthest and newer(farthest, version):
            self._handler.rewound(self._scope)
        self._handler.replaced(self._scope, items, version)
        self._version = version
        self._doubts = False

    def _watch(self, connection: Connection, cancellation: Cancellation) -> None:
        """Follow one watch to its end; a clean one leaves the position to resume at."""
        opened = time.monotonic()
        events = 0
        lifetime = self._rand.randint(
            *(PULSE_TIMEOUT if self.is_pulse else self._server_timeout)
        )
        self._set_due(PULSE_OPENING)
        with connection.stream(
            self._scope.resource.collection_path(self._scope.namespace),
            query=self._query(lifetime),
            read_timeout=self._patience(),
            cancellation=cancellation,
        ) as stream:
            self._set_due(lifetime + PULSE_GRACE)
            self._report(StreamState("watching"))
            self._rechecks = 0
            self._was_unauthorized = False
            self._handler.heard(self._scope)
            for event in stream:
                self._handler.heard(self._scope)
                events += 1
                self._silences = 0
                self._take(event)
                self._last_event = time.monotonic()
                if cancellation.cancelled:
                    return
        self._due = None
        now = time.monotonic()
        if now - opened < lifetime - EARLY:  # as by a server that shuts down
            self._doubts = True
        elif self.is_pulse and now - self._last_event > PULSE_DOUBT:
            self._doubts = True
            self._last_event = now
        if cancellation.cancelled:
            return
        if not events and time.monotonic() - opened < SHORT_WATCH:
            raise Unreachable(
                f"{connection.server} ends watches as soon as they begin.",
                reason="ShortWatch",
            )

    def _query(self, lifetime: int) -> dict[str, str]:
        return {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(lifetime),
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
            self._hand_over(event_type, obj)
        elif event_type == "BOOKMARK":
            self._handler.moved(self._scope, version)
        else:
            raise InvalidResponse("The watch sent an event of an unknown type.")
        self._version = version

    def _hand_over(self, event_type: str, obj: dict[str, Any]) -> None:
        """Give one event to the handler; the time that takes is not the server's."""
        due, self._due = self._due, None
        began = time.monotonic()
        self._handler.changed(self._scope, event_type, obj)
        if due is not None:
            self._due = due + time.monotonic() - began

    # === FAILURES AND WAITS === #

    def _recover(self, error: KubeError, *, listed: bool) -> tuple[KubeError, float]:
        """Decide from where to go on after `error`, and after how many s.

        :param listed: whether the attempt that failed began with a list
        """
        delay = self._delay(error, listed=listed)
        # Who answers next may have been restored: while it starts, a server may also
        # refuse credentials and rights, or ask to be left alone.
        self._doubts = True
        if self.is_pulse and isinstance(error, (Unreachable, ServerFailed)):
            soon = PULSE_RETRY * (0.5 + self._rand.random() / 2)
            delay = max(error.retry_after or 0, min(delay, soon))
        return error, delay

    def _delay(self, error: KubeError, *, listed: bool) -> float:
        if isinstance(error, Unreachable) and error.reason == "Inactive":
            # Resume; after a second one, compare: a server restored from a backup stays
            # silent on a position of its future.
            self._silences += 1
            return 0.0
        if isinstance(error, Throttled) and error.retry_after:
            return error.retry_after * (1 + self._rand.random())
        if isinstance(error, Expired):
            self._version = None
            if not listed:
                return self._rand.uniform(0, self._relist_spread)
        if isinstance(error, (NotFound, InvalidResponse)):
            self._version = None  # a definition made anew has other versions
        if isinstance(error, Unauthorized):
            first, self._was_unauthorized = not self._was_unauthorized, True
            return UNAUTHORIZED_FIRST if first else UNAUTHORIZED_WAIT
        if isinstance(error, (Forbidden, NotFound, TlsFailed)):
            self._rechecks += 1
            return min(RECHECK_LAST, RECHECK_FIRST * 2.0 ** min(self._rechecks - 1, 16))
        return max(error.retry_after or 0, self._backoff.next(self._rand))

    def _patience(self) -> float:
        """Return the s without event or bookmark until the watch counts as dead.

        Longer with each silence in a row: it is the server's way, or a loss that the
        pulse notices.
        """
        patience = self._inactivity_timeout * 2.0 ** min(self._silences, 8)
        return min(patience, max(self._inactivity_timeout, INACTIVITY_LIMIT))

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


def _silence() -> Unreachable:
    return Unreachable(
        "The server sent neither news nor the watch's end in time.",
        reason="Inactive",
    )
