"""What the streams of a process saw and the writer has not written yet.

Keyed by cluster and uid, the last word wins: however fast an object changes, it waits
here once. What a stream says later is newer, also where a server restored from a backup
counts from an earlier version again. Beside the reports wait the streams' positions, so
that a position never gets ahead of what it covers.

The number of reports and their size are bounded: above either, streams wait, and the
server with them.

Reports that no record claimed are kept for a short while and offered again: the status
of a new object can arrive before the delivery that created it has committed its uid.
"""

import itertools
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime

from .. import const
from ..kube import resources
from .positions import Key
from .sink import Report

UNCLAIMED_SECONDS = 15.0  # for which a report without a record is offered again
UNCLAIMED_LIMIT = 1_000  # such reports of objects that no Odoo wrote
UNCLAIMED_BYTES = 64 * 1024  # the largest of those that is kept
OFFER_AGAIN_EVERY = 0.5  # s
LOOK_EVERY = 0.5  # s between two looks whether a waiting stream was told to end


@dataclass(frozen=True)
class Census:
    """The end of a complete list: which objects there are in a scope."""

    kind: str
    namespace: str | None  # None is the whole cluster
    uids: frozenset[str]
    listing: "Listing"


@dataclass(frozen=True)
class Listing:
    """Which complete list something comes from."""

    version: str  # its resourceVersion
    asked_at: datetime  # naive UTC


@dataclass(frozen=True)
class Entry:
    """A report, and the list that it came with, if it did."""

    report: Report
    listing: Listing | None = None


@dataclass
class Batch:
    """What one cluster has waiting."""

    since: float  # monotonic s, when the oldest of it came
    entries: dict[str, Entry] = field(default_factory=dict)  # by uid
    censuses: dict[Key, Census] = field(default_factory=dict)
    positions: dict[Key, str] = field(default_factory=dict)
    size: int = 0  # bytes of the entries

    def put(self, entry):
        """Add a report, in the place of an older one of the same object."""
        uid = entry.report.observed.uid
        known = self.entries.get(uid)
        self.size += entry.report.size - (known.report.size if known else 0)
        self.entries[uid] = entry

    def parts(self, size):
        """Yield it in parts of at most `size` reports; the last has all the rest."""
        uids = list(self.entries)
        while len(uids) > size:
            first, uids = uids[:size], uids[size:]
            part = Batch(self.since)
            for uid in first:
                part.put(self.entries.pop(uid))
            self.size -= part.size
            yield part
        yield self


