from odoo import Command, fields, models

from ..kube import diff
from ..kube.errors import describe
from .vworkspace_wizard import CALL_ERRORS, look


class VworkspacePreview(models.TransientModel):
    """What deploying an application would do, as its cluster says."""

    _name = "vworkspace.preview"
    _description = "Preview of a Deployment"
    _inherit = ["vworkspace.wizard"]

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        readonly=True,
        ondelete="cascade",
    )
    effect = fields.Selection(
        [
            ("invalid", "Cannot be sent as it stands"),
            ("unknown", "The cluster did not answer"),
            ("refused", "The cluster would refuse it"),
            ("conflict", "It would stop at a conflict"),
            ("created", "It would be created"),
            ("changed", "It would be changed"),
            ("unchanged", "Nothing would change"),
        ],
        readonly=True,
    )
    message = fields.Text(readonly=True)
    warnings = fields.Text(readonly=True, string="The Cluster Warns")
    changes = fields.Text(readonly=True)
    conflict_ids = fields.One2many(
        "vworkspace.preview.conflict", "preview_id", readonly=True
    )

    _protected_fields = frozenset(
        {"instance_id", "effect", "message", "warnings", "changes", "conflict_ids"}
    )

    # === ACTIONS === #

    def action_deploy(self):
        """Deploy what was looked at."""
        self.ensure_one()
        self.instance_id.action_deploy()
        return {"type": "ir.actions.act_window_close"}

    def action_decide(self):
        """Go on to the decisions about the conflicts."""
        self.ensure_one()
        return self.instance_id.action_open_conflicts()

    # === BUSINESS METHODS === #

    def _open_for(self, instance):
        instance.ensure_one()
        instance.check_access("write")
        wizard = self._make({"instance_id": instance.id, **self._seen(instance)})
        return wizard._open(self.env._("Preview of %s", instance.name))

    def _seen(self, instance):
        """Return the values of a preview of `instance`; what is wrong here comes first.

        :rtype: dict
        """
        problems = instance._find_problems()
        if instance.delivery_state in ("deleting", "lost"):
            problems = [instance._why_not_deployable()]
        if problems:
            return {"effect": "invalid", "message": "\n".join(problems)}
        try:
            seen = look(instance)
        except CALL_ERRORS as exc:
            return {"effect": "unknown", "message": describe(exc)}
        conflicts = self.env["vworkspace.field.conflict"]
        changes = diff.changes(
            diff.clean(seen.live or {}), diff.clean(seen.result or {})
        )
        return {
            "effect": _effect(seen, changes),
            "message": seen.refusal and describe(seen.refusal),
            "warnings": "\n".join(seen.warnings) or False,
            "changes": (seen.result and diff.render(changes)) or False,
            "conflict_ids": [
                Command.create(conflicts._values(conflict))
                for conflict in seen.conflicts
            ],
        }


class VworkspacePreviewConflict(models.TransientModel):
    _name = "vworkspace.preview.conflict"
    _description = "Conflict in a Preview"
    _inherit = ["vworkspace.wizard"]
    _order = "id"

    preview_id = fields.Many2one(
        "vworkspace.preview", required=True, readonly=True, ondelete="cascade"
    )
    field = fields.Char(readonly=True)
    our_value = fields.Text(readonly=True)
    live_value = fields.Text(readonly=True, string="Value in the Cluster")
    manager = fields.Char(readonly=True, string="Other Manager")
    operation = fields.Char(readonly=True)
    since = fields.Datetime(readonly=True)

    _protected_fields = frozenset(
        {
            *("preview_id", "field", "our_value", "live_value"),
            *("manager", "operation", "since"),
        }
    )


def _effect(seen, changes):
    if seen.refusal:
        return "refused"
    if seen.conflicts:
        return "conflict"
    if seen.created:
        return "created"
    return "changed" if changes else "unchanged"
