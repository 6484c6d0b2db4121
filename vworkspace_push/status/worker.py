"""The watch worker: streams from every cluster it holds, into the sink.

One `DatabaseWorker` per database, with threads of its own beside those of the streams:

- the supervisor claims leases, starts and stops streams as clusters come and go, hears
  of changes by LISTEN, and says when a cluster does not answer any more;
- the writer takes from the inbox and hands it to the sink, in short transactions that
  are fenced by the lease's epoch. The streams' positions are stored in the transaction
  that wrote what they cover, never before;
- the confirmer asks a cluster for each object that seems to be gone.

A failure of one cluster stays with that cluster; a failure of PostgreSQL is waited out.
"""

import logging
import math
import os
import selectors
import socket
import threading
import time
import uuid
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

import psycopg2
from psycopg2 import sql
from psycopg2.pool import PoolError

from odoo import sql_db
from odoo.exceptions import ConcurrencyError
from odoo.modules.registry import Registry

from .. import const
from ..identity import database_uuid
from ..transactions import Locked, in_impatient_transaction, in_transaction
from . import confirm, leases, memory, metrics, positions, sink
from .inbox import Inbox, is_signed
from .streams import ClusterWatch, Target, small_stacks
from .updates import Updates

_logger = logging.getLogger(__name__)

BATCH = 500  # reports of one transaction
CONFIRM_AGAIN = (0.0, 5.0, 30.0, 120.0)  # s before each attempt to confirm an end
CONFIRM_LATER = 10.0  # s until it is asked again what a server did not answer
CONFIRM_TIMEOUT = 10.0  # s for one object
CONFIRM_SECONDS = 5.0  # s in a row for one cluster; then the next one has its turn
CONFIRM_AT_ONCE = 100  # objects of one cluster, likewise
CONNECT_TIMEOUT = 5  # s
# s without an answer until a connection counts as lost that only listens: 25 in all
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
MARK_EVERY = 10.0  # s between two looks for clusters that went silent
NOTE_EVERY = 5.0  # s between two looks at what the streams do
POSITIONS_EVERY = 30.0  # s; a cluster without news stores its bookmarks
RECOVERY_DELAY = 2.0  # s before trying again what failed because of the database
INSTALL_DELAY = 5.0  # s between two looks for an addon that is not there (yet)
STALLED_AFTER = 60.0  # s without a round of the supervisor, which is then not alive
STOP_SECONDS = 4.0  # s for threads to end after stop() before they are left alone
TICK = 1.0  # s, how often the supervisor looks around without being notified

# What another attempt mends: the database is away, or the addon is being updated
TRANSIENT = (
    *(psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.ProgrammingError),
    *(psycopg2.InternalError, PoolError, ConcurrencyError, Locked),
)


class NotInstalledError(Exception):
    """There is no addon in a database."""


