"""Deadlines: who is ended, who is not, and in which order."""

import threading

import pytest

from kube.deadlines import Deadlines

LONG = 3600.0  # s


@pytest.fixture
def deadlines():
    return Deadlines()


def test_a_deadline_that_passes_calls_its_action(deadlines):
    ended = threading.Event()

    deadline = deadlines.add(0.01, ended.set)

    assert ended.wait(10)
    assert deadline.has_passed


def test_a_lifted_deadline_has_no_effect(deadlines):
    touched, later = threading.Event(), threading.Event()
    lifted = deadlines.add(0.02, touched.set)

    lifted.lift()
    deadlines.add(0.03, later.set)

    assert later.wait(10)
    assert not touched.is_set()
    assert not lifted.has_passed


def test_a_nearer_deadline_does_not_wait_for_a_farther_one(deadlines):
    near = threading.Event()
    deadlines.add(LONG, lambda: None)

    deadlines.add(0.01, near.set)

    assert near.wait(10)


def test_one_thread_serves_all(deadlines):
    threads = set()
    done = threading.Semaphore(0)

    def note():
        threads.add(threading.current_thread().name)
        done.release()

    for number in range(50):
        deadlines.add(number / 10_000, note)

    assert all(done.acquire(timeout=10) for _ in range(50))
    assert threads == {"kube-deadlines"}


def test_it_starts_again_after_its_thread_ended(deadlines, monkeypatch):
    monkeypatch.setattr("kube.deadlines.IDLE", 0.01)
    first, second = threading.Event(), threading.Event()
    deadlines.add(0.0, first.set)
    assert first.wait(10)
    deadlines._thread and deadlines._thread.join(10)

    deadlines.add(0.0, second.set)

    assert second.wait(10)
