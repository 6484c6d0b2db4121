import json

from odoo import Command, api, fields, models
from odoo.exceptions import UserError

from ..kube import diff, ownership
from ..kube.errors import describe
from ..kube.values import ValuesError
from .vworkspace_wizard import CALL_ERRORS, look

DECISIONS = [
    ("take_over", "Take over"),
    ("leave", "Leave"),
    ("accept", "Accept"),
]


class VworkspaceConflictWizard(models.TransientModel):
    """Decisions about fields that we apply and others own, one for each field.

    The conflicts are those that the cluster names when it is asked, not those that the
    last delivery met.
    """

    _name = "vworkspace.conflict.wizard"
    _description = "Decisions About Conflicts"
    _inherit = ["vworkspace.wizard"]

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        readonly=True,
        ondelete="cascade",
    )
    line_ids = fields.One2many("vworkspace.conflict.line", "wizard_id")
    notice = fields.Text(readonly=True, help="What changed since it was looked at.")
    refusal = fields.Text(readonly=True)
    is_cut = fields.Boolean(readonly=True)
    decision_for_all = fields.Selection(DECISIONS, string="Decide for All")
    reason_for_all = fields.Char(string="Reason for All")
    effect = fields.Text(compute="_compute_effect", string="In the Cluster")
    form_effect = fields.Text(compute="_compute_effect", string="In This Form")
    objections = fields.Text(compute="_compute_objections")
    # Objects as JSON: what is there, and what taking everything over would give
    live = fields.Text(readonly=True, groups=fields.NO_ACCESS)
    result = fields.Text(readonly=True, groups=fields.NO_ACCESS)

    _protected_fields = frozenset(
        {"instance_id", "notice", "refusal", "is_cut", "live", "result"}
    )

    # === COMPUTE METHODS === #

    @api.depends("line_ids.decision")
    def _compute_effect(self):
        for wizard in self:
            live = wizard._live()
            ours = wizard._ours()
            after, accepted = ours, []
            for line in wizard.line_ids:
                field = line._origin.field
                our_value = ownership.value_at(ours, field)
                live_value = ownership.value_at(live, field)
                if line.decision != "take_over":
                    after = _with_value(after, field, live_value)
                if line.decision == "accept" and not line.objection:
                    accepted.append(diff.Change(field, our_value, live_value))
            changes = diff.changes(diff.clean(live), diff.clean(after))
            wizard.effect = diff.render(changes) or False
            wizard.form_effect = diff.render(accepted) or False

    @api.depends("line_ids.objection")
    def _compute_objections(self):
        for wizard in self:
            objections = filter(None, wizard.line_ids.mapped("objection"))
            wizard.objections = "\n".join(objections) or False

    def _live(self):
        return json.loads(self._origin.sudo().live or "{}")

    def _ours(self):
        """Return the object as it would be if everything were taken over."""
        if result := self._origin.sudo().result:
            return json.loads(result)
        # Even that is refused as it stands: nothing but the conflicts can be told.
        ours, manifest = self._live(), self._origin._manifest()
        for field in self._origin.line_ids.mapped("field"):
            ours = _with_value(ours, field, ownership.value_at(manifest, field))
        return ours

    def _manifest(self):
        try:
            return self.instance_id._whole_manifest()
        except ValuesError:  # somebody broke them meanwhile
            return {}

    # === ONCHANGE METHODS === #

    @api.onchange("decision_for_all")
    def _onchange_decision_for_all(self):
        if self.decision_for_all:
            self.line_ids.decision = self.decision_for_all

    @api.onchange("reason_for_all")
    def _onchange_reason_for_all(self):
        if self.reason_for_all:
            self.line_ids.reason = self.reason_for_all

    # === ACTIONS === #

    def action_apply(self):
        """Carry out the decisions, if the cluster is still as it was shown."""
        self.ensure_one()
        self.instance_id.check_access("write")
        self._check_decided()
        if changed := self._look():
            self._writer().notice = self.env._(
                "The cluster or the form changed meanwhile: %s. Nothing was done. Look "
                "at what is new, and decide again.",
                ", ".join(changed[:10]),
            )
            return self._open_again()
        if self.objections:
            raise UserError(self.objections)
        self.instance_id._decide(
            {
                line.field: {
                    "decision": line.decision,
                    "reason": line.reason,
                    "manager": line.manager,
                }
                for line in self.line_ids
            },
            self._live(),
        )
        return {"type": "ir.actions.act_window_close"}

    def action_deploy(self):
        """Deploy what has no conflict any more."""
        self.ensure_one()
        self.instance_id.action_send_again()
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _open_for(self, instance):
        instance.ensure_one()
        instance.check_access("write")
        if problems := instance._find_problems():
            raise UserError("\n".join([f"{instance.name}:", *problems]))
        if not instance.uid or instance.delivery_state in ("deleted", "lost"):
            raise UserError(
                self.env._(
                    "%s is not in its cluster: there is nothing to decide.",
                    instance.name,
                )
            )
        wizard = self._make({"instance_id": instance.id})
        wizard._look()
        return wizard._open_again()

    def _open_again(self):
        title = self.env._("Conflicts of %s", self.instance_id.name)
        return self._open(title, size="extra-large")

    def _look(self):
        """Read the conflicts from the cluster, and keep the decisions that still fit.

        :return: the fields that are in another state than what was shown
        :rtype: list[str]
        :raise UserError: when the cluster has no answer
        """
        try:
            seen = look(self.instance_id)
        except CALL_ERRORS as exc:
            raise UserError(describe(exc)) from None
        if seen.refusal and not seen.conflicts:
            raise UserError(describe(seen.refusal))
        before, known = self._live(), {line.field: line for line in self.line_ids}
        rows = _rows(self.env["vworkspace.field.conflict"], seen.conflicts)
        changed = known.keys() ^ rows.keys()
        for field in known.keys() & rows.keys():
            row, line = rows[field], known[field]
            was, now = (ownership.value_at(obj, field) for obj in (before, seen.live))
            if was == now and all(
                (line[name] or "") == row[name] for name in ("our_value", "manager")
            ):
                row |= {"decision": line.decision, "reason": line.reason}
            else:
                changed.add(field)
        self._writer().write(
            {
                "notice": False,
                "refusal": seen.refusal and describe(seen.refusal),
                "is_cut": len(seen.conflicts) >= ownership.MAX_CONFLICTS,
                "live": _json({k: v for k, v in seen.live.items() if k != "status"}),
                "result": seen.result and _json(diff.clean(seen.result)),
                "line_ids": [
                    Command.clear(),
                    *(Command.create(row) for row in rows.values()),
                ],
            }
        )
        return sorted(changed)

    def _check_decided(self):
        if undecided := self.line_ids.filtered(lambda l: not l.decision):
            raise UserError(
                self.env._(
                    "Decide about every field first; open: %s",
                    ", ".join(undecided[:10].mapped("field")),
                )
            )
        if silent := self.line_ids.filtered(lambda l: not (l.reason or "").strip()):
            raise UserError(
                self.env._(
                    "Give a reason for every decision; missing: %s",
                    ", ".join(silent[:10].mapped("field")),
                )
            )


