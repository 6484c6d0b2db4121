from datetime import timedelta

from odoo import SUPERUSER_ID, api, fields, models
from odoo.tools import SQL

from .. import const, times
from ..rows import as_json

PURGE_BATCH = 10_000  # rows that one run of the vacuum takes at a time


class VworkspaceTransition(models.Model):
    """What changed in what a cluster reports, one row for each change.

    A condition that appeared, changed its status or its reason, or disappeared; and
    the health that followed from them, as the type "Health".
    """

    _name = "vworkspace.transition"
    _description = "Transition"
    _order = "at desc, id desc"
    _rec_name = "type"

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade", index=True
    )
    instance_id = fields.Many2one(
        "vworkspace.application.instance", ondelete="cascade", index="btree_not_null"
    )
    operation_id = fields.Many2one(
        "vworkspace.operation", ondelete="cascade", index="btree_not_null"
    )
    type = fields.Char(required=True)
    status = fields.Char(help="Empty: it is not reported any more.")
    previous_status = fields.Char(help="Empty: it was not reported before.")
    reason = fields.Char()
    message = fields.Text()
    at = fields.Datetime(
        string="Since", required=True, help="When it changed, by the cluster's clock."
    )
    generation = fields.Integer(aggregator=None)

    _recorded_idx = models.Index("(create_date)")

    # === BUSINESS METHODS === #

    @api.model
    def _add(self, rows):
        """Insert transitions, in one statement.

        :param list[dict] rows: values by field
        """
        if not rows:
            return
        uid = self.env.uid or SUPERUSER_ID
        self.env.cr.execute(
            f"""INSERT INTO {self._table} (
                            cluster_id, instance_id, operation_id, type, status,
                            previous_status, reason, message, at, generation,
                            create_uid, create_date)
                     SELECT new.*, %s, %s
                       FROM json_to_recordset(%s) AS new (
                            cluster_id int, instance_id int, operation_id int,
                            type varchar, status varchar, previous_status varchar,
                            reason varchar, message text, at timestamp,
                            generation int)""",  # noqa: S608 the name of our own table
            [uid, times.now(self.env), as_json(rows)],
            log_exceptions=False,
        )

    @api.autovacuum
    def _gc_transitions(self):
        """Purge what the retention of the audit trail does not cover; 0: nothing."""
        parameters = self.env["ir.config_parameter"].sudo()
        days = parameters.get_param(const.AUDIT_RETENTION_PARAMETER) or "0"
        if not days.isdecimal() or not int(days):
            return 0, 0
        self.env.cr.execute(
            SQL(
                """DELETE FROM vworkspace_transition
                    WHERE id IN (SELECT id FROM vworkspace_transition
                                  WHERE create_date < %s ORDER BY create_date LIMIT %s)
                """,
                fields.Datetime.now() - timedelta(days=int(days)),
                PURGE_BATCH,
            )
        )
        done = self.env.cr.rowcount
        return done, PURGE_BATCH if done == PURGE_BATCH else 0
