"""One dead cluster of twenty: what it costs the other nineteen.

The same intents are delivered while all twenty live and while one hangs, in turns. A
cluster that hangs is one whose connections are accepted and never answered. What counts
is the other nineteen: how many of their records are delivered per second, and how long
one waits from its committed intent to its stored outcome.
"""

import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from urllib.parse import urlsplit

from environment.processes import wait_until

from .stack import MODEL, values

CLUSTERS = 20
RECORDS = 50  # of each cluster
RUNS = 3
TIMEOUT = 180.0  # s


def measure_dead_cluster(stack):
    """Return the figure: median rates of RUNS deliveries each, in turns."""
    with closing(Gate(urlsplit(stack.control_plane.server).port)) as gate:
        server = f"https://127.0.0.1:{gate.port}"
        mortal = _cluster(stack, "mortal", server=server)
        others = [
            instance
            for number in range(CLUSTERS - 1)
            for instance in _cluster(stack, f"other-{number}")
        ]
        _deliver(stack, others, mortal)  # to warm up
        alive, dead = [], []
        for _run in range(RUNS):
            alive.append(_deliver(stack, others, mortal))
            _await_delivered(stack, mortal)
            gate.hang()
            dead.append(_deliver(stack, others, mortal))
            gate.revive()
            _recover(stack, mortal)
    rate_alive, rate_dead = (
        statistics.median(len(others) / max(waits) for waits in side)
        for side in (alive, dead)
    )
    p99_alive, p99_dead = (
        statistics.median(statistics.quantiles(waits, n=100)[98] for waits in side)
        for side in (alive, dead)
    )
    return {
        "measure": f"delivery to {CLUSTERS - 1} clusters while another hangs",
        "ours": rate_dead,
        "rival": rate_alive,
        "rival_name": f"the same, all {CLUSTERS} alive",
        "ratio": rate_dead / rate_alive,
        "unit": "objects/s",
        "runs": RUNS,
        "also": {
            "p99 from intent to outcome while one hangs, s": p99_dead,
            "p99, all alive, s": p99_alive,
            "ratio of the p99": p99_dead / p99_alive,
        },
    }


def _cluster(stack, name, **options):
    cluster = stack.register(name, name, **options)
    names = [f"{name}-{number}" for number in range(RECORDS)]
    return stack.create_instances(cluster, names)


def _deliver(stack, others, mortal):
    """Deploy a change of all; return how many s each of `others` had to wait."""
    stack.odoo.call(MODEL, "write", others + mortal, {"values_yaml": values()})
    ((known,),) = stack.query("SELECT COALESCE(max(id), 0) FROM vworkspace_revision")
    stored = {}

    def all_are_stored():
        seconds = time.perf_counter() - committed
        for instance in _applied(stack, others):
            stored.setdefault(instance, seconds)
        return len(stored) == len(others)

    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(stack.odoo.call, MODEL, "action_deploy", others + mortal)
        _wait(stack, lambda: call.done() or _committed(stack, known), "intents")
        committed = time.perf_counter()
        if call.done():
            call.result()
        _wait(stack, all_are_stored, "the others' outcomes")
        call.result()
    return list(stored.values())


def _committed(stack, known):
    return stack.query("SELECT 1 FROM vworkspace_revision WHERE id > %s LIMIT 1", known)


def _applied(stack, ids):
    rows = stack.query(
        """SELECT id FROM vworkspace_application_instance
            WHERE id = ANY(%s) AND delivery_state = 'applied'
              AND delivered_revision = intent_revision""",
        ids,
    )
    return [instance for (instance,) in rows]


def _await_delivered(stack, ids):
    _wait(stack, lambda: len(_applied(stack, ids)) == len(ids), "late outcomes")


def _recover(stack, ids):
    """Have what was held back delivered, as a person would: the cron takes a minute."""
    _wait(stack, lambda: not _open_lanes(stack), "the lane's next try")
    stack.odoo.call(MODEL, "action_deploy", ids)
    _await_delivered(stack, ids)


def _open_lanes(stack):
    return stack.query(
        """SELECT 1 FROM vworkspace_delivery_lane
            WHERE retry_at > now() AT TIME ZONE 'UTC'"""
    )


def _wait(stack, condition, what):
    process = stack.odoo_process
    wait_until(condition, what=what, timeout=TIMEOUT, process=process)


class Gate:
    """A way to a local port that can be made to hang: it accepts, and never answers."""

    def __init__(self, target):
        """
        :param target: the port that it leads to
        """
        self._target = target
        self._hangs = False
        self._lock = threading.Lock()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self):
        """Pass nothing on any more, of open connections neither."""
        self._hangs = True

    def revive(self):
        """Cut what hangs, and lead on again."""
        self._cut()
        self._hangs = False

    def close(self):
        """Cut everything."""
        self._listener.close()
        self._cut()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                self._keep(client)
                if not self._hangs:
                    self._connect(client)

    def _connect(self, client):
        target = socket.create_connection(("127.0.0.1", self._target))
        self._keep(target)
        for way in ((client, target), (target, client)):
            threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, source, target):
        with suppress(OSError):
            while content := source.recv(65536):
                if self._hangs:
                    return
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)

    def _keep(self, sock):
        with self._lock:
            self._sockets.append(sock)

    def _cut(self):
        with self._lock:
            cut, self._sockets = self._sockets, []
        for sock in cut:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
