"""What the watch worker counts and measures, for Prometheus.

One registry of our own for the process. ``db`` is a database's name, ``cluster`` a
cluster's identifier as its form shows it (``vworkspace.cluster.cluster_id``). Values of
the label ``class`` are names of our exceptions, never text from a cluster.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_CLUSTER = ("db", "cluster")


def _named(kind, name, text, labels=("db",), **options):
    return kind(f"vworkspace_watch_{name}", text, labels, registry=REGISTRY, **options)


EVENTS = _named(Counter, "events", "Objects that streams and lists brought", _CLUSTER)
RELISTS = _named(Counter, "relists", "Complete lists, the first included", _CLUSTER)
ERRORS = _named(
    Counter, "errors", "Failures of streams, by class", (*_CLUSTER, "class")
)
WRITTEN = _named(Counter, "written", "Rows that reports changed")
CONFIRMED = _named(Counter, "confirmed", "Ends of objects that a GET confirmed")
# A gauge: the cron counts them in another process, by way of the database.
DIFFERENCES = _named(
    Gauge, "differences", "Records that differed from a complete list, in all", _CLUSTER
)
BATCH_SECONDS = _named(
    Histogram,
    "batch_seconds",
    "Time that writing one batch took",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LAG_SECONDS = _named(
    Gauge, "lag_seconds", "Age of the oldest report not written yet", _CLUSTER
)
QUEUE_DEPTH = _named(Gauge, "queue_depth", "Reports not written yet")
LEASES = _named(Gauge, "leases", "Clusters that this worker holds")
STREAMS = _named(Gauge, "streams", "Streams by state", (*_CLUSTER, "state"))
PENDING_DELIVERIES = _named(
    Gauge, "pending_deliveries", "Records that wait for delivery to their cluster"
)

_PER_CLUSTER = (EVENTS, RELISTS, ERRORS, DIFFERENCES, LAG_SECONDS, STREAMS)


def forget(db, cluster):
    """Drop the series of a cluster that this worker does not hold any more."""
    for metric in _PER_CLUSTER:
        for labels in _children(metric):
            if labels["db"] == db and labels["cluster"] == cluster:
                metric.remove(*labels.values())


def _children(metric):
    """Return the label sets that a metric has, each once and in its own order."""
    families = metric.collect()
    seen = {tuple(s.labels.items()) for family in families for s in family.samples}
    return [dict(items) for items in seen]
