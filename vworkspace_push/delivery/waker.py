"""Has the delivery cron run at a time that may be only seconds away.

Odoo's cron threads look for future triggers once a minute. So this process keeps a note
of the next one and tells the cron threads when it is time. A note that is lost with its
process costs nothing but the rest of that minute.
"""

import logging
import math
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
    # Asked before Odoo asks, which tells the cron threads of what is due by then: what
    # becomes due between the two is told of twice, and not by nobody.
    seconds = (at - fields.Datetime.now()).total_seconds()
    env.ref("vworkspace_push.ir_cron_deliver").sudo()._trigger(at)
    if seconds > 0:
        env.cr.postcommit.add(partial(waker.wake_in, env.cr.dbname, seconds))


class Waker:
    def __init__(self):
        self._lock = threading.Lock()
        self._deadlines = Deadlines()
        self._notes = set()  # database and time of each call to come

    def wake_in(self, dbname, seconds):
        """Have the cron threads look at a database's jobs in that many seconds."""
        if seconds > LOOKED_FOR_ANYWAY:
            return
        note = (dbname, math.ceil(time.monotonic() + seconds))  # one call a second
        with self._lock:
            if note in self._notes:
                return
            self._notes.add(note)
        self._deadlines.add(note[1] - time.monotonic(), partial(self._wake, note))

    def _wake(self, note):
        with self._lock:
            self._notes.discard(note)
        try:
            with sql_db.db_connect("postgres").cursor() as cr:
                cr.execute("SELECT pg_notify('cron_trigger', %s)", [note[0]])
        except psycopg2.Error as exc:
            _logger.debug("The cron was not woken: %s", exc)


waker = Waker()
