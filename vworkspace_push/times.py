"""Times between Kubernetes, which says its zone, and Odoo, which keeps UTC unsaid."""

from datetime import datetime


def naive(moment: datetime | None):
    """Return an aware UTC time as Odoo's fields hold it; False for none."""
    return moment.replace(tzinfo=None) if moment else False