class Inbox:
    """What waits, by cluster.

    :param limit: reports that may wait before streams have to
    :param max_bytes: likewise, their size
    """

    def __init__(
        self,
        *,
        limit=const.INBOX_LIMIT,
        max_bytes=const.INBOX_BYTES,
        clock=time.monotonic,
    ):
        self._limit = limit
        self._max_bytes = max_bytes
        self._clock = clock
        lock = threading.Lock()
        self._ready = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._batches: dict[int, Batch] = {}
        self._taken: dict[int, Batch] = {}  # what the writer is at
        self._positions: dict[int, dict[Key, str]] = {}
        self._unclaimed: dict[tuple[int, str], tuple[Entry, float]] = {}
        self._offer_at = 0.0
        self._woken = False

    # === FOR STREAMS === #

    def put(self, cluster_id: int, key: Key, report: Report, *, ended) -> bool:
        """Put one report and move its stream's position to it; wait for room.

        :param threading.Event ended: set when the stream has ended: nothing is put
        :return: whether it was put
        """
        uid = report.observed.uid
        with self._ready:
            if not self._wait_for_room(cluster_id, report, ended):
                return False
            batch = self._batch(cluster_id)
            known = batch.entries.get(uid)
            batch.put(Entry(report, known and known.listing))
            self._unclaimed.pop((cluster_id, uid), None)
            self._move(cluster_id, key, report.observed.resource_version)
            self._ready.notify()
        return True

    def put_list(
        self, cluster_id: int, reports: list[Report], census: Census, *, ended
    ) -> bool:
        """Put a complete list: its objects, and the fact that there are no others.

        What there is no room for yet waits for it. The list's end comes last, so that
        its position covers all of it.
        """
        with self._ready:
            for report in reports:
                if not self._wait_for_room(cluster_id, report, ended):
                    return False
                self._batch(cluster_id).put(Entry(report, census.listing))
                self._unclaimed.pop((cluster_id, report.observed.uid), None)
            if ended.is_set():
                return False
            batch = self._batch(cluster_id)
            key = (census.kind, census.namespace)
            batch.censuses[key] = census
            self._move(cluster_id, key, census.listing.version)
            self._ready.notify()
        return True

    def move(self, cluster_id: int, key: Key, version: str, *, ended) -> None:
        """Move a stream's position, where nothing else happened."""
        with self._ready:
            if not ended.is_set():
                self._move(cluster_id, key, version)

    # === FOR THE WRITER === #

    def take(self, timeout: float) -> dict[int, Batch]:
        """Return what waits, by cluster, and leave nothing; wait for some if need be.

        :param timeout: s to wait at most; the answer may be empty
        """
        with self._ready:
            if not self._batches and not self._woken:
                self._ready.wait(self._until_offer(timeout))
            self._woken = False
            self._offer_unclaimed()
            taken, self._batches = self._batches, {}
            for cluster_id, batch in taken.items():
                batch.positions = self._positions.pop(cluster_id, {})
            self._taken = dict(taken)
            return taken

    def finish(self, cluster_id: int) -> None:
        """Note that all that was taken of a cluster is done with."""
        with self._ready:
            self._taken.pop(cluster_id, None)
            self._room.notify_all()

    def give_back(self, cluster_id: int, batch: Batch) -> None:
        """Put back what could not be written; what came since keeps its place."""
        with self._ready:
            waiting = self._batch(cluster_id)
            waiting.since = min(waiting.since, batch.since)
            newer, waiting.entries, waiting.size = waiting.entries, {}, 0
            for entry in {**batch.entries, **newer}.values():
                waiting.put(entry)
            waiting.censuses = {**batch.censuses, **waiting.censuses}
            self._keep_positions(cluster_id, batch.positions)

    def keep_positions(self, cluster_id: int, positions: dict[Key, str]) -> None:
        """Keep positions that may not be stored yet; newer ones stay."""
        with self._ready:
            self._keep_positions(cluster_id, positions)

    def take_positions(self) -> dict[int, dict[Key, str]]:
        """Return the positions of clusters that have nothing else waiting."""
        with self._ready:
            idle = self._positions.keys() - self._batches.keys() - self._taken.keys()
            return {cluster_id: self._positions.pop(cluster_id) for cluster_id in idle}

    def keep_unclaimed(
        self, cluster_id: int, entries: list[Entry], *, ours: str
    ) -> None:
        """Offer `entries` again for a while: their records may be about to appear.

        :param ours: identity of this database: what it signed is kept in any case
        """
        with self._ready:
            now = self._clock()
            waiting = self._batches.get(cluster_id)
            for entry in entries:
                key = (cluster_id, entry.report.observed.uid)
                if waiting and key[1] in waiting.entries:
                    continue  # something newer is tried next
                known = self._unclaimed.get(key)
                until = known[1] if known else now + UNCLAIMED_SECONDS
                if until <= now:
                    self._unclaimed.pop(key, None)
                elif (
                    known
                    or is_signed(entry.report, ours)
                    or (
                        len(self._unclaimed) < UNCLAIMED_LIMIT
                        and entry.report.size <= UNCLAIMED_BYTES
                    )
                ):
                    # Later it is only as new as its version says.
                    self._unclaimed[key] = (Entry(entry.report), until)
            self._offer_at = now + OFFER_AGAIN_EVERY

    def claimed(self, cluster_id: int, uids) -> None:
        """Note that there are records of these objects: nothing is offered again."""
        with self._ready:
            for uid in uids:
                self._unclaimed.pop((cluster_id, uid), None)

    def expects_claims(self, cluster_id: int, *, ours: str) -> bool:
        """Whether a report waits for its record that we are about to have."""
        with self._ready:
            return any(
                is_signed(entry.report, ours)
                for (cluster, _uid), (entry, _until) in self._unclaimed.items()
                if cluster == cluster_id
            )

    # === FOR THE SUPERVISOR === #

    def forget(self, cluster_id: int) -> None:
        """Drop what waits for a cluster that this process no longer holds.

        Its streams have been told to end before, so that none puts anything after it.
        """
        with self._ready:
            self._batches.pop(cluster_id, None)
            self._positions.pop(cluster_id, None)
            for key in [k for k in self._unclaimed if k[0] == cluster_id]:
                del self._unclaimed[key]
            self._room.notify_all()

    def wake(self) -> None:
        """Make a waiting `take` return."""
        with self._ready:
            self._woken = True
            self._ready.notify_all()

    @property
    def depth(self) -> int:
        """How many reports wait, those that are being written included."""
        with self._ready:
            return self._depth()

    def lag(self, cluster_id: int) -> float:
        """Return the age in s of the oldest thing that a cluster has waiting."""
        with self._ready:
            batches = (self._batches.get(cluster_id), self._taken.get(cluster_id))
            since = [batch.since for batch in batches if batch]
            return max(0.0, self._clock() - min(since)) if since else 0.0

    # === INSIDE === #

    def _batch(self, cluster_id):
        if cluster_id not in self._batches:
            self._batches[cluster_id] = Batch(self._clock())
        return self._batches[cluster_id]

    def _move(self, cluster_id, key, version):
        self._positions.setdefault(cluster_id, {})[key] = version

    def _keep_positions(self, cluster_id, positions):
        newer = self._positions.get(cluster_id, {})
        if positions or newer:
            self._positions[cluster_id] = {**positions, **newer}

    def _all(self):
        return itertools.chain(self._batches.values(), self._taken.values())

    def _depth(self):
        return sum(len(batch.entries) for batch in self._all())

    def _wait_for_room(self, cluster_id, report, ended):
        """Wait until a report may be put; return False when its stream has ended."""
        while not ended.is_set():
            if self._has_room(cluster_id, report):
                return True
            self._ready.notify()
            self._room.wait(LOOK_EVERY)
        return False

    def _has_room(self, cluster_id, report):
        """Whether a report may be put: the first one always, whatever its size."""
        batch = self._batches.get(cluster_id)
        older = batch and batch.entries.get(report.observed.uid)
        if older and report.size <= older.report.size:
            return True  # it takes the place of that one
        if sum(batch.size for batch in self._all()) >= self._max_bytes:
            return False
        return bool(older) or self._depth() < self._limit

    def _until_offer(self, timeout):
        if not self._unclaimed:
            return timeout
        return max(0.0, min(timeout, self._offer_at - self._clock()))

    def _offer_unclaimed(self):
        now = self._clock()
        if not self._unclaimed or now < self._offer_at:
            return
        for (cluster_id, uid), (entry, until) in list(self._unclaimed.items()):
            if uid not in self._batch(cluster_id).entries:
                self._batch(cluster_id).put(entry)
            if until <= now:
                del self._unclaimed[cluster_id, uid]


def is_signed(report: Report, database: str) -> bool:
    """Whether `database` wrote the object: it has, or will have, a record of it."""
    return report.observed.annotations.get(resources.DATABASE_ANNOTATION) == database
