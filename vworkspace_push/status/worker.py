"""The watch worker: streams from every cluster it holds, into the sink.

One `DatabaseWorker` per database, two threads of its own and one per stream:

- the supervisor claims leases, starts and stops streams as clusters come and go, and
  hears of changes by LISTEN;
- each stream runs a reflector and puts what it sees into the inbox. It never touches
  the database;
- the writer takes from the inbox and hands it to the sink, one short transaction per
  cluster and batch, fenced by the lease's epoch.

A failure of one cluster stays with that cluster; a failure of PostgreSQL is waited out.
"""

import logging
import os
import select
import socket
import threading
import time
import uuid
from datetime import UTC, datetime

import psycopg2
from psycopg2 import sql

from odoo import sql_db
from odoo.exceptions import UserError
from odoo.modules.registry import Registry

from .. import const
from ..kube import resources
from ..kube.errors import KubeError, Unauthorized
from ..kube.reflector import Reflector, Scope
from ..sealing import SealingError
from ..transactions import in_transaction
from . import leases, sink
from .inbox import Census, Inbox

_logger = logging.getLogger(__name__)

RECOVERY_DELAY = 2.0  # s before trying again what failed because of the database
STOP_SECONDS = 4.0  # s for threads to end after stop() before they are left alone
TICK = 1.0  # s, how often the supervisor looks around without being notified


class DatabaseWorker:
    """Watches the clusters of one database until `stop` is set."""

    def __init__(self, dbname, *, stop):
        self.dbname = dbname
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = stop
        self._inbox = Inbox()
        self._watches: dict[int, ClusterWatch] = {}
        self._writer = threading.Thread(
            target=self._write_for_ever, name=f"vworkspace-writer-{dbname}"
        )

    def run(self):
        """Supervise until stopped, then give the leases back."""
        threading.current_thread().dbname = self.dbname
        _logger.info("watch worker starting as %s", self.holder)
        self._writer.start()
        while not self._stop.is_set():
            try:
                self._supervise()
            except psycopg2.Error as exc:
                _logger.info("database lost, trying again: %s", str(exc).strip())
                self._stop.wait(RECOVERY_DELAY)
            except Exception:
                _logger.exception("watch worker failed, starting over")
                self._stop.wait(RECOVERY_DELAY)
        self._shut_down()

    # === SUPERVISOR === #

    def _supervise(self):
        registry = Registry(self.dbname)
        with _listening(self.dbname) as listener:
            _logger.info("watch worker ready")
            renew_at = 0.0
            while not self._stop.is_set():
                if time.monotonic() >= renew_at:
                    registry = registry.check_signaling()
                    self._reconcile(registry)
                    renew_at = time.monotonic() + const.LEASE_RENEW
                self._note_streams(registry)
                if _notified(listener, TICK):
                    renew_at = 0.0

    def _reconcile(self, registry):
        """Hold what can be held, and run exactly the streams that follow from it."""
        held = in_transaction(registry, leases.claim, self.holder)
        wanted = in_transaction(registry, _read_targets, held)
        # A cluster that another worker held in between is listed anew: what its
        # streams brought meanwhile was refused.
        lost = [c for c, watch in self._watches.items() if watch.epoch != held.get(c)]
        for cluster_id in lost:
            self._watches.pop(cluster_id).stop()
            self._inbox.forget(cluster_id)
        for cluster_id, target in wanted.items():
            watch = self._watches.get(cluster_id)
            if watch is None:
                watch = self._watches[cluster_id] = ClusterWatch(
                    cluster_id, held[cluster_id], self._inbox
                )
            watch.follow(target)

    def _note_streams(self, registry):
        for cluster_id, watch in list(self._watches.items()):
            if watch.refused:
                in_transaction(registry, leases.note_refusal, cluster_id, watch.version)
            note = watch.note()
            if note != watch.noted:
                in_transaction(
                    registry, leases.note_streams, cluster_id, self.holder, *note
                )
                watch.noted = note

    def _shut_down(self):
        _logger.info("watch worker: graceful stop requested")
        deadline = time.monotonic() + STOP_SECONDS
        for watch in self._watches.values():
            watch.stop()
        for watch in self._watches.values():
            watch.join(deadline)
        self._inbox.wake()
        self._writer.join(max(0.0, deadline - time.monotonic()))
        try:
            in_transaction(Registry(self.dbname), leases.release, self.holder)
        except psycopg2.Error as exc:
            _logger.info("leases expire by themselves: %s", str(exc).strip())
        _logger.info("watch worker stopped")

    # === WRITER === #

    def _write_for_ever(self):
        threading.current_thread().dbname = self.dbname
        while True:
            stopping = self._stop.is_set()
            waiting = self._inbox.take(0.0 if stopping else TICK)
            for cluster_id, batch in waiting.items():
                self._write(cluster_id, batch)
            if stopping:
                return

    def _write(self, cluster_id, batch):
        watch = self._watches.get(cluster_id)
        if watch is None:
            return
        try:
            unclaimed = in_transaction(
                Registry(self.dbname),
                _store_batch,
                cluster_id,
                batch,
                self.holder,
                watch.epoch,
            )
        except psycopg2.Error as exc:
            _logger.info("database lost, keeping a batch: %s", str(exc).strip())
            self._inbox.give_back(cluster_id, batch)
            self._stop.wait(RECOVERY_DELAY)
        except Exception:
            # A defect of ours. The lists that the status cron makes will heal what
            # is missed here, and a batch that always fails must not stop the others.
            _logger.exception("a batch of cluster %s could not be written", cluster_id)
        else:
            kept = [batch.reports[uid] for uid in unclaimed if uid in batch.reports]
            self._inbox.keep_unclaimed(cluster_id, kept)


