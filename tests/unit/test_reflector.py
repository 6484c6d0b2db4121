"""The reflector's decisions, one by one, on scripted streams."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube import reflector as module
from kube.connection import Connection
from kube.errors import KubeError, Throttled
from kube.reflector import Backoff, Reflector, Scope, StreamState
from kube.resources import APPLICATION_INSTANCE as INSTANCE
from tests.unit.fakes import Answer, FakeServer, Handler, Request, status

PATH = INSTANCE.collection_path("demo")
SCOPE = Scope(INSTANCE, "demo")
RANDOM = random.Random(1)  # noqa: S311 makes tests repeatable


def _object(uid: str, version: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": uid, "resourceVersion": version}}


def _list(*uids: str, version: str = "10") -> Answer:
    body = {
        "kind": f"{INSTANCE.kind}List",
        "metadata": {"resourceVersion": version},
        "items": [_object(uid, "1") for uid in uids],
    }
    return lambda handler: handler.reply(body)


def _fail(code: int, reason: str, message: str, **headers: str) -> Answer:
    body = status(code, reason, message)
    return lambda handler: handler.reply(body, status=code, headers=headers)


def _not_served(handler: Handler) -> None:
    handler.reply(b"404 page not found\n", status=404, content_type="text/plain")


def _watch(*events: tuple[str, dict[str, Any]], hold: bool = False) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin_stream()
        for type_, obj in events:
            handler.send_event(type_, obj)
        if hold:
            handler.hold()
        handler.send_chunk(b"")

    return answer


HOLD = _watch(hold=True)
EXPIRED = ("ERROR", status(410, "Expired", "too old resource version: 1 (2)"))


class Recorder:
    """A handler that remembers, and that tests wait on.

    :param fails_on: the first call of that name raises
    """

    def __init__(self, *, fails_on: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.states: list[StreamState] = []
        self.times_heard = 0
        self.position = ""
        self._fails_on = fails_on
        self._changed = threading.Condition()

    def replaced(self, scope: Scope, items: list[dict[str, Any]], version: str) -> None:
        uids = tuple(item["metadata"]["uid"] for item in items)
        self._add("replaced", uids, version)

    def changed(self, scope: Scope, event_type: str, obj: dict[str, Any]) -> None:
        self._add(event_type, obj["metadata"]["uid"])

    def moved(self, scope: Scope, version: str) -> None:
        self.position = version

    def rewound(self, scope: Scope) -> None:
        self._add("rewound")

    def heard(self, scope: Scope) -> None:
        with self._changed:
            self.times_heard += 1
            self._changed.notify_all()

    def state(self, scope: Scope, state: StreamState) -> None:
        self.states.append(state)
        reason = state.error.reason if state.error else None
        self._add(state.phase, *([reason] if reason else []))

    def _add(self, *call: Any) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
            if call[0] == self._fails_on:
                self._fails_on = ""
                raise RuntimeError("database is gone")

    def wait_for(self, *call: Any, times: int = 1) -> None:
        self.wait_until(lambda: self.calls.count(call) >= times, what=call)

    def wait_until(self, condition: Callable[[], bool], *, what: object) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout=5):
                raise AssertionError(f"waited 5 s for {what}; saw {self.calls}")


class Run:
    """A reflector in its thread."""

    def __init__(self, connection: Callable[[], Connection], **options: Any) -> None:
        self.handler = options.pop("handler", None) or Recorder()
        self.stop = threading.Event()
        options = {"backoff": Backoff(first=0.001), "relist_spread": 0.001} | options
        self.reflector = Reflector(
            connection, SCOPE, self.handler, stop=self.stop, **options
        )
        self.thread = threading.Thread(target=self.reflector.run)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.reflector.interrupt()
        self.thread.join(1)
        assert not self.thread.is_alive(), "run() did not return within a second"


Start = Callable[..., Run]


@pytest.fixture
def start(connection: Connection) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(**options: Any) -> Run:
        runs.append(Run(options.pop("connection", lambda: connection), **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def _queries(server: FakeServer) -> list[dict[str, str]]:
    def parse(request: Request) -> dict[str, str]:
        return dict(pair.split("=") for pair in request.query.split("&"))

    return [parse(request) for request in server.requests]


def _watched_versions(server: FakeServer) -> list[str]:
    return [q["resourceVersion"] for q in _queries(server) if "watch" in q]


# === THE USUAL COURSE === #


def test_list_then_watch_from_its_version(server: FakeServer, start: Start) -> None:
    server.on(
        PATH,
        _list("a", version="10"),
        _watch(
            ("ADDED", _object("b", "11")), ("DELETED", _object("a", "12")), hold=True
        ),
    )
    run = start()
    run.handler.wait_for("DELETED", "a")
    assert run.handler.calls == [
        ("listing",),
        ("replaced", ("a",), "10"),
        ("watching",),
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    query = _queries(server)[1]
    assert query.pop("timeoutSeconds") in map(str, range(300, 601))
    assert query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "10",
    }


def test_ended_watch_resumes_after_its_last_event_or_bookmark(
    server: FakeServer, start: Start
) -> None:
    server.on(
        PATH,
        _list(),
        _watch(("MODIFIED", _object("a", "11"))),
        _watch(("BOOKMARK", _object("", "15"))),
        HOLD,
    )
    run = start()
    run.handler.wait_for("watching", times=3)
    server.wait_for(lambda: len(server.requests) == 4, what="the third watch")
    assert _watched_versions(server) == ["10", "11", "15"]
    assert [c for c in run.handler.calls if c[0] == "waiting"] == []


def test_a_bookmark_on_a_quiet_stream_shows_that_the_server_lives(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(), _watch(("BOOKMARK", _object("", "15")), hold=True))
    run = start()
    run.handler.wait_until(
        lambda: run.handler.times_heard == 3, what="list, watch and bookmark"
    )
    run.handler.wait_until(lambda: run.handler.position == "15", what="the position")
    assert [c[0] for c in run.handler.calls] == ["listing", "replaced", "watching"]


def test_stream_resumes_from_a_position_that_was_kept(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, HOLD)
    run = start(version="7")
    run.handler.wait_for("watching")
    assert _watched_versions(server) == ["7"]
    assert [query for query in _queries(server) if "watch" not in query] == []


def test_a_list_takes_one_of_the_servers_slots_and_gives_it_back(
    server: FakeServer, start: Start
) -> None:
    slots = threading.Semaphore(1)
    taken: list[bool] = []

    def look(handler: Handler) -> None:
        taken.append(not slots.acquire(blocking=False))
        _list("a")(handler)

    server.on(PATH, look, HOLD)
    run = start(list_slots=slots)
    run.handler.wait_for("watching")
    assert taken == [True]
    assert slots.acquire(blocking=False)


# === PULSE === #


def test_a_pulse_asks_for_short_watches(server: FakeServer, start: Start) -> None:
    server.on(PATH, _list(), HOLD)
    run = start(is_pulse=True)
    run.handler.wait_for("watching")
    assert _queries(server)[1]["timeoutSeconds"] in map(str, range(25, 28))


def test_a_pulse_whose_end_does_not_come_is_a_failure(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PULSE_TIMEOUT", (0, 0))
    monkeypatch.setattr(module, "PULSE_GRACE", 0.2)
    server.on(PATH, _list(), HOLD)
    run = start(is_pulse=True)
    run.handler.wait_for("watching")
    _expire_until(run, "Inactive")


def test_a_pulse_whose_watch_is_not_begun_is_a_failure(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PULSE_OPENING", 0.2)
    server.on(PATH, _list(), lambda handler: handler.hold())
    run = start(is_pulse=True)
    run.handler.wait_for("replaced", (), "10")
    _expire_until(run, "Inactive")


def test_a_pulse_soon_asks_a_server_again_that_failed(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _fail(500, "InternalError", "It has just started."))
    run = start(is_pulse=True, backoff=module.Backoff(first=30.0))
    run.handler.wait_for("waiting", "ServerFailed")
    until = run.handler.states[-1].until
    assert until is not None
    assert until.timestamp() - time.time() <= module.PULSE_RETRY


def test_time_that_the_handler_takes_is_not_the_servers(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PULSE_TIMEOUT", (0, 0))
    monkeypatch.setattr(module, "PULSE_GRACE", 0.5)
    handler = Slow()
    server.on(PATH, _list(), _watch(("ADDED", _object("a", "11"))), HOLD)
    run = start(is_pulse=True, handler=handler)
    handler.wait_for("ADDED", "a")
    later = time.monotonic() + 60
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    run.reflector.expire()
    monkeypatch.undo()
    handler.go_on.set()
    handler.wait_for("watching", times=2)
    assert [call for call in handler.calls if call[0] == "waiting"] == []


def test_pulse_notices_that_the_servers_versions_moved_backwards(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(version="20"), _list("a", version="20"), HOLD)
    run = start(version="30", is_pulse=True)
    run.handler.wait_for("replaced", ("a",), "20")
    assert ("rewound",) in run.handler.calls
    assert _queries(server)[0] == {"limit": "1"}


def test_pulse_that_lost_its_position_still_notices_that_versions_moved_backwards(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _not_served, _list("a", version="20"), HOLD)
    run = start(version="10", is_pulse=True, farthest=lambda: "30")
    run.handler.wait_for("replaced", ("a",), "20")
    assert ("rewound",) in run.handler.calls
    assert _queries(server)[0] == {"limit": "1"}


@pytest.mark.parametrize(
    "answer",
    [
        _fail(401, "Unauthorized", "Unauthorized"),
        _fail(403, "Forbidden", "It may not."),
        _fail(429, "TooManyRequests", "storage is (re)initializing"),
        _fail(503, "ServiceUnavailable", "apiserver is shutting down"),
        _watch(("MODIFIED", _object("a", "30"))),
    ],
    ids=["unauthorized", "forbidden", "throttled", "failed", "ended early"],
)
def test_pulse_compares_versions_after_whatever_a_restarted_server_may_answer(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(module, "UNAUTHORIZED_FIRST", 0.01)
    monkeypatch.setattr(module, "RECHECK_FIRST", 0.01)
    monkeypatch.setattr(module, "PULSE_RETRY", 0.01)
    older = _list(version="20")
    server.on(PATH, _list(version="30"), answer, older, _list("b", version="21"), HOLD)
    run = start(is_pulse=True)
    run.handler.wait_for("replaced", ("b",), "21")
    assert ("rewound",) in run.handler.calls


def test_what_other_streams_see_while_the_pulse_compares_is_no_rewind(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(version="40"), HOLD)
    run = start(
        version="30",
        is_pulse=True,
        farthest=lambda: "50" if server.requests else "35",
    )
    run.handler.wait_for("watching")
    assert ("rewound",) not in run.handler.calls


def test_a_list_without_a_version_is_no_rewind(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list("a", version=""), HOLD)
    run = start()
    run.handler.wait_for("replaced", ("a",), "")
    assert ("rewound",) not in run.handler.calls


def test_a_stream_that_is_made_the_pulse_compares_versions(
    server: FakeServer, start: Start
) -> None:
    """What it follows may be a connection that died just now."""
    server.on(PATH, _list(version="30"), HOLD, _list(version="20"), _list("a"), HOLD)
    run = start()
    run.handler.wait_for("watching")
    run.reflector.is_pulse = True
    run.reflector.interrupt()
    run.handler.wait_for("replaced", ("a",), "10")
    assert ("rewound",) in run.handler.calls


def test_pulse_keeps_a_position_that_the_server_has_reached(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(version="40"), HOLD)
    run = start(version="30", is_pulse=True)
    run.handler.wait_for("watching")
    assert _watched_versions(server) == ["30"]
    assert ("rewound",) not in run.handler.calls


def test_asked_to_list_again_it_does_at_once(server: FakeServer, start: Start) -> None:
    server.on(PATH, _list(), HOLD, _list("a", version="5"), HOLD)
    run = start()
    run.handler.wait_for("watching")
    run.reflector.list_again()
    run.handler.wait_for("replaced", ("a",), "5")


class Slow(Recorder):
    """A handler that takes an event only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def changed(self, scope: Scope, event_type: str, obj: dict[str, Any]) -> None:
        super().changed(scope, event_type, obj)
        self.go_on.wait(5)


