"""One lane per cluster: whether deliveries go through, and how many at once.

The breaker is a row in PostgreSQL, shared by all processes:

========  ==================================  =====================================
State     Row                                 What a delivery does
========  ==================================  =====================================
closed    none, or no failures                calls the API server
open      retry_at lies ahead                 nothing: its records wait, unwritten
probing   failures, and retry_at has passed   the cron probes; success closes it
========  ==================================  =====================================

A transport failure is followed by a probe at once: only if that fails too is the lane
opened, so that one cut connection holds up one record and no more. A server that asks
to slow down (429) has its lane opened for as long as it says.

How many calls are under way at once is each process's own matter (`Limit`): as many as
the server works on, half as many when it says stop.
"""

import threading
import time
from contextlib import contextmanager
from datetime import timedelta

from odoo import fields
from odoo.tools import SQL

from .. import const
from ..kube.errors import KubeError, Throttled, Unauthorized, describe
from . import outcome, waker

MOST_AT_ONCE = 8  # calls to one API server; each is a thread
FIRST_AT_ONCE = 4.0
REFUSED_MOMENT = 3.0  # s until a server that refuses a credential is asked once more
FEW_WAITING = 3.0  # of our calls, in the server: there may be more under way
MANY_WAITING = 5.0  # there should be fewer
PACE_MEMORY = 10  # calls over which the pace of a call alone is averaged


# === BREAKER === #


def probe(connection):
    """Return why the API server does not answer, or None when it does.

    Any answer counts, a refusal included: it is the way there that is in question.
    """
    try:
        connection.request("GET", "/version", timeout=const.PROBE_TIMEOUT)
    except KubeError as exc:
        return exc if exc.retryable and not isinstance(exc, Throttled) else None
    return None


def refuses_credential(connection):
    """Tell whether the API server still refuses the credential a moment later.

    One that starts may refuse all of them at first.
    """
    time.sleep(REFUSED_MOMENT)
    try:
        connection.request("GET", "/version", timeout=const.PROBE_TIMEOUT)
    except KubeError as exc:
        return isinstance(exc, Unauthorized)
    return False


def open_lane(env, cluster_id, error):
    """Hold back deliveries to the cluster, longer with each failure in a row."""
    failures = _failures(env, cluster_id)
    longest = min(const.LANE_MAX, const.LANE_FIRST * 2 ** min(failures, 16))
    _write(
        env,
        cluster_id,
        failures=failures + 1,
        retry_at=fields.Datetime.now() + timedelta(seconds=outcome.jitter(longest)),
        message=describe(error),
    )


def slow_down(env, cluster_id, seconds, message):
    """Hold back deliveries for as long as the server asked for."""
    at = fields.Datetime.now() + timedelta(seconds=seconds)
    _write(env, cluster_id, failures=0, retry_at=at, message=message)


def close_lane(env, cluster_id):
    """Let deliveries through again."""
    if _failures(env, cluster_id):
        _write(env, cluster_id, failures=0, retry_at=None, message=None)


def is_closed(env, cluster_id):
    """Tell whether deliveries to the cluster go through without a probe."""
    return not _failures(env, cluster_id)


def _failures(env, cluster_id):
    env.cr.execute(
        """SELECT failures FROM vworkspace_delivery_lane
            WHERE cluster_id = %s""",
        [cluster_id],
    )
    row = env.cr.fetchone()
    return row[0] or 0 if row else 0


def _write(env, cluster_id, *, failures, retry_at, message):
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_delivery_lane
                           (cluster_id, failures, retry_at, message)
                    VALUES (%s, %s, %s, %s)
               ON CONFLICT (cluster_id) DO UPDATE
                       SET failures = EXCLUDED.failures,
                           retry_at = EXCLUDED.retry_at,
                           message = EXCLUDED.message""",
            cluster_id,
            failures,
            retry_at,
            message,
        )
    )
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    cluster.invalidate_recordset(["lane_ids"])
    cluster._notify_updated()
    if retry_at:
        waker.trigger(env, retry_at)


# === CALLS AT ONCE === #


class Limit:
    """How many calls to one API server this process has under way at once.

    As many as the server works on, and hardly more: what takes longer than a call does
    alone waits in the server, and more calls would only wait longer there (the
    estimate of TCP Vegas). One more for each round of calls in which few wait, one
    fewer for each in which many do, half as many when the server says so (429).
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._limit = FIRST_AT_ONCE
        self._under_way = 0
        self._alone = None  # s that a call takes when the server has nothing else

    @property
    def now(self):
        """Return how many may be under way."""
        return int(self._limit)

    @contextmanager
    def turn(self):
        """Wait until one more call may be under way, and count it while it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self.now)
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def learn(self, seconds):
        """Learn from a call of this turn, which the server answered after that long."""
        with self._changed:
            if self._alone is None or seconds < self._alone or self._under_way <= 1:
                known = seconds if self._alone is None else self._alone
                self._alone = known + (seconds - known) / PACE_MEMORY
            waiting = self._limit * (1 - self._alone / max(seconds, self._alone))
            if waiting > MANY_WAITING:
                self._limit = max(1.0, self._limit - 1 / self._limit)
            elif waiting < FEW_WAITING and self._under_way >= self.now:
                self._limit = min(MOST_AT_ONCE, self._limit + 1 / self._limit)
                self._changed.notify()  # perhaps there is room for one more

    def halve(self):
        """Take half as many, since the server said that it is too much."""
        with self._changed:
            self._limit = max(1.0, self._limit / 2)


class Limits:
    """This process's limits, one for each cluster of each database."""

    def __init__(self):
        self._lock = threading.Lock()
        self._limits = {}

    def get(self, key):
        with self._lock:
            return self._limits.setdefault(key, Limit())


limits = Limits()
