"""This process's connections to API servers: one per cluster, shared by its threads.

A connection carries a TLS context, pooled sockets and an unsealed credential, so it is
made once and kept until the cluster's settings or credential change, which shows as a
higher version. The old one is then closed and its secret forgotten.
"""

import threading
from collections.abc import Callable, Hashable

from .kube.connection import Connection


class Connections:
    def __init__(self):
        self._lock = threading.Lock()
        self._entries: dict[Hashable, tuple[int, Connection]] = {}

    def get(
        self, *, key: Hashable, version: int, make: Callable[[], Connection]
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
        if obsolete:
            obsolete.close()
        return current

    def drop(self, key: Hashable) -> None:
        """Close and forget the connection of `key`, if there is one."""
        with self._lock:
            known = self._entries.pop(key, None)
        if known:
            known[1].close()


connections = Connections()
