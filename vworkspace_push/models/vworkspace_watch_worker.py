from odoo import fields, models


class VworkspaceWatchWorker(models.Model):
    """A watch worker that is alive, or was a short while ago.

    Also one that holds no cluster: all of them share the clusters evenly.
    """

    _name = "vworkspace.watch.worker"
    _description = "Watch Worker"
    _rec_name = "holder"
    _log_access = False

    holder = fields.Char(required=True)
    host = fields.Char()
    pid = fields.Integer(string="Process")
    cluster_ids = fields.Json(
        string="Only These Clusters", help="Their database ids; empty: all clusters."
    )
    started_at = fields.Datetime()
    seen_at = fields.Datetime(help="When it last renewed its leases.")

    _holder_uniq = models.Constraint("UNIQUE (holder)", "A worker is listed once.")
