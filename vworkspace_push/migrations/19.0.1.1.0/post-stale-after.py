"""A limit that is below what the form takes now made health flap, or unknown for good.

A cluster that is well and quiet is heard of every half minute.
"""

LEAST = 60  # s


def migrate(cr, version):
    cr.execute(
        "UPDATE vworkspace_cluster SET stale_after = %(least)s"
        " WHERE stale_after < %(least)s",
        {"least": LEAST},
    )
