from odoo import fields, models


class VworkspaceCondition(models.Model):
    _name = "vworkspace.condition"
    _description = "Condition"
    _order = "type"
    _rec_name = "type"

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        ondelete="cascade",
        index=True,
    )
    company_id = fields.Many2one(related="instance_id.company_id")
    type = fields.Char(required=True)
    status = fields.Selection(
        [("True", "True"), ("False", "False"), ("Unknown", "Unknown")], required=True
    )
    reason = fields.Char()
    message = fields.Text()
    last_transition_time = fields.Datetime(string="Since")
    observed_generation = fields.Integer(string="Generation")

    _type_uniq = models.Constraint(
        "UNIQUE (instance_id, type)", "A resource has one condition of each type."
    )
