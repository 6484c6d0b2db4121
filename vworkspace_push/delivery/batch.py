"""The attempts of one batch: several at once, and what one teaches the others."""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from odoo.exceptions import UserError

from ..kube.errors import Throttled, Unreachable
from ..sealing import SealingError
from ..transactions import in_transaction
from . import lanes, outcome
from .attempt import Intent, attempt

SLOW_DOWN = 1.0  # s, when a server says 429 and not for how long


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Intents of one model and one cluster, and the connection that they share."""

    model: str
    cluster_id: int
    connection_version: int
    credential: str
    connection: object = field(repr=False)  # a kube Connection, or why there is none
    intents: list[Intent]


class Attempts:
    """The attempts of a batch, as many at once as the cluster's limit allows.

    :param deadline: by the monotonic clock, after which no further one is begun
    """

    def __init__(self, registry, batch, deadline):
        self._registry = registry
        self._batch = batch
        self._deadline = deadline
        self._limit = lanes.limits.get((registry.db_name, batch.cluster_id))
        self._todo = deque(batch.intents)
        self._ended = threading.Event()  # nothing further is sent
        self._deciding = threading.Lock()
        self._outcomes = {}

    def make(self):
        """Attempt the intents and return the outcomes by record.

        Those that were not attempted, because the lane was opened meanwhile or it
        became too late, are missing: they stay due as they are.
        """
        workers = min(len(self._todo), self._limit.now)
        if workers == 1:
            self._work()
        else:
            with ThreadPoolExecutor(workers, "vworkspace-delivery") as pool:
                working = [pool.submit(self._work) for _worker in range(workers)]
            for worker in working:
                worker.result()  # raises what it raised
        self._settle_refused()
        return self._outcomes

    def _work(self):
        while True:
            try:
                intent = self._todo.popleft()
            except IndexError:
                return
            with self._limit.turn():
                if self._ended.is_set() or time.monotonic() > self._deadline:
                    return
                self._attempt(intent)

    def _attempt(self, intent):
        result, error = attempt(intent, (UserError, SealingError))
        self._outcomes[intent.record_id] = result
        if result.credential_refused:
            self._ended.set()  # it would refuse the others as well
        elif isinstance(error, (Throttled, Unreachable)):
            # The others wait: nothing more is sent on a way in doubt. One speaks for
            # all that failed with it.
            with self._deciding:
                if not self._ended.is_set():
                    self._decide(error)
        else:
            self._limit.learn(result.duration)

    def _decide(self, error):
        if isinstance(error, Throttled):
            self._ended.set()
            self._limit.halve()
            self._hold(lanes.slow_down, error.retry_after or SLOW_DOWN, str(error))
        elif failure := lanes.probe(self._batch.connection):
            self._ended.set()
            self._hold(lanes.open_lane, failure)

    def _settle_refused(self):
        """Have those wait whose credential was refused for a moment only."""
        outcomes = self._outcomes
        refused = [i for i, result in outcomes.items() if result.credential_refused]
        connection = self._batch.connection
        if (
            not refused
            or isinstance(connection, Exception)
            or lanes.refuses_credential(connection)
        ):
            return
        for record_id in refused:
            outcomes[record_id] = outcome.accepted_again(outcomes[record_id])
        message = outcomes[refused[0]].message
        self._hold(lanes.slow_down, lanes.REFUSED_MOMENT, message)

    def _hold(self, how, *arguments):
        """Have the cluster's deliveries wait, as `how` of `lanes` does it."""
        in_transaction(self._registry, how, self._batch.cluster_id, *arguments)
