"""Has the delivery cron run at a time that may be only seconds away.

Odoo's cron threads look for future triggers once a minute. So this process keeps a note
of the next one and tells the cron threads when it is time. A note that is lost with its
process costs nothing but the rest of that minute.
"""

import logging
import threading
import time
from functools import partial

import psycopg2

from odoo import fields, sql_db

from ..kube.deadlines import Deadlines

_logger = logging.getLogger(__name__)

LOOKED_FOR_ANYWAY = 60.0  # s, how often the cron threads look by themselves


def trigger(env, at):
    """Have the delivery cron run at `at` (naive UTC), once this is committed."""
    env.ref("vworkspace_push.ir_cron_deliver").sudo()._trigger(at)
    seconds = (at - fields.Datetime.now()).total_seconds()
    if seconds > 0:
        env.cr.postcommit.add(partial(waker.wake_in, env.cr.dbname, seconds))


class Waker:
    def __init__(self):
        self._lock = threading.Lock()
        self._deadlines = Deadlines()
        self._next = {}  # time of the next call, by database

    def wake_in(self, dbname, seconds):
        """Have the cron threads look at a database's jobs in that many seconds."""
        if seconds > LOOKED_FOR_ANYWAY:
            return
        at = time.monotonic() + seconds
        with self._lock:
            if self._next.get(dbname, float("inf")) <= at:
                return  # that call looks at what is due by then, and goes on from it
            self._next[dbname] = at
        self._deadlines.add(seconds, lambda: self._wake(dbname, at))

    def _wake(self, dbname, at):
        with self._lock:
            if self._next.get(dbname) == at:
                del self._next[dbname]
        try:
            with sql_db.db_connect("postgres").cursor() as cr:
                cr.execute("SELECT pg_notify('cron_trigger', %s)", [dbname])
        except psycopg2.Error as exc:
            _logger.debug("The cron was not woken: %s", exc)


waker = Waker()
