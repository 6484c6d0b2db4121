"""The streams of one cluster: which there are, what they do, and whether it lives.

Each stream runs a reflector in a thread of its own and fills the inbox; no stream
touches the database. Where the credential may read a kind in the whole cluster, one
stream covers it; else there is one for each namespace, and above a set number the
quiet ones are polled in turn, by one thread. One stream is the cluster's pulse.

All methods of `ClusterWatch` but two belong to the supervisor's thread.
"""

import hashlib
import logging
import math
import random
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from odoo.exceptions import UserError

from .. import const
from ..kube import resources, reviews
from ..kube.access import Right
from ..kube.apply import list_all
from ..kube.connection import Cancellation
from ..kube.errors import (
    AddressRefused,
    Expired,
    Forbidden,
    KubeError,
    NotFound,
    ServerFailed,
    TlsFailed,
    Unauthorized,
    Unreachable,
)
from ..kube.reflector import LIST_TIMEOUT, Reflector, Scope
from ..sealing import SealingError
from . import metrics, sink
from .inbox import Census, Listing
from .positions import Note, Row

_logger = logging.getLogger(__name__)

LISTS_AT_ONCE = 2  # of one cluster
PLAN_EVERY = (3000.0, 3900.0)  # s between two looks at what the credential may read
PLAN_AGAIN = (20.0, 40.0)  # s until then, when the server did not say
EXPIRY_TOLD = 60.0  # s for which it is not told again that positions are too old
RELIST_EVERY = 300.0  # s between two complete lists for what could not be written
UNREACHABLE_AFTER = 25.0  # s without an answer, and with a failed retry
POLL_EVERY = (30.0, 60.0)  # s between two lists of a polled namespace
STACK_SIZE = 512 * 1024  # bytes of a stream's thread; a hundredth of it is used
NO_ANSWER = (Unreachable, TlsFailed, AddressRefused)
MAY_LACK = resources.CLUSTER.kind  # the rest works without it
CLUSTER_SCOPE = Scope(resources.CLUSTER, None)


class Target:
    """What is needed to watch one cluster, or why that cannot be."""

    def __init__(self, cluster):
        self.version = cluster.connection_version
        self.label = cluster.cluster_id
        self.name = cluster.name
        self.namespaces = frozenset(cluster.namespace_ids.mapped("name"))
        self.connection = None
        self.problem = ""
        self.identity = hashlib.sha256(
            f"{cluster.server_url}\0{cluster.ca_certificate}".encode()
        ).hexdigest()[:16]
        try:
            self.connection = cluster._connection()
        except (UserError, SealingError, KubeError, ValueError) as exc:
            self.problem = str(exc)


