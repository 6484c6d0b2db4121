"""This process's connections to API servers: one per cluster, shared by its threads.

A connection carries a TLS context, pooled sockets and an unsealed credential, so it is
made once and kept until the cluster's settings or credential change, which shows as a
higher version. The old one is then closed and its secret forgotten: by the next use, or
by a thread that looks every few seconds, so that a revoked credential does not stay in
a process that has nothing to do.
"""

import logging
import threading
import time
from collections.abc import Callable

import psycopg2

from odoo import sql_db

from .kube.connection import Connection

_logger = logging.getLogger(__name__)

LOOK_EVERY = 2.0  # s between two looks at the versions
# s for which a database may be away until its connections are closed: without it,
# nothing tells whether the secrets in them were revoked.
KEEP_SECONDS = 60.0

Key = tuple[str, int]  # database, id of the cluster


class Connections:
    def __init__(self):
        self._lock = threading.Lock()
        self._entries: dict[Key, tuple[int, Connection]] = {}
        self._watcher: threading.Thread | None = None

    def get(
        self, *, key: Key, version: int, make: Callable[[], Connection]
    ) -> Connection:
        """Return the connection of `key` at `version`, made by `make` when needed."""
        with self._lock:
            known = self._entries.get(key)
        if known and known[0] == version:
            return known[1]
        made = make()  # outside the lock: it opens a sealed secret and builds a context
        with self._lock:
            known = self._entries.get(key)
            if known and known[0] == version:
                obsolete = made  # another thread was first
            else:
                obsolete = known[1] if known else None
                self._entries[key] = (version, made)
            current = self._entries[key][1]
            self._start_watcher()
        if obsolete:
            obsolete.close()
        return current

    def drop(self, key: Key, version: int) -> None:
        """Close and forget the connection of `key`, unless another has replaced it."""
        with self._lock:
            known = self._entries.get(key)
            if known is None or known[0] != version:
                return
            del self._entries[key]
        known[1].close()

    def _start_watcher(self):
        # Threads do not survive a fork; the one that is asked for first starts it.
        if self._watcher is None or not self._watcher.is_alive():
            self._watcher = threading.Thread(
                target=self._watch, name="vworkspace-connections", daemon=True
            )
            self._watcher.start()

    def _watch(self):
        silent = {}
        while True:
            time.sleep(LOOK_EVERY)
            with self._lock:
                if not self._entries:
                    self._watcher = None
                    return
                held = {key: version for key, (version, _) in self._entries.items()}
            for key in _obsolete(held, silent):
                self.drop(key, held[key])


def _obsolete(held: dict[Key, int], silent: dict[str, float]) -> list[Key]:
    """Return the keys whose cluster has another version by now, or is gone.

    A database that does not answer says neither; it is left alone for a while.

    :param silent: by database, since when (monotonic s) it does not answer; is updated
    """
    found = []
    for dbname in {key[0] for key in held}:
        clusters = [key[1] for key in held if key[0] == dbname]
        try:
            current = _read_versions(dbname, clusters)
            silent.pop(dbname, None)
        except psycopg2.Error:
            now = time.monotonic()
            if now - silent.setdefault(dbname, now) < KEEP_SECONDS:
                continue
            current = {}
        found += [
            key
            for key, version in held.items()
            if key[0] == dbname and current.get(key[1]) != version
        ]
    return found


def _read_versions(dbname, clusters):
    with sql_db.db_connect(dbname).cursor() as cr:
        cr.execute(
            """SELECT id, connection_version FROM vworkspace_cluster
                WHERE id = ANY(%s) AND active""",
            [clusters],
            log_exceptions=False,
        )
        return dict(cr.fetchall())


connections = Connections()
