from odoo import fields, models


class VworkspaceClusterCheck(models.Model):
    """One line of a cluster's verification: what was looked at, seen, and to be done.

    Written by `verification` alone, line by line while it runs.
    """

    _name = "vworkspace.cluster.check"
    _description = "Verification of a Cluster"
    _order = "sequence, key"
    _rec_name = "title"
    _log_access = False

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade", index=True
    )
    sequence = fields.Integer(default=0)
    key = fields.Char(required=True)
    title = fields.Char(string="Check", required=True)
    state = fields.Selection(
        [
            ("ok", "OK"),
            ("warning", "Look"),
            ("failed", "Failed"),
            ("skipped", "Skipped"),
        ],
        required=True,
    )
    required = fields.Boolean()
    seen = fields.Text(string="What Was Seen")
    todo = fields.Text(string="What to Do")
    excess = fields.Text(help="Rights beyond what the connector needs, one per line.")
    missing = fields.Text(help="Rights that the connector needs and lacks.")

    _key_uniq = models.Constraint(
        "UNIQUE (cluster_id, key)", "One line for each check."
    )

    # === BUSINESS METHODS === #

    def _excess_lines(self):
        """Return the excess rights, each with the namespace that it holds in.

        :rtype: list[str]
        """
        _kind, _slash, namespace = self.key.partition("/")
        rights = (self.excess or "").splitlines()
        return [f"{right} in {namespace}" if namespace else right for right in rights]
