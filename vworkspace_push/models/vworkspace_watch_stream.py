from odoo import api, fields, models


class VworkspaceWatchStream(models.Model):
    """How far a worker has read one kind of a cluster, and what the stream does now.

    The position is written in the transaction of the news that it covers, so whoever
    watches the cluster next resumes there and lists nothing.
    """

    _name = "vworkspace.watch.stream"
    _description = "Watch Stream"
    _rec_name = "kind"
    _order = "cluster_id, kind, namespace"
    _log_access = False

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade"
    )
    kind = fields.Char(required=True)
    namespace = fields.Char(help="Empty: the whole cluster.")
    scope = fields.Char(string="Where", compute="_compute_scope")
    resource_version = fields.Char(help="Everything up to it is on the records.")
    server_identity = fields.Char(help="Of the server whose version it is.")
    mode = fields.Selection([("watch", "Watched"), ("poll", "Polled")])
    state = fields.Selection(
        [
            ("listing", "Listing"),
            ("watching", "Watching"),
            ("polling", "Polling"),
            ("waiting", "Waiting"),
        ]
    )
    message = fields.Char()
    waiting_since = fields.Datetime(help="Since when it brings no news.")
    last_event_at = fields.Datetime()
    events = fields.Integer()
    relists = fields.Integer()

    _scope_uniq = models.UniqueIndex(
        "(cluster_id, kind, COALESCE(namespace, ''))",
        "A cluster has one stream for each kind and namespace.",
    )

    # === COMPUTE METHODS === #

    @api.depends("namespace")
    def _compute_scope(self):
        for stream in self:
            stream.scope = stream.namespace or self.env._("Whole cluster")
