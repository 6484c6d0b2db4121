from odoo import fields, models

from ..kube import resources


class VworkspaceClusterStatus(models.Model):
    """What a cluster says of itself, and whether it can be heard.

    A table of its own, so that heartbeats neither touch nor lock the cluster.
    """

    _name = "vworkspace.cluster.status"
    _description = "Cluster Status"
    _rec_name = "cluster_id"
    _log_access = False

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade"
    )
    company_id = fields.Many2one(related="cluster_id.company_id")
    # Its own object in the cluster, if the operator keeps one
    name = fields.Char()
    uid = fields.Char(string="UID")
    resource_version = fields.Char()
    phase = fields.Selection([(name, name) for name in resources.CLUSTER_PHASES])
    last_heartbeat = fields.Datetime(
        help="When the operator last said that it is at work, by the cluster's clock."
    )
    managed_namespaces = fields.Json(
        help="The namespaces that the operator serves, and what is allowed in each."
    )
    as_of = fields.Datetime(help="When this was read from the cluster.")
    condition_ids = fields.One2many("vworkspace.condition", "cluster_status_id")
    # Since when no stream reaches it, and why
    unreachable_since = fields.Datetime()
    unreachable_message = fields.Char()

    _cluster_uniq = models.Constraint(
        "UNIQUE (cluster_id)", "A cluster has one status."
    )
