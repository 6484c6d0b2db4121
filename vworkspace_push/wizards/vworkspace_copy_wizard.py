from odoo import api, fields, models


class VworkspaceCopyWizard(models.TransientModel):
    """Copies an application to another place, as a draft."""

    _name = "vworkspace.copy.wizard"
    _description = "Deploy a Copy To"
    _inherit = ["vworkspace.wizard"]

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        readonly=True,
        ondelete="cascade",
    )
    cluster_id = fields.Many2one(
        "vworkspace.cluster",
        ondelete="cascade",
        domain=[("connectivity_mode", "=", "push")],
    )
    namespace_id = fields.Many2one(
        "vworkspace.cluster.namespace",
        compute="_compute_namespace_id",
        store=True,
        readonly=False,
        ondelete="cascade",
        domain="[('cluster_id', '=', cluster_id)]",
    )
    name = fields.Char()

    _protected_fields = frozenset({"instance_id"})

    # === COMPUTE METHODS === #

    @api.depends("cluster_id")
    def _compute_namespace_id(self):
        for wizard in self:
            wanted = wizard.instance_id.namespace_id.name
            namespaces = wizard.cluster_id.namespace_ids
            same = namespaces.filtered(lambda n, name=wanted: n.name == name)
            only = namespaces if len(namespaces) == 1 else namespaces.browse()
            wizard.namespace_id = same or only

    # === ACTIONS === #

    def action_copy(self):
        """Make the draft and open it."""
        self.ensure_one()
        original = self.instance_id
        original.check_access("read")
        name = (self.name or "").strip()
        is_same_name = name == original.name
        copied = original.copy(
            {
                "name": name,
                "cluster_id": self.cluster_id.id,
                "namespace_id": self.namespace_id.id,
                "release_name": original.release_name if is_same_name else False,
            }
        )
        return copied._get_records_action(context={})

    # === BUSINESS METHODS === #

    def _open_for(self, instance):
        instance.ensure_one()
        instance.check_access("read")
        instance.check_access("create")
        # The place is chosen: where it runs already is the one place to keep out of.
        wizard = self._make({"instance_id": instance.id, "name": instance.name})
        return wizard._open(self.env._("Deploy a Copy of %s To…", instance.name))
