import hashlib
from collections import Counter
from datetime import timedelta

from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError

from .. import const, sealing, settings
from ..connections import connections
from ..delivery import deliver
from ..kube import access, connection, resources
from ..kube.address import AddressPolicy
from ..kube.errors import KubeError, Unauthorized, describe

# A change of one of these makes every open connection to the cluster obsolete.
CONNECTION_FIELDS = {
    *("server_url", "ca_certificate", "tls_server_name", "cluster_id"),
    *("proxy_url", "insecure", "is_test"),
}
UNWELL = ("failed", "degraded", "blocked")

# A change of one of these is for the watch workers to know.
WATCHED_FIELDS = {"active", "connectivity_mode", "state", "is_paused", "stale_after"}


class VworkspaceCluster(models.Model):
    _name = "vworkspace.cluster"
    _description = "Kubernetes Cluster"
    _inherit = [
        "vworkspace.protected.mixin",
        "mail.thread",
        "mail.activity.mixin",
    ]
    _order = "name, id"

    name = fields.Char(required=True, tracking=True)
    active = fields.Boolean(default=True)
    company_id = fields.Many2one(
        "res.company", required=True, default=lambda self: self.env.company
    )
    cluster_id = fields.Char(
        string="Cluster ID",
        required=True,
        tracking=True,
        help="The identity that the cluster's operator was installed with. It is "
        "written as a label on every object, and the cluster refuses another one's.",
    )
    connectivity_mode = fields.Selection(
        [("push", "Push"), ("pull", "Pull")],
        required=True,
        default="push",
        help="Push: Odoo writes to the cluster's API server. Pull: an agent in the "
        "cluster fetches its work; this addon does not write to it.",
    )

    # What is needed to reach it, except for the secret
    server_url = fields.Char(
        string="API Server",
        tracking=True,
        help="The address of the API server, such as https://10.0.0.1:6443. It is the "
        '"server" of the cluster in a kubeconfig.',
    )
    tls_server_name = fields.Char(
        string="TLS Server Name",
        help="Only when the API server's certificate is made out to another name than "
        "the one in its address.",
    )
    ca_certificate = fields.Text(
        string="CA Certificate",
        help="In PEM, as in a kubeconfig's certificate-authority-data after base64 "
        "decoding. Nothing else is trusted; for a server with a certificate of a "
        "public authority, fetch and accept what it presents.",
    )
    proxy_url = fields.Char(
        string="Proxy",
        groups="vworkspace_push.group_admin",
        help="Only if the API server is reached through one, such as "
        "http://proxy.example.com:3128. The environment's proxies are not used.",
    )
    is_test = fields.Boolean(string="Test Cluster")
    is_production = fields.Boolean(
        string="Production Cluster",
        tracking=True,
        help="Deleting something there asks for its name.",
    )
    is_paused = fields.Boolean(
        string="Deliveries Paused",
        readonly=True,
        copy=False,
        tracking=True,
        help="Nothing is sent to the cluster until it is resumed.",
    )
    heals_drift = fields.Boolean(
        string="Heal Drift",
        tracking=True,
        help="When somebody overwrites a field that Odoo applied, Odoo takes it back "
        "by itself. Each application can decide otherwise.",
    )
    stale_after = fields.Integer(
        string="Out of Date After (s)",
        required=True,
        default=const.STALE_AFTER,
        tracking=True,
        help="Without news from the cluster for this long, the health of its "
        "applications is unknown. At least 60 s.",
    )
    insecure = fields.Boolean(
        string="Do Not Check the Certificate",
        tracking=True,
        help="For test clusters only: anybody between Odoo and the cluster can then "
        "read the token.",
    )
    credential_ids = fields.One2many(
        "vworkspace.cluster.credential",
        "cluster_id",
        groups="vworkspace_push.group_admin",
    )
    key_problem = fields.Char(
        compute="_compute_key_problem", groups="vworkspace_push.group_admin"
    )
    connection_version = fields.Integer(
        readonly=True,
        copy=False,
        default=1,
        help="Counts up when settings or credential change; connections of an older "
        "version are closed.",
    )

    namespace_ids = fields.One2many(
        "vworkspace.cluster.namespace", "cluster_id", copy=True
    )
    instance_ids = fields.One2many("vworkspace.application.instance", "cluster_id")
    instance_count = fields.Integer(compute="_compute_instance_counts")
    unwell_count = fields.Integer(compute="_compute_instance_counts")
    health_counts = fields.Json(
        compute="_compute_instance_counts",
        string="Applications by Health",
        help="How many there are of each health; none: of those not deployed.",
    )

    # Whether deliveries go through
    lane_ids = fields.One2many("vworkspace.delivery.lane", "cluster_id")
    lane_state = fields.Selection(
        [
            ("open", "Go through"),
            ("paused", "Paused"),
            ("waiting", "Waiting for the cluster"),
        ],
        compute="_compute_lane",
        string="Deliveries",
    )
    lane_message = fields.Char(compute="_compute_lane")
    lane_retry_at = fields.Datetime(compute="_compute_lane", string="Tried Again At")
    waiting_count = fields.Integer(
        compute="_compute_instance_counts", string="Waiting to Be Delivered"
    )
    foreign_count = fields.Integer(
        compute="_compute_instance_counts",
        string="Written by Another Odoo",
        help="Applications and operations here that another Odoo database wrote after "
        "ours.",
    )

    # What the last test saw
    check_state = fields.Selection(
        [("none", "Not tested"), ("ok", "Works"), ("problem", "Problem")],
        default="none",
        readonly=True,
        copy=False,
        string="Connection",
    )
    check_message = fields.Text(readonly=True, copy=False)
    check_date = fields.Datetime(string="Last Tested", readonly=True, copy=False)
    server_version = fields.Char(readonly=True, copy=False)
    server_identity = fields.Char(string="Known There As", readonly=True, copy=False)

    # Who watches it
    lease_ids = fields.One2many("vworkspace.watch.lease", "cluster_id")
    status_ids = fields.One2many("vworkspace.cluster.status", "cluster_id")
    last_contact = fields.Datetime(
        compute="_compute_watch", help="When a status was last read from the cluster."
    )
    watch_state = fields.Selection(
        [
            ("off", "No worker"),
            ("waiting", "Waiting"),
            ("watching", "Watching"),
            ("polling", "Polled by the cron"),
        ],
        compute="_compute_watch",
        string="Status Feed",
    )
    watch_message = fields.Char(compute="_compute_watch")
    watch_holder = fields.Char(
        compute="_compute_watch",
        string="Watch Worker",
        help="The worker process that follows this cluster now.",
    )
    watch_lag = fields.Float(
        compute="_compute_watch",
        string="Lag (s)",
        digits=(16, 1),
        aggregator=None,
        help="The age of the oldest news that the worker has not written yet.",
    )
    watch_rate = fields.Float(
        compute="_compute_watch",
        string="Events per Second",
        digits=(16, 1),
        aggregator=None,
    )
    stream_ids = fields.One2many("vworkspace.watch.stream", "cluster_id")
    phase = fields.Selection(related="status_ids.phase")
    last_heartbeat = fields.Datetime(related="status_ids.last_heartbeat")
    unreachable_since = fields.Datetime(related="status_ids.unreachable_since")
    unreachable_message = fields.Char(related="status_ids.unreachable_message")
    condition_ids = fields.One2many(related="status_ids.condition_ids")
    agreed_at = fields.Datetime(related="lease_ids.agreed_at", string="Last Compared")
    differences = fields.Integer(
        related="lease_ids.differences", string="Differences Found"
    )
    as_of = fields.Datetime(related="last_contact", string="As Of")
    as_of_age = fields.Integer(
        compute="_compute_watch", string="Age of the Status (s)", aggregator=None
    )

    _cluster_id_uniq = models.UniqueIndex(
        "(cluster_id)", "Another cluster is registered with this cluster ID."
    )

    # === COMPUTE METHODS === #

    @api.depends_context("uid")
    def _compute_key_problem(self):
        try:
            sealing.check_keys()
        except sealing.SealingError as exc:
            self.key_problem = str(exc)
        else:
            self.key_problem = False

    @api.depends("instance_ids.health")
    def _compute_instance_counts(self):
        groups = self.env["vworkspace.application.instance"]._read_group(
            [("cluster_id", "in", self.ids)], ["cluster_id", "health"], ["__count"]
        )
        counts = {cluster.id: {} for cluster in self._origin}
        for cluster, health, count in groups:
            counts[cluster.id][health or "none"] = count
        foreign = self._count_records([("foreign_database", "!=", False)])
        waiting = self._count_records(
            [
                ("delivery_state", "in", deliver.DUE_STATES),
                ("next_attempt_at", "!=", False),
            ]
        )
        for cluster in self:
            id_ = cluster._origin.id
            by_health = counts.get(id_, {})
            cluster.instance_count = sum(by_health.values())
            cluster.unwell_count = sum(by_health.get(h, 0) for h in UNWELL)
            cluster.health_counts = by_health or False
            cluster.foreign_count = foreign[id_]
            cluster.waiting_count = waiting[id_]

    def _count_records(self, domain):
        """Return how many applications and operations of each cluster are in `domain`.

        :rtype: collections.Counter
        """
        counts = Counter()
        for model in deliver.MODELS:
            groups = self.env[model]._read_group(
                [("cluster_id", "in", self.ids), *domain], ["cluster_id"], ["__count"]
            )
            counts.update({cluster.id: count for cluster, count in groups})
        return counts

    @api.depends("lane_ids.retry_at", "lane_ids.message", "is_paused")
    def _compute_lane(self):
        now = fields.Datetime.now()
        for cluster in self:
            lane = cluster.sudo().lane_ids[:1]
            held = bool(lane.retry_at and (lane.retry_at > now or lane.failures))
            cluster.lane_retry_at = held and lane.retry_at
            cluster.lane_message = held and lane.message
            cluster.lane_state = (
                "paused" if cluster.is_paused else "waiting" if held else "open"
            )

    @api.depends(
        *("lease_ids.expires_at", "lease_ids.state", "lease_ids.message"),
        *("lease_ids.lag", "lease_ids.events_per_second", "stale_after"),
    )
    def _compute_watch(self):
        now = fields.Datetime.now()
        for cluster in self:
            lease = cluster.sudo().lease_ids[:1]
            cluster.last_contact = lease.last_contact
            cluster.watch_message = lease.message
            is_held = lease.expires_at and lease.expires_at > now
            cluster.watch_holder = is_held and lease.holder
            cluster.watch_lag = lease.lag if is_held else 0
            cluster.watch_rate = lease.events_per_second if is_held else 0
            heard = lease.last_contact
            cluster.as_of_age = (now - heard).total_seconds() if heard else 0
            if is_held:
                cluster.watch_state = lease.state
            elif lease.last_contact and lease.last_contact > now - timedelta(
                seconds=cluster.stale_after
            ):
                cluster.watch_state = "polling"
            else:
                cluster.watch_state = "off"

    # === CONSTRAINT METHODS === #

    @api.constrains("server_url", "connectivity_mode")
    def _check_server_url(self):
        for cluster in self.filtered(lambda c: c.connectivity_mode == "push"):
            if not cluster.server_url:
                if cluster.state == "registering":
                    continue  # a kubeconfig or the pod brings it
                raise ValidationError(
                    self.env._("A Push cluster needs the address of its API server.")
                )
            try:
                connection.check_server(cluster.server_url)
            except ValueError as exc:
                raise ValidationError(str(exc)) from None

    @api.constrains("insecure", "is_test")
    def _check_insecure(self):
        if self.filtered(lambda c: c.insecure and not c.is_test):
            raise ValidationError(
                self.env._(
                    "The certificate may go unchecked on a test cluster only. Mark the "
                    "cluster as one, or paste its CA certificate."
                )
            )

    @api.constrains("ca_certificate")
    def _check_ca_certificate(self):
        for cluster in self.filtered("ca_certificate"):
            try:
                connection.check_ca(cluster.ca_certificate)
            except ValueError as exc:
                raise ValidationError(str(exc)) from None

    @api.constrains("stale_after")
    def _check_stale_after(self):
        if self.filtered(lambda c: c.stale_after < const.STALE_AFTER_LEAST):
            raise ValidationError(
                self.env._(
                    "“Out of Date After” is %s seconds at least: a cluster that has "
                    "nothing to report is heard of less often than every second, and "
                    "its applications would be unknown although all is well.",
                    const.STALE_AFTER_LEAST,
                )
            )

    @api.constrains("cluster_id")
    def _check_cluster_id(self):
        for cluster in self:
            if not resources.is_label_value(cluster.cluster_id):
                raise ValidationError(
                    self.env._(
                        "A cluster ID is at most 63 letters, digits, dots, dashes and "
                        "underscores, and begins and ends with a letter or digit: it "
                        "becomes a label in the cluster."
                    )
                )

    # === CRUD METHODS === #

    def copy_data(self, default=None):
        return [
            {
                **vals,
                "name": self.env._("%s (copy)", cluster.name),
                "cluster_id": f"{cluster.cluster_id}-copy"[:63],
            }
            for cluster, vals in zip(self, super().copy_data(default), strict=True)
        ]

    def write(self, vals):
        if "cluster_id" in vals:
            self._refuse_new_identity(vals["cluster_id"])
        healing = self.filtered(
            lambda c: c.heals_drift != vals.get("heals_drift", c.heals_drift)
        )
        result = super().write(vals)
        healing._audit(
            "healing",
            message=self.env._("On") if vals.get("heals_drift") else self.env._("Off"),
        )
        if (CONNECTION_FIELDS | {"active", "connectivity_mode"}) & vals.keys():
            self._connection_changed()
        elif WATCHED_FIELDS & vals.keys():
            self._notify_processes()
        return result

    def _refuse_new_identity(self, cluster_id):
        changed = self.filtered(lambda c: c.cluster_id != cluster_id)
        if changed.instance_ids.filtered("uid"):
            raise UserError(
                self.env._(
                    "The cluster ID cannot change while applications are deployed "
                    "there: it is a label on each of them."
                )
            )

    @api.ondelete(at_uninstall=False)
    def _unlink_except_with_instances(self):
        if self.with_context(active_test=False).instance_ids:
            raise UserError(
                self.env._(
                    "This cluster still has applications. Delete them first, or "
                    "revoke its credential to stop writing to it."
                )
            )

    @api.ondelete(at_uninstall=False)
    def _unlink_except_audited(self):
        entries = self.env["vworkspace.audit.entry"].sudo()
        if entries.search_count([("cluster_id", "in", self.ids)], limit=1):
            raise UserError(
                self.env._(
                    "The audit trail tells of this cluster: archive it instead, so "
                    "that what was done there stays known."
                )
            )

    @api.ondelete(at_uninstall=False)
    def _unlink_tell_processes(self):
        self._notify_processes()

    # === ACTIONS === #

    def action_test_connection(self):
        """Try the connection now and say in a sentence what was seen."""
        self.ensure_one()
        self.check_access("write")
        try:
            report = access.inspect(self._connection())
        except (KubeError, sealing.SealingError, UserError) as exc:
            self._store_check("problem", describe(exc))
            if isinstance(exc, Unauthorized):
                self._credential_refused(self.connection_version)
            return self._notification("danger", describe(exc))
        self._writer().write(
            {
                "server_version": report.server_version,
                "server_identity": report.username,
            }
        )
        if report.missing:
            message = self.env._(
                "Kubernetes %(version)s answers, we are %(user)s, but it does not "
                "serve %(missing)s. Install the vWorkspace operator there first.",
                version=report.server_version,
                user=report.username,
                missing=", ".join(report.missing),
            )
            self._store_check("problem", message)
            return self._notification("warning", message)
        message = self.env._(
            "Kubernetes %(version)s answers, we are %(user)s, and it serves %(kinds)s.",
            version=report.server_version,
            user=report.username,
            kinds=", ".join(report.served),
        )
        self._store_check("ok", message)
        return self._notification("success", message)

    def action_pause(self):
        """Hold back all deliveries to these clusters until they are resumed."""
        self.check_access("write")
        clusters = self.filtered(lambda c: not c.is_paused)
        clusters._writer().write({"is_paused": True})
        clusters._audit("pause")
        return True

    def action_resume(self):
        """Deliver again what was held back."""
        self.check_access("write")
        clusters = self.filtered("is_paused")
        clusters._writer().write({"is_paused": False})
        clusters._audit("resume")
        self.env.ref("vworkspace_push.ir_cron_deliver").sudo()._trigger()
        return True

    def action_open_audit(self):
        """Show what was done to these clusters."""
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_audit_entry_action"
        )
        action["domain"] = [("cluster_id", "in", self.ids)]
        action["context"] = {}
        return action

    def action_open_instances(self):
        self.ensure_one()
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_application_instance_action"
        )
        action["domain"] = [("cluster_id", "=", self.id)]
        action["context"] = {"default_cluster_id": self.id}
        return action

    def action_open_by_health(self, health):
        """Show the applications of one health; `none`: those not deployed."""
        action = self.action_open_instances()
        label = self.env["vworkspace.application.instance"]._fields["health"]
        label = dict(label._description_selection(self.env)).get(health)
        wanted = False if health == "none" else health
        return {
            **action,
            "display_name": f"{self.name}: {label or self.env._('Not deployed')}",
            "domain": [*action["domain"], ("health", "=", wanted)],
        }

    def action_open_timeline(self):
        """Show what happened to the cluster and to all that is in it."""
        self.ensure_one()
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_timeline_action"
        )
        action["domain"] = [("cluster_id", "=", self.id)]
        return action

    def action_open_import(self):
        """Compare the cluster with Odoo, to import what only the cluster has."""
        self.ensure_one()
        return self.env["vworkspace.import.wizard"]._open_for(self)

    def action_open_foreign_instances(self):
        """Show the applications that another Odoo database wrote."""
        action = self.action_open_instances()
        action["domain"] = [*action["domain"], ("foreign_database", "!=", False)]
        return action

    def action_open_foreign_operations(self):
        """Show the operations that another Odoo database wrote."""
        self.ensure_one()
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_operation_action"
        )
        action["domain"] = [
            ("cluster_id", "=", self.id),
            ("foreign_database", "!=", False),
        ]
        return action

    def action_open_unwell_instances(self):
        action = self.action_open_instances()
        action["context"] |= {"search_default_unwell": 1}
        return action

    # === BUSINESS METHODS === #

    def _feed_problem(self):
        """Return in a sentence why the cluster's news do not arrive; False: they do."""
        if self.state != "active":
            states = dict(self._fields["state"]._description_selection(self.env))
            return self.env._(
                "No news from %(cluster)s: nothing is read from it. Its state: "
                "%(state)s.",
                cluster=self.name,
                state=states[self.state],
            )
        status_sudo = self.sudo().status_ids[:1]
        if status_sudo.unreachable_since or self.watch_state == "waiting":
            return self._no_news_because(
                status_sudo.unreachable_message
                or self.watch_message
                or self.env._("it does not answer.")
            )
        if self.watch_state == "off":
            return self.env._(
                "No news from %s: nobody reached it lately, neither a watch worker "
                "nor the cron.",
                self.name,
            )
        return False

    def _no_news_because(self, why):
        return self.env._(
            "No news from %(cluster)s: %(why)s", cluster=self.name, why=why
        )

    def _connection(self):
        """Return this process's connection to the cluster.

        :rtype: kube.connection.Connection
        :raise UserError: when something is missing that a person must enter
        :raise SealingError: when the stored credential does not open
        """
        self.ensure_one()
        cluster_sudo = self.sudo()
        cluster_sudo.fetch(["connectivity_mode", "connection_version"])  # a long row
        if cluster_sudo.connectivity_mode != "push":
            raise UserError(self.env._("%s is not a Push cluster.", self.name))
        return connections.get(
            key=(self.env.cr.dbname, cluster_sudo.id),
            version=cluster_sudo.connection_version,
            make=cluster_sudo._make_connection,
        )

    def _make_connection(self):
        """Build a connection. In superuser mode, since it opens the credential."""
        if self.state != "active":
            label = dict(self._fields["state"]._description_selection(self.env))
            raise UserError(
                self.env._(
                    "%(cluster)s is not active (%(state)s): an administrator activates "
                    "it on its form.",
                    cluster=self.name,
                    state=label[self.state],
                )
            )
        return self.active_credential_id._make_connection(self._connection_settings())

    def _connection_settings(self):
        """Return what the record says for `kube.connection.Settings`, secrets apart."""
        if not self.server_url:
            raise UserError(self.env._("%s has no API server address.", self.name))
        return {
            "server": connection.check_server(self.server_url),
            "ca_pem": self.ca_certificate or None,
            "tls_server_name": self.tls_server_name or None,
            "insecure": self.insecure and self.is_test,
            "proxy": self.sudo().proxy_url or None,
            "address_policy": self._address_policy(),
        }

    def _destination(self):
        """Return a digest of where the cluster's credential is sent, and how."""
        # In their normal forms: the same address, written otherwise, is no other one.
        parts = [
            connection.check_server(self.server_url) if self.server_url else "",
            self.tls_server_name or "",
            connection.check_ca(self.ca_certificate) if self.ca_certificate else "",
            self.sudo().proxy_url or "",
            str(self.insecure and self.is_test),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _address_policy(self):
        return AddressPolicy(allow_loopback=settings.flag("allow_loopback"))

    def _connection_changed(self):
        """Make every process use the new settings, and try what failed at once."""
        for cluster in self:
            cluster._writer().connection_version += 1
        self.sudo().lane_ids.unlink()  # what it waited for may be mended
        for model in deliver.MODELS:
            self.env[model]._retry_failed(self)
        self._notify_processes()

    def _audit(self, action, *, outcome="done", reason="", message=""):
        self.env["vworkspace.audit.entry"]._add(
            [
                {
                    "company_id": cluster.company_id.id,
                    "res_model": self._name,
                    "res_id": cluster.id,
                    "res_name": cluster.name,
                    "cluster_id": cluster.id,
                    "action": action,
                    "outcome": outcome,
                    "reason": reason or None,
                    "message": message or None,
                }
                for cluster in self
            ]
        )

    def _notify_processes(self):
        for cluster in self:
            self.env.cr.execute(
                "SELECT pg_notify(%s, %s)", [const.NOTIFY_CHANNEL, str(cluster.id)]
            )

    def _store_check(self, state, message):
        self._writer().write(
            {
                "check_state": state,
                "check_message": message,
                "check_date": fields.Datetime.now(),
            }
        )

    def _notification(self, kind, message):
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {
                "type": kind,
                "message": message,
                "sticky": kind != "success",
                "next": {"type": "ir.actions.client", "tag": "soft_reload"},
            },
        }
