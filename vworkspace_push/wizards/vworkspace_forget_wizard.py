import shlex

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError
from odoo.tools import format_datetime
from odoo.tools.mail import plaintext2html

from ..kube import resources
from .vworkspace_wizard import CALL_ERRORS, read_live

FORGETTABLE = ("deleting", "lost", "failed")


class VworkspaceForgetWizard(models.TransientModel):
    """Lets go of an object that cannot be deleted, and keeps what is known of it."""

    _name = "vworkspace.forget.wizard"
    _description = "Forget What Is in the Cluster"
    _inherit = ["vworkspace.wizard"]

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        readonly=True,
        ondelete="cascade",
    )
    report = fields.Text(
        compute="_compute_report", help="What may be left behind in the cluster."
    )
    reason = fields.Char()

    _protected_fields = frozenset({"instance_id"})

    # === COMPUTE METHODS === #

    @api.depends("instance_id")
    def _compute_report(self):
        for wizard in self:
            wizard.report = wizard._residue(wizard.instance_id)

    # === ACTIONS === #

    def action_forget(self):
        """Give the object up here; nothing is done in the cluster."""
        self.ensure_one()
        self._check_admin()
        instance = self.instance_id
        instance.check_access("write")
        if not (reason := (self.reason or "").strip()):
            raise UserError(self.env._("Give a reason: it is kept with the report."))
        # What is being delivered right now would come back with its outcome.
        lock_sudo = instance.sudo().delivery_lock_id
        if not lock_sudo.try_lock_for_update(allow_referencing=True):
            raise UserError(
                self.env._("A delivery is under way right now: try again in a moment.")
            )
        self._check_forgettable(instance)
        report = self.report
        instance._audit("forget", reason=reason, message=report)
        title = self.env._("Forgotten: %s", reason)
        instance.message_post(body=plaintext2html(f"{title}\n\n{report}"))
        instance._let_go(
            "deleted",
            self.env._(
                "Forgotten, not deleted. What may be left in the cluster is in the "
                "audit trail. The reason: %s",
                reason,
            ),
        )
        instance._notify_updated()
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _open_for(self, instances):
        self._check_admin()
        instances.check_access("write")
        if len(instances) != 1:
            raise UserError(self.env._("Forget one application at a time."))
        self._check_forgettable(instances)
        self._check_out_of_reach(instances)
        wizard = self._make({"instance_id": instances.id})
        return wizard._open(self.env._("Forget %s", instances.name))

    def _check_admin(self):
        if not self.env.user.has_group("vworkspace_push.group_admin"):
            raise AccessError(
                self.env._("Only an administrator may forget what is in a cluster.")
            )

    def _check_forgettable(self, instance):
        if instance.delivery_state not in FORGETTABLE:
            raise UserError(
                self.env._(
                    "Only what is being deleted, was lost or cannot be delivered is "
                    "forgotten; %s is not.",
                    instance.name,
                )
            )

    def _check_out_of_reach(self, instance):
        """Refuse while the cluster has the object and can be asked to delete it."""
        if instance.delivery_state == "lost" or not instance.uid:
            return
        try:
            live = read_live(instance)
        except CALL_ERRORS:
            return
        seen = resources.observe(live)
        if seen.uid == instance.uid and not seen.deletion_timestamp:
            raise UserError(
                self.env._(
                    "%(cluster)s answers and has %(name)s: delete it there instead.",
                    cluster=instance.cluster_id.name,
                    name=instance.name,
                )
            )

    def _residue(self, instance):
        """Return what is known of the object, as lines of text."""
        cluster, namespace = instance.cluster_id, instance.namespace_id.name
        labels = dict(instance._fields["health"]._description_selection(self.env))
        health = labels.get(instance.reported_health) or self.env._("never reported")
        if instance.status_as_of:
            as_of = format_datetime(self.env, instance.status_as_of)
            health = self.env._("%(health)s, as of %(time)s", health=health, time=as_of)
        none = self.env._("none known")
        endpoints = ", ".join(filter(None, instance.endpoint_ids.mapped("url")))
        kind = f"{instance._resource.plural}.{instance._resource.group}"
        look = ["kubectl", "get", kind, instance.name, "-n", namespace, "-o", "yaml"]
        lines = [
            (self.env._("Cluster"), f"{cluster.name} ({cluster.cluster_id})"),
            (self.env._("API server"), cluster.server_url or none),
            (self.env._("Namespace"), namespace),
            (self.env._("Object"), f"{instance._resource.kind} {instance.name}"),
            (self.env._("UID"), instance.uid or none),
            (self.env._("Last known health"), health),
            (self.env._("Finalizers"), instance.finalizers or none),
            (self.env._("Addresses"), endpoints or none),
            (self.env._("Helm release"), instance.release_name or instance.name),
            (self.env._("Applied revision"), str(instance.delivered_revision or none)),
            (self.env._("Last attempt"), instance.delivery_message or none),
            (self.env._("To look for it there"), shlex.join(look)),
        ]
        # One line each, whatever the cluster sent
        return "\n".join(f"{label}: {' '.join(text.split())}" for label, text in lines)