def _expire_until(run: Run, reason: str) -> None:
    def expired() -> bool:
        run.reflector.expire()
        return ("waiting", reason) in run.handler.calls

    deadline = time.monotonic() + 5
    while not expired():
        assert time.monotonic() < deadline, run.handler.calls
        threading.Event().wait(0.02)


# === 410 === #


def test_expired_in_the_stream_lists_again(server: FakeServer, start: Start) -> None:
    server.on(PATH, _list("a"), _watch(EXPIRED), _list("b", version="20"), HOLD)
    run = start()
    run.handler.wait_for("replaced", ("b",), "20")
    run.handler.wait_for("watching", times=2)
    assert ("waiting", "Expired") in run.handler.calls
    assert _watched_versions(server) == ["10", "20"]


def test_expired_by_http_lists_again(server: FakeServer, start: Start) -> None:
    server.on(
        PATH,
        _list("a"),
        _fail(410, "Gone", "too old"),
        _list("b", version="20"),
        HOLD,
    )
    run = start()
    run.handler.wait_for("replaced", ("b",), "20")
    run.handler.wait_for("watching")


def test_relist_is_spread_at_random(server: FakeServer, start: Start) -> None:
    server.on(
        PATH,
        _list(),
        _watch(("ADDED", _object("a", "11"))),
        _watch(EXPIRED),
        _list(),
        HOLD,
    )
    run = start(relist_spread=3600.0)
    run.handler.wait_for("waiting", "Expired")
    assert ("replaced", (), "10") in run.handler.calls
    assert run.handler.calls.count(("listing",)) == 1


