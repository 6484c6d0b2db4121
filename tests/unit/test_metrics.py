"""Health and metrics as a probe, Prometheus and a careless client see them."""

import http.client
import socket
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from status import http as status_http
from status import metrics
from tests.waiting import eventually


def series():
    """Return the lines of all figures that the addon makes."""
    lines = generate_latest(metrics.REGISTRY).decode().splitlines()
    return {line for line in lines if line.startswith("vworkspace_watch_")}


# === METRICS === #


def test_a_cluster_that_goes_takes_its_figures_along():
    for cluster in ("gone", "kept"):
        metrics.EVENTS.labels("db", cluster).inc()
        metrics.ERRORS.labels("db", cluster, "Unreachable").inc()
        metrics.ERRORS.labels("db", cluster, "Forbidden").inc()
        metrics.STREAMS.labels("db", cluster, "watching").set(2)
    metrics.EVENTS.labels("other_db", "gone").inc()

    metrics.forget("db", "gone")

    shown = "\n".join(series())
    assert 'cluster="gone",db="db"' not in shown
    assert 'cluster="gone",db="other_db"' in shown
    assert 'class="Forbidden",cluster="kept",db="db"' in shown


def test_a_cluster_that_was_never_counted_goes_quietly():
    metrics.forget("db", "unheard-of")


# === SERVER === #


class Worker(SimpleNamespace):
    dbname = "production"
    alive = True
    ready = True

    def is_alive(self):
        return self.alive

    def is_ready(self):
        return self.ready


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def server(worker):
    server = status_http.StatusServer("127.0.0.1", 0, [worker], refresh=lambda: None)
    server.start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, method="GET"):
    connection = http.client.HTTPConnection(*server.server_address, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_worker_that_runs_is_alive_and_ready(server):
    assert ask(server, "/healthz") == (200, "ok\n")
    assert ask(server, "/readyz?verbose") == (200, "ok\n")


def test_a_worker_that_starts_is_alive_and_not_ready(server, worker):
    worker.ready = False

    assert ask(server, "/healthz") == (200, "ok\n")
    status, text = ask(server, "/readyz")
    assert status == 503
    assert "production" in text


def test_a_worker_whose_threads_ended_is_not_alive(server, worker):
    worker.alive = False

    assert ask(server, "/healthz")[0] == 503


def test_metrics_are_read_anew_for_each_scrape(server):
    server.refresh = lambda: metrics.PENDING_DELIVERIES.labels("production").set(7)

    status, text = ask(server, "/metrics")

    assert status == 200
    assert 'vworkspace_watch_pending_deliveries{db="production"} 7.0' in text
    assert "process_resident_memory_bytes" in text


def test_nothing_else_is_served(server):
    assert ask(server, "/")[0] == 404
    assert ask(server, "/../etc/passwd")[0] == 404
    assert ask(server, "/metrics", method="POST")[0] == 501


def test_only_so_many_clients_are_served_at_a_time(server):
    with idle_clients(server, 2 * status_http.CLIENTS):
        eventually(
            lambda: len(handlers()),
            what="every place to be taken",
            equals=status_http.CLIENTS,
        )


def test_clients_that_say_nothing_do_not_shut_the_others_out(server, monkeypatch):
    monkeypatch.setattr(status_http, "CLIENT_TIMEOUT", 0.2)
    with idle_clients(server, 2 * status_http.CLIENTS):
        eventually(lambda: answers(server), what="a place to be free again", timeout=5)


@contextmanager
def idle_clients(server, number):
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(socket.create_connection(server.server_address))
        yield


def handlers():
    return [t for t in threading.enumerate() if "process_request_thread" in t.name]


def answers(server):
    try:
        return ask(server, "/healthz")[0] == 200
    except (OSError, http.client.HTTPException):  # cut off
        return False
