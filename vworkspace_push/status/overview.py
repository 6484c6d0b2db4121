"""What the database knows of how its clusters are watched, for any process.

A worker notes the figures that only it knows (`start_noting`); the rest is on leases
and streams anyway. Reading needs no registry.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg2
from psycopg2.extras import execute_values

from odoo import sql_db
from odoo.modules.registry import Registry

from ..delivery.deliver import DUE_STATES
from ..transactions import in_transaction

_logger = logging.getLogger(__name__)

NOTE_EVERY = 5.0  # s between two looks at a worker's figures
ERROR_SHOWN = 100  # characters
HEADINGS = (
    *("CLUSTER", "HOLDER", "STREAMS", "LAG", "EVENTS/S", "LAST CONTACT", "LAST ERROR"),
)


@dataclass(frozen=True)
class Row:
    """How one cluster is watched."""

    cluster: str
    holder: str | None  # None: nobody, or a lease that is over
    streams: int
    watching: int  # streams of these that are as they should be
    lag: float  # s
    events_per_second: float
    last_contact: datetime | None  # naive UTC
    last_error: str | None


def read(dbname, only=None):
    """Return a Row for each cluster that can be watched.

    :param only: database ids of clusters; None: all
    :raise psycopg2.Error: PostgreSQL is away, or the addon is not installed there
    """
    rows = _query(
        dbname,
        """SELECT cluster.cluster_id,
                  CASE WHEN lease.expires_at > now() AT TIME ZONE 'UTC'
                       THEN lease.holder END,
                  count(stream.id),
                  count(stream.id) FILTER (
                      WHERE stream.state IN ('watching', 'polling')),
                  COALESCE(lease.lag, 0),
                  COALESCE(lease.events_per_second, 0),
                  lease.last_contact,
                  COALESCE(lease.message, max(stream.message))
             FROM vworkspace_cluster cluster
        LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
        LEFT JOIN vworkspace_watch_stream stream ON stream.cluster_id = cluster.id
            WHERE cluster.active AND cluster.connectivity_mode = 'push'
              AND cluster.state = 'active'
              AND (%(only)s::int[] IS NULL OR cluster.id = ANY(%(only)s::int[]))
         GROUP BY cluster.id, lease.id
         ORDER BY cluster.cluster_id""",
        only=None if only is None else list(only),
    )
    return [Row(*values) for values in rows]


def table(databases, *, now=None):
    """Return what `odoo vworkspace_watch --status` prints.

    :param dict databases: ids of the clusters to show, or None for all, by name
    :raise psycopg2.Error: see `read`
    """
    now = now or datetime.now(UTC).replace(tzinfo=None)
    several = len(databases) > 1
    lines = [("DATABASE", *HEADINGS) if several else HEADINGS]
    for dbname, only in databases.items():
        for row in read(dbname, only):
            lines.append((dbname, *_cells(row, now)) if several else _cells(row, now))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def find_clusters(dbname, names):
    """Return the ids of the clusters with these identifiers, by identifier."""
    rows = _query(
        dbname,
        "SELECT cluster_id, id FROM vworkspace_cluster WHERE cluster_id = ANY(%(n)s)",
        n=list(names),
    )
    return dict(rows)


def clusters_to_watch(dbname, only=None):
    """Return the identifiers of the clusters that can be watched, by id."""
    rows = _query(
        dbname,
        """SELECT id, cluster_id FROM vworkspace_cluster
            WHERE active AND connectivity_mode = 'push' AND state = 'active'
              AND (%(only)s::int[] IS NULL OR id = ANY(%(only)s::int[]))
         ORDER BY cluster_id""",
        only=None if only is None else list(only),
    )
    return dict(rows)


# === FOR METRICS === #


def pending_deliveries(dbname):
    """Return how many records wait for a delivery, the first one or another try."""
    ((count,),) = _query(
        dbname,
        """SELECT (SELECT count(*) FROM vworkspace_application_instance
                    WHERE delivery_state = ANY(%(due)s)
                      AND next_attempt_at IS NOT NULL)
                + (SELECT count(*) FROM vworkspace_operation
                    WHERE delivery_state = ANY(%(due)s)
                      AND next_attempt_at IS NOT NULL)""",
        due=list(DUE_STATES),
    )
    return count


def differences(dbname):
    """Return what comparisons with complete lists found so far, by identifier."""
    rows = _query(
        dbname,
        """SELECT cluster.cluster_id, COALESCE(lease.differences, 0)
             FROM vworkspace_watch_lease lease
             JOIN vworkspace_cluster cluster ON cluster.id = lease.cluster_id""",
    )
    return dict(rows)


def _query(dbname, statement, **parameters):
    with sql_db.db_connect(dbname).cursor() as cr:
        # The addon may not be installed there, which is for the caller to say.
        cr.execute(statement, parameters, log_exceptions=False)
        return cr.fetchall()


# === WHAT ONLY THE WORKER KNOWS === #


def start_noting(worker, stop):
    """Note a worker's figures on its leases, in a thread, until `stop` is set."""
    threading.Thread(
        target=_keep_noting,
        args=(worker, stop),
        name=f"vw-figures-{worker.dbname}",
        daemon=True,
    ).start()


def _keep_noting(worker, stop):
    threading.current_thread().dbname = worker.dbname
    noted = None
    while not stop.wait(NOTE_EVERY):
        figures = _figures(worker)
        if figures == noted or not worker.is_ready():
            continue
        try:
            in_transaction(Registry(worker.dbname), _note, worker.holder, figures)
        except psycopg2.Error as exc:
            _logger.debug("figures are noted later: %s", exc)
        else:
            noted = figures


def _figures(worker):
    return [
        (row["cluster"], round(row["lag"], 1), round(row["events_per_second"], 1))
        for row in worker.snapshot()
    ]


def _note(env, holder, figures):
    if figures:
        execute_values(
            env.cr._obj,
            """UPDATE vworkspace_watch_lease lease
                  SET lag = figures.lag, events_per_second = figures.rate
                 FROM (VALUES %s) figures (holder, cluster, lag, rate)
                 JOIN vworkspace_cluster cluster
                   ON cluster.cluster_id = figures.cluster
                WHERE lease.cluster_id = cluster.id
                  AND lease.holder = figures.holder
                  AND (lease.lag, lease.events_per_second)
                      IS DISTINCT FROM (figures.lag, figures.rate)""",
            [(holder, *row) for row in figures],
        )


# === THE TABLE === #


def _cells(row, now):
    held = row.holder is not None
    return (
        row.cluster,
        row.holder or "nobody",
        f"{row.watching}/{row.streams}" if held else "-",
        f"{row.lag:.1f} s" if held else "-",
        f"{row.events_per_second:.1f}" if held else "-",
        _age(now - row.last_contact) if row.last_contact else "never",
        _one_line(row.last_error or ""),
    )


def _age(delta):
    seconds = max(0, int(delta.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _one_line(text):
    """Return a cluster's own words without what a terminal would act on."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(printable.split())
    return words if len(words) <= ERROR_SHOWN else f"{words[: ERROR_SHOWN - 1]}…"
