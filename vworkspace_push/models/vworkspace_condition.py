from odoo import fields, models


class VworkspaceCondition(models.Model):
    _name = "vworkspace.condition"
    _description = "Condition"
    _order = "type"
    _rec_name = "type"

    instance_id = fields.Many2one(
        "vworkspace.application.instance", ondelete="cascade", index="btree_not_null"
    )
    operation_id = fields.Many2one(
        "vworkspace.operation", ondelete="cascade", index="btree_not_null"
    )
    cluster_status_id = fields.Many2one(
        "vworkspace.cluster.status", ondelete="cascade", index="btree_not_null"
    )
    type = fields.Char(required=True)
    status = fields.Selection(
        [("True", "True"), ("False", "False"), ("Unknown", "Unknown")], required=True
    )
    reason = fields.Char()
    message = fields.Text()
    last_transition_time = fields.Datetime(string="Since")
    observed_generation = fields.Integer(string="Generation")

    _one_owner = models.Constraint(
        "CHECK (num_nonnulls(instance_id, operation_id, cluster_status_id) = 1)",
        "A condition belongs to an application, an operation or a cluster.",
    )
    _instance_uniq = models.UniqueIndex(
        "(instance_id, type) WHERE instance_id IS NOT NULL",
        "An application has one condition of each type.",
    )
    _operation_uniq = models.UniqueIndex(
        "(operation_id, type) WHERE operation_id IS NOT NULL",
        "An operation has one condition of each type.",
    )
    _cluster_status_uniq = models.UniqueIndex(
        "(cluster_status_id, type) WHERE cluster_status_id IS NOT NULL",
        "A cluster has one condition of each type.",
    )
