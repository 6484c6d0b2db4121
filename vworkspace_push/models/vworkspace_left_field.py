from odoo import fields, models


class VworkspaceLeftField(models.Model):
    """A field that was left to another manager: it is not sent any more."""

    _name = "vworkspace.left.field"
    _description = "Field Left to Another Manager"
    _order = "field, id"
    _rec_name = "field"

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        ondelete="cascade",
        index=True,
    )
    company_id = fields.Many2one(related="instance_id.company_id")
    field = fields.Char(required=True)
    manager = fields.Char(string="Left To")
    reason = fields.Char()
    user_id = fields.Many2one("res.users", string="Decided By")
    date = fields.Datetime(default=fields.Datetime.now)

    _field_uniq = models.Constraint(
        "UNIQUE (instance_id, field)", "This field is left to somebody already."
    )

    def action_claim_again(self):
        """Take the field back into what is sent, from the next deployment on."""
        self.instance_id.check_access("write")
        for left in self:
            left.instance_id._audit("claim_field", message=left.field)
        self.sudo().unlink()
        return True
