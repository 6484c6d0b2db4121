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
        """Tell open views which records changed: ids only, they read for themselves.

        They are told once it is committed, with one message for each model.
        """
        if not self:
            return
        precommit = self.env.cr.precommit
        if const.UPDATED not in precommit.data:
            precommit.data[const.UPDATED] = {}
            precommit.add(self.env[self._name]._send_updated)
        updated = precommit.data[const.UPDATED]
        updated.setdefault(self._name, set()).update(self.ids)

    def _send_updated(self):
        viewers = self.sudo().env.ref("vworkspace_push.group_viewer")
        for model, ids in self.env.cr.precommit.data.pop(const.UPDATED).items():
            payload = {"model": model, "ids": sorted(ids)}
            if len(ids) > const.BUS_MAX_IDS:
                payload = {"model": model, "ids": [], "any": True}
            viewers._bus_send(const.BUS_UPDATED, payload)

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
