"""Constants that several parts of the addon share, each with its unit."""

from datetime import timedelta

# The bus message that says which records of a model changed. Ids only: record rules
# do not apply to payloads, so clients read the records themselves.
BUS_UPDATED = "vworkspace_push/updated"
UPDATED = "vworkspace_push.updated"  # what a transaction keeps until it tells of it
BUS_MAX_IDS = 500  # in one message; of more it says that any may have changed

# PostgreSQL channel on which a process tells the others that a cluster's settings or
# credential changed. The payload is the cluster's id.
NOTIFY_CHANNEL = "vworkspace_push"

# More records than this in one transaction are left to the delivery cron, so that a
# user's request does not wait for a long row of API calls.
DELIVER_AFTER_COMMIT_LIMIT = 5
DELIVER_AFTER_COMMIT_BUDGET = 10.0  # s for which such a request begins attempts

DELIVERY_BATCH = 200  # records of one cluster that are delivered together, at most
DELIVERY_FIRST = 25  # likewise, of the first ones in a run: calls begin sooner
DELIVERY_BYTES = 8 * 1024 * 1024  # of their manifests, or one that is larger
DELIVERY_LANES = 8  # clusters that one cron run delivers to at the same time
DELIVERY_BUDGET = 50.0  # s for which one cron run begins attempts; Odoo's limit is 120
DELIVERY_TIMEOUT = 8.0  # s for one API call, while a user may be waiting for it

RETRY_FIRST = 5.0  # s until the second attempt
RETRY_MAX = 600.0  # s, the longest back-off
RETRY_SETTINGS = 600.0  # s, when only a person is likely to mend it (TLS, 401, RBAC)
MAX_SERVER_FAILURES = 12  # attempts, about an hour; then a person has to look

LANE_FIRST = 5.0  # s that the lane of an unreachable cluster stays closed, at first
LANE_MAX = 60.0  # s, the longest; each failed probe doubles it
PROBE_TIMEOUT = 3.0  # s

# s for which a watch worker holds a cluster without renewing, and between renewals:
# together, with a tick, the 20 s within which a dead one's clusters are another's
LEASE_SECONDS = 15
LEASE_RENEW = 4.0
INBOX_LIMIT = 20_000  # objects that wait to be written; above it, streams wait
INBOX_BYTES = 64 * 1024 * 1024  # likewise, of what is kept of them
STREAMS_PER_CLUSTER = 50  # of single namespaces; above it, the quiet ones are polled
RENEW_AT = 0.8  # of a credential's life, after which it is warned about or renewed
VERIFY_EVERY_HOURS = 24  # a credential in use is verified again

STALE_AFTER = 120  # s without news from a cluster until its health is unknown
STALE_AFTER_LEAST = 60  # a cluster that is well may be heard of every 30 s only

NOTIFY_EVERY = timedelta(minutes=15)  # between two messages about one record's health
NOTIFY_BATCH = 200  # records that one run of the cron tells of

MAX_VALUES_BYTES = 1_400_000  # of values as YAML; an object in etcd holds 1.5 MiB
HEAL_FORGET = timedelta(hours=1)  # without drift, after which healing is quick again

MAX_STORED_VALUE = 2_000  # characters of a field's value in a table of conflicts

AUDIT_RETENTION_PARAMETER = "vworkspace_push.audit_retention_days"

DELIVERY_STATES = [
    ("draft", "Draft"),
    ("pending", "Pending"),
    ("applied", "Applied"),
    ("conflict", "Conflict"),
    ("denied", "Denied"),
    ("failed", "Failed"),
    ("lost", "Lost"),
    ("deleting", "Deleting"),
    ("deleted", "Deleted"),
]

# How a revision ended, for those that did not end as a delivery does
REVISION_ENDS = [
    ("overtaken", "Overtaken"),
    ("withdrawn", "Withdrawn"),
]

HEALTH_STATES = [
    ("failed", "Failed"),
    ("degraded", "Degraded"),
    ("blocked", "Blocked"),
    ("unknown", "Unknown"),
    ("progressing", "Progressing"),
    ("ready", "Ready"),
    ("suspended", "Suspended"),
    ("deleting", "Deleting"),
]