class VworkspaceConflictLine(models.TransientModel):
    _name = "vworkspace.conflict.line"
    _description = "Decision About a Field"
    _inherit = ["vworkspace.wizard"]
    _order = "id"
    _rec_name = "field"

    wizard_id = fields.Many2one(
        "vworkspace.conflict.wizard", required=True, readonly=True, ondelete="cascade"
    )
    field = fields.Char(readonly=True)
    our_value = fields.Text(readonly=True)
    live_value = fields.Text(readonly=True, string="Value in the Cluster")
    manager = fields.Char(readonly=True, string="Other Manager")
    operation = fields.Char(readonly=True)
    since = fields.Datetime(readonly=True)
    decision = fields.Selection(
        DECISIONS,
        help="Take over: our value, and we own the field alone. Leave: we do not send "
        "it any more. Accept: the value in the cluster comes into this form, and both "
        "own it.",
    )
    reason = fields.Char()
    objection = fields.Char(compute="_compute_objection", string="Not Possible")

    _protected_fields = frozenset(
        {
            *("wizard_id", "field", "our_value", "live_value"),
            *("manager", "operation", "since"),
        }
    )

    @api.depends("decision")
    def _compute_objection(self):
        wizards = self._origin.wizard_id
        live = {wizard: wizard._live() for wizard in wizards}
        manifests = {wizard: wizard._manifest() for wizard in wizards}
        for line in self:
            wizard = line._origin.wizard_id
            line.objection = False
            if not line.decision:
                continue
            try:
                wizard.instance_id._check_decision(
                    line._origin.field, line.decision, live[wizard], manifests[wizard]
                )
            except UserError as exc:
                line.objection = str(exc)


def _rows(model, conflicts):
    """Return the values of a line for each field; several may own the same one.

    :param model: `vworkspace.field.conflict`, which knows how to say one
    """
    rows = {}
    for conflict in conflicts:
        values = model._values(conflict)
        if row := rows.get(conflict.field):
            row["manager"] = f"{row['manager']}, {conflict.manager}"
            since = values["since"]
            row["since"] = max(row["since"] or since, since or row["since"])
        else:
            rows[conflict.field] = values
    return rows


def _with_value(obj, field, value):
    try:
        return ownership.with_value(obj, field, value)
    except ValueError:  # of an item of a list that is not in both
        return obj


def _json(obj):
    return json.dumps(obj, ensure_ascii=False, separators=(",", ":"))
