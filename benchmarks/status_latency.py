"""From the write of a status to its committed record, 50 a second over 1,000.

The clock starts before the status is sent to the API server and stops when another
connection to PostgreSQL sees the record. Beside it, in the same run and for the same
changes, the moment at which `kubectl get -w` prints the object.
"""

import functools
import statistics
import subprocess
import threading
import time

from environment.control_plane_build import program
from environment.odoo import WATCH_READY_LINE

from .statuses import TIMEOUT, Fleet

INSTANCES = 1_000
PER_SECOND = 50
SECONDS = 20
LOOK_EVERY = 0.003  # s
LATEST = 30.0  # s until the last change has to be there
LINE = '{.metadata.name} {.metadata.resourceVersion}{"\\n"}'


def measure_status_p50(stack):
    """Return the figure: the median, in ms."""
    return _figure(stack, "p50", statistics.median)


def measure_status_p99(stack):
    """Return the figure: the 99th percentile, in ms."""
    return _figure(stack, "p99", lambda times: statistics.quantiles(times, n=100)[98])


def _figure(stack, name, of):
    ours, rivals = (of(times) for times in _measured(stack))
    return {
        "measure": f"status written until it is committed, {name}",
        "ours": ours,
        "rival": rivals,
        "rival_name": "kubectl get -w",
        "ratio": ours / rivals,
        "unit": "ms",
        "runs": PER_SECOND * SECONDS,
    }


@functools.cache
def _measured(stack):
    """Return the times of all changes in ms: ours, and kubectl's."""
    fleet = Fleet(stack, "latency", INSTANCES)
    worker = fleet.worker()
    worker.start()
    try:
        worker.wait_for_output(WATCH_READY_LINE, timeout=TIMEOUT)
        _wait_for(stack, fleet.report_all(0))
        with _Kubectl(stack, fleet.name) as printed, _Records(stack) as stored:
            while not printed.seen:  # it takes a moment until it watches
                fleet.report(fleet.names[0], 0)
                time.sleep(0.1)
            sent = _send(fleet, stored)
            stored.wait_for(sent)
            printed.wait_for(sent)
    finally:
        worker.stop()
        fleet.close()
    return _times(sent, stored.seen), _times(sent, printed.seen)


def _send(fleet, stored):
    """Change statuses at the rate; return when each was, by name and version."""
    sent = {}
    start = time.perf_counter()
    for number in range(PER_SECOND * SECONDS):
        name = fleet.names[number % INSTANCES]
        time.sleep(max(0.0, start + number / PER_SECOND - time.perf_counter()))
        began = time.perf_counter()
        version = fleet.report(name, 1 + number // INSTANCES)
        sent[name, version] = began
        stored.expect(name, version)
    return sent


def _times(sent, seen):
    return [(seen[change] - began) * 1_000 for change, began in sent.items()]


def _wait_for(stack, versions):
    deadline = time.monotonic() + TIMEOUT
    while missing := _versions(stack, versions).items() ^ versions.items():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} statuses were not stored.")
        time.sleep(0.1)


def _versions(stack, names):
    rows = stack.query(
        """SELECT name, observed_resource_version
             FROM vworkspace_application_instance WHERE name = ANY(%s)""",
        list(names),
    )
    return dict(rows)


class _Seen:
    """Notes in a thread of its own when changes are seen."""

    def __init__(self):
        self.seen = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._end.set()
        self._thread.join()

    def wait_for(self, changes):
        """Wait until all were seen.

        :raise RuntimeError: some were not
        """
        deadline = time.monotonic() + LATEST
        while missing := changes.keys() - self.seen.keys():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(missing)} changes were not seen.")
            time.sleep(0.05)

    def _run(self):
        raise NotImplementedError


class _Records(_Seen):
    """Looks at the records of the changes that are under way."""

    def __init__(self, stack):
        super().__init__()
        self._stack = stack
        self._expected = {}

    def expect(self, name, version):
        self._expected[name] = version

    def _run(self):
        while not self._end.is_set():
            if expected := dict(self._expected):
                now_stored = _versions(self._stack, expected).items()
                now = time.perf_counter()
                for name, version in now_stored & expected.items():
                    self.seen[name, version] = now
                    del self._expected[name]
            time.sleep(LOOK_EVERY)


class _Kubectl(_Seen):
    """Reads what `kubectl get -w` prints."""

    def __init__(self, stack, namespace):
        super().__init__()
        self._process = subprocess.Popen(
            [
                *(program("kubectl"), "get", "applicationinstances", "-n", namespace),
                *("--watch-only", "-o", f"jsonpath={LINE}"),
            ],
            env=stack.control_plane.kubectl_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    def __exit__(self, *exc):
        self._process.terminate()
        super().__exit__(*exc)
        self._process.wait()

    def _run(self):
        for line in self._process.stdout:
            name, _space, version = line.strip().partition(" ")
            self.seen[name, version] = time.perf_counter()
