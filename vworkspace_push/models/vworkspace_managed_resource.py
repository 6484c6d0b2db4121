import json

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError, ValidationError

from .. import const
from ..delivery import deliver, waiting
from ..identity import database_uuid
from ..kube import diff, ownership, resources
from ..transactions import lock_rows

# What ties a record to one object in the cluster
IDENTITY_FIELDS = (
    *("uid", "resource_version", "generation", "applied_fields"),
    *("observed_resource_version", "observed_generation", "foreign_database"),
    *("deletion_requested_at", "finalizers", "applied_revision_id"),
    *("claimed_database", "may_exist"),
)
MAX_REFUSALS = 20  # records that one message names
# What can be taken back, as long as nothing of it is in the cluster
WITHDRAWABLE_STATES = ("pending", "failed", "denied")


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

    # Each delivery writes every index anew: concrete models have two that begin with
    # the cluster, for what is due there and for the uids that it reports.

    # The concrete model says which kind of object it is.
    _resource: resources.Resource = None
    # Fields that a user edits and that make up the manifest
    _desired_fields: frozenset[str] = frozenset()
    # Those that cannot change while something else is being delivered
    _settled_fields = frozenset({"name", "cluster_id", "namespace_id"})

    name = fields.Char(
        required=True,
        tracking=True,
        help="The object's name in the cluster. It cannot change once deployed.",
    )
    cluster_id = fields.Many2one(
        "vworkspace.cluster",
        required=True,
        ondelete="restrict",
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
    revision_id = fields.Many2one(
        "vworkspace.revision", readonly=True, copy=False, string="Latest Revision"
    )
    applied_revision_id = fields.Many2one(
        "vworkspace.revision", readonly=True, copy=False
    )
    revision_ids = fields.One2many(
        "vworkspace.revision",
        "res_id",
        domain=lambda self: [("res_model", "=", self._name)],
    )
    intent_revision = fields.Integer(readonly=True, copy=False)
    intent_manifest = fields.Text(related="revision_id.manifest", string="Intent")
    intent_user_id = fields.Many2one(related="revision_id.user_id", string="Asked By")
    intent_date = fields.Datetime(related="revision_id.create_date", string="Asked At")
    is_changed = fields.Boolean(
        compute="_compute_changes",
        string="Changed Since",
        help="What you see here differs from what was last deployed.",
    )
    changes_text = fields.Text(
        compute="_compute_changes",
        string="Not Deployed Yet",
        help="What you see here, against what was last deployed.",
    )
    is_paused = fields.Boolean(
        string="Paused",
        readonly=True,
        copy=False,
        tracking=True,
        help="Nothing is sent to the cluster until it is resumed.",
    )

    # Delivered: how that ended
    delivery_state = fields.Selection(
        const.DELIVERY_STATES,
        default="draft",
        required=True,
        readonly=True,
        copy=False,
        string="Delivery",
    )
    delivery_reason = fields.Char(readonly=True, copy=False)
    delivery_message = fields.Text(readonly=True, copy=False)
    delivery_attempts = fields.Integer(readonly=True, copy=False)
    next_attempt_at = fields.Datetime(readonly=True, copy=False)
    delivered_revision = fields.Integer(readonly=True, copy=False)
    delivered_at = fields.Datetime(readonly=True, copy=False)
    delivery_warnings = fields.Text(readonly=True, copy=False)
    delivery_lock_id = fields.Many2one(
        "vworkspace.delivery.lock", readonly=True, copy=False, ondelete="restrict"
    )
    waiting_for = fields.Char(
        compute="_compute_waiting_for",
        help="What has to happen next, and until when it is waited for.",
    )
    uid = fields.Char(string="UID", readonly=True, copy=False)
    # The answer to its first delivery was lost: it may have made an object.
    may_exist = fields.Boolean(readonly=True, copy=False)
    resource_version = fields.Char(readonly=True, copy=False)
    generation = fields.Integer(readonly=True, copy=False)
    # Our entry of managedFields after the last apply: what is missing from it later
    # was overwritten.
    applied_fields = fields.Text(readonly=True, copy=False, prefetch=False)

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
    # Up to when this is known to be so: a cluster that is watched and reports nothing
    # says that nothing changed.
    as_of = fields.Datetime(compute="_compute_as_of")
    as_of_age = fields.Integer(
        compute="_compute_as_of", string="Age of the Status (s)", aggregator=None
    )
    stale_after = fields.Integer(
        compute="_compute_as_of", string="Out of Date After (s)", aggregator=None
    )
    feed_problem = fields.Char(
        compute="_compute_as_of", help="Why the cluster's news do not arrive."
    )
    last_reconcile_time = fields.Datetime(readonly=True, copy=False)
    deletion_requested_at = fields.Datetime(
        readonly=True, copy=False, help="When the cluster was asked to delete it."
    )
    finalizers = fields.Char(
        readonly=True, copy=False, help="What holds the object until it has cleaned up."
    )
    foreign_database = fields.Char(
        string="Other Odoo Database",
        readonly=True,
        copy=False,
        index="btree_not_null",
        help="The Odoo database that wrote this object after ours.",
    )
    # The one that it was claimed from, until our own signature is on it again
    claimed_database = fields.Char(readonly=True, copy=False)

    _protected_fields = frozenset(
        {
            *("revision_id", "applied_revision_id", "revision_ids", "intent_revision"),
            *("intent_manifest", "intent_user_id", "intent_date", "is_paused"),
            *("delivery_state", "delivery_reason", "delivery_message"),
            *("delivery_attempts", "next_attempt_at", "delivered_revision"),
            *("delivered_at", "delivery_warnings", "delivery_lock_id"),
            *("uid", "resource_version", "generation", "applied_fields"),
            *("health", "reported_health", "health_message"),
            *("status_as_of", "last_reconcile_time"),
            *("observed_resource_version", "observed_generation"),
            *("deletion_requested_at", "finalizers", "foreign_database"),
            *("claimed_database", "may_exist"),
        }
    )

    # === COMPUTE METHODS === #

    @api.depends(lambda self: sorted(self._desired_fields))
    def _compute_problems(self):
        for record in self:
            record.problems = "\n".join(record._find_problems()) or False

    @api.depends(
        lambda self: [
            *sorted(self._desired_fields),
            *("applied_revision_id", "revision_id", "delivery_state"),
            *("revision_id.kind", "revision_id.outcome"),
        ]
    )
    def _compute_changes(self):
        for record in self:
            known = record.applied_revision_id or record.revision_id
            record.is_changed = False
            record.changes_text = False
            if not known.manifest:
                continue
            wanted, problems = record._prepare()
            if problems or not wanted:
                continue
            latest = record.revision_id
            record.is_changed = bool(
                latest.manifest
                and (
                    wanted != json.loads(latest.manifest)
                    # It moved the ownership, of values that differ.
                    or (latest.kind, latest.outcome) == ("adopt", "draft")
                )
            )
            changed = diff.changes(json.loads(known.manifest), wanted)
            record.changes_text = diff.render(changed) or False

    @api.depends(
        *("delivery_state", "next_attempt_at", "is_paused", "foreign_database"),
        *("delivery_reason", "finalizers", "deletion_requested_at", "is_changed"),
        *("generation", "observed_generation", "health", "uid", "intent_revision"),
        *("cluster_id.state", "cluster_id.is_paused", "cluster_id.lane_ids.retry_at"),
        *("cluster_id.active", "cluster_id.connectivity_mode"),
    )
    def _compute_waiting_for(self):
        for record in self:
            record.waiting_for = waiting.sentence(record)

    @api.depends("status_as_of", "uid", "cluster_id.as_of", "cluster_id.watch_state")
    def _compute_as_of(self):
        now = fields.Datetime.now()
        waiting = self._waiting_streams()
        waiting_clusters = {cluster_id for cluster_id, *_place in waiting}
        for record in self:
            cluster = record.cluster_id
            kind = self._resource.kind
            stream = waiting.get((cluster.id, kind, record.namespace_id.name))
            stream = stream or waiting.get((cluster.id, kind, False))
            known = record.status_as_of
            if known and cluster.as_of:
                since = stream and stream.waiting_since
                known = max(known, min(since or cluster.as_of, cluster.as_of))
            record.as_of = known
            record.as_of_age = (now - known).total_seconds() if known else 0
            record.stale_after = cluster.stale_after
            if not record.uid or record.delivery_state in ("deleted", "lost"):
                record.feed_problem = False
            elif stream and not cluster.unreachable_since:
                record.feed_problem = cluster._no_news_because(stream.message)
            elif cluster.id in waiting_clusters and not cluster.unreachable_since:
                record.feed_problem = False  # others wait, this one's does not
            else:
                record.feed_problem = cluster._feed_problem()

    def _waiting_streams(self):
        """Return the streams that bring no news, by cluster, kind and namespace.

        What a worker that is gone left behind says nothing.
        """
        clusters = self.cluster_id.filtered("watch_holder")
        streams_sudo = self.env["vworkspace.watch.stream"].sudo()
        streams_sudo = streams_sudo.search(
            [
                ("cluster_id", "in", clusters.ids),
                ("kind", "in", [resource.kind for resource in resources.WATCHED]),
                ("waiting_since", "!=", False),
                ("message", "!=", False),
            ]
        )
        return {(s.cluster_id.id, s.kind, s.namespace): s for s in streams_sudo}

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
        if settled := vals.keys() & self._settled_fields:
            self._make_way_for({name: vals[name] for name in settled})
        return super().write(vals)

    def _make_way_for(self, vals):
        """Take back what is to be delivered and would not be what the record says.

        :raise UserError: when it is in its cluster, or may be, or just on its way
        """
        changing = self.filtered(lambda r: r._differs_from(vals))
        for record in changing:
            if record.uid:
                raise UserError(
                    self.env._(
                        "%(name)s is deployed: its name, cluster and namespace "
                        "cannot change. Use “Deploy a Copy To…” to have it "
                        "elsewhere.",
                        name=record.name,
                    )
                )
            record._refuse_unsettled()
        if due := changing.filtered(lambda r: r.delivery_state in deliver.DUE_STATES):
            due.check_access("write")
            due._withdraw(reason=self.env._("It was changed before it was delivered."))

    def _differs_from(self, vals):
        for name, value in vals.items():
            known = self[name]
            known = known.id if self._fields[name].relational else known
            if (known or False) != (value or False):
                return True
        return False

    def _refuse_unsettled(self):
        unsettled = self.filtered("may_exist")
        unsettled._hold_deliveries()  # of one that is under way, it will be known soon
        for record in unsettled:
            raise UserError(
                self.env._(
                    "%s may have reached its cluster: the answer to its delivery was "
                    "lost. Deliver it now to find out, or have an administrator forget "
                    "it.",
                    record.name,
                )
            )

    def unlink(self):
        self._hold_deliveries()
        locks_sudo = self.sudo().delivery_lock_id
        revisions_sudo = self.sudo().revision_ids
        notices_sudo = self.env["vworkspace.health.notice"].sudo()
        notices_sudo.search(
            [("res_model", "=", self._name), ("res_id", "in", self.ids)]
        ).unlink()
        result = super().unlink()
        locks_sudo.unlink()
        revisions_sudo.unlink()
        return result

    @api.ondelete(at_uninstall=False)
    def _unlink_except_deployed(self):
        self._refuse_unsettled()
        for record in self.filtered("uid"):
            if record.delivery_state in ("deleted", "lost"):
                continue
            # What was imported and never written to may be let go of.
            if record.delivery_state != "draft" or record.applied_fields:
                raise UserError(
                    self.env._(
                        "%s exists in its cluster. Use “Delete from Cluster” first, "
                        "so that nothing is left running there unseen.",
                        record.name,
                    )
                )

    # === ACTIONS === #

    def action_deploy(self):
        """Make what is desired the intent, and deliver it once committed.

        A record whose object is as desired already is left alone; one whose delivery
        waits or failed is tried again at once.

        :raise UserError: when the cluster would refuse it, with all reasons
        """
        self.check_access("write")
        self._deploy()
        return True

    def action_send_again(self):
        """Apply once more what is applied already, as a new revision."""
        self.check_access("write")
        self._deploy(reason=self.env._("Sent again."), unchanged=True)
        return True

    def action_delete_from_cluster(self, typed_name=None):
        """Ask the cluster to delete the object: `deleting` until it is gone.

        :param str typed_name: for a production cluster, the name of the record as the
            user typed it; several records of production are refused
        """
        self.check_access("write")
        for record in self:
            if not record.uid or record.delivery_state in ("deleted", "lost"):
                raise UserError(
                    self.env._("%s does not exist in its cluster.", record.name)
                )
            if record.cluster_id.is_production and typed_name != record.name:
                raise UserError(
                    self.env._(
                        "%(cluster)s is a production cluster: type the name "
                        "%(name)s to delete it there.",
                        cluster=record.cluster_id.name,
                        name=record.name,
                    )
                )
        self._intend("delete")
        return True

    def action_forget_lost(self):
        """Let a record whose object vanished be deployed anew, as a new object."""
        self.check_access("write")
        lost = self.filtered(lambda r: r.delivery_state == "lost")
        lost._audit("start_over")
        lost._let_go("draft")
        return True

    def action_withdraw(self):
        """Take back what was asked for and is not in its cluster: nothing is sent."""
        self.check_access("write")
        records = self.filtered(
            lambda r: not r.uid and r.delivery_state in WITHDRAWABLE_STATES
        )
        if not records:
            raise UserError(
                self.env._(
                    "There is nothing to withdraw: it was not deployed, or it is in "
                    "its cluster. Use “Delete from Cluster” for what is there."
                )
            )
        records._refuse_unsettled()
        records._withdraw()
        return True

    def action_pause(self):
        """Hold back deliveries of these records until they are resumed."""
        self.check_access("write")
        records = self.filtered(lambda r: not r.is_paused)
        records._writer().write({"is_paused": True})
        records._audit("pause")
        records._notify_updated()
        return True

    def action_resume(self):
        """Deliver again what was held back."""
        self.check_access("write")
        records = self.filtered("is_paused")
        records._writer().write({"is_paused": False})
        records._audit("resume")
        deliver.after_commit(records)
        records._notify_updated()
        return True

    def action_open_delete(self):
        """Ask before these are deleted from their clusters."""
        return self.env["vworkspace.delete.wizard"]._open_for(self)

    def action_open_forget(self):
        """Show what forgetting the object would leave behind, and ask why."""
        return self.env["vworkspace.forget.wizard"]._open_for(self)

    def action_claim(self):
        """Take an object back from another Odoo database that wrote to it."""
        self.check_access("write")
        if not self.env.user.has_group("vworkspace_push.group_admin"):
            raise AccessError(
                self.env._("Only an administrator may claim an object from another.")
            )
        records = self.filtered("foreign_database")
        for record in records:
            reason = self.env._("Was written by %s.", record.foreign_database)
            record._audit("claim", reason=reason)
            record._writer().write(
                {
                    "claimed_database": record.foreign_database,
                    "foreign_database": False,
                }
            )
        # What is to go goes, now that nothing keeps it.
        deleting = records.filtered(lambda r: r.delivery_state == "deleting")
        deleting._deliver_now()
        for record in records - deleting:
            record._deploy(
                reason=self.env._("Claimed from another database."), unchanged=True
            )
        return True

    def action_open_audit(self):
        """Show what was done to these records, and what the cluster said."""
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_audit_entry_action"
        )
        action["domain"] = [("res_model", "=", self._name), ("res_id", "in", self.ids)]
        action["context"] = {}
        return action

    def get_timeline(self, kind="all", limit=50):
        """Return what happened to the record, the newest first.

        :param str kind: of what; see `vworkspace.timeline`
        :rtype: dict
        """
        self.ensure_one()
        self.check_access("read")
        return self.env["vworkspace.timeline"]._page(
            self._timeline_subjects(), kind=kind, limit=limit
        )

    # === BUSINESS METHODS === #

    def _responsible_user(self):
        """Return whom the record's health concerns first. For override."""
        return self.intent_user_id

    def _residue(self):
        """Return what else forgetting the object may leave behind. For override.

        :return: pairs of a label and what is known
        """
        return []

    def _timeline_subjects(self):
        """Return whose rows the timeline has: ids by model. For override."""
        return {self._name: self.ids}

    def _build_manifest(self):
        """Return the manifest that the record describes, less what was left to others.

        :rtype: dict
        :raise kube.values.ValuesError: when the values are not valid YAML
        """
        raise NotImplementedError

    def _find_problems(self):
        """Return what keeps the record from being deployed, one sentence each.

        :rtype: list[str]
        """
        raise NotImplementedError

    def _prepare(self):
        """Return the manifest as it would be sent, and what keeps it from being sent.

        :rtype: tuple[dict | None, list[str]]
        """
        problems = self._find_problems()
        return (None if problems else self._build_manifest()), problems

    def _signed(self, manifest):
        """Return `manifest` with the annotations that say whose object it is."""
        return resources.signed(
            manifest,
            database=database_uuid(self.env),
            record=f"{self._name}/{self._origin.id}",
        )

    def _desired(self):
        """Return what the form holds, as JSON from which it can be restored."""
        raise NotImplementedError

    def _restore_desired(self, desired):
        """Write what `_desired` returned back into the form."""
        raise NotImplementedError

    def _deploy(self, *, reason="", unchanged=False, **intent):
        """Make what is desired the intent of those records for which it is not yet.

        :param unchanged: deliver it even where it is applied already
        :param intent: further arguments of `_intend`
        :raise UserError: when the cluster would refuse it, with all reasons
        """
        self._lock_for_intent()
        prepared = {record: record._prepare() for record in self}
        self._refuse_undeployable({r: found for r, (_m, found) in prepared.items()})
        manifests = {}
        again = self.browse()
        for record, (manifest, _found) in prepared.items():
            latest = record.revision_id
            if (
                latest.kind != "deploy"
                or unchanged
                or record.delivery_state in ("draft", "deleted")
                or manifest != json.loads(latest.manifest)
            ):
                manifests[record.id] = manifest
            elif record.delivery_state != "applied":
                again |= record
        again._audit("deploy_now", reason=reason)
        again._writer().delivery_state = "pending"
        again._deliver_now()
        records = self.browse(manifests)
        records._intend("deploy", manifests=manifests, reason=reason, **intent)

    def _refuse_undeployable(self, problems):
        """Refuse all if one of them cannot be deployed, and say which and why.

        :param dict problems: lists of sentences, by record
        """
        refusals = [
            why or "\n".join([f"{record.name}:", *found])
            for record, found in problems.items()
            if (why := record._why_not_deployable()) or found
        ]
        if not refusals:
            return
        if len(self) > 1:
            refusals.insert(
                0,
                self.env._(
                    "Nothing was deployed, since %(count)s of these cannot be. Mend "
                    "them, or leave them out:",
                    count=len(refusals),
                ),
            )
        if (more := len(refusals) - 1 - MAX_REFUSALS) > 0:
            refusals[MAX_REFUSALS + 1 :] = [self.env._("… and %s more.", more)]
        raise UserError("\n".join(refusals))

    def _deliver_now(self):
        """Deliver what waits once this is committed, not at its next attempt."""
        self._writer().write(
            {"delivery_attempts": 0, "next_attempt_at": fields.Datetime.now()}
        )
        deliver.after_commit(self)

    def _intend(
        self,
        kind,
        *,
        manifests=None,
        desired=None,
        reason="",
        takeover=(),
        given_up=(),
    ):
        """Record an intent for each record, and deliver it once committed.

        :param str kind: deploy, delete or adopt
        :param dict manifests: by id of the record; the latest intent's by default
        :param dict desired: what the form held for it, by id; what it holds by default
        :param takeover: fields to take over from other managers, by id of the record
        :param given_up: fields left to other managers by this, by id of the record
        """
        if not self:
            return
        self._lock_for_intent()
        takeover, given_up = dict(takeover), dict(given_up)
        vals_list = []
        for record in self:
            manifest = (manifests or {}).get(record.id) or record._named()
            given = {*given_up.get(record.id, ()), *record._not_given_up_yet(manifest)}
            taken = {*takeover.get(record.id, ()), *record._not_taken_yet(manifest)}
            vals_list.append(
                {
                    "res_model": self._name,
                    "res_id": record.id,
                    "company_id": record.company_id.id or None,
                    "number": record.intent_revision + 1,
                    "kind": kind,
                    "reason": reason or None,
                    "user_id": self.env.uid,
                    "manifest": manifest,
                    "desired": (desired or {}).get(record.id) or record._desired(),
                    "takeover_fields": sorted(taken) or None,
                    "given_up_fields": sorted(given) or None,
                }
            )
        revisions = self.env["vworkspace.revision"]._add(vals_list)
        anew = self.filtered(lambda r: r.delivery_state == "deleted")
        anew._writer().write(dict.fromkeys(IDENTITY_FIELDS, False))
        self._write_intents(kind, revisions)
        deliver.after_commit(self)

    def _write_intents(self, kind, revisions):
        """Make `revisions` the intents of the records, in one statement."""
        self.revision_id._close("overtaken")
        self.flush_recordset()
        intents = dict(zip(self.ids, revisions.ids, strict=True))
        self.env.cr.execute(
            f"""UPDATE "{self._table}" record
                   SET revision_id = new.revision_id,
                       intent_revision = COALESCE(record.intent_revision, 0) + 1,
                       delivery_state = %(state)s,
                       delivery_reason = NULL,
                       delivery_message = NULL,
                       delivery_attempts = 0,
                       next_attempt_at = %(now)s,
                       write_uid = %(uid)s,
                       write_date = %(now)s
                  FROM unnest(%(ids)s, %(revisions)s) AS new (id, revision_id)
                 WHERE record.id = new.id""",  # noqa: S608 the name of a model's table
            {
                "state": "deleting" if kind == "delete" else "pending",
                "now": fields.Datetime.now(),
                "uid": self.env.uid,
                "ids": list(intents),
                "revisions": list(intents.values()),
            },
        )
        self.invalidate_recordset()

    def _named(self):
        """Return the latest intent's manifest with the object's kind and name: enough
        to delete it.

        What was imported has none yet, and its form need not be fit to be sent.
        """
        manifest = json.loads(self.intent_manifest) if self.intent_manifest else {}
        metadata = manifest.get("metadata", {})
        return {
            **manifest,
            "apiVersion": self._resource.api_version,
            "kind": self._resource.kind,
            "metadata": {
                **metadata,
                "name": self.name,
                "namespace": self.namespace_id.name,
            },
        }

    def _not_given_up_yet(self, manifest):
        """Return what the latest intent was to leave to others, and did not so far."""
        left = self._undelivered().given_up_fields or []
        return [f for f in left if ownership.value_at(manifest, f) is None]

    def _not_taken_yet(self, manifest):
        """Return what the latest intent was to take over, and did not so far, where
        the value is still the one that was decided on."""
        latest = self._undelivered()
        if not latest.takeover_fields:
            return []
        decided = json.loads(latest.manifest)
        return [
            field
            for field in latest.takeover_fields
            if (value := ownership.value_at(manifest, field)) is not None
            and value == ownership.value_at(decided, field)
        ]

    def _undelivered(self):
        """Return the latest intent if it is not what is applied, else none."""
        latest = self.revision_id
        if latest.kind == "deploy" and latest == self.applied_revision_id:
            return latest.browse()
        return latest

    def _withdraw(self, *, reason=""):
        """Take back intents that have not reached their cluster."""
        self._hold_deliveries()
        self.revision_id._close("withdrawn")
        self._audit("withdraw", reason=reason)
        self._writer().write(
            {
                "delivery_state": "draft",
                "delivery_reason": False,
                "delivery_message": False,
                "delivery_attempts": 0,
                "next_attempt_at": False,
            }
        )
        self._notify_updated()

    def _hold_deliveries(self):
        """Keep deliverers away from these records until the transaction ends.

        What is being delivered right now would come back with its outcome; and who
        waited for a deliverer, with rows locked that this needs, would wait for ever.
        """
        locks_sudo = self.sudo().delivery_lock_id
        if locks_sudo.try_lock_for_update(allow_referencing=True) != locks_sudo:
            raise UserError(
                self.env._("A delivery is under way right now: try again in a moment.")
            )

    def _lock_for_intent(self):
        """Lock the rows first: a status that comes meanwhile waits, instead of failing
        this transaction at its end."""
        self.flush_recordset()
        lock_rows(self.env, self._table, self.ids)

    def _let_go(self, state, message=False):
        """Forget the object, which is gone or no concern of ours any more."""
        self.revision_id._close("withdrawn")
        self._writer().write(
            {
                "delivery_state": state,
                "delivery_message": message,
                "delivery_reason": False,
                "next_attempt_at": False,
                **dict.fromkeys(IDENTITY_FIELDS, False),
            }
        )
        self._forget_observed()

    def _forget_observed(self):
        """Drop what was observed of an object that is not there. For override."""
        self._writer().write({"health": False, "health_message": False})

    def _why_not_deployable(self):
        """Return in a sentence what stands against a deployment, apart from the form.

        :rtype: str | None
        """
        if self.delivery_state == "deleting":
            return self.env._("%s is being deleted from its cluster.", self.name)
        if self.delivery_state == "lost":
            return self.env._(
                "%s vanished from its cluster or was replaced there. Choose “Start "
                "Over” first if it is to be created again.",
                self.name,
            )
        return None

    def _retry_failed(self, clusters):
        """Make the failed deliveries of `clusters` due now: their cause may be gone."""
        now = fields.Datetime.now()
        failed = self.sudo().search(
            [
                ("cluster_id", "in", clusters.ids),
                # What is due already may be under way: a write would be in its way.
                ("next_attempt_at", ">", now),
                ("delivery_state", "in", deliver.DUE_STATES),
            ]
        )
        failed._writer().write({"next_attempt_at": now})
        self.env.ref("vworkspace_push.ir_cron_deliver").sudo()._trigger()

    def _audit(self, action, *, outcome="done", reason="", message="", changes=""):
        """Add an audit entry for each record, in this transaction."""
        self.env["vworkspace.audit.entry"]._add(
            [
                {
                    **record._audit_subject(),
                    "action": action,
                    "outcome": outcome,
                    "revision": record.intent_revision,
                    "reason": reason or None,
                    "message": message or None,
                    "diff": changes or None,
                }
                for record in self
            ]
        )

    def _audit_subject(self):
        """Return which object an audit entry is about."""
        return {
            "company_id": self.company_id.id,
            "res_model": self._name,
            "res_id": self.id,
            "res_name": self.name,
            "namespace": self.namespace_id.name,
            "cluster_id": self.cluster_id.id,
        }

    @api.model
    def _observed_values(self, observed):
        """Return the columns that only this kind of object has, for the sink.

        Called once for each report; what it returns is written past the ORM.

        :param kube.resources.Observed observed: what the cluster reports
        :rtype: dict
        """
        return {}

    # === CRONS === #

    @api.model
    def _cron_deliver(self):
        deliver.run_cron(self.env)
