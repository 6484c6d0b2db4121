"""The list of applications: what its view asks of the server, for many of them.

Ours is the server's time for `web_search_read` as the list view sends it, with all
columns that it can show, and for `web_read_group` by health; the largest of the
medians counts. Applications are inserted by SQL, spread over clusters and healths.
"""

import statistics
import time
from xml.etree import ElementTree

from .stack import MODEL, NAMESPACE

RUNS = 9
PAGE = 80  # lines that the list shows
COUNTED = 10_001  # the web client counts no further
CLUSTERS = 20

# What the view's widgets read besides the columns
DEPENDENCIES = ("as_of_age", "stale_after")
HEALTHS = ("failed", "degraded", "blocked", "unknown", "progressing") + ("ready",) * 15


def measure_list_10k(stack):
    """Return the figure for 10,000 applications."""
    return _measure(stack, 10_000, limit=0.5)


def measure_list_100k(stack):
    """Return the figure for 100,000 applications."""
    return _measure(stack, 100_000, limit=1.0)


def _measure(stack, count, *, limit):
    _fill(stack, count)
    columns = _columns(stack)
    try:
        calls = {name: _time(call, stack, columns) for name, call in CALLS.items()}
    finally:
        _clear(stack)
    slowest = max(calls.values())
    return {
        "measure": f"server time of the list of {count:,} applications, p50",
        "ours": slowest,
        "rival": limit,
        "rival_name": "the limit",
        "ratio": slowest / limit,
        "unit": "s",
        "runs": RUNS,
        "also": {f"{name} (s)": seconds for name, seconds in calls.items()},
    }


# === THE VIEW'S CALLS === #


def _columns(stack):
    """Return what the web client asks for: also the columns that can be shown."""
    answer = stack.odoo.call(MODEL, "get_views", [[False, "list"]])
    fields = answer["models"][MODEL]["fields"]
    arch = ElementTree.fromstring(answer["views"]["list"]["arch"])  # noqa: S314 our own
    names = {*DEPENDENCIES, *(node.get("name") for node in arch.iter("field"))}
    return {
        name: {"fields": {"display_name": {}}}
        if fields.get(name, {}).get("type") == "many2one"
        else {}
        for name in names
    }


def _list(domain=(), order="", offset=0):
    def call(stack, columns):
        # domain, specification, offset, limit, order, count_limit
        asked = (list(domain), columns, offset, PAGE, order, COUNTED)
        found = stack.odoo.call(MODEL, "web_search_read", *asked)
        if len(found["records"]) != PAGE:
            raise RuntimeError(f"The list has {len(found['records'])} lines.")

    return call


def _groups(field):
    def call(stack, columns):
        asked = ([], [field], ["__count"], PAGE)
        found = stack.odoo.call(MODEL, "web_read_group", *asked)
        if len(found["groups"]) < 5:
            raise RuntimeError(f"The list has {len(found['groups'])} groups.")

    return call


CALLS = {
    "first page": _list(),
    "last page": _list(offset=9_900),
    "unwell ones": _list([("health", "in", ("failed", "degraded", "blocked"))]),
    "by health": _list(order="health desc, name"),
    "searched": _list([("name", "ilike", "list-1")]),
    "grouped by health": _groups("health"),
    "grouped by cluster": _groups("cluster_id"),
}


def _time(call, stack, columns):
    """Return the median of the seconds that a call takes."""
    call(stack, columns)
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call(stack, columns)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# === THE APPLICATIONS === #


CLUSTERS_ROWS = """
    INSERT INTO vworkspace_cluster
                (name, cluster_id, company_id, connectivity_mode, active, state,
                 verification_state, stale_after, connection_version)
         SELECT 'list-' || n, 'list-' || n, company_id, connectivity_mode, true,
                'registering', 'none', stale_after, 1
           FROM vworkspace_cluster, generate_series(1, %s) n
          WHERE id = %s"""
NAMESPACE_ROWS = """
    INSERT INTO vworkspace_cluster_namespace (name, cluster_id, company_id)
         SELECT %s, id, company_id FROM vworkspace_cluster
          WHERE cluster_id LIKE 'list-%%'"""
INSTANCE_ROWS = """
    INSERT INTO vworkspace_application_instance
                (name, cluster_id, namespace_id, company_id, catalog_id, mode,
                 chart_source_type, chart_url, chart_name, chart_version,
                 values_source, values_yaml, revision_id, applied_revision_id,
                 heal_mode, delivery_state, uid, status_as_of,
                 health_message, health, reported_health)
         SELECT 'list-' || n, place.cluster_id, place.id, place.company_id,
                seed.catalog_id, seed.mode, seed.chart_source_type, seed.chart_url,
                seed.chart_name, seed.chart_version, seed.values_source,
                seed.values_yaml, seed.revision_id, seed.applied_revision_id,
                seed.heal_mode, seed.delivery_state, 'list-' || n,
                now() AT TIME ZONE 'UTC', 'As the cluster says.',
                (healths.of)[n %% cardinality(healths.of) + 1],
                (healths.of)[n %% cardinality(healths.of) + 1]
           FROM generate_series(1, %s) n
           JOIN vworkspace_application_instance seed ON seed.id = %s
           JOIN (SELECT %s::varchar[] AS of) healths ON true
           JOIN (SELECT place.*, row_number() OVER (ORDER BY place.id) AS number
                   FROM vworkspace_cluster_namespace place
                   JOIN vworkspace_cluster cluster ON cluster.id = place.cluster_id
                  WHERE cluster.cluster_id LIKE 'list-%%') place
             ON place.number = n %% %s + 1"""
CLEAR = """
    DELETE FROM {} WHERE cluster_id IN
           (SELECT id FROM vworkspace_cluster WHERE cluster_id LIKE 'list-%')"""


def _fill(stack, count):
    stack.execute(CLUSTERS_ROWS, CLUSTERS, stack.cluster)
    stack.execute(NAMESPACE_ROWS, NAMESPACE)
    # Whose values and revisions the others have: what the list compares is of real size
    (seed,) = stack.create_instances(stack.cluster, [f"seed-{count}"])
    stack.odoo.call(MODEL, "action_deploy", [seed])
    stack.execute(INSTANCE_ROWS, count, seed, list(HEALTHS), CLUSTERS)
    stack.execute("VACUUM ANALYZE vworkspace_application_instance")


def _clear(stack):
    stack.execute(CLEAR.format("vworkspace_application_instance"))
    stack.execute(CLEAR.format("vworkspace_cluster_namespace"))
    stack.execute("DELETE FROM vworkspace_cluster WHERE cluster_id LIKE 'list-%'")
    stack.execute("VACUUM ANALYZE vworkspace_application_instance")
