"""A watch worker inside an Odoo server, for installations of one process.

Off unless the installation sets ``embedded_watch``. The status cron starts it, in the
process that runs that cron, when a cluster needs watching and no worker does: so there
is one with threads and one with prefork, and after its process ended the cron's next
run starts another. Should two run after all, they share the clusters by their leases.
"""

import logging
import threading

from odoo.http import request
from odoo.service import server
from odoo.tools import SQL, config

from .. import const, settings
from ..transactions import in_transaction
from . import overview
from .worker import DatabaseWorker

_logger = logging.getLogger(__name__)

SETTING = "embedded_watch"
STOP_SECONDS = 5.0  # that a stopping server waits for it


class EmbeddedWorker:
    """A DatabaseWorker in threads of this process, until the process stops."""

    def __init__(self, dbname):
        self._stop = threading.Event()
        self._worker = DatabaseWorker(dbname, stop=self._stop)
        # Not a daemon, as the cron thread that starts it is one: the interpreter's end
        # waits until the leases are given back.
        self._thread = threading.Thread(
            target=self._worker.run, name=f"vworkspace-embedded-{dbname}", daemon=False
        )

    def start(self):
        self._thread.start()
        overview.start_noting(self._worker, self._stop)
        # A cron process of a prefork server calls nothing when it ends; and the
        # interpreter's end waits for threads before it runs what `atexit` knows.
        threading.Thread(
            target=self._end_with_main_thread,
            name="vworkspace-embedded-end",
            daemon=True,
        ).start()
        server.CommonServer.on_stop(self.stop)

    def is_alive(self):
        return self._thread.is_alive()

    def stop(self):
        """Stop it and wait for that, before the server closes its connections."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _end_with_main_thread(self):
        threading.main_thread().join()
        self._stop.set()


_workers: dict[str, EmbeddedWorker] = {}


def start_where_wanted(env):
    """Start a worker for the database of `env` if this process ought to have one."""
    if not settings.flag(SETTING) or not _is_cron_of_a_server():
        return
    dbname = env.cr.dbname
    worker = _workers.get(dbname)
    if worker and worker.is_alive():
        return
    if not in_transaction(env.registry, _needs_a_worker):
        return
    if config["workers"] and len(server.cron_database_list()) > 1:
        # A cron process closes all connections to a database when it goes to the next.
        _logger.info(
            "No embedded watch worker: with several processes and several databases,"
            " run `odoo vworkspace_watch`"
        )
        return
    _workers[dbname] = EmbeddedWorker(dbname)
    _workers[dbname].start()


def _is_cron_of_a_server():
    """Tell a server's cron from a shell, a test and somebody's "run manually"."""
    return server.server is not None and not request


def _needs_a_worker(env):
    """Whether there is a cluster to watch, and no worker that would take it."""
    env.cr.execute(
        SQL(
            """SELECT EXISTS (SELECT 1 FROM vworkspace_cluster
                               WHERE active AND connectivity_mode = 'push'
                                 AND state = 'active')
                  AND NOT EXISTS (SELECT 1 FROM vworkspace_watch_worker
                                   WHERE cluster_ids IS NULL
                                     AND seen_at > now() AT TIME ZONE 'UTC'
                                                   - interval '%s seconds')""",
            const.LEASE_SECONDS,
        )
    )
    return env.cr.fetchone()[0]
