from odoo import api, fields, models
from odoo.tools import SQL

from .. import const
from ..status import notify


class VworkspaceHealthNotice(models.Model):
    """What the followers of a record were told last, and when to look at it again.

    A table of its own, with one row per record: the status feed leaves a note here in
    its own short transaction, and telling people, which may take long, is another's.
    """

    _name = "vworkspace.health.notice"
    _description = "Health Notice"
    _log_access = False

    res_model = fields.Char(required=True)
    res_id = fields.Many2oneReference(model_field="res_model", required=True)
    told_health = fields.Char(help="None: that it is well, or nothing yet.")
    told_at = fields.Datetime()
    due_at = fields.Datetime(index="btree_not_null")

    _record_uniq = models.Constraint(
        "UNIQUE (res_model, res_id)", "A record has one notice."
    )

    # === CRONS === #

    @api.model
    def _cron_notify(self):
        notify.run_cron(self.env)

    @api.autovacuum
    def _gc_notices(self):
        """Drop what holds nothing back any more."""
        self.env.cr.execute(
            SQL(
                """DELETE FROM vworkspace_health_notice
                    WHERE due_at IS NULL AND told_health IS NULL
                      AND (told_at IS NULL OR told_at < %s)""",
                fields.Datetime.now() - const.NOTIFY_EVERY,
            )
        )
