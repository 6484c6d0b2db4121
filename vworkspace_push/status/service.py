"""What `odoo vworkspace_watch` does: watch until told to stop, list once, or tell."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg2

from odoo.modules.registry import Registry

from . import memory, metrics, overview, poll
from .http import StatusServer
from .worker import DatabaseWorker

_logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS = 4.8  # from the signal until what still runs is left alone
POLLED_AT_ONCE = 8  # clusters that --once lists at the same time
REFRESH = 10.0  # s for which what a scrape read from the databases is good enough


class UsageError(Exception):
    """What was asked for cannot be done; the text is for the person who asked."""


def watch(databases, names, address):
    """Watch until SIGTERM or SIGINT; a second one ends the process at once.

    :param list databases: names; each gets a worker in threads of its own
    :param names: identifiers of the only clusters to watch; empty for all
    :param address: interface and port of health and metrics, or None
    :raise UsageError: there is no such cluster, or the address cannot be had
    """
    # Blocked before there are threads, which inherit that: only sigwait() gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    memory.share_arenas()
    stop = threading.Event()
    workers = [
        DatabaseWorker(dbname, stop=stop, only=only)
        for dbname, only in _choose(databases, names).items()
    ]
    if address:
        _serve(address, workers)
    threads = [
        threading.Thread(target=worker.run, name=worker.dbname, daemon=True)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for worker in workers:
        overview.start_noting(worker, stop)
    number = signal.sigwait(STOP_SIGNALS)
    _logger.info("%s: stopping", signal.Signals(number).name)
    _stop(stop, threads)


def once(databases, names):
    """List everything once; return which clusters could not be read, and why.

    :rtype: list[str]
    :raise UsageError: there is no such cluster, or no such database
    """
    problems = []
    for dbname, only in _choose(databases, names).items():
        try:
            problems += _list_all(dbname, only)
        except psycopg2.Error as exc:
            raise UsageError(f"{dbname}: {str(exc).strip()}") from exc
    return problems


def _list_all(dbname, only):
    wanted = overview.clusters_to_watch(dbname, only)
    poll_cluster = partial(_poll_cluster, Registry(dbname))
    with ThreadPoolExecutor(POLLED_AT_ONCE) as pool:
        answers = list(pool.map(poll_cluster, wanted))
    return [
        f"{dbname}: {identifier}: {problem}"
        for identifier, problem in zip(wanted.values(), answers, strict=True)
        if problem
    ]


def _poll_cluster(registry, cluster_id):
    threading.current_thread().dbname = registry.db_name
    return poll.poll_cluster(registry, cluster_id)


def status(databases, names):
    """Return a table of how the clusters are watched.

    :raise UsageError: there is no such cluster, or the database cannot be asked
    """
    chosen = _choose(databases, names)
    try:
        return overview.table(chosen)
    except psycopg2.Error as exc:
        raise UsageError(str(exc).strip()) from exc


def _choose(databases, names):
    """Return for each database the ids of the clusters that were named, or None."""
    if not names:
        return dict.fromkeys(databases)
    chosen, unknown = {}, set(names)
    for dbname in databases:
        try:
            found = overview.find_clusters(dbname, names)
        except psycopg2.Error as exc:
            raise UsageError(f"{dbname}: {str(exc).strip()}") from exc
        unknown -= found.keys()
        if found:
            chosen[dbname] = set(found.values())
    if unknown:
        raise UsageError(
            f"No cluster {', '.join(sorted(unknown))} in {', '.join(databases)}."
            " Name clusters by the identifier on their form."
        )
    return chosen


# === HEALTH AND METRICS === #


def _serve(address, workers):
    try:
        server = StatusServer(*address, workers, refresh=_Refresh(workers))
    except OSError as exc:
        raise UsageError(
            "Health and metrics cannot be served on {}:{}: {}. Choose another port with"
            " --metrics-port; 0 switches them off.".format(*address, exc.strerror)
        ) from exc
    server.start()
    _logger.info("health and metrics are on http://%s:%s", *server.server_address[:2])


class _Refresh:
    """Brings up to date what is not counted as it happens.

    What the databases know is read at most every few seconds.
    """

    def __init__(self, workers):
        self._workers = workers
        self._lock = threading.Lock()
        self._read_at = None
        self._clusters = {}  # seen last, by database

    def __call__(self):
        for worker in self._workers:
            worker.measure()
        # While PostgreSQL does not answer, the other scrapes do without.
        if not self._lock.acquire(blocking=False):
            return
        try:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= REFRESH:
                for worker in self._workers:
                    self._read(worker.dbname)
                self._read_at = now
        finally:
            self._lock.release()

    def _read(self, dbname):
        try:
            pending = overview.pending_deliveries(dbname)
            differences = overview.differences(dbname)
        except psycopg2.Error:
            pending, differences = float("nan"), {}  # not known, which is not 0
        metrics.PENDING_DELIVERIES.labels(dbname).set(pending)
        for cluster, count in differences.items():
            metrics.DIFFERENCES.labels(dbname, cluster).set(count)
        for cluster in self._clusters.get(dbname, set()) - differences.keys():
            metrics.forget(dbname, cluster)
        self._clusters[dbname] = set(differences)


# === STOPPING === #


def _stop(stop, threads):
    deadline = time.monotonic() + STOP_SECONDS
    for number in STOP_SIGNALS:
        signal.signal(number, _end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    stop.set()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in threads if thread.is_alive()]
    if left:
        _logger.info("did not end in time, left alone: %s", ", ".join(left))
    logging.shutdown()
    # Not through the interpreter's end, which waits for threads without a limit.
    os._exit(0)


def _end_at_once(number, _frame):
    os._exit(128 + number)
