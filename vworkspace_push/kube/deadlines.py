"""Deadlines for what blocks in other threads: one thread watches over all of them.

A `threading.Timer` per request would start a thread per request, which costs more than
the rest of a small one.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

IDLE = 10.0  # s without a deadline, after which the thread ends


class Deadline:
    """One point in time at which something is ended, unless it is lifted before."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action
        self._lock = threading.Lock()
        self.has_passed = False

    @property
    def is_lifted(self) -> bool:
        return self._action is None

    def lift(self) -> None:
        """Let it pass without effect; what it would have ended may go."""
        with self._lock:
            self._action = None

    def pass_by(self) -> None:
        """Do what is due, unless it was lifted."""
        with self._lock:
            if self._action is None:
                return
            self.has_passed = True
            self._action()


class Deadlines:
    """Deadlines in the order of their time; safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Deadline]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, seconds: float, action: Callable[[], None]) -> Deadline:
        """Have `action` called in `seconds`, in another thread.

        :param action: quick, and does not raise
        """
        deadline = Deadline(action)
        at = time.monotonic() + seconds
        with self._changed:
            heapq.heappush(self._heap, (at, next(self._numbers), deadline))
            # Threads do not survive a fork; whoever comes first starts a new one.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._watch, name="kube-deadlines", daemon=True
                )
                self._thread.start()
            elif self._heap[0][2] is deadline:
                self._changed.notify()  # it comes before the one that is waited for
        return deadline

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                # Nearly all of them: otherwise each would be waited for.
                while self._heap and self._heap[0][2].is_lifted:
                    heapq.heappop(self._heap)
                if not self._heap:
                    if not self._changed.wait(IDLE) and not self._heap:
                        self._thread = None
                        return
                    continue
                at = self._heap[0][0]
                if at > now:
                    self._changed.wait(at - now)
                    continue
                deadline = heapq.heappop(self._heap)[2]
            deadline.pass_by()


DEADLINES = Deadlines()  # of all exchanges in this process