# === OTHER FAILURES === #


def test_watch_that_ends_at_once_counts_as_a_failure(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(), _watch(), HOLD)
    run = start()
    run.handler.wait_for("waiting", "ShortWatch")
    run.handler.wait_for("watching", times=2)
    assert _watched_versions(server) == ["10", "10"]


def test_failed_list_never_reads_as_everything_deleted(
    server: FakeServer, start: Start
) -> None:
    server.on(
        PATH,
        _fail(500, "InternalError", "odd"),
        lambda handler: handler.reply(b"<html>", content_type="text/html"),
        _list("a"),
        HOLD,
    )
    run = start()
    run.handler.wait_for("watching")
    replaced = [call for call in run.handler.calls if call[0] == "replaced"]
    assert replaced == [("replaced", ("a",), "10")]


def test_cut_connection_resumes_where_it_was(server: FakeServer, start: Start) -> None:
    def cut(handler: Handler) -> None:
        handler.begin_stream()
        handler.send_event("ADDED", _object("a", "11"))
        handler.wfile.write(b"ff\r\n{")
        handler.close_connection = True

    server.on(PATH, _list(), cut, HOLD)
    run = start()
    run.handler.wait_for("waiting", "ConnectionCut")
    run.handler.wait_for("watching", times=2)
    server.wait_for(lambda: len(server.requests) == 3, what="the second watch")
    assert _watched_versions(server) == ["10", "11"]


