"""Times between Kubernetes, which says its zone, and Odoo, which keeps UTC unsaid.

What feeders on several hosts write and compare goes by PostgreSQL's clock: a host's may
be wrong, or jump.
"""

from datetime import UTC, datetime, timedelta


def naive(moment: datetime | None):
    """Return an aware UTC time as Odoo's fields hold it; False for none."""
    return moment.replace(tzinfo=None) if moment else False


def now(env) -> datetime:
    """Return when the transaction began by PostgreSQL's clock, as Odoo's fields do."""
    return env.cr.now().replace(microsecond=0)


def by_database(env, moment: datetime) -> datetime:
    """Return by PostgreSQL's clock a past moment (naive UTC) of this host's clock."""
    age = datetime.now(UTC).replace(tzinfo=None) - moment
    env.cr.execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
    return env.cr.fetchone()[0] - max(age, timedelta())
