from odoo import fields, models

from ..kube import resources


class VworkspaceCapability(models.Model):
    """What an application can do, and by which engine: an annotation on its object.

    The operator refuses an operation whose capability its target does not have.
    """

    _name = "vworkspace.capability"
    _description = "Capability of an Application"
    _order = "capability, id"
    _rec_name = "capability"

    instance_id = fields.Many2one(
        "vworkspace.application.instance", ondelete="cascade", index="btree_not_null"
    )
    catalog_entry_id = fields.Many2one(
        "vworkspace.catalog.entry", ondelete="cascade", index="btree_not_null"
    )
    capability = fields.Selection(
        [(name, name) for name in resources.CAPABILITIES], required=True
    )
    engine = fields.Char(
        required=True, help="What does it there, such as velero or helm."
    )

    _one_owner = models.Constraint(
        "CHECK (num_nonnulls(instance_id, catalog_entry_id) = 1)",
        "A capability belongs to an application or to a catalog entry.",
    )
    _instance_uniq = models.UniqueIndex(
        "(instance_id, capability) WHERE instance_id IS NOT NULL",
        "An application has each capability once.",
    )
    _entry_uniq = models.UniqueIndex(
        "(catalog_entry_id, capability) WHERE catalog_entry_id IS NOT NULL",
        "A catalog entry has each capability once.",
    )

    # === CRUD METHODS === #

    def write(self, vals):
        result = super().write(vals)
        if vals.keys() & {"instance_id", "catalog_entry_id"}:
            self.check_access("write")  # its new owner may be out of reach
        return result
