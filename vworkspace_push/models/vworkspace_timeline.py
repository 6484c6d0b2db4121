from datetime import timedelta

from odoo import api, fields, models
from odoo.tools import SQL

KINDS = [
    ("health", "Health"),
    ("condition", "Condition"),
    ("delivery", "Delivery"),
    ("person", "Person"),
    ("seen", "Seen in the Cluster"),
]
DELIVERIES = ("deploy", "delete", "adopt", "heal")  # actions of the audit trail

LATE = timedelta(minutes=1)  # from when it is worth saying when it was recorded
MAX_ROWS = 1000  # that one call returns


class VworkspaceTimeline(models.Model):
    """What happened to a record: its transitions, and the audit trail between them.

    A transition happened when its cluster says so. That is told in whole seconds, so
    it is put at the end of its second: what caused it came before.
    """

    _name = "vworkspace.timeline"
    _description = "Timeline"
    _order = "date desc, id desc"
    _auto = False
    _rec_name = "title"

    date = fields.Datetime(readonly=True, string="When")
    recorded_at = fields.Datetime(readonly=True, string="Recorded")
    kind = fields.Selection(KINDS, readonly=True)
    res_model = fields.Char(string="Model", readonly=True)
    res_id = fields.Many2oneReference(
        string="Record", model_field="res_model", readonly=True
    )
    cluster_id = fields.Many2one("vworkspace.cluster", readonly=True)
    company_id = fields.Many2one("res.company", readonly=True)
    subject = fields.Char(string="Object", readonly=True)
    title = fields.Char(readonly=True)
    status = fields.Char(readonly=True)
    previous_status = fields.Char(readonly=True)
    reason = fields.Char(readonly=True)
    message = fields.Text(readonly=True)
    generation = fields.Integer(readonly=True, aggregator=None)
    user_id = fields.Many2one("res.users", string="Who", readonly=True)

    # What a person reads for the codes above
    what = fields.Char(compute="_compute_texts")
    before = fields.Char(compute="_compute_texts")
    now = fields.Char(compute="_compute_texts")

    @property
    def _table_query(self):
        return SQL(" UNION ALL ").join(
            [
                self._transitions(
                    "vworkspace.application.instance",
                    "instance_id",
                    SQL("subject.id = t.instance_id"),
                ),
                self._transitions(
                    "vworkspace.operation",
                    "operation_id",
                    SQL("subject.id = t.operation_id"),
                ),
                self._transitions(
                    "vworkspace.cluster",
                    "cluster_id",
                    SQL(
                        "subject.id = t.cluster_id"
                        " AND t.instance_id IS NULL AND t.operation_id IS NULL"
                    ),
                ),
                self._entries(),
            ]
        )

    def _transitions(self, model, column, join):
        # Even ids are transitions, odd ones audit entries.
        return SQL(
            """SELECT t.id * 2 AS id,
                      LEAST(t.at, t.create_date) + interval '999 ms' AS date,
                      t.create_date AS recorded_at,
                      CASE WHEN t.type = 'Health' THEN 'health' ELSE 'condition' END
                          AS kind,
                      %(model)s::varchar AS res_model,
                      t.%(column)s AS res_id,
                      t.cluster_id AS cluster_id,
                      cluster.company_id AS company_id,
                      subject.name::varchar AS subject,
                      t.type::varchar AS title,
                      t.status::varchar AS status,
                      t.previous_status::varchar AS previous_status,
                      t.reason::varchar AS reason,
                      t.message::text AS message,
                      t.generation AS generation,
                      NULL::integer AS user_id
                 FROM vworkspace_transition t
                 JOIN vworkspace_cluster cluster ON cluster.id = t.cluster_id
                 JOIN %(table)s subject ON %(join)s""",
            model=model,
            column=SQL.identifier(column),
            table=SQL.identifier(self.env[model]._table),
            join=join,
        )

    def _entries(self):
        return SQL(
            """SELECT a.id * 2 + 1 AS id,
                      a.date AS date,
                      a.date AS recorded_at,
                      CASE WHEN a.action IN %(deliveries)s THEN 'delivery'
                           WHEN a.action = 'observe' THEN 'seen'
                           ELSE 'person' END AS kind,
                      a.res_model::varchar AS res_model,
                      a.res_id AS res_id,
                      a.cluster_id AS cluster_id,
                      a.company_id AS company_id,
                      a.res_name::varchar AS subject,
                      a.action::varchar AS title,
                      a.outcome::varchar AS status,
                      NULL::varchar AS previous_status,
                      a.reason::varchar AS reason,
                      a.message::text AS message,
                      NULL::integer AS generation,
                      a.user_id AS user_id
                 FROM vworkspace_audit_entry a""",
            deliveries=DELIVERIES,
        )

    # === COMPUTE METHODS === #

    @api.depends("kind", "title", "status", "previous_status")
    def _compute_texts(self):
        entries = self.env["vworkspace.audit.entry"]._fields
        instances = self.env["vworkspace.application.instance"]._fields
        actions = dict(entries["action"]._description_selection(self.env))
        outcomes = dict(entries["outcome"]._description_selection(self.env))
        healths = dict(instances["health"]._description_selection(self.env))
        for row in self:
            # A condition is told in the cluster's own words.
            told = {"health": healths, "condition": {}}.get(row.kind, outcomes)
            is_entry = told is outcomes
            row.what = actions.get(row.title, row.title) if is_entry else row.title
            row.now = told.get(row.status, row.status)
            row.before = told.get(row.previous_status, row.previous_status)

    # === BUSINESS METHODS === #

    @api.model
    def _page(self, subjects, *, kind, limit):
        """Return the newest rows about some records, for the tab of a form.

        :param subjects: ids by model
        :param str kind: one of KINDS, or ``all``
        :return: ``rows``, and whether there are ``more``
        :rtype: dict
        """
        limit = max(1, min(int(limit), MAX_ROWS))
        domain = fields.Domain.OR(
            fields.Domain("res_model", "=", model) & fields.Domain("res_id", "in", ids)
            for model, ids in subjects.items()
        )
        if kind != "all":
            domain &= fields.Domain("kind", "=", kind)
        found = self.search_fetch(
            domain, [n for n, f in self._fields.items() if f.store], limit=limit + 1
        )
        return {
            "rows": [row._values() for row in found[:limit]],
            "more": len(found) > limit,
        }

    def _values(self):
        return {
            "id": self.id,
            "kind": self.kind,
            "date": self.date,
            "recorded_at": self.recorded_at - self.date > LATE and self.recorded_at,
            "title": self.what,
            "about": self.res_model == "vworkspace.operation" and self.subject,
            "status": self.status,
            "status_label": self.now,
            "previous_label": self.before,
            "reason": self.reason,
            "message": self.message,
            "user": self.user_id.sudo().name,
        }