class ClusterWatch:
    """The streams of one cluster: one per namespace and kind."""

    def __init__(self, cluster_id, epoch, inbox):
        self.cluster_id = cluster_id
        self.epoch = epoch
        self.noted = None
        self._inbox = inbox
        self._target = None
        self._streams: dict[Scope, Stream] = {}
        self._ending: list[Stream] = []  # told to stop, perhaps not there yet

    def follow(self, target):
        """Run the streams of `target`, anew where its connection changed."""
        if self._target and self._target.version != target.version:
            self.stop()
        self._target = target
        scopes = {
            Scope(resource, name)
            for name in target.namespaces
            for resource in resources.WATCHED
        }
        if target.problem:
            scopes = set()
        self._end(self._streams.keys() - scopes)
        for scope in scopes - self._streams.keys():
            self._streams[scope] = Stream(
                self.cluster_id, scope, target.connection, self._inbox
            )
            self._streams[scope].start()

    @property
    def version(self):
        return self._target.version

    @property
    def refused(self):
        """Whether the server refused the credential that the streams use."""
        return any(s.refused for s in list(self._streams.values()))

    def stop(self):
        self._end(list(self._streams))

    def join(self, deadline):
        for stream in self._ending:
            stream.join(max(0.0, deadline - time.monotonic()))

    def _end(self, scopes):
        self._ending = [s for s in self._ending if s.is_alive()]
        for scope in scopes:
            stream = self._streams.pop(scope)
            stream.stop()
            self._ending.append(stream)

    def note(self):
        """Return what the cluster's form shows: state, message, last contact."""
        streams = list(self._streams.values())
        problems = [s.problem for s in streams if s.problem]
        if self._target and self._target.problem:
            problems.insert(0, self._target.problem)
        contacts = [s.last_contact for s in streams if s.last_contact]
        state = "watching" if streams and not problems else "waiting"
        # Whole seconds, ten apart: a note is written when it changes.
        contact = max(contacts) if contacts else None
        if contact:
            contact = contact.replace(second=contact.second // 10 * 10, microsecond=0)
        return state, problems[0] if problems else "", contact


class Stream(threading.Thread):
    """One reflector in one thread; a reflector's handler that fills the inbox."""

    def __init__(self, cluster_id, scope, connection, inbox):
        super().__init__(name=f"vworkspace-watch-{cluster_id}-{scope.namespace}")
        self.daemon = True  # stop() ends it; a hung TLS handshake must not outlive us
        self.problem = ""
        self.refused = False
        self.last_contact = None
        self._cluster_id = cluster_id
        self._inbox = inbox
        self._end = threading.Event()
        self._reflector = Reflector(lambda: connection, scope, self, stop=self._end)

    def run(self):
        self._reflector.run()

    def stop(self):
        self._end.set()
        self._reflector.interrupt()

    # === HANDLER === #

    def replaced(self, scope, items, resource_version):
        kind = scope.resource.kind
        reports = [sink.Report.from_object(item, kind=kind) for item in items]
        self._inbox.put_census(
            self._cluster_id,
            reports,
            Census(
                kind=kind,
                namespace=scope.namespace,
                uids=frozenset(r.observed.uid for r in reports),
                resource_version=resource_version,
            ),
        )

    def changed(self, scope, event_type, obj):
        self._inbox.put(
            self._cluster_id,
            sink.Report.from_object(
                obj, kind=scope.resource.kind, deleted=event_type == "DELETED"
            ),
        )

    def state(self, scope, state):
        self.problem = str(state.error or "")
        self.refused = isinstance(state.error, Unauthorized)
        if state.error:
            _logger.info(
                "stream of cluster %s, namespace %s: %s",
                self._cluster_id,
                scope.namespace,
                state.error,
            )

    def heard(self, scope):
        self.last_contact = datetime.now(UTC).replace(tzinfo=None)


class Target:
    """What is needed to watch one cluster, or why that cannot be."""

    def __init__(self, cluster):
        self.version = cluster.connection_version
        self.namespaces = cluster.namespace_ids.mapped("name")
        self.connection = None
        self.problem = ""
        try:
            self.connection = cluster._connection()
        except (UserError, SealingError, KubeError, ValueError) as exc:
            self.problem = str(exc)


def _read_targets(env, held):
    clusters = env["vworkspace.cluster"].browse(held)
    return {cluster.id: Target(cluster) for cluster in clusters}


def _store_batch(env, cluster_id, batch, holder, epoch):
    """Write one cluster's batch, unless the cluster is another worker's by now."""
    if not leases.is_held(env, cluster_id, holder, epoch):
        return set()
    unclaimed = sink.ingest(env, cluster_id, list(batch.reports.values()))
    for census in batch.censuses:
        sink.vanished(
            env,
            cluster_id,
            census.kind,
            census.namespace,
            census.uids,
            census.resource_version,
        )
    return unclaimed


class _listening:
    """A connection of its own that hears of changed clusters."""

    def __init__(self, dbname):
        _name, info = sql_db.connection_info_for(dbname)
        self._info = {**info, "application_name": "vworkspace_watch"}

    def __enter__(self):
        self._connection = psycopg2.connect(**self._info)
        self._connection.autocommit = True
        with self._connection.cursor() as cr:
            cr.execute(
                sql.SQL("LISTEN {}").format(sql.Identifier(const.NOTIFY_CHANNEL))
            )
        return self._connection

    def __exit__(self, *_exc):
        self._connection.close()


def _notified(connection, timeout):
    """Wait for a notification; return whether there was one. Raises when cut off."""
    if not select.select([connection], [], [], timeout)[0]:
        return False
    connection.poll()
    heard = bool(connection.notifies)
    connection.notifies.clear()
    return heard