def test_one_silence_resumes_and_a_second_compares_versions(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(), HOLD, HOLD, _list(version="20"), HOLD)
    start(inactivity_timeout=0.1)
    server.wait_for(lambda: len(server.requests) == 5, what="the third watch")
    assert _watched_versions(server) == ["10", "10", "10"]
    assert _queries(server)[3] == {"limit": "1"}


def test_a_silent_server_that_is_behind_is_listed(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, _list(), HOLD, HOLD, _list(version="7"), _list(version="8"), HOLD)
    run = start(inactivity_timeout=0.1)
    run.handler.wait_for("replaced", (), "8")
    assert ("rewound",) in run.handler.calls


def test_silences_in_a_row_are_waited_out_ever_longer(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INACTIVITY_LIMIT", 0.4)
    asked: list[float] = []
    original = module.Connection.stream

    def stream(*args: Any, **options: Any) -> Any:
        asked.append(options["read_timeout"])
        return original(*args, **options)

    monkeypatch.setattr(module.Connection, "stream", stream)
    bookmark = _watch(("BOOKMARK", _object("", "12")))
    compared = _list(version="20")
    silences = [compared, HOLD, compared, HOLD, compared]
    server.on(PATH, _list(), HOLD, HOLD, *silences, bookmark, HOLD)
    start(inactivity_timeout=0.1)
    server.wait_for(lambda: len(asked) == 6, what="the sixth watch")
    assert asked == [0.1, 0.2, 0.4, 0.4, 0.4, 0.1]


@pytest.mark.parametrize(
    ("answer", "reason", "seconds"),
    [
        (_fail(401, "Unauthorized", "Unauthorized"), "Unauthorized", 3),
        (
            _fail(403, "Forbidden", 'User "u" cannot watch resource "x"'),
            "Forbidden",
            2,
        ),
        (_not_served, "NotFound", 2),
    ],
)
def test_what_needs_a_person_is_looked_for_again(
    server: FakeServer, start: Start, answer: Answer, reason: str, seconds: int
) -> None:
    server.on(PATH, answer)
    run = start()
    run.handler.wait_for("waiting", reason)
    until = run.handler.states[-1].until
    assert until is not None
    assert seconds - 5 < until.timestamp() - time.time() <= seconds


def test_what_stays_missing_is_looked_for_ever_more_slowly(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    server.on(PATH, _fail(403, "Forbidden", 'User "u" cannot list resource "x"'))
    run = start()
    waits = []
    for times in range(1, 9):
        run.handler.wait_for("waiting", "Forbidden", times=times)
        until = [s.until for s in run.handler.states if s.until][times - 1]
        waits.append(until.timestamp() - time.time())
        run.reflector.interrupt()
    assert waits == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60], abs=1)