class DatabaseWorker:
    """Watches the clusters of one database until `stop` is set.

    :param threading.Event stop: ends it, within 5 s
    :param only: ids of the clusters that it is restricted to; None: all
    """

    def __init__(self, dbname, *, stop, only=None):
        self.dbname = dbname
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = stop
        self._held = leases.Held(self.holder, only=only)
        self._inbox = Inbox()
        self._watches: dict[int, ClusterWatch] = {}
        self._confirmations = Confirmations()
        self._updates = Updates()
        self._database_uuid = ""
        self._rates = {}  # events at the last snapshot but one, by cluster
        self._ready = False
        self._round_at = time.monotonic()
        self._writer = self._confirmer = None

    def run(self):
        """Supervise until stopped, then give the leases back."""
        threading.current_thread().dbname = self.dbname
        _logger.info("watch worker starting as %s", self.holder)
        self._keep_threads()
        told = None
        while not self._stop.is_set():
            try:
                self._supervise()
            except NotInstalledError:
                if self._ready or told is not NotInstalledError:
                    _logger.info("the addon is not installed here, waiting for it")
                told = NotInstalledError
                self._keep_quiet(INSTALL_DELAY)
            except psycopg2.Error as exc:
                if self._ready or told is not psycopg2.Error:
                    _logger.info("database lost, trying again: %s", _text(exc))
                told = psycopg2.Error
                self._keep_quiet()
            except Exception:
                _logger.exception("watch worker failed, starting over")
                self._keep_quiet()
        self._shut_down()

    def is_alive(self):
        """Whether its threads do their rounds."""
        age = time.monotonic() - self._round_at
        return age < STALLED_AFTER and bool(self._writer and self._writer.is_alive())

    def is_ready(self):
        """Whether it has claimed its share, and hears of changes."""
        return self._ready

    def snapshot(self):
        """Return what the streams of each cluster do, as a list of dicts."""
        rows = []
        for cluster_id, watch in list(self._watches.items()):
            row = watch.snapshot()
            events, now = row.pop("events"), time.monotonic()
            before, then = self._rates.get(cluster_id, (events, now))
            if now - then >= 1.0 or cluster_id not in self._rates:
                self._rates[cluster_id] = (events, now)
            # Fewer than before: a stream ended, and what it counted went with it.
            rate = max(0, events - before) / (now - then) if now > then else 0.0
            lag = self._inbox.lag(cluster_id)
            rows.append({**row, "lag": lag, "events_per_second": rate})
        return rows

    def measure(self):
        """Set what changes all the time and is not counted: for a scrape."""
        for cluster_id, watch in list(self._watches.items()):
            labels = (self.dbname, watch.target.label)
            metrics.LAG_SECONDS.labels(*labels).set(self._inbox.lag(cluster_id))
            for state, count in watch.states().items():
                metrics.STREAMS.labels(*labels, state).set(count)
            if cluster_id not in self._watches:  # dropped meanwhile
                metrics.forget(*labels)
        metrics.QUEUE_DEPTH.labels(self.dbname).set(self._inbox.depth)

    # === SUPERVISOR === #

    def _supervise(self):
        _check_installed(self.dbname)
        registry = Registry(self.dbname)
        self._database_uuid = in_transaction(registry, database_uuid)
        with _listening(self.dbname) as listener:
            renew_at = note_at = 0.0
            mark_at = time.monotonic() + MARK_EVERY  # its streams may be heard first
            changed = set()
            while not self._stop.is_set():
                self._round_at = now = time.monotonic()
                self._keep_threads()
                if now >= renew_at:
                    registry = registry.check_signaling()
                    self._reconcile(registry, changed)
                    renew_at = time.monotonic() + const.LEASE_RENEW
                    self._say_ready()
                self._tend(registry)
                if now >= note_at:
                    self._note(registry)
                    note_at = now + NOTE_EVERY
                if now >= mark_at:
                    in_transaction(registry, sink.mark_stale)
                    mark_at = now + MARK_EVERY
                if changed := _notified(listener, TICK):
                    renew_at = note_at = 0.0

    def _keep_threads(self):
        """Start the threads beside this one, again should one have ended.

        A lease is only worth something while its news are written.
        """
        if self._writer is None or not self._writer.is_alive():
            if self._writer:
                _logger.error("the writer ended by itself, starting another one")
                self._list_again(self._watches)
            self._writer = self._start("writer", self._write_for_ever)
        if self._confirmer is None or not self._confirmer.is_alive():
            self._confirmer = self._start("confirmer", self._confirm_for_ever)

    def _start(self, name, function):
        thread = threading.Thread(
            target=function, name=f"vw-{name}-{self.dbname}", daemon=True
        )
        with small_stacks():
            thread.start()
        return thread

    def _list_again(self, cluster_ids):
        """Have clusters listed again of which something was lost."""
        for cluster_id in list(cluster_ids):
            if watch := self._watches.get(cluster_id):
                watch.list_again()

    def _say_ready(self):
        if not self._ready:
            _logger.info("watch worker ready, %s clusters", len(self._watches))
        self._ready = True

    def _keep_quiet(self, delay=RECOVERY_DELAY):
        """Wait `delay` s for the database; without a lease, watch nothing meanwhile."""
        self._ready = False
        self._round_at = time.monotonic()
        if self._held.is_lost:
            for cluster_id in list(self._watches):
                self._drop(cluster_id)
        self._stop.wait(delay)

    def _reconcile(self, registry, changed):
        """Hold what can be held, and run exactly the streams that follow from it."""
        held = self._held.renew(registry)
        # What the streams of a cluster that another worker held in between brought
        # was refused: they begin again, from where that worker left off.
        for cluster_id, watch in list(self._watches.items()):
            if watch.epoch != held.get(cluster_id):
                self._drop(cluster_id)
        news = in_transaction(registry, _read_changes, held, self._seen())
        for cluster_id, target, stored in news:
            watch = self._watches.get(cluster_id)
            if watch and not watch.is_same(target):
                self._drop(cluster_id)  # nothing of it holds for another server
                watch = None
            if watch is None:
                epoch = held[cluster_id]
                self._watches[cluster_id] = ClusterWatch(
                    self.dbname, cluster_id, epoch, self._inbox, target, stored
                )
            else:
                watch.follow(target)
        for cluster_id in changed & self._watches.keys():
            self._watches[cluster_id].replan()
        metrics.LEASES.labels(self.dbname).set(len(held))

    def _seen(self):
        return {c: watch.seen for c, watch in self._watches.items()}

    def _drop(self, cluster_id):
        watch = self._watches.pop(cluster_id)
        watch.stop()
        self._inbox.forget(cluster_id)
        self._confirmations.forget(cluster_id)
        self._rates.pop(cluster_id, None)
        metrics.forget(self.dbname, watch.target.label)

    def _tend(self, registry):
        # One at most is waited for whose records are locked: leases end meanwhile.
        for watch in sorted(self._watches.values(), key=attrgetter("is_deferred")):
            if not watch.tend():
                continue
            try:
                self._take_news(registry, watch)
                watch.is_deferred = False
            except Locked as exc:
                _logger.info("cluster %s is told later: %s", watch, _text(exc))
                watch.is_deferred = True
                watch.news.set()
                break
            except BaseException:
                watch.news.set()  # for the next round
                raise

    def _take_news(self, registry, watch):
        watch.look_again()
        self._tell_reachability(registry, watch)
        if watch.refused and not watch.refusal_noted:
            in_impatient_transaction(
                registry, leases.note_refusal, watch.cluster_id, watch.version
            )
            watch.refusal_noted = True

    def _tell_reachability(self, registry, watch):
        """Tell the records when the cluster stops to answer, and when it does again."""
        answers, message = watch.reachability()
        if answers is None or answers == watch.told_reachable:
            return
        told = in_impatient_transaction(
            registry, _tell, watch.cluster_id, self.holder, watch.epoch, message
        )
        if not told:
            return  # it is another worker's
        if watch.told_reachable is not None or not answers:
            state = "answers again" if answers else f"does not answer: {message}"
            _logger.info("cluster %s %s", watch, state)
        watch.told_reachable = answers

    def _note(self, registry):
        """Keep what changed of what the streams do, in one transaction."""
        notes, streams = {}, {}
        for cluster_id, watch in self._watches.items():
            if (note := watch.note()) != watch.noted:
                notes[cluster_id] = note
            rows = watch.note_streams()
            if watch.is_settled and rows != watch.noted_streams:
                streams[cluster_id] = rows
        if not notes and not streams:
            return
        changed = set()
        for cluster_id in notes.keys() | streams.keys():
            watch = self._watches[cluster_id]
            note = notes.get(cluster_id, watch.noted)
            rows = streams.get(cluster_id, watch.noted_streams)
            if _shown(note, rows) != _shown(watch.noted, watch.noted_streams):
                changed.add(cluster_id)
        in_transaction(
            *(registry, _store_notes, self._held.epochs, self.holder),
            *(notes, streams, changed),
        )
        for cluster_id, note in notes.items():
            self._watches[cluster_id].noted = note
        for cluster_id, rows in streams.items():
            self._watches[cluster_id].noted_streams = rows

    def _shut_down(self):
        _logger.info("watch worker: graceful stop requested")
        self._ready = False
        deadline = time.monotonic() + STOP_SECONDS
        for watch in self._watches.values():
            watch.stop()
        for watch in self._watches.values():
            watch.join(deadline)
        self._inbox.wake()
        self._confirmations.wake()
        self._writer.join(max(0.0, deadline - time.monotonic()))
        try:
            if self._held.age < math.inf:  # it is listed there
                held = list(self._watches)
                in_transaction(Registry(self.dbname), _release, self.holder, held)
        except psycopg2.Error as exc:
            _logger.info("leases expire by themselves: %s", _text(exc))
        _logger.info("watch worker stopped")

    # === WRITER === #

    def _write_for_ever(self):
        threading.current_thread().dbname = self.dbname
        positions_at = time.monotonic() + POSITIONS_EVERY
        has_listed = False
        while True:
            stopping = self._stop.is_set()
            wait = 0.0 if stopping else min(TICK, self._updates.until_due())
            taken = self._inbox.take(wait)
            for cluster_id, batch in taken.items():
                try:
                    self._write(cluster_id, batch)
                except Exception:
                    _logger.exception("a batch of cluster %s was lost", cluster_id)
                    self._list_again([cluster_id])
                finally:
                    self._inbox.finish(cluster_id)
                has_listed = has_listed or bool(batch.censuses)
            if self._updates.until_due() <= (math.inf if stopping else 0.0):
                self._tell_updates(all_of_it=stopping)
            if has_listed and not taken:
                memory.give_back()
                has_listed = False
            if stopping or time.monotonic() >= positions_at:
                self._write_positions()
                positions_at = time.monotonic() + POSITIONS_EVERY
            if stopping:
                return

    def _write(self, cluster_id, batch):
        """Write what one cluster has waiting, in parts; keep what cannot be written."""
        watch = self._watches.get(cluster_id)
        if watch is None:
            return  # it is another worker's
        if batch.since < watch.born:
            watch.list_again()  # what came may be another server's
            return
        for part in batch.parts(BATCH):
            try:
                with metrics.BATCH_SECONDS.labels(self.dbname).time():
                    written = self._write_part(watch, part, is_last=part is batch)
            except TRANSIENT as exc:
                if not watch.keeps:
                    _logger.info("keeping a batch of cluster %s: %s", watch, _text(exc))
                watch.keeps = True
                if self._watches.get(cluster_id) is watch:
                    if part is not batch:
                        self._inbox.give_back(cluster_id, part)
                    self._inbox.give_back(cluster_id, batch)
                if not isinstance(exc, Locked):  # that was waited for already
                    self._stop.wait(RECOVERY_DELAY)
                break
            except Exception:
                # A defect of ours: a batch that always fails must not stop the others.
                _logger.exception("a batch of cluster %s could not be written", watch)
                watch.list_again()
                continue
            watch.keeps = False
            if not written:
                break  # it is another worker's

    def _write_part(self, watch, part, *, is_last):
        """Write a part of a batch; return whether the cluster was still ours."""
        cluster_id = watch.cluster_id
        expecting = (
            not is_last
            or self._confirmations.expects(cluster_id)
            or self._inbox.expects_claims(cluster_id, ours=self._database_uuid)
        )
        written = in_impatient_transaction(
            Registry(self.dbname),
            _store_part,
            _Part(cluster_id, self.holder, watch.epoch, watch.target.identity, part),
            self._database_uuid,
            expecting,
            self._updates,
        )
        if written is None:
            return False
        self._updates.settled(*written.updates)
        metrics.WRITTEN.labels(self.dbname).inc(written.count)
        if self._watches.get(cluster_id) is not watch:
            return False  # it was given up meanwhile, and what waits was forgotten
        unclaimed = [part.entries[u] for u in written.unclaimed if u in part.entries]
        self._inbox.claimed(cluster_id, part.entries.keys() - written.unclaimed)
        self._inbox.keep_unclaimed(cluster_id, unclaimed, ours=self._database_uuid)
        self._confirmations.add(cluster_id, written.missing)
        if not written.has_positions:
            self._inbox.keep_positions(cluster_id, part.positions)
        return True

    def _tell_updates(self, *, all_of_it):
        """Tell open views what batches left for later."""
        try:
            settled = in_transaction(
                Registry(self.dbname), _settle, self._updates, all_of_it
            )
        except TRANSIENT as exc:
            _logger.info("open views are told later: %s", _text(exc))
            self._stop.wait(RECOVERY_DELAY)
        except Exception:
            _logger.exception("open views could not be told")
            self._updates.forget()
        else:
            self._updates.settled(*settled)

    def _write_positions(self):
        """Store how far the streams of clusters without news have come."""
        taken = {
            cluster_id: versions
            for cluster_id, versions in self._inbox.take_positions().items()
            if cluster_id in self._watches
        }
        for cluster_id in list(taken):
            if self._confirmations.expects(cluster_id) or self._inbox.expects_claims(
                cluster_id, ours=self._database_uuid
            ):
                self._inbox.keep_positions(cluster_id, taken.pop(cluster_id))
        watches = {c: w for c, w in self._watches.copy().items() if c in taken}
        if not watches:
            return
        epochs = {c: w.epoch for c, w in watches.items()}
        versions = {c: (w.target.identity, taken[c]) for c, w in watches.items()}
        try:
            in_impatient_transaction(
                *(Registry(self.dbname), _store_positions),
                *(self.holder, epochs, versions),
            )
        except Exception as exc:
            if isinstance(exc, TRANSIENT):
                _logger.info("positions are stored later: %s", _text(exc))
            else:
                _logger.exception("positions could not be stored")
            for cluster_id, watch in watches.items():
                if self._watches.get(cluster_id) is watch:
                    self._inbox.keep_positions(cluster_id, taken[cluster_id])

    # === CONFIRMER === #

    def _confirm_for_ever(self):
        threading.current_thread().dbname = self.dbname
        while not self._stop.is_set():
            for cluster_id, missing in self._confirmations.take(TICK).items():
                try:
                    self._confirm(cluster_id, missing)
                except TRANSIENT as exc:
                    _logger.info("ends are confirmed again: %s", _text(exc))
                    self._confirmations.put_back(cluster_id, missing)
                except Exception:
                    _logger.exception("ends could not be confirmed")
                    self._confirmations.settle(cluster_id, missing, ())

    def _confirm(self, cluster_id, missing):
        """Ask for each object that seems to be gone, and end the records of some."""
        watch = self._watches.get(cluster_id)
        if watch is None:
            self._confirmations.forget(cluster_id)
            return
        connection = watch.target.connection
        if connection is None or watch.told_reachable is False:
            self._confirmations.put_back(cluster_id)
            return
        answer = confirm.confirm(
            connection, missing, timeout=CONFIRM_TIMEOUT, seconds=CONFIRM_SECONDS
        )
        if answer.gone:
            in_impatient_transaction(
                Registry(self.dbname),
                *(_store_gone, cluster_id, answer.gone, self.holder, watch.epoch),
            )
            metrics.CONFIRMED.labels(self.dbname).inc(len(answer.gone))
        asked = set(missing).difference(answer.left)
        self._confirmations.settle(cluster_id, asked, answer.gone)
        if answer.problem:
            pause = max(CONFIRM_LATER, answer.problem.retry_after or 0.0)
            self._confirmations.put_back(cluster_id, answer.left, pause)


