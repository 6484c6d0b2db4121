from odoo import api, fields, models
from odoo.exceptions import ValidationError

from .. import const


class ResConfigSettings(models.TransientModel):
    _inherit = "res.config.settings"

    vworkspace_audit_retention_days = fields.Integer(
        string="Keep the Audit Trail",
        help="In days. Older entries are purged; 0 keeps them for ever.",
    )

    @api.constrains("vworkspace_audit_retention_days")
    def _check_vworkspace_audit_retention_days(self):
        if self.filtered(lambda s: s.vworkspace_audit_retention_days < 0):
            raise ValidationError(
                self.env._("The audit trail is kept for a number of days, or 0.")
            )

    # Not by `config_parameter`, which deletes the parameter when it is 0: the next
    # upgrade of the addon would make it anew, and then purge what was to be kept.

    @api.model
    def get_values(self):
        parameters_sudo = self.env["ir.config_parameter"].sudo()
        days = parameters_sudo.get_param(const.AUDIT_RETENTION_PARAMETER) or ""
        return {
            **super().get_values(),
            # Somebody may have written anything there; it must not break all settings.
            "vworkspace_audit_retention_days": int(days) if days.isdecimal() else 0,
        }

    def set_values(self):
        result = super().set_values()
        self.env["ir.config_parameter"].sudo().set_param(
            const.AUDIT_RETENTION_PARAMETER, str(self.vworkspace_audit_retention_days)
        )
        return result
