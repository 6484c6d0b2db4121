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

How many calls are under way at once is each process's own matter (`Limit`): more while
the server keeps its pace, half as many when it says stop.
"""

import threading
import time
from contextlib import contextmanager
from datetime import timedelta

from odoo import fields
from odoo.tools import SQL

from .. import const
from ..kube.errors import KubeError, Throttled, describe
from . import outcome

MOST_AT_ONCE = 16  # calls to one API server
FIRST_AT_ONCE = 4.0
SLOW = 3.0  # times the usual latency, from which on there are fewer at once


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
        env.ref("vworkspace_push.ir_cron_deliver")._trigger(retry_at)


# === CALLS AT ONCE === #


class Limit:
    """How many calls to one API server this process makes at once (AIMD).

    One more for each round of calls that kept the usual pace, a tenth fewer when they
    take much longer than usual, half as many when the server says that it is too much.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._limit = FIRST_AT_ONCE
        self._under_way = 0
        self._usual = None  # s, the pace of the fast calls

    @property
    def now(self):
        """Return how many may be under way."""
        return int(self._limit)

    @contextmanager
    def slot(self):
        """Wait for a free slot, and learn from how the call in it went."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < int(self._limit))
            self._under_way += 1
        started = time.monotonic()
        throttled = False
        try:
            yield
        except Throttled:
            throttled = True
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self._learn(time.monotonic() - started, throttled)
                self._changed.notify_all()

    def _learn(self, seconds, throttled):
        usual = self._usual or seconds
        # Falls to a faster pace at once, rises to a slower one over many calls.
        self._usual = seconds if seconds < usual else usual + (seconds - usual) / 100
        if throttled:
            self._limit = max(1.0, self._limit / 2)
        elif seconds > SLOW * self._usual:
            self._limit = max(1.0, self._limit * 0.9)
        else:
            self._limit = min(MOST_AT_ONCE, self._limit + 1 / self._limit)


class Limits:
    """This process's limits, one for each cluster of each database."""

    def __init__(self):
        self._lock = threading.Lock()
        self._limits = {}

    def get(self, key):
        with self._lock:
            return self._limits.setdefault(key, Limit())


limits = Limits()