class Confirmations:
    """The objects that seem to be gone, until that is confirmed or given up."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._changed = threading.Condition()
        # By cluster and object: attempts so far, and when the next is due; None: now
        self._waiting: dict[int, dict[sink.Missing, tuple[int, float | None]]] = {}

    def add(self, cluster_id, missing):
        if not missing:
            return
        with self._changed:
            waiting = self._waiting.setdefault(cluster_id, {})
            for one in missing:
                waiting.setdefault(one, (0, self._clock()))
            self._changed.notify()

    def take(self, timeout):
        """Return some of what is due, by cluster; wait for up to `timeout` s for it."""
        with self._changed:
            if not self._is_due():
                self._changed.wait(timeout)
            return self._is_due()

    def settle(self, cluster_id, asked, gone):
        """Note what came of an attempt: gone, or tried again a few times."""
        with self._changed:
            waiting = self._waiting.get(cluster_id, {})
            for one in asked:
                attempts = waiting.get(one, (0, 0.0))[0] + 1
                if one in gone or attempts >= len(CONFIRM_AGAIN):
                    waiting.pop(one, None)  # the next list or comparison finds it
                elif one in waiting:
                    again = self._clock() + CONFIRM_AGAIN[attempts]
                    waiting[one] = (attempts, again)
            if not waiting:
                self._waiting.pop(cluster_id, None)

    def put_back(self, cluster_id, unasked=None, pause=CONFIRM_LATER):
        """Have it asked again in `pause` s: no answer came, or it was not written.

        :param unasked: what was not answered; None: all that waits of the cluster
        """
        with self._changed:
            waiting = self._waiting.get(cluster_id, {})
            for one in list(waiting) if unasked is None else unasked:
                if one in waiting:
                    waiting[one] = (waiting[one][0], self._clock() + pause)

    def expects(self, cluster_id):
        """Whether an end of the cluster is still open: its positions must wait."""
        with self._changed:
            return cluster_id in self._waiting

    def forget(self, cluster_id):
        with self._changed:
            self._waiting.pop(cluster_id, None)

    def wake(self):
        with self._changed:
            self._changed.notify_all()

    def _is_due(self):
        now = self._clock()
        due = {}
        for cluster_id, waiting in self._waiting.items():
            some = (one for one, (_attempts, at) in waiting.items() if at <= now)
            if batch := list(islice(some, CONFIRM_AT_ONCE)):
                due[cluster_id] = batch
        return due


# === TRANSACTIONS === #


@dataclass(frozen=True)
class _Part:
    """A part of a batch, and with what right it is written."""

    cluster_id: int
    holder: str
    epoch: int
    identity: str
    batch: object


@dataclass(frozen=True)
class _Written:
    unclaimed: set
    missing: list
    count: int
    has_positions: bool
    updates: tuple  # what open views were told, and are told later


def _store_part(env, part, ours, expecting, updates):
    """Write a part of a cluster's batch; None when the cluster is another worker's.

    :param ours: identity of this database: what it signed gets a record
    :param expecting: whether positions have to wait for something else
    :param Updates updates: what open views are to be told of
    """
    cluster_id, batch = part.cluster_id, part.batch
    if not leases.is_held(env, cluster_id, part.holder, part.epoch):
        return None
    unclaimed, missing, count = set(), [], 0
    for listing, reports in _by_listing(batch.entries.values()):
        done = sink.ingest(
            env,
            cluster_id,
            reports,
            listed_version=listing and listing.version,
            listed_at=listing and listing.asked_at,
        )
        unclaimed |= done.unclaimed
        missing += done.missing
        count += done.written
    for census in batch.censuses.values():
        missing += sink.missing(
            env,
            *(cluster_id, census.kind, census.namespace),
            *(census.uids, census.listing.version),
            asked_at=census.listing.asked_at,
        )
    awaited = any(
        is_signed(batch.entries[uid].report, ours)
        for uid in unclaimed & batch.entries.keys()
    )
    has_positions = not (expecting or missing or awaited)
    if has_positions:
        positions.store(env, {cluster_id: (part.identity, batch.positions)})
    told = updates.settle(env)
    return _Written(unclaimed, missing, count, has_positions, told)


def _settle(env, updates, all_of_it):
    return updates.settle(env, all_of_it=all_of_it)


def _by_listing(entries):
    groups = defaultdict(list)
    for entry in entries:
        groups[entry.listing].append(entry.report)
    return groups.items()


def _store_positions(env, holder, epochs, versions):
    held = leases.still_held(env, holder, epochs)
    positions.store(env, {c: each for c, each in versions.items() if c in held})


def _store_gone(env, cluster_id, gone, holder, epoch):
    if leases.is_held(env, cluster_id, holder, epoch):
        sink.gone(env, cluster_id, gone)


def _release(env, holder, cluster_ids):
    leases.release(env, holder)
    env["vworkspace.cluster"].browse(cluster_ids)._notify_updated()


def _shown(note, streams):
    """Return what an open page shows of that, but for what moves all the time."""
    states = {key: (each.state, each.message) for key, each in (streams or {}).items()}
    return note and note[:2], states


def _store_notes(env, epochs, holder, notes, streams, changed):
    """Keep what the streams do; `changed`: the clusters whose pages show it."""
    epochs = {c: epochs[c] for c in notes.keys() | streams.keys() if c in epochs}
    held = leases.still_held(env, holder, epochs)
    leases.note_streams(env, holder, {c: notes[c] for c in notes.keys() & held})
    positions.note(env, {c: streams[c] for c in streams.keys() & held})
    env["vworkspace.cluster"].browse(changed & held)._notify_updated()


def _tell(env, cluster_id, holder, epoch, message):
    """Tell the records that their cluster answers, or why it does not."""
    if not leases.is_held(env, cluster_id, holder, epoch):
        return False
    if message:
        sink.unreachable(env, cluster_id, message)
    else:
        sink.reachable(env, cluster_id)
    return True


def _read_changes(env, held, seen):
    """Return what is to be watched otherwise than it is: id, target, stored rows.

    :param dict seen: by cluster, the connection's version, the identifier and the
        namespaces that are watched
    """
    env.cr.execute(
        """SELECT cluster.id, cluster.connection_version, cluster.cluster_id,
                  array_remove(array_agg(namespace.name), NULL)
             FROM vworkspace_cluster cluster
        LEFT JOIN vworkspace_cluster_namespace namespace
               ON namespace.cluster_id = cluster.id
            WHERE cluster.id = ANY(%s) GROUP BY cluster.id ORDER BY cluster.id""",
        [list(held)],
    )
    changed = [
        cluster_id
        for cluster_id, version, label, names in env.cr.fetchall()
        if seen.get(cluster_id) != (version, label, frozenset(names))
    ]
    result = []
    for cluster in env["vworkspace.cluster"].browse(changed):
        target = Target(cluster)
        stored = positions.read(env, cluster.id, target.identity)
        result.append((cluster.id, target, stored))
    return result


# === CONNECTIONS OF ITS OWN === #


def _connect(dbname):
    """Connect past Odoo, which would log what is waited for here."""
    _name, info = sql_db.connection_info_for(dbname)
    options = {"application_name": "vworkspace_watch", **KEEPALIVES}
    connection = psycopg2.connect(
        **{"connect_timeout": CONNECT_TIMEOUT, **info, **options}
    )
    connection.autocommit = True
    return connection


def _check_installed(dbname):
    """Look whether the addon is there, before a registry is asked for it.

    :raise NotInstalledError: it is not
    :raise psycopg2.Error: PostgreSQL is away, or has no such database
    """
    with closing(_connect(dbname)) as connection, connection.cursor() as cr:
        cr.execute("SELECT to_regclass('ir_module_module') IS NOT NULL")
        (is_odoo,) = cr.fetchone()
        if is_odoo:
            cr.execute(
                """SELECT FROM ir_module_module WHERE name = 'vworkspace_push'
                      AND state IN ('installed', 'to upgrade')"""
            )
        if not is_odoo or not cr.rowcount:
            raise NotInstalledError


class _listening:
    """A connection of its own that hears of changed clusters."""

    def __init__(self, dbname):
        self._dbname = dbname

    def __enter__(self):
        self._connection = _connect(self._dbname)
        with self._connection.cursor() as cr:
            cr.execute(
                sql.SQL("LISTEN {}").format(sql.Identifier(const.NOTIFY_CHANNEL))
            )
        return self._connection

    def __exit__(self, *_exc):
        self._connection.close()


def _notified(connection, timeout):
    """Wait for notifications; return the ids of the clusters. Raises when cut off."""
    with selectors.DefaultSelector() as selector:  # of any number, unlike select()
        selector.register(connection, selectors.EVENT_READ)
        if not selector.select(timeout):
            return set()
    connection.poll()
    payloads = {notice.payload for notice in connection.notifies}
    connection.notifies.clear()
    return {int(payload) for payload in payloads if payload.isdecimal()}


def _text(exc):
    return " ".join(str(exc).split())[:500]
