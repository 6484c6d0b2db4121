"""What the streams of a process saw and the writer has not written yet.

Keyed by cluster and uid, the newest wins: however fast an object changes, it waits here
once. Streams put, one writer takes; both only hold the lock for an instant.

Reports that no record claimed are kept for a short while and offered again: the status
of a new object can arrive before the delivery that created it has committed its uid.
"""

import threading
import time
from dataclasses import dataclass, field

from ..kube import resources
from .sink import Report

UNCLAIMED_SECONDS = 15.0  # for which a report without a record is offered again
OFFER_AGAIN_EVERY = 0.5  # s


@dataclass(frozen=True)
class Census:
    """The end of a complete list: which objects there are in a namespace."""

    kind: str
    namespace: str
    uids: frozenset[str]
    resource_version: str


@dataclass
class Batch:
    """What one cluster has waiting."""

    reports: dict[str, Report] = field(default_factory=dict)
    censuses: list[Census] = field(default_factory=list)


class Inbox:
    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._ready = threading.Condition()
        self._batches: dict[int, Batch] = {}
        self._unclaimed: dict[tuple[int, str], tuple[Report, float]] = {}
        self._offer_at = 0.0

    def put(self, cluster_id: int, report: Report) -> None:
        with self._ready:
            self._put(cluster_id, report)
            self._ready.notify()

    def put_census(self, cluster_id: int, reports: list[Report], census: Census):
        """Put a complete list: its objects, and the fact that there are no others."""
        with self._ready:
            for report in reports:
                self._put(cluster_id, report)
            self._batches.setdefault(cluster_id, Batch()).censuses.append(census)
            self._ready.notify()

    def take(self, timeout: float) -> dict[int, Batch]:
        """Return what waits, by cluster, and leave nothing; wait for some if need be.

        :param timeout: s to wait at most; the answer may be empty
        """
        with self._ready:
            if not self._batches:
                self._ready.wait(self._until_offer(timeout))
            self._offer_unclaimed()
            taken, self._batches = self._batches, {}
            return taken

    def give_back(self, cluster_id: int, batch: Batch) -> None:
        """Put back what could not be written; newer reports keep their place."""
        with self._ready:
            for report in batch.reports.values():
                self._put(cluster_id, report)
            waiting = self._batches.setdefault(cluster_id, Batch())
            waiting.censuses[:0] = batch.censuses

    def keep_unclaimed(self, cluster_id: int, reports: list[Report]) -> None:
        """Offer `reports` again for a while: their records may be about to appear."""
        with self._ready:
            now = self._clock()
            for report in reports:
                key = (cluster_id, report.observed.uid)
                known = self._unclaimed.get(key)
                until = known[1] if known else now + UNCLAIMED_SECONDS
                if until > now:
                    self._unclaimed[key] = (report, until)
                else:
                    del self._unclaimed[key]
            self._offer_at = now + OFFER_AGAIN_EVERY

    def forget(self, cluster_id: int) -> None:
        """Drop what waits for a cluster that this process no longer holds."""
        with self._ready:
            self._batches.pop(cluster_id, None)
            for key in [k for k in self._unclaimed if k[0] == cluster_id]:
                del self._unclaimed[key]

    def wake(self) -> None:
        """Make a waiting `take` return."""
        with self._ready:
            self._ready.notify_all()

    def _put(self, cluster_id, report):
        reports = self._batches.setdefault(cluster_id, Batch()).reports
        uid = report.observed.uid
        known = reports.get(uid)
        if known and resources.newer(
            known.observed.resource_version, report.observed.resource_version
        ):
            return
        reports[uid] = report

    def _until_offer(self, timeout):
        if not self._unclaimed:
            return timeout
        return max(0.0, min(timeout, self._offer_at - self._clock()))

    def _offer_unclaimed(self):
        now = self._clock()
        if not self._unclaimed or now < self._offer_at:
            return
        for (cluster_id, uid), (report, until) in list(self._unclaimed.items()):
            self._put(cluster_id, report)
            if until <= now:
                del self._unclaimed[cluster_id, uid]
