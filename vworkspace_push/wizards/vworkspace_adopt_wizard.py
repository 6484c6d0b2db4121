from odoo import Command, fields, models
from odoo.exceptions import UserError

from ..kube import diff, ownership, resources
from ..kube.errors import describe
from .vworkspace_wizard import CALL_ERRORS, OF_THE_CLUSTER, read_live

MAX_RECORDS = 50  # that one dialog reads from their clusters
MAX_LINES = 500


class VworkspaceAdoptWizard(models.TransientModel):
    """Shows which fields would become ours, before their ownership is moved."""

    _name = "vworkspace.adopt.wizard"
    _description = "Adopt Ownership"
    _inherit = ["vworkspace.wizard"]

    instance_ids = fields.Many2many("vworkspace.application.instance", readonly=True)
    line_ids = fields.One2many(
        "vworkspace.adopt.line", "wizard_id", string="Would Become Ours", readonly=True
    )
    differences = fields.Text(
        readonly=True, help="What the next deployment would change in the cluster."
    )
    notes = fields.Text(readonly=True)

    _protected_fields = frozenset({"instance_ids", "line_ids", "differences", "notes"})

    # === ACTIONS === #

    def action_adopt(self):
        """Move the ownership; no value changes."""
        self.ensure_one()
        self.instance_ids.action_adopt()
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _open_for(self, instances):
        instances.check_access("write")
        if len(instances) > MAX_RECORDS:
            raise UserError(
                self.env._(
                    "Choose at most %s applications: each is read from its cluster.",
                    MAX_RECORDS,
                )
            )
        rows, differences, notes, adoptable = [], [], [], instances.browse()
        silent = {}  # why a cluster did not answer
        for instance in instances:
            try:
                live, manifest = self._read(instance, silent)
            except CALL_ERRORS as exc:
                notes.append(f"{instance.name}: {describe(exc)}")
                continue
            wanted = ownership.adoption(live, manifest)
            if wanted is None:
                notes.append(
                    self.env._(
                        "%s: there is nothing to adopt; the managers of Pull mode own "
                        "none of its fields.",
                        instance.name,
                    )
                )
                continue
            adoptable |= instance
            rows += _rows(instance, wanted.moved, live, manifest)
            differences += _differences(instance, live, manifest)
        if len(rows) > MAX_LINES:
            more = self.env._("%s more fields are not shown.", len(rows) - MAX_LINES)
            notes.append(more)
        wizard = self._make(
            {
                "instance_ids": adoptable.ids,
                "line_ids": [Command.create(row) for row in rows[:MAX_LINES]],
                "differences": "\n".join(differences) or False,
                "notes": "\n".join(notes) or False,
            }
        )
        return wizard._open(self.env._("Adopt Ownership"), size="extra-large")

    def _read(self, instance, silent):
        """Return the live object and what we would apply.

        :raise Exception: one of `CALL_ERRORS`; why it cannot be adopted
        """
        if not instance.uid or instance.delivery_state in ("deleted", "lost"):
            raise UserError(self.env._("It is not in its cluster."))
        if problems := instance._find_problems():
            raise UserError(" ".join(problems))
        if instance.cluster_id in silent:
            raise silent[instance.cluster_id]
        try:
            live = read_live(instance)
        except OF_THE_CLUSTER as exc:
            silent[instance.cluster_id] = exc
            raise
        if resources.metadata_text(live, "uid") != instance.uid:
            raise UserError(self.env._("Another object has this name there now."))
        return live, instance._build_manifest()


class VworkspaceAdoptLine(models.TransientModel):
    _name = "vworkspace.adopt.line"
    _description = "Field to Adopt"
    _inherit = ["vworkspace.wizard"]
    _order = "id"
    _rec_name = "field"

    wizard_id = fields.Many2one(
        "vworkspace.adopt.wizard", required=True, readonly=True, ondelete="cascade"
    )
    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        string="Application",
        readonly=True,
        ondelete="cascade",
    )
    field = fields.Char(readonly=True)
    manager = fields.Char(readonly=True, string="Owned by Now")
    live_value = fields.Text(readonly=True, string="Value in the Cluster")
    our_value = fields.Text(readonly=True)
    differs = fields.Boolean(readonly=True)

    _protected_fields = frozenset(
        {
            *("wizard_id", "instance_id", "field", "manager"),
            *("live_value", "our_value", "differs"),
        }
    )


def _rows(instance, moved, live, manifest):
    for field, manager in moved:
        theirs, ours = (ownership.value_at(obj, field) for obj in (live, manifest))
        yield {
            "instance_id": instance.id,
            "field": field,
            "manager": manager,
            "live_value": diff.text(theirs, field),
            "our_value": diff.text(ours, field),
            "differs": theirs != ours,
        }


def _differences(instance, live, manifest):
    """Return lines: the application, and what applying it would change."""
    changes = [
        change
        for change in diff.changes(diff.clean(live), manifest)
        if change.new is not diff.ABSENT
    ]
    if not changes:
        return []
    cluster, namespace = instance.cluster_id.name, instance.namespace_id.name
    where = f"{instance.name} ({cluster}, {namespace})"
    return [where, *diff.render(changes).splitlines()]
