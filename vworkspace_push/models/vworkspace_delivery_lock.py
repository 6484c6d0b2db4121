from odoo import models


class VworkspaceDeliveryLock(models.Model):
    """One row per managed record, locked by the process that is delivering it.

    Delivery holds this row's lock during an API call. It does not lock the record
    itself, so a slow API server holds up neither the user who edits the record nor the
    status that arrives for it; and PostgreSQL frees the lock when its holder dies.
    """

    _name = "vworkspace.delivery.lock"
    _description = "Delivery Lock"
    _log_access = False
