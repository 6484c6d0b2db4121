from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError

from ..kube import resources


class VworkspaceClusterNamespace(models.Model):
    _name = "vworkspace.cluster.namespace"
    _description = "Namespace of a Cluster"
    _order = "cluster_id, name"

    name = fields.Char(required=True)
    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade", index=True
    )
    company_id = fields.Many2one(related="cluster_id.company_id", store=True)

    usable = fields.Boolean(
        compute="_compute_usable", help="As of the cluster's last verification."
    )
    usable_why = fields.Char(string="Why Not", compute="_compute_usable")

    _name_uniq = models.Constraint(
        "UNIQUE (cluster_id, name)", "This namespace is listed twice."
    )

    @api.depends("name", "cluster_id.check_ids.state", "cluster_id.check_ids.key")
    def _compute_usable(self):
        for namespace in self:
            checks = namespace.cluster_id.check_ids.filtered(
                lambda c, name=namespace.name: (
                    c.key in (f"rights/{name}", f"gate/{name}")
                )
            )
            wrong = checks.filtered(lambda c: c.state in ("failed", "skipped"))
            namespace.usable = len(checks) == 2 and not wrong
            namespace.usable_why = (
                " ".join(c.seen for c in wrong)
                if checks
                else self.env._("Not verified yet.")
            )

    @api.constrains("name")
    def _check_name(self):
        for namespace in self:
            if not resources.is_dns_label(namespace.name):
                raise ValidationError(
                    self.env._(
                        '"%s" is not a namespace: at most 63 lower-case letters, '
                        "digits and dashes, beginning and ending with a letter or "
                        "digit.",
                        namespace.name,
                    )
                )

    @api.model_create_multi
    def create(self, vals_list):
        namespaces = super().create(vals_list)
        namespaces.cluster_id._notify_processes()
        return namespaces

    def write(self, vals):
        if vals.keys() & {"name", "cluster_id"}:
            self._refuse_when_used()
        clusters = self.cluster_id
        result = super().write(vals)
        (clusters | self.cluster_id)._notify_processes()
        return result

    @api.ondelete(at_uninstall=False)
    def _unlink_except_used(self):
        self._refuse_when_used()
        self.cluster_id._notify_processes()

    def _refuse_when_used(self):
        used = self.env["vworkspace.application.instance"].search_count(
            [("namespace_id", "in", self.ids), ("uid", "!=", False)], limit=1
        )
        if used:
            raise UserError(
                self.env._("An application is deployed in this namespace: it stays.")
            )