class ClusterWatch:
    """Runs the streams of one cluster.

    :param stored: what `positions.read` has of its streams
    """

    def __init__(self, dbname, cluster_id, epoch, inbox, target, stored):
        self.dbname = dbname
        self.cluster_id = cluster_id
        self.epoch = epoch
        self.target = target
        self.noted = None  # what is on the lease
        self.noted_streams = None  # what is on the streams' rows
        self.refusal_noted = False
        self.told_reachable = None  # what the records were last told
        self.keeps = False  # the writer could not write its batch the last time
        self.is_deferred = False  # what it has to tell was locked the last time
        self.born = time.monotonic()
        self._inbox = inbox
        self._stored = stored
        self._streams: dict[Scope, Stream] = {}
        self._wanted_since: dict[Scope, datetime] = {}  # naive UTC
        self._poller: Poller | None = None
        self._ending: list[threading.Thread] = []  # told to stop, perhaps still there
        self._slots = threading.Semaphore(LISTS_AT_ONCE)
        self._rewound = threading.Event()
        self._incomplete = threading.Event()
        self._relist_at = -math.inf  # monotonic s, when all may be listed again
        self.news = threading.Event()  # set where `tend` may find something to do
        self.news.set()
        self._expiry = threading.Lock()
        self._expired_at = -math.inf  # monotonic s, when a stream last said so
        # Kinds read in the whole cluster; None: it is not known yet
        self._wide = _wide_of(stored)
        self._planner: Planner | None = None
        self._plan_at = time.monotonic()
        if self._wide is not None:
            self._plan_at += random.uniform(*PLAN_AGAIN)  # noqa: S311
        self._basis = None  # what the streams that run follow from
        self._tended_pulse = None  # the pulse, as `tend` left it
        self._is_crowded = False  # some scopes are polled; which, changes with the news
        self._state = ""

    # === WHAT RUNS === #

    def is_same(self, target):
        """Whether `target` is the same server, known by the same name."""
        return (self.target.identity, self.target.label) == (
            target.identity,
            target.label,
        )

    def follow(self, target):
        """Watch `target` from now on: anew where its connection changed.

        It is the same server; another one gets another `ClusterWatch`.
        """
        # The connection is another one also where it was closed without a new version.
        if (
            self.target.version != target.version
            or self.target.connection is not target.connection
        ):
            self.stop()
            self._ask_soon()
            self.refusal_noted = False
        self.target = target
        self.news.set()

    def replan(self):
        """Look at once at what the credential may read: something about it changed."""
        self._ask_soon()
        for stream in self._streams.values():
            if stream.lacks_rights:
                stream.reflector.interrupt()  # out of its wait

    def tend(self):
        """Run exactly the streams that are wanted now; call it every second.

        Return whether there was anything to look at: an idle worker of a hundred
        clusters does this a hundred times a second.
        """
        pulse = self._tended_pulse
        if self._is_quiet(pulse):
            if pulse:
                pulse.reflector.expire()
            return False
        self.news.clear()
        self._plan()
        if self._rewound.is_set():
            self._rewound.clear()
            _logger.info("cluster %s: versions moved backwards, listing all", self)
            # Nor does a stream that is to come begin at a position of before.
            for key, row in self._stored.items():
                self._stored[key] = Row(None, row.last_event_at)
            self._list_all()
        if self._wants_relist:
            self._incomplete.clear()
            self._relist_at = time.monotonic() + RELIST_EVERY
            _logger.info("cluster %s: news could not be written, listing all", self)
            self._list_all()
        basis = (self.target, self._wide)
        if self._basis != basis or self._is_crowded:
            self._arrange(*self._wanted())
            self._basis = basis
        self._tended_pulse = self._choose_pulse()
        self._resume_with_pulse()
        return True

    def _is_quiet(self, pulse):
        return not (
            self.news.is_set()
            or self._rewound.is_set()
            or self._wants_relist
            or self._is_crowded
            or self._planner
            or time.monotonic() >= self._plan_at
            or (pulse and (pulse.failures or pulse.has_failed))
        )

    def list_again(self):
        """Have all listed again, for news that are lost; called on any thread.

        Not more often than every few minutes: what cannot be written today will hardly
        be in the next second.
        """
        self._incomplete.set()

    @property
    def _wants_relist(self):
        return self._incomplete.is_set() and time.monotonic() >= self._relist_at

    def _list_all(self):
        for feeder in self._feeders():
            feeder.list_again()

    def stop(self):
        self._basis = None
        self._arrange(set(), set())

    def join(self, deadline):
        for thread in self._ending:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _plan(self):
        """Decide which kinds are read in the whole cluster, in a thread of its own."""
        if self.target.problem:
            return
        if self._planner and not self._planner.is_alive():
            planner, self._planner = self._planner, None
            again = PLAN_EVERY if planner.answered else PLAN_AGAIN
            at = time.monotonic() + random.uniform(*again)  # noqa: S311
            # Asked for meanwhile: what this planner saw may be out of date already.
            self._plan_at = min(self._plan_at, at)
            if planner.version == self.target.version:
                if planner.answered:
                    self._wide = planner.wide
                elif self._wide is None:
                    self._wide = frozenset()
        if self._planner is None and time.monotonic() >= self._plan_at:
            self._plan_at = float("inf")
            self._planner = Planner(self.target)
            with small_stacks():
                self._planner.start()

    def _ask_soon(self):
        self._plan_at = time.monotonic()

    def _wanted(self):
        """Return the scopes to watch and those to poll."""
        if self.target.problem:
            return set(), set()
        scopes = {CLUSTER_SCOPE}
        if self._wide is None:
            return scopes, set()  # until it is known what else
        single = set()
        for resource in resources.WATCHED:
            if resource.kind in self._wide:
                scopes.add(Scope(resource, None))
            else:
                single |= {Scope(resource, name) for name in self.target.namespaces}
        polled = self._quiet(single)
        return scopes | single - polled, polled

    def _quiet(self, scopes):
        """Return which of too many scopes are polled: the longest silent ones."""
        surplus = len(scopes) - const.STREAMS_PER_CLUSTER
        self._is_crowded = surplus > 0
        if not self._is_crowded:
            return set()

        def order(scope):
            stream = self._streams.get(scope)
            return (self._last_event(scope), stream is not None, str(scope.namespace))

        return set(sorted(scopes, key=order)[:surplus])

    def _last_event(self, scope):
        feeder = self._streams.get(scope) or self._poller
        stored = self._stored.get(_key(scope))
        known = (feeder and feeder.event_at(scope), stored and stored.last_event_at)
        # What is new is not quiet: something is about to happen there.
        since = self._wanted_since.setdefault(scope, _now())
        return max((at for at in known if at), default=since)

    def _arrange(self, watched, polled):
        for scope in self._streams.keys() - watched:
            stream = self._streams.pop(scope)
            stream.stop()
            self._remember(scope, stream)
            self._ending.append(stream)
        self._ending = [t for t in self._ending if t.is_alive()]
        for scope in watched - self._streams.keys():
            self._streams[scope] = self._start(scope)
        self._arrange_poller(polled)

    def _start(self, scope):
        stored = self._stored.get(_key(scope))
        stream = Stream(
            self,
            scope,
            inbox=self._inbox,
            version=stored and stored.version,
            slots=self._slots,
            rewound=self._rewound,
            is_pulse=scope == CLUSTER_SCOPE,
        )
        with small_stacks():
            stream.start()
        return stream

    def _arrange_poller(self, polled):
        if self._poller and not polled:
            self._poller.stop()
            self._ending.append(self._poller)
            self._poller = None
        elif self._poller:
            self._poller.scopes = polled
        elif polled:
            self._poller = Poller(self, polled, inbox=self._inbox, slots=self._slots)
            with small_stacks():
                self._poller.start()

    def _remember(self, scope, stream):
        """Keep where a stream stopped, for one that takes its place."""
        known = self._stored.get(_key(scope))
        self._stored[_key(scope)] = stream.row(known)

    # === PULSE === #

    def _choose_pulse(self):
        """Have one stream that tells whether the server lives, and return it.

        It is ended when it is overdue.
        """
        pulse = self._pulse()
        if pulse is None or pulse.lacks_rights:
            working = [s for s in self._streams.values() if s.phase == "watching"]
            if working:
                if pulse:
                    pulse.reflector.is_pulse = False
                pulse = working[0]
                pulse.reflector.is_pulse = True
                pulse.reflector.interrupt()  # into a short watch
        if pulse:
            pulse.reflector.expire()
        return pulse

    def _pulse(self):
        for stream in self._streams.values():
            if stream.reflector.is_pulse:
                return stream
        return None

    def reachability(self):
        """Return whether the server answers, None when that is open, and why not."""
        pulse = self._pulse()
        answers = [s.answered for s in self._streams.values() if s.answered]
        if pulse is None or self.target.problem:
            return None, ""
        if not pulse.failures:
            return (True, "") if answers else (None, "")
        silent = time.monotonic() - max(answers, default=pulse.born)
        if pulse.failures < 2 or silent < UNREACHABLE_AFTER:
            return None, ""
        return False, pulse.problem

    def _resume_with_pulse(self):
        """Resume all streams once the pulse is answered again.

        Their sockets may be dead, or they wait for longer than it did. A list goes on:
        a busy server would have to begin it again and again.
        """
        pulse = self._pulse()
        if pulse is None or pulse.failures or pulse.is_failing or not pulse.has_failed:
            return
        pulse.has_failed = False
        for stream in self._streams.values():
            if stream is not pulse and stream.phase != "listing":
                stream.reflector.interrupt()

    # === WHAT IS SEEN OF IT === #

    def __str__(self):
        return self.target.label

    @property
    def seen(self):
        """What is watched, to be compared with what is to be; None: it is cut off."""
        target = self.target
        if target.connection and target.connection.closed:
            return None
        return target.version, target.label, target.namespaces

    @property
    def version(self):
        return self.target.version

    @property
    def refused(self):
        """Whether the server refused the credential, and once more when asked again."""
        return any(s.refused for s in self._streams.values())

    @property
    def lost_rights(self):
        """Whether a stream of the whole cluster is not allowed any more."""
        return any(
            s.forbidden
            for scope, s in self._streams.items()
            if scope.namespace is None and scope.resource.kind != MAY_LACK
        )

    def look_again(self):
        """Ask for the rights again where a stream says that they changed."""
        if self.lost_rights and self._planner is None:
            for scope, stream in self._streams.items():
                if scope.namespace is None:
                    stream.forbidden = False  # once for each refusal
            self._ask_soon()

    def note(self):
        """Return what the cluster's form shows: state, message, last contact."""
        feeders = self._feeders()
        problems = [
            feeder.problem
            for feeder in feeders
            if feeder.problem and not feeder.lacks_what_may_lack
        ]
        if self.target.problem:
            problems.insert(0, self.target.problem)
        state = "watching" if feeders and not problems else "waiting"
        # Half a minute apart: a note is written when it changes.
        contact = _last_contact(feeders)
        if contact:
            contact = contact.replace(second=contact.second // 20 * 20, microsecond=0)
        message = problems[0] if problems else ""
        self._log(state, message)
        return state, message, contact

    def _log(self, state, message):
        told = f"{state}: {message}" if message else state
        if told != self._state:
            self._state = told
            _logger.info("cluster %s: %s", self, told)

    def farthest(self):
        """Return the newest version that a stream has seen; called on their threads."""
        versions = [s.version for s in list(self._streams.values()) if s.version]
        return max(versions, key=lambda version: (len(version), version), default="")

    def note_expired(self, error):
        """Tell, once for all streams, that they list anew; called on their threads."""
        with self._expiry:
            now = time.monotonic()
            is_news = now - self._expired_at > EXPIRY_TOLD
            self._expired_at = now
        if is_news:
            _logger.info("cluster %s lists anew: %s", self, error)

    def note_streams(self):
        """Return what each stream does, by kind and namespace."""
        notes = {_key(scope): s.note() for scope, s in self._streams.items()}
        if self._poller:
            notes |= self._poller.notes()
        return notes

    @property
    def is_settled(self):
        """Whether the streams that are wanted run (the first plan is made)."""
        return self._wide is not None and not self.target.problem

    def snapshot(self):
        streams = list(self._streams.values())
        return {
            "cluster": self.target.label,
            "name": self.target.name,
            "streams": len(streams) + len(self._poller.scopes if self._poller else ()),
            "watching": sum(s.phase == "watching" for s in streams),
            "events": sum(f.events for f in self._feeders()),
            "last_contact": _last_contact(self._feeders()),
            "last_error": self.target.problem
            or next((s.problem for s in streams if s.problem), ""),
        }

    def states(self):
        """Return how many streams are in each phase; called on any thread."""
        counts = dict.fromkeys(("listing", "watching", "polling", "waiting"), 0)
        phases = [stream.phase for stream in list(self._streams.values())]
        if poller := self._poller:
            phases += [note.state for note in poller.notes().values()]
        for phase in phases:
            counts[phase] += 1
        return counts

    def _feeders(self):
        return [*self._streams.values(), *([self._poller] if self._poller else [])]


class Feeder(threading.Thread):
    """What a stream and a poller have in common."""

    def __init__(self, watch, *, name, inbox):
        super().__init__(name=name, daemon=True)  # a hung handshake does not keep us
        self.problem = ""
        self.heard_at = None  # monotonic s
        self.events = 0
        self.relists = 0
        self.born = time.monotonic()
        self._cluster_id = watch.cluster_id
        self._labels = (watch.dbname, watch.target.label)
        self._connection = watch.target.connection
        self._inbox = inbox
        self._end = threading.Event()
        self._counter = metrics.EVENTS.labels(*self._labels)

    def _heard(self):
        self.heard_at = time.monotonic()

    def _count(self, events):
        self.events += events
        self._counter.inc(events)

    def _put_list(self, scope, items, version, *, asked_at):
        """Put a complete list into the inbox; the raw objects are given free."""
        kind = scope.resource.kind
        reports = []
        items.reverse()
        while items:
            reports.append(sink.Report.from_object(items.pop(), kind=kind))
        census = Census(
            kind=kind,
            namespace=scope.namespace,
            uids=frozenset(r.observed.uid for r in reports),
            listing=Listing(version, asked_at),
        )
        count = len(reports)
        if not self._inbox.put_list(self._cluster_id, reports, census, ended=self._end):
            return False  # nor is it counted: the series may be forgotten by now
        self.relists += 1
        metrics.RELISTS.labels(*self._labels).inc()
        self._count(count)
        return True

    def _note_error(self, error):
        if not self._end.is_set():
            metrics.ERRORS.labels(*self._labels, type(error).__name__).inc()


class Stream(Feeder):
    """One reflector in one thread; a reflector's handler that fills the inbox."""

    def __init__(self, watch, scope, *, inbox, version, slots, rewound, is_pulse):
        name = f"vw-{watch}-{scope.resource.plural}-{scope.namespace or 'all'}"
        super().__init__(watch, name=name, inbox=inbox)
        self.phase = "waiting"
        self.refused = False
        self._was_refused = False  # by the attempt before
        self.forbidden = False
        self.lacks_rights = False
        self.failures = 0  # attempts in a row that the server did not answer
        self.is_failing = False  # the server answers that it failed
        self.has_failed = False  # one did, and the other streams were not resumed since
        self.answered = None  # monotonic s, when it last did
        self._scope = scope
        self._version = version  # put into the inbox up to here
        self._rewound = rewound
        self._news = watch.news
        self._tell_expired = watch.note_expired
        self._event_at = None
        self._listing_since = _now()
        connection = self._connection
        self.reflector = Reflector(
            lambda: connection,
            scope,
            self,
            stop=self._end,
            version=version,
            list_slots=slots,
            is_pulse=is_pulse,
            farthest=watch.farthest,
        )

    def run(self):
        self.reflector.run()

    def stop(self):
        self._end.set()
        self.reflector.interrupt()

    def list_again(self):
        self._version = None  # it holds no more, nor does what is older disprove it
        self.reflector.list_again()

    def event_at(self, _scope):
        return self._event_at

    @property
    def version(self):
        """The resourceVersion up to which all is in the inbox; None: nothing is."""
        return self._version

    @property
    def lacks_what_may_lack(self):
        return self.lacks_rights and self._scope.resource.kind == MAY_LACK

    def row(self, known):
        """Return where another stream in its place resumes."""
        return Row(self._version, self._event_at or (known and known.last_event_at))

    def note(self):
        return Note(
            mode="watch",
            state=self.phase,
            message=self.problem,
            last_event_at=self._event_at,
            events=self.events,
            relists=self.relists,
        )

    # === HANDLER === #

    def replaced(self, scope, items, resource_version):
        if self._version and resources.newer(self._version, resource_version):
            self._rewound.set()
        asked_at = self._listing_since
        if self._put_list(scope, items, resource_version, asked_at=asked_at):
            self._version = resource_version

    def changed(self, scope, event_type, obj):
        report = sink.Report.from_object(
            obj, kind=scope.resource.kind, deleted=event_type == "DELETED"
        )
        if self._inbox.put(self._cluster_id, _key(scope), report, ended=self._end):
            self._version = report.observed.resource_version
            self._event_at = _now().replace(second=0, microsecond=0)
            self._count(1)

    def moved(self, scope, resource_version):
        key = _key(scope)
        self._inbox.move(self._cluster_id, key, resource_version, ended=self._end)
        self._version = resource_version

    def rewound(self, scope):
        self._rewound.set()

    def heard(self, scope):
        self._heard()
        is_news = self.answered is None or self.failures or self.is_failing
        self.answered = time.monotonic()
        self.failures = 0
        self.is_failing = False
        if is_news:
            self._news.set()

    def state(self, scope, state):
        self._take_state(state)
        if state.phase != "listing":
            self._news.set()

    def _take_state(self, state):
        error = state.error
        self.phase = state.phase
        if state.phase == "listing":
            self._listing_since = _now()
            return  # whether it succeeds is open
        if isinstance(error, Expired):
            self.phase = "listing"  # as soon as it is its turn: nothing is wrong
        self.problem = "" if isinstance(error, Expired) else str(error or "")
        # An API server that starts may refuse every credential for a moment.
        is_refusal = isinstance(error, Unauthorized)
        self.refused = is_refusal and self._was_refused
        self._was_refused = is_refusal
        self.forbidden = isinstance(error, Forbidden)
        self.lacks_rights = isinstance(error, (Forbidden, NotFound))
        if error is None:
            return
        self._note_error(error)
        if isinstance(error, NO_ANSWER):
            self.failures += 1
            self.has_failed = True
        else:
            self.answered = time.monotonic()
            self.failures = 0
        if isinstance(error, ServerFailed):  # as one that starts does for a while
            self.is_failing = self.has_failed = True
        if isinstance(error, Expired):
            self._tell_expired(error)


class Poller(Feeder):
    """Lists quiet scopes in turn, in one thread; puts only what is new in them."""

    def __init__(self, watch, scopes, *, inbox, slots):
        super().__init__(watch, name=f"vw-{watch}-poller", inbox=inbox)
        self.scopes = scopes
        self.lacks_what_may_lack = False
        self._slots = slots
        self._cancellation = Cancellation()
        self._relist = threading.Event()
        self._due: dict[Scope, float] = {}
        self._seen: dict[Scope, dict[str, str]] = {}  # resourceVersion by uid
        self._problems: dict[Scope, str] = {}
        self._event_at: dict[Scope, datetime] = {}

    def run(self):
        while not self._end.wait(1.0):
            try:
                self._poll_due()
            except Exception:
                _logger.exception("%s: unexpected failure", self.name)
                self._end.wait(POLL_EVERY[0])

    def stop(self):
        self._end.set()
        self._cancellation.cancel()

    def list_again(self):
        self._relist.set()

    def event_at(self, scope):
        return self._event_at.get(scope)

    def notes(self):
        return {
            _key(scope): Note(
                mode="poll",
                state="waiting" if scope in self._problems else "polling",
                message=self._problems.get(scope, ""),
                last_event_at=self._event_at.get(scope),
                events=0,
                relists=0,
            )
            for scope in self.scopes
        }

    def _poll_due(self):
        now = time.monotonic()
        scopes = self.scopes
        if self._relist.is_set():
            self._relist.clear()
            self._due.clear()
            self._seen.clear()
        for known in (self._due, self._seen, self._problems):
            for scope in known.keys() - scopes:
                del known[scope]
        for scope in scopes:
            if self._due.setdefault(scope, now) > now or self._end.is_set():
                continue
            pause = self._poll(scope)
            self._due[scope] = time.monotonic() + random.uniform(*POLL_EVERY)  # noqa: S311
            if pause:
                self._hold_off(scopes, pause)
                break
        self.problem = next(iter(self._problems.values()), "")

    def _hold_off(self, scopes, pause):
        """List none of the scopes for `pause` s: the server asked for that."""
        until = time.monotonic() + pause * (1 + random.random())  # noqa: S311
        for scope in scopes:
            self._due[scope] = max(self._due.get(scope, until), until)

    def _poll(self, scope):
        """List one scope; return for how many s the server asks to be left alone."""
        asked_at = _now()
        self._cancellation = cancellation = Cancellation()
        if self._end.is_set():
            return 0.0  # from here on, `stop` meets the new cancellation
        try:
            with self._slots:
                items, version = list_all(
                    self._connection,
                    scope.resource,
                    namespace=scope.namespace,
                    timeout=LIST_TIMEOUT,
                    cancellation=cancellation,
                )
        except KubeError as exc:
            self._problems[scope] = str(exc)
            self._note_error(exc)
            return exc.retry_after or 0.0
        self._problems.pop(scope, None)
        self._heard()
        seen = {
            resources.metadata_text(item, "uid"): resources.metadata_text(
                item, "resourceVersion"
            )
            for item in items
        }
        if seen == self._seen.get(scope):
            return 0.0
        if scope in self._seen:
            self._event_at[scope] = _now()
        if self._put_list(scope, items, version, asked_at=asked_at):
            self._seen[scope] = seen
        return 0.0


class Planner(threading.Thread):
    """Asks a server which kinds the credential may read in the whole cluster."""

    def __init__(self, target):
        super().__init__(name=f"vw-{target.label}-rights", daemon=True)
        self.version = target.version
        self.wide = frozenset()
        self.answered = False
        self._connection = target.connection

    def run(self):
        with suppress(KubeError):  # the streams say what is wrong
            self.wide = frozenset(
                resource.kind for resource in resources.WATCHED if self._may(resource)
            )
            self.answered = True

    def _may(self, resource):
        return all(
            reviews.is_allowed(
                self._connection, Right(verb, resource.group, resource.plural)
            )
            for verb in ("list", "watch")
        )


@contextmanager
def small_stacks():
    """Give threads that are started meanwhile a small stack."""
    before = threading.stack_size(STACK_SIZE)
    try:
        yield
    finally:
        threading.stack_size(before)


def _wide_of(stored):
    """Return the kinds that were read in the whole cluster; None if that is unknown."""
    known = {key for key in stored if key[0] != MAY_LACK}
    if not known:
        return None
    return frozenset(kind for kind, namespace in known if namespace is None)


def _key(scope):
    return scope.resource.kind, scope.namespace


def _last_contact(feeders):
    """Return when a server was last heard, naive UTC by the host's clock of now."""
    heard_at = max((f.heard_at for f in feeders if f.heard_at), default=None)
    return heard_at and _now() - timedelta(seconds=time.monotonic() - heard_at)


def _now():
    return datetime.now(UTC).replace(tzinfo=None)