def test_a_refused_credential_is_tried_once_more_soon_and_then_seldom(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    refused = _fail(401, "Unauthorized", "Unauthorized")
    server.on(PATH, refused, refused, refused, _list(), _watch(), refused)
    run = start()
    waits = []
    for times in range(1, 5):
        run.handler.wait_for("waiting", "Unauthorized", times=times)
        refusals = [s for s in run.handler.states if s.until]
        until = [
            s.until for s in refusals if s.error and s.error.reason == "Unauthorized"
        ][times - 1]
        assert until is not None
        waits.append(until.timestamp() - time.time())
        run.reflector.interrupt()
    assert waits == pytest.approx([3, 30, 30, 3], abs=1)


def test_missing_definition_lists_when_it_is_back(
    server: FakeServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECHECK_FIRST", 0.0)
    gone: Answer = lambda handler: handler.reply(
        b"404 page not found\n", status=404, content_type="text/plain"
    )
    server.on(PATH, _list("a"), gone, _list(version="20"), HOLD)
    run = start()
    run.handler.wait_for("replaced", (), "20")
    run.handler.wait_for("watching")


@pytest.mark.parametrize("call", ["replaced", "ADDED"])
def test_failing_handler_is_told_everything_again(
    server: FakeServer, start: Start, call: str
) -> None:
    watch = _watch(("ADDED", _object("a", "11")), hold=True)
    first = [_list()] if call == "replaced" else [_list(), watch]
    server.on(PATH, *first, _list("a", version="20"), HOLD)
    run = start(handler=Recorder(fails_on=call))
    run.handler.wait_for("waiting", "InternalError")
    run.handler.wait_for("replaced", ("a",), "20")


@pytest.mark.parametrize("phase", ["listing", "watching"])
def test_handler_that_fails_on_a_state_stops_nothing(
    server: FakeServer, start: Start, phase: str
) -> None:
    server.on(PATH, _list(), _watch(("ADDED", _object("a", "11")), hold=True))
    run = start(handler=Recorder(fails_on=phase))
    run.handler.wait_for("ADDED", "a")
    assert [call for call in run.handler.calls if call[0] == "waiting"] == []


@pytest.mark.parametrize(
    "event",
    [
        ("ADDED", {"metadata": {}}),
        ("ODD", _object("a", "11")),
        ("ERROR", {"code": 500}),
    ],
)
def test_event_that_makes_no_sense_does_not_move_the_position(
    server: FakeServer, start: Start, event: tuple[str, dict[str, Any]]
) -> None:
    server.on(PATH, _list("a"), _watch(event), _list("a", version="20"), HOLD)
    run = start()
    run.handler.wait_for("watching", times=2)
    assert ("ODD", "a") not in run.handler.calls


# === DELAYS === #


def _recovered(error: KubeError, **options: Any) -> float:
    reflector = Reflector(
        lambda: pytest.fail("no connection is needed"),
        SCOPE,
        Recorder(),
        stop=threading.Event(),
        rand=RANDOM,
        **options,
    )
    return reflector._recover(error, listed=False)[1]


def test_retry_after_is_honoured_with_jitter() -> None:
    assert 5.0 <= _recovered(Throttled("slow down", retry_after=5.0)) <= 10.0
    assert 0.8 <= _recovered(Throttled("slow down", retry_after=0.0)) <= 1.6


def test_backoff_doubles_to_its_limit_and_starts_over_when_healthy() -> None:
    now = 0.0
    backoff = Backoff(first=1.0, limit=4.0, reset_after=120.0, clock=lambda: now)
    delays = [backoff.next(RANDOM) for _ in range(5)]
    bases = [1, 2, 4, 4, 4]
    for delay, base in zip(delays, bases, strict=True):
        assert base <= delay <= 2 * base
    now = 121.0
    assert 1 <= backoff.next(RANDOM) <= 2


# === STOPPING === #


def test_stop_ends_an_open_watch(server: FakeServer, start: Start) -> None:
    server.on(PATH, _list(), HOLD)
    run = start()
    run.handler.wait_for("watching")
    run.end()


def test_stop_ends_a_list_that_is_not_answered(
    server: FakeServer, start: Start
) -> None:
    server.on(PATH, lambda handler: handler.hold())
    run = start()
    server.wait_for(lambda: bool(server.requests), what="the list")
    run.end()


def test_stop_ends_a_wait(server: FakeServer, start: Start) -> None:
    server.on(PATH, _fail(401, "Unauthorized", "Unauthorized"))
    run = start()
    run.handler.wait_for("waiting", "Unauthorized")
    run.end()


def test_interrupt_takes_the_connection_then_given(
    server: FakeServer, start: Start, connection: Connection
) -> None:
    server.on(PATH, _list(), HOLD)
    asked: list[int] = []

    def current() -> Connection:
        asked.append(1)
        return connection

    run = start(connection=current)
    run.handler.wait_for("watching")
    run.reflector.interrupt()
    run.handler.wait_for("watching", times=2)
    assert len(asked) == 2
    assert [call for call in run.handler.calls if call[0] == "waiting"] == []


def test_connection_that_cannot_be_had_is_tried_again(
    server: FakeServer, start: Start, connection: Connection
) -> None:
    server.on(PATH, _list(), HOLD)
    failures = [LookupError("no credential")]

    def current() -> Connection:
        if failures:
            raise failures.pop()
        return connection

    run = start(connection=current)
    run.handler.wait_for("waiting", "InternalError")
    run.handler.wait_for("watching")


def test_stop_before_the_start_does_nothing(
    server: FakeServer, connection: Connection
) -> None:
    stop = threading.Event()
    stop.set()
    Reflector(lambda: connection, SCOPE, Recorder(), stop=stop).run()
    assert not server.requests
