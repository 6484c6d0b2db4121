import shlex

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError
from odoo.tools import format_datetime
from odoo.tools.mail import plaintext2html

from ..kube import resources
from .vworkspace_wizard import CALL_ERRORS, read_live

FORGETTABLE = ("pending", "deleting", "lost", "failed")


class VworkspaceForgetWizard(models.TransientModel):
    """Lets go of an object that cannot be deleted, and keeps what is known of it."""

    _name = "vworkspace.forget.wizard"
    _description = "Forget What Is in the Cluster"
    _inherit = ["vworkspace.wizard"]

    # One of the two
    instance_id = fields.Many2one(
        "vworkspace.application.instance", readonly=True, ondelete="cascade"
    )
    operation_id = fields.Many2one(
        "vworkspace.operation", readonly=True, ondelete="cascade"
    )
    report = fields.Text(
        compute="_compute_report", help="What may be left behind in the cluster."
    )
    reason = fields.Char()

    _protected_fields = frozenset({"instance_id", "operation_id"})

    # === COMPUTE METHODS === #

    @api.depends("instance_id", "operation_id")
    def _compute_report(self):
        for wizard in self:
            wizard.report = wizard._residue(wizard._record())

    # === ACTIONS === #

    def action_forget(self):
        """Give the object up here; nothing is done in the cluster."""
        self.ensure_one()
        self._check_admin()
        record = self._record()
        record.check_access("write")
        if not (reason := (self.reason or "").strip()):
            raise UserError(self.env._("Give a reason: it is kept with the report."))
        record._hold_deliveries()
        self._check_forgettable(record)
        report = self.report
        record._audit("forget", reason=reason, message=report)
        title = self.env._("Forgotten: %s", reason)
        record.message_post(body=plaintext2html(f"{title}\n\n{report}"))
        record._let_go(
            "deleted",
            self.env._(
                "Forgotten, not deleted. What may be left in the cluster is in the "
                "audit trail. The reason: %s",
                reason,
            ),
        )
        record._notify_updated()
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _record(self):
        return self.operation_id or self.instance_id

    def _open_for(self, record):
        self._check_admin()
        record.check_access("write")
        if len(record) != 1:
            raise UserError(self.env._("Forget one at a time."))
        self._check_forgettable(record)
        self._check_out_of_reach(record)
        field = next(
            name
            for name in ("instance_id", "operation_id")
            if self._fields[name].comodel_name == record._name
        )
        wizard = self._make({field: record.id})
        return wizard._open(self.env._("Forget %s", record.name))

    def _check_admin(self):
        if not self.env.user.has_group("vworkspace_push.group_admin"):
            raise AccessError(
                self.env._("Only an administrator may forget what is in a cluster.")
            )

    def _check_forgettable(self, record):
        if record.delivery_state not in FORGETTABLE and not record.may_exist:
            raise UserError(
                self.env._(
                    "Only what is being deleted, was lost or is not delivered is "
                    "forgotten; %s is not.",
                    record.name,
                )
            )

    def _check_out_of_reach(self, record):
        """Refuse while the cluster has the object and can be asked to delete it."""
        if record.delivery_state == "lost" or not record.uid:
            return
        try:
            live = read_live(record)
        except CALL_ERRORS:
            return
        seen = resources.observe(live)
        if seen.uid == record.uid and not seen.deletion_timestamp:
            raise UserError(
                self.env._(
                    "%(cluster)s answers and has %(name)s: delete it there instead.",
                    cluster=record.cluster_id.name,
                    name=record.name,
                )
            )

    def _residue(self, record):
        """Return what is known of the object, as lines of text."""
        cluster, namespace = record.cluster_id, record.namespace_id.name
        labels = dict(record._fields["health"]._description_selection(self.env))
        health = labels.get(record.reported_health) or self.env._("never reported")
        if record.status_as_of:
            as_of = format_datetime(self.env, record.status_as_of)
            health = self.env._("%(health)s, as of %(time)s", health=health, time=as_of)
        none = self.env._("none known")
        kind = f"{record._resource.plural}.{record._resource.group}"
        look = ["kubectl", "get", kind, record.name, "-n", namespace, "-o", "yaml"]
        lines = [
            (self.env._("Cluster"), f"{cluster.name} ({cluster.cluster_id})"),
            (self.env._("API server"), cluster.server_url or none),
            (self.env._("Namespace"), namespace),
            (self.env._("Object"), f"{record._resource.kind} {record.name}"),
            (self.env._("UID"), record.uid or none),
            (self.env._("Last known health"), health),
            (self.env._("Finalizers"), record.finalizers or none),
            *record._residue(),
            (self.env._("Applied revision"), str(record.delivered_revision or none)),
            (self.env._("Last attempt"), record.delivery_message or none),
            (self.env._("To look for it there"), shlex.join(look)),
        ]
        # One line each, whatever the cluster sent
        return "\n".join(f"{label}: {' '.join(text.split())}" for label, text in lines)
