"""The loop that turns what is seen into statuses.

One thread owns all state: watches, writers and the control file put events into its
queue, and a heap holds what has to be looked at again, and when. A look is
level-triggered: it compares an object with what should be reported on it, so that a
look too many does no harm. At most one write per object is under way; a small pool of
threads makes them, through the status subresource alone.
"""

import heapq
import itertools
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from .api import ApiError, ApiServer
from .control import ControlFile
from .instances import Step, instance_step
from .operations import operation_step
from .resources import INSTANCE, NAMESPACE, OPERATION, Kind, is_gated
from .watch import follow

WRITERS = 4  # threads
SLOWNESS = 10  # times the delay
CONTROL_INTERVAL = 0.2  # s between two looks at the control file
RETRY_PAUSE = 1.0  # s before a failed write is tried again

# The object was deleted or replaced; the watch is about to tell.
_VANISHED = {404, 409}

_logger = logging.getLogger(__name__)

Key = tuple[str, str, str]  # kind, namespace ("" when cluster-wide), name
Object = dict[str, Any]


@dataclass
class _Work:
    """What is known of one object beside the object itself."""

    progress: Any = None
    writing: bool = False
    not_before: float = 0.0


class Engine:
    """Watches namespaces, instances and operations, and reports on the latter two.

    `delay` is in seconds; a delay in the control file overrules it.
    """

    def __init__(
        self,
        api: ApiServer,
        *,
        control: ControlFile,
        delay: float,
        on_gates_changed: Callable[[], None],
    ):
        self._api = api
        self._control = control
        self._obeyed = control.current
        self._delay = delay
        self._on_gates_changed = on_gates_changed
        self._objects: dict[Key, Object] = {}
        self._work: dict[Key, _Work] = defaultdict(_Work)
        self._operations_on: dict[Key, set[Key]] = defaultdict(set)
        self._due: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._unlisted = {NAMESPACE.name, INSTANCE.name, OPERATION.name}
        self.listed = threading.Event()

    # === LIFE === #

    def start(self) -> None:
        """Start all threads; `listed` is set once every kind was listed."""
        self._spawn(self._run)
        for _index in range(WRITERS):
            self._spawn(self._write_for_ever)
        for kind in (NAMESPACE, INSTANCE, OPERATION):
            self._spawn(
                partial(
                    follow,
                    self._api,
                    kind,
                    on_list=partial(self._send, self._take_list, kind),
                    on_event=partial(self._send, self._take_event, kind),
                    stopping=self._stopping,
                )
            )

    def stop(self) -> None:
        """Begin nothing new; the threads are daemons and end with the process."""
        self._stopping.set()

    def _spawn(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True).start()

    # === WHAT OTHERS ASK === #

    def find(
        self, kind: Kind, *, name: str, namespace: str = "", live: bool = False
    ) -> Object | None:
        """Return an object, from the watch's cache or, when `live`, from the server."""
        if not live:
            return self._objects.get((kind.name, namespace, name))
        try:
            return self._api.get(
                kind.path(namespace=namespace or None, name=name), timeout=2.0
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def gated_namespaces(self) -> list[Object]:
        """Return the gated namespaces, by name."""
        found = [
            obj
            for (kind, _namespace, _name), obj in list(self._objects.items())
            if kind == NAMESPACE.name and is_gated(obj)
        ]
        return sorted(found, key=lambda obj: obj["metadata"]["name"])

    # === THE LOOP === #

    def _send(self, handle: Callable[..., None], *arguments: Any) -> None:
        self._events.put(partial(handle, *arguments))

    def _run(self) -> None:
        control_at = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= control_at:
                self._take_control()
                control_at = now + CONTROL_INTERVAL
            self._look_at_due()
            wait = min([control_at, *(due for due, _order, _key in self._due[:1])])
            try:
                event = self._events.get(timeout=max(0.0, wait - time.monotonic()))
            except queue.Empty:
                continue
            event()

    def _look_at_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _due, _order, key = heapq.heappop(self._due)
            self._look(key)

    def _take_control(self) -> None:
        control = self._control.current
        if control is not self._obeyed:
            self._obeyed = control
            self._look_at_all()

    def _look_at_all(self) -> None:
        for key in list(self._objects):
            self._look(key)

    def _take_list(self, kind: Kind, items: list[Object]) -> None:
        seen = {_key(kind, item) for item in items}
        for key in [key for key in self._objects if key[0] == kind.name]:
            if key not in seen:
                self._forget(key)
        for item in items:
            # A list is the truth even when its versions are older than known ones: a
            # cluster restored from a backup counts from where the backup stood.
            self._keep(kind, item)
        self._unlisted.discard(kind.name)
        if not self._unlisted and not self.listed.is_set():
            self.listed.set()
            self._look_at_all()

    def _take_event(self, kind: Kind, change: str, obj: Object) -> None:
        if change == "DELETED":
            self._forget(_key(kind, obj))
        else:
            self._take(kind, obj)

    def _take(self, kind: Kind, obj: Object) -> None:
        """Keep an object unless a newer one is known."""
        known = self._objects.get(_key(kind, obj))
        if known is None or not _is_same_and_newer(known, than=obj):
            self._keep(kind, obj)

    def _keep(self, kind: Kind, obj: Object) -> None:
        """Keep an object and look at what it affects."""
        key = _key(kind, obj)
        known = self._objects.get(key)
        if known is not None and known["metadata"]["uid"] != obj["metadata"]["uid"]:
            self._forget(key)
        self._objects[key] = obj
        if kind is NAMESPACE:
            self._compare_gates(known, obj)
            return
        if kind is OPERATION:
            self._operations_on[_target_key(obj)].add(key)
        self._look(key)
        self._look_at_neighbours(key, obj)

    def _forget(self, key: Key) -> None:
        obj = self._objects.pop(key, None)
        self._work.pop(key, None)
        if obj is None:
            return
        if key[0] == NAMESPACE.name:
            self._compare_gates(obj, None)
            return
        if key[0] == OPERATION.name:
            self._operations_on[_target_key(obj)].discard(key)
        self._look_at_neighbours(key, obj)

    def _compare_gates(self, before: Object | None, after: Object | None) -> None:
        if is_gated(before) or is_gated(after):
            self._on_gates_changed()

    def _look_at_neighbours(self, key: Key, obj: Object) -> None:
        """Look at the operations that this object may have held up."""
        target = _target_key(obj) if key[0] == OPERATION.name else key
        for other in sorted(self._operations_on.get(target, ())):
            if other != key:
                self._look(other)

    # === ONE OBJECT === #

    def _look(self, key: Key) -> None:
        obj = self._objects.get(key)
        if obj is None or key[0] == NAMESPACE.name or not self.listed.is_set():
            return
        work = self._work[key]
        if work.writing:
            return
        if time.monotonic() < work.not_before:
            self._look_again(key, work.not_before)
            return
        step = self._step(key, obj, work)
        if step.status is None:
            work.progress = step.progress
            if step.due is not None:
                self._look_again(key, step.due)
            return
        work.writing = True
        self._writes.put(partial(self._write, key, obj, work, step))

    def _look_again(self, key: Key, due: float) -> None:
        heapq.heappush(self._due, (due, next(self._order), key))

    def _step(self, key: Key, obj: Object, work: _Work) -> Step:
        kind = INSTANCE if key[0] == INSTANCE.name else OPERATION
        control = self._control.current
        behaviour = control.behaviour_of(kind, obj)
        delay = self._delay if control.delay is None else control.delay
        common = {
            "behaviour": behaviour,
            "progress": work.progress,
            "now": time.monotonic(),
            "delay": delay * SLOWNESS if behaviour == "slow" else delay,
            "at": timestamp(),
        }
        if kind is INSTANCE:
            return instance_step(obj, **common)
        target = _target_key(obj)
        others = self._operations_on[target] - {key}
        return operation_step(
            obj,
            target=self._objects.get(target),
            others=[self._objects[other] for other in others],
            **common,
        )

    # === WRITING === #

    def _write_for_ever(self) -> None:
        while True:
            self._writes.get()()

    def _write(self, key: Key, obj: Object, work: _Work, step: Step) -> None:
        """Write a status in a writer's thread and tell the loop how it went."""
        kind = INSTANCE if key[0] == INSTANCE.name else OPERATION
        metadata = obj["metadata"]
        path = kind.path(namespace=metadata["namespace"], name=metadata["name"])
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            # The uid keeps the status off an object that took the name since.
            "metadata": {
                field: metadata[field] for field in ("name", "namespace", "uid")
            },
            "status": step.status,
        }
        try:
            written = self._api.apply(f"{path}/status", body)
        except ApiError as error:
            self._send(self._failed, key, work, error)
        else:
            self._send(self._written, key, kind, written, work, step)

    def _written(
        self, key: Key, kind: Kind, obj: Object, work: _Work, step: Step
    ) -> None:
        _logger.info("%s %s/%s %s", kind.name, key[1], key[2], step.story)
        if self._work.get(key) is not work:
            return
        work.writing = False
        work.progress = step.progress
        self._take(kind, obj)
        # Also when the watch was faster than the answer, and `_take` did nothing.
        self._look(key)

    def _failed(self, key: Key, work: _Work, error: ApiError) -> None:
        if self._work.get(key) is not work:
            return
        if error.status not in _VANISHED:
            _logger.warning("status of %s/%s not written: %s", key[1], key[2], error)
        work.writing = False
        work.not_before = time.monotonic() + RETRY_PAUSE
        self._look_again(key, work.not_before)


def timestamp() -> str:
    """Return the time as RFC 3339, in whole seconds as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(kind: Kind, obj: Object) -> Key:
    metadata = obj["metadata"]
    return kind.name, metadata.get("namespace", ""), metadata["name"]


def _target_key(operation: Object) -> Key:
    namespace = operation["metadata"]["namespace"]
    return INSTANCE.name, namespace, operation["spec"]["targetRef"]["name"]


def _is_same_and_newer(known: Object, *, than: Object) -> bool:
    known, other = known["metadata"], than["metadata"]
    if known["uid"] != other["uid"]:
        return False
    return int(known["resourceVersion"]) >= int(other["resourceVersion"])
