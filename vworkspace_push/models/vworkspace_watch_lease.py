from odoo import fields, models


class VworkspaceWatchLease(models.Model):
    """Which watch worker holds a cluster, until when, and what it last saw.

    A table of its own, so that heartbeats neither touch nor lock the cluster. The
    epoch counts the holders: who writes with an older one has lost the cluster.
    """

    _name = "vworkspace.watch.lease"
    _description = "Watch Lease"
    _rec_name = "cluster_id"
    _log_access = False

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade"
    )
    holder = fields.Char()
    epoch = fields.Integer(default=0)
    expires_at = fields.Datetime()
    state = fields.Selection([("watching", "Watching"), ("waiting", "Waiting")])
    message = fields.Char()
    last_contact = fields.Datetime()
    lag = fields.Float(default=0.0, help="In s: of the oldest news not written yet.")
    events_per_second = fields.Float(default=0.0)
    polled_at = fields.Datetime(help="When the status cron last tried to list it.")
    agreed_at = fields.Datetime(
        help="When its records were last compared with a complete list."
    )
    differences = fields.Integer(
        default=0, help="Records that such comparisons found to differ, in all."
    )

    _cluster_uniq = models.Constraint(
        "UNIQUE (cluster_id)", "A cluster has one watch lease."
    )
