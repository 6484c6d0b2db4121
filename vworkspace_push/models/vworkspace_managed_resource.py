import json

from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError

from .. import const
from ..delivery import deliver
from ..kube import resources
from ..status import sink


class VworkspaceManagedResource(models.AbstractModel):
    """What an object in a cluster has in common, whatever its kind.

    Three groups of fields, each written by one part of the code: users write what is
    desired; delivery writes what was asked of the cluster and how that ended; the sink
    writes what the cluster reports. `action_deploy` turns what is desired into an
    intent: a manifest with a revision, which delivery then brings to the cluster.
    """

    _name = "vworkspace.managed.resource"
    _description = "Managed Resource"
    _inherit = [
        "vworkspace.protected.mixin",
        "mail.thread",
        "mail.activity.mixin",
    ]
    _order = "name, id"

    # The concrete model says which kind of object it is.
    _resource: resources.Resource = None
    # Fields that a user edits and that make up the manifest
    _desired_fields: frozenset[str] = frozenset()

    name = fields.Char(
        required=True,
        tracking=True,
        help="The object's name in the cluster. It cannot change once deployed.",
    )
    cluster_id = fields.Many2one(
        "vworkspace.cluster",
        required=True,
        ondelete="restrict",
        index=True,
        tracking=True,
        domain=[("connectivity_mode", "=", "push")],
    )
    namespace_id = fields.Many2one(
        "vworkspace.cluster.namespace",
        required=True,
        ondelete="restrict",
        index=True,
        tracking=True,
        domain="[('cluster_id', '=', cluster_id)]",
    )
    company_id = fields.Many2one(related="cluster_id.company_id", store=True)
    problems = fields.Text(
        compute="_compute_problems",
        help="What keeps this from being deployed as it stands.",
    )

    # Intent: what was asked of the cluster
    intent_manifest = fields.Text(readonly=True, copy=False)
    intent_revision = fields.Integer(readonly=True, copy=False)
    intent_user_id = fields.Many2one("res.users", readonly=True, copy=False)
    intent_date = fields.Datetime(readonly=True, copy=False)
    is_changed = fields.Boolean(
        compute="_compute_is_changed",
        string="Changed Since",
        help="What you see here differs from what was last deployed.",
    )

    # Delivered: how that ended
    delivery_state = fields.Selection(
        const.DELIVERY_STATES,
        default="draft",
        required=True,
        readonly=True,
        copy=False,
        index=True,
        string="Delivery",
    )
    delivery_message = fields.Text(readonly=True, copy=False)
    delivery_attempts = fields.Integer(readonly=True, copy=False)
    next_attempt_at = fields.Datetime(readonly=True, copy=False)
    delivered_revision = fields.Integer(readonly=True, copy=False)
    delivered_at = fields.Datetime(readonly=True, copy=False)
    delivery_warnings = fields.Text(readonly=True, copy=False)
    delivery_lock_id = fields.Many2one(
        "vworkspace.delivery.lock", readonly=True, copy=False, ondelete="restrict"
    )
    uid = fields.Char(string="UID", readonly=True, copy=False, index=True)
    resource_version = fields.Char(readonly=True, copy=False)
    generation = fields.Integer(readonly=True, copy=False)

    # Observed: what the cluster reports
    health = fields.Selection(
        const.HEALTH_STATES,
        readonly=True,
        copy=False,
        index=True,
        falsy_value_label="Not deployed",
    )
    health_message = fields.Char(readonly=True, copy=False)
    # What the cluster said last: `health` is unknown while that is out of date.
    reported_health = fields.Selection(const.HEALTH_STATES, readonly=True, copy=False)
    observed_resource_version = fields.Char(readonly=True, copy=False)
    observed_generation = fields.Integer(readonly=True, copy=False)
    status_as_of = fields.Datetime(
        readonly=True,
        copy=False,
        help="When this status was read from the cluster.",
    )
    last_reconcile_time = fields.Datetime(readonly=True, copy=False)

    _protected_fields = frozenset(
        {
            *("intent_manifest", "intent_revision", "intent_user_id", "intent_date"),
            *("delivery_state", "delivery_message", "delivery_attempts"),
            *("next_attempt_at", "delivered_revision", "delivered_at"),
            *("delivery_warnings", "delivery_lock_id"),
            *("uid", "resource_version", "generation"),
            *("health", "reported_health", "health_message"),
            *("status_as_of", "last_reconcile_time"),
            *("observed_resource_version", "observed_generation"),
        }
    )

    # === COMPUTE METHODS === #

    @api.depends(lambda self: sorted(self._desired_fields))
    def _compute_problems(self):
        for record in self:
            record.problems = "\n".join(record._find_problems()) or False

    @api.depends(lambda self: [*sorted(self._desired_fields), "intent_manifest"])
    def _compute_is_changed(self):
        for record in self:
            record.is_changed = bool(
                record.intent_manifest
                and record._find_problems() == []
                and record._build_manifest() != json.loads(record.intent_manifest)
            )

    # === CONSTRAINT METHODS === #

    @api.constrains("cluster_id", "namespace_id")
    def _check_namespace(self):
        for record in self:
            if record.namespace_id.cluster_id != record.cluster_id:
                raise ValidationError(
                    self.env._(
                        "%(namespace)s is not a namespace of %(cluster)s. Choose one "
                        "of the cluster's own, or list it on the cluster's form.",
                        namespace=record.namespace_id.name,
                        cluster=record.cluster_id.name,
                    )
                )

    # === CRUD METHODS === #

    @api.model_create_multi
    def create(self, vals_list):
        records = super().create(vals_list)
        locks_sudo = self.env["vworkspace.delivery.lock"].sudo()
        locks_sudo = locks_sudo.create([{} for _record in records])
        for record, lock_sudo in zip(records, locks_sudo, strict=True):
            record._writer().delivery_lock_id = lock_sudo
        return records

    def write(self, vals):
        if vals.keys() & {"name", "cluster_id", "namespace_id"}:
            self._refuse_new_identity(vals)
        return super().write(vals)

    def _refuse_new_identity(self, vals):
        for record in self.filtered("uid"):
            for field in ("name", "cluster_id", "namespace_id"):
                value = record[field] if field == "name" else record[field].id
                if field in vals and vals[field] != value:
                    raise UserError(
                        self.env._(
                            "%(name)s is deployed: its name, cluster and namespace "
                            "cannot change. Duplicate it to deploy a copy elsewhere.",
                            name=record.name,
                        )
                    )

    def unlink(self):
        locks_sudo = self.sudo().delivery_lock_id
        result = super().unlink()
        locks_sudo.unlink()
        return result

    @api.ondelete(at_uninstall=False)
    def _unlink_except_deployed(self):
        for record in self:
            if record.delivery_state == "pending" or (
                record.uid and record.delivery_state not in ("deleted", "lost")
            ):
                raise UserError(
                    self.env._(
                        "%s exists in its cluster. Use “Delete from Cluster” first, "
                        "so that nothing is left running there unseen.",
                        record.name,
                    )
                )

    # === ACTIONS === #

    def action_deploy(self):
        """Record what is desired as the intent, and deliver it once committed.

        :raise UserError: when the cluster would refuse it, with all reasons
        """
        self.check_access("write")
        for record in self:
            if problems := record._find_problems():
                raise UserError("\n".join([f"{record.name}:", *problems]))
            if record.delivery_state in ("deleting", "lost"):
                raise UserError(record._why_not_deployable())
            record._writer().write(
                {
                    "intent_manifest": json.dumps(record._build_manifest()),
                    "intent_revision": record.intent_revision + 1,
                    "intent_user_id": self.env.uid,
                    "intent_date": fields.Datetime.now(),
                    "delivery_state": "pending",
                    "delivery_message": self.env._(
                        "Waiting to be delivered to %s.", record.cluster_id.name
                    ),
                    "delivery_attempts": 0,
                    "next_attempt_at": fields.Datetime.now(),
                    # A deleted object's successor is a new object.
                    **(
                        {"uid": False, "resource_version": False}
                        if record.delivery_state == "deleted"
                        else {}
                    ),
                }
            )
        deliver.after_commit(self)
        return True

    def action_delete_from_cluster(self):
        """Ask the cluster to delete the object: `deleting` until it is gone."""
        self.check_access("write")
        for record in self:
            if not record.uid or record.delivery_state in ("deleted", "lost"):
                raise UserError(
                    self.env._("%s does not exist in its cluster.", record.name)
                )
            record._writer().write(
                {
                    "intent_revision": record.intent_revision + 1,
                    "intent_user_id": self.env.uid,
                    "intent_date": fields.Datetime.now(),
                    "delivery_state": "deleting",
                    "delivery_message": self.env._(
                        "Waiting for %s to delete it.", record.cluster_id.name
                    ),
                    "delivery_attempts": 0,
                    "next_attempt_at": fields.Datetime.now(),
                }
            )
        deliver.after_commit(self)
        return True

    def action_forget_lost(self):
        """Let a record whose object vanished be deployed anew, as a new object."""
        self.check_access("write")
        for record in self.filtered(lambda r: r.delivery_state == "lost"):
            record._writer().write(
                {
                    "delivery_state": "draft",
                    "delivery_message": False,
                    "uid": False,
                    "resource_version": False,
                    "observed_resource_version": False,
                    "health": False,
                    "health_message": False,
                }
            )
        return True

    # === BUSINESS METHODS === #

    def _build_manifest(self):
        """Return the manifest that the record describes.

        :rtype: dict
        :raise kube.values.ValuesError: when the values are not valid YAML
        """
        raise NotImplementedError

    def _find_problems(self):
        """Return what keeps the record from being deployed, one sentence each.

        :rtype: list[str]
        """
        raise NotImplementedError

    def _why_not_deployable(self):
        if self.delivery_state == "lost":
            return self.env._(
                "%s vanished from its cluster or was replaced there. Choose “Start "
                "Over” first if it is to be created again.",
                self.name,
            )
        return self.env._("%s is being deleted from its cluster.", self.name)

    def _retry_failed(self, clusters):
        """Make the failed deliveries of `clusters` due now: their cause may be gone."""
        now = fields.Datetime.now()
        failed = self.sudo().search(
            [
                ("cluster_id", "in", clusters.ids),
                # What is due already may be under way: a write would be in its way.
                ("next_attempt_at", ">", now),
                ("delivery_state", "in", ("pending", "failed", "deleting")),
            ]
        )
        failed._writer().write({"next_attempt_at": now})
        self.env.ref("vworkspace_push.ir_cron_deliver").sudo()._trigger()

    def _store_observed(self, observed, *, as_of):
        """Write what the cluster reports about this one object. Called by the sink."""
        self.ensure_one()
        self._writer().write(sink.record_values(observed, as_of=as_of))
        self._store_observed_details(observed)

    def _store_observed_details(self, observed):
        """Write what the cluster reports beyond the common fields. For override."""

    # === CRONS === #

    @api.model
    def _cron_deliver(self):
        deliver.run_cron(self.env)
