from odoo import api, models
from odoo.exceptions import AccessError

from .. import const

# Whoever holds this object may write protected fields. It cannot be sent over RPC, so
# no user can forge an outcome, a status or a verification.
WRITER = object()


class VworkspaceProtectedMixin(models.AbstractModel):
    """Fields that only our own code may write, whatever a user's rights are."""

    _name = "vworkspace.protected.mixin"
    _description = "Fields that record what happened"

    _protected_fields: frozenset[str] = frozenset()

    @api.model
    def default_get(self, fields):
        values = super().default_get(fields)
        # A context or a user's own defaults must not forge what is protected.
        for name in self._protected_fields & values.keys():
            default = self._fields[name].default
            values[name] = default(self) if default else False
        return values

    @api.model_create_multi
    def create(self, vals_list):
        for vals in vals_list:
            self._refuse_protected(vals)
        return super().create(vals_list)

    def write(self, vals):
        self._refuse_protected(vals)
        return super().write(vals)

    def _writer(self):
        """Return the same records, allowed to write protected fields."""
        return self.sudo().with_context(
            vworkspace_writer=WRITER, tracking_disable=True, mail_notrack=True
        )

    def _notify_updated(self):
        """Tell open views which records changed: ids only, they read for themselves."""
        if self:
            self.env.ref("vworkspace_push.group_viewer")._bus_send(
                const.BUS_UPDATED, {"model": self._name, "ids": self.ids}
            )

    def _refuse_protected(self, vals):
        if self.env.context.get("vworkspace_writer") is WRITER:
            return
        if forged := vals.keys() & self._protected_fields:
            raise AccessError(
                self.env._(
                    "These fields say what happened in the cluster and cannot be "
                    "written by hand: %s",
                    ", ".join(sorted(forged)),
                )
            )
