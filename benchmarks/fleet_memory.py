"""What watching a hundred clusters takes: memory, and next to nothing while idle.

The clusters are one API server, registered a hundred times with a namespace each, so
that each has connections and streams of its own. The figure is the worker's resident
memory once it watches everything; what one further cluster adds comes from a worker
that is restricted to ten of them. Idle time is looked at for a while, from both sides:
the worker's CPU, and the requests that the server counted.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import urllib3

from environment.processes import wait_until

CLUSTERS = 100
FEW = 10  # clusters of the worker that is compared with
INSTANCES = 100  # of each cluster
LIMIT = 256.0  # MiB
IDLE = 120.0  # s that the idle worker is looked at: several rounds of pulses
SETTLE = 15.0  # s after the last list; what it has freed is given back
AT_ONCE = 8  # requests to the API server
TIMEOUT = 180.0  # s
COLLECTION = "/apis/apps.vworkspace.io/v1alpha1/namespaces/{}/applicationinstances"
KINDS = ("applicationinstances", "operations", "clusters")

RECORDS = """
    INSERT INTO vworkspace_application_instance
                (name, uid, cluster_id, namespace_id, company_id, catalog_id, mode,
                 chart_source_type, chart_url, chart_name, chart_version,
                 values_source, heal_mode, delivery_state)
         SELECT new.name, new.uid, place.cluster_id, place.id, place.company_id,
                'bench', 'managed', 'oci', 'oci://registry.example.com/charts',
                'bench', '1.0.0', 'inline', 'cluster', 'applied'
           FROM unnest(%s::text[], %s::text[], %s::text[]) new (name, uid, namespace)
           JOIN vworkspace_cluster_namespace place ON place.name = new.namespace"""


def measure_fleet_memory(stack):
    """Return the figure: MiB of a worker that watches the fleet."""
    fleet = Fleet.of(stack)
    with fleet.worker(fleet.names[:FEW]) as worker:
        few = _resident(worker)
    with fleet.worker() as worker:
        ours = _resident(worker)
        streams = fleet.streams()
        requests, cpu, seconds = _idle(stack, worker)
    return {
        "measure": f"memory of a worker that watches {CLUSTERS} clusters",
        "ours": ours,
        "rival": LIMIT,
        "rival_name": "the limit",
        "ratio": ours / LIMIT,
        "unit": "MiB",
        "runs": 1,
        "also": {
            "streams": streams,
            "one further cluster, MiB": (ours - few) / (CLUSTERS - FEW),
            "CPU while idle, %": 100 * cpu / seconds,
            "watches per s while idle": requests["WATCH"] / seconds,
            "other requests while idle": requests["LIST"] + requests["GET"],
        },
    }


class Fleet:
    """The clusters, with their applications in the database and in the server."""

    _made = None

    def __init__(self, stack):
        self._stack = stack
        self.names = [f"fleet-{number}" for number in range(CLUSTERS)]
        self.ids = [stack.register(name, name) for name in self.names]
        self._create_instances()

    @classmethod
    def of(cls, stack):
        """Return the fleet of a stack, made once: it takes minutes."""
        if cls._made is None or cls._made._stack is not stack:
            cls._made = cls(stack)
        return cls._made

    def _create_instances(self):
        plane = self._stack.control_plane
        pool = urllib3.PoolManager(
            maxsize=AT_ONCE,
            ca_certs=str(plane.ca_file),
            headers={"Authorization": f"Bearer {plane.admin_token}"},
        )

        def create(namespace, name):
            answer = pool.request(
                "POST",
                f"{plane.server}{COLLECTION.format(namespace)}",
                json=_manifest(name, namespace),
                retries=False,
            )
            if answer.status != 201:
                raise RuntimeError(answer.data[:500].decode())
            return answer.json()["metadata"]["uid"]

        places = [name for name in self.names for _ in range(INSTANCES)]
        names = [f"app-{number % INSTANCES}" for number in range(len(places))]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            uids = list(threads.map(create, places, names))
        pool.clear()
        self._stack.execute(RECORDS, names, uids, places)

    @contextmanager
    def worker(self, names=None):
        """Run a worker of some of the clusters, else of all, until it watches them."""
        names = names or self.names
        worker = self._stack.watch_worker("--clusters", ",".join(names))
        worker.start()
        try:
            count = len(names)
            wait_until(
                lambda: self.held() >= count and self.streams("watching") >= count * 2,
                what="the fleet to be watched",
                timeout=TIMEOUT,
                process=worker,
            )
            yield worker
        finally:
            worker.stop()

    def held(self):
        """Return how many of its clusters a worker holds."""
        ((count,),) = self._stack.query(
            """SELECT count(*) FROM vworkspace_watch_lease
                WHERE holder IS NOT NULL AND cluster_id = ANY(%s)""",
            self.ids,
        )
        return count

    def streams(self, state=None):
        """Return how many streams of clusters that are held there are, in a state."""
        ((count,),) = self._stack.query(
            """SELECT count(*)
                 FROM vworkspace_watch_stream stream
                 JOIN vworkspace_watch_lease lease USING (cluster_id)
                WHERE lease.holder IS NOT NULL AND cluster_id = ANY(%s)
                  AND stream.resource_version IS NOT NULL
                  AND COALESCE(stream.state = %s, TRUE)""",
            self.ids,
            state,
        )
        return count

    def rows(self):
        """Return which transaction wrote each application's record last."""
        return self._stack.query(
            """SELECT id, xmin::text FROM vworkspace_application_instance
                WHERE cluster_id = ANY(%s) ORDER BY id""",
            self.ids,
        )


def _manifest(name, namespace):
    chart = {"sourceType": "oci", "url": "oci://registry.example.com/charts"}
    inline = {"replicas": 2, "image": {"repository": "registry.example.com/shop/web"}}
    return {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "appRef": {"catalogId": "bench"},
            "chart": {**chart, "name": "bench", "version": "1.0.0"},
            "release": {"name": name, "namespace": namespace},
            "values": {"source": "inline", "inline": inline},
        },
    }


def _resident(worker):
    time.sleep(SETTLE)
    return psutil.Process(worker.pid).memory_info().rss / 2**20


def _idle(stack, worker):
    """Return requests by verb, and the CPU seconds and seconds that passed."""
    process = psutil.Process(worker.pid)
    before, used, started = _requests(stack), _cpu(process), time.monotonic()
    time.sleep(IDLE)
    seconds = time.monotonic() - started
    cpu, after = _cpu(process) - used, _requests(stack)
    return {verb: after[verb] - before[verb] for verb in before}, cpu, seconds


def _cpu(process):
    times = process.cpu_times()
    return times.user + times.system


def _requests(stack):
    """Return how many requests about our kinds the server counted, by verb."""
    counts = dict.fromkeys(("GET", "LIST", "WATCH"), 0.0)
    for line in stack.control_plane.request("GET", "/metrics").splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        if not any(f'resource="{kind}"' in line for kind in KINDS):
            continue
        for verb in counts:
            if f'verb="{verb}"' in line:
                counts[verb] += float(line.rpartition(" ")[2])
    return counts
