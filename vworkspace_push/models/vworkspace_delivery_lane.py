from odoo import fields, models


class VworkspaceDeliveryLane(models.Model):
    """Whether deliveries to a cluster go through now, or from when on again.

    The breaker of a cluster, shared by all processes. A table of its own, so that it
    neither touches nor locks the cluster.
    """

    _name = "vworkspace.delivery.lane"
    _description = "Delivery Lane"
    _rec_name = "cluster_id"
    _log_access = False

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade"
    )
    failures = fields.Integer(default=0, help="Probes that failed in a row.")
    retry_at = fields.Datetime(help="Nothing is sent before.")
    message = fields.Text()

    _cluster_uniq = models.Constraint(
        "UNIQUE (cluster_id)", "A cluster has one delivery lane."
    )
