import base64
from datetime import timedelta

from odoo import Command, api, fields, models
from odoo.exceptions import UserError, ValidationError

from .. import const, renewal, sealing, verification
from ..kube import access, certificates, kubeconfig, resources, tokens
from ..kube.errors import KubeError
from ..transactions import in_transaction
from .vworkspace_cluster import CONNECTION_FIELDS

# What a user may write and nobody can read. It never reaches the ORM.
WRITE_ONLY = ("token", "kubeconfig", "client_certificate", "client_key")

STATES = [
    ("registering", "Registering"),
    ("active", "Active"),
    ("refused", "Credential Refused"),
    ("revoking", "Revoking"),
    ("revoked", "Revoked"),
]


class VworkspaceClusterRegistration(models.Model):
    """Registration: certificate, rights, credential, verification, activation.

    ``registering ─▶ active ─▶ revoking ─▶ revoked``, and ``active ⇄ refused`` when the
    server does not accept the credential any more. Only an active cluster is delivered
    to and watched. Every step can be left and taken up again; the record holds it all.
    """

    _inherit = "vworkspace.cluster"

    state = fields.Selection(
        STATES,
        default="registering",
        required=True,
        copy=False,
        index=True,
        tracking=True,
        readonly=True,
    )
    state_message = fields.Text(copy=False, readonly=True)

    # 1. Certificate
    presented_certificates = fields.Text(copy=False, readonly=True)
    presented_summary = fields.Text(copy=False, readonly=True)

    # 2. Rights to grant
    grant_cluster_read = fields.Boolean(
        string="Read Applications in All Namespaces",
        help="Opt-in: lets one watch follow the whole cluster. Writing stays limited.",
    )
    grant_self_renewal = fields.Boolean(
        string="Renew the Token by Itself",
        help="Opt-in: the account may make tokens for itself. Whoever steals one can "
        "then keep the access alive, so it is reported as a right beyond the needed.",
    )
    rights_manifest = fields.Text(compute="_compute_rights")
    rights_commands = fields.Text(compute="_compute_rights")
    rights_file = fields.Binary(compute="_compute_rights")
    rights_filename = fields.Char(compute="_compute_rights")
    proposed_namespaces = fields.Char(
        copy=False,
        help="Those that the cluster's own object lists as managed.",
        readonly=True,
    )

    # 3. Credential
    token = fields.Char(
        string="Service Account Token",
        compute="_compute_write_only",
        readonly=False,
        groups="vworkspace_push.group_admin",
        help="Stored sealed, and never shown again.",
    )
    kubeconfig = fields.Text(
        compute="_compute_write_only",
        readonly=False,
        groups="vworkspace_push.group_admin",
        help="Address, CA and credential of its current context are taken; the rest is "
        "forgotten.",
    )
    client_certificate = fields.Text(
        compute="_compute_write_only",
        readonly=False,
        groups="vworkspace_push.group_admin",
        help="In PEM. Optional, in addition to a token or instead of one.",
    )
    client_key = fields.Text(
        string="Private Key",
        compute="_compute_write_only",
        readonly=False,
        groups="vworkspace_push.group_admin",
        help="Of the client certificate, not encrypted. Stored sealed.",
    )
    in_cluster_possible = fields.Boolean(compute="_compute_in_cluster_possible")
    candidate_id = fields.Many2one(
        "vworkspace.cluster.credential",
        compute="_compute_credentials",
        groups="vworkspace_push.group_admin",
    )
    active_credential_id = fields.Many2one(
        "vworkspace.cluster.credential",
        compute="_compute_credentials",
        groups="vworkspace_push.group_admin",
    )
    has_candidate = fields.Boolean(compute="_compute_credentials")
    has_credential = fields.Boolean(compute="_compute_credentials")
    credential_expires_at = fields.Datetime(compute="_compute_credentials")
    expiry_warning = fields.Char(compute="_compute_expiry_warning")
    expiry_warned = fields.Char(
        readonly=True, copy=False, help="The last warning that raised an activity."
    )
    database_is_copy = fields.Boolean(
        compute="_compute_database_is_copy", groups="vworkspace_push.group_admin"
    )

    # 4. Verification
    check_ids = fields.One2many("vworkspace.cluster.check", "cluster_id", readonly=True)
    verification_state = fields.Selection(
        [
            ("none", "Not verified"),
            ("running", "Running"),
            ("passed", "Passed"),
            ("excess", "Rights to accept"),
            ("failed", "Failed"),
        ],
        string="Verification",
        default="none",
        required=True,
        copy=False,
        readonly=True,
    )
    verification_requested_at = fields.Datetime(copy=False, readonly=True)
    verified_at = fields.Datetime(copy=False, readonly=True)
    verified_rights = fields.Text(copy=False, readonly=True)
    activated_at = fields.Datetime(copy=False, readonly=True)
    verified_credential_id = fields.Many2one(
        "vworkspace.cluster.credential",
        copy=False,
        groups="vworkspace_push.group_admin",
        readonly=True,
    )

    # 5. Activation
    excess_rights = fields.Text(compute="_compute_excess_rights")
    excess_reason = fields.Char(
        string="Why the Excess Is Acceptable",
        copy=False,
        groups="vworkspace_push.group_admin",
    )
    accepted_excess = fields.Text(copy=False, readonly=True)
    accepted_excess_reason = fields.Char(copy=False, readonly=True)
    accepted_excess_by = fields.Many2one("res.users", copy=False, readonly=True)
    accepted_excess_at = fields.Datetime(copy=False, readonly=True)

    _protected_fields = frozenset(
        {
            "is_paused",
            *("state", "state_message", "connection_version"),
            *("presented_certificates", "presented_summary"),
            *("verification_state", "verification_requested_at", "verified_at"),
            *("verified_credential_id", "verified_rights", "activated_at"),
            *("accepted_excess", "accepted_excess_reason"),
            *("accepted_excess_by", "accepted_excess_at", "check_ids", "lease_ids"),
            *("check_state", "check_message", "check_date", "credential_ids"),
            *("proposed_namespaces", "expiry_warned"),
            *("server_version", "server_identity"),
        }
    )

    # === COMPUTE METHODS === #

    def _compute_write_only(self):
        for name in WRITE_ONLY:
            self[name] = False

    def _compute_in_cluster_possible(self):
        credentials = self.env["vworkspace.cluster.credential"]
        self.in_cluster_possible = credentials._is_in_cluster_possible()

    @api.depends("namespace_ids.name", "grant_cluster_read", "grant_self_renewal")
    def _compute_rights(self):
        for cluster in self:
            names = [
                n.name for n in cluster.namespace_ids if resources.is_dns_label(n.name)
            ]
            options = {
                "cluster_read": cluster.grant_cluster_read,
                "self_renewal": cluster.grant_self_renewal,
            }
            manifest = access.to_yaml(
                access.rbac_manifests(namespaces=names, **options)
            )
            cluster.rights_manifest = manifest
            cluster.rights_commands = cluster._rights_commands(names)
            cluster.rights_file = base64.b64encode(manifest.encode())
            cluster.rights_filename = (
                f"vworkspace-{cluster.cluster_id or 'rights'}.yaml"
            )

    @api.depends("credential_ids.state", "credential_ids.expires_at")
    def _compute_credentials(self):
        for cluster in self:
            by_state = {c.state: c for c in cluster.sudo().credential_ids}
            none = self.env["vworkspace.cluster.credential"]
            active = by_state.get("active", none)
            cluster.candidate_id = by_state.get("candidate", none).id
            cluster.active_credential_id = active.id
            cluster.has_candidate = "candidate" in by_state
            cluster.has_credential = bool(active)
            cluster.credential_expires_at = active.expires_at

    @api.depends("credential_expires_at", "ca_certificate", "state")
    def _compute_expiry_warning(self):
        now = fields.Datetime.now()
        for cluster in self:
            credential = cluster.sudo().active_credential_id
            cluster.expiry_warning = _expiry_sentence(
                credential, now
            ) or cluster._ca_expiry_sentence(now)

    def _ca_expiry_sentence(self, now):
        if not self.ca_certificate or self.state != "active":
            return False
        last = max(c.not_after for c in certificates.bundle_info(self.ca_certificate))
        if last.replace(tzinfo=None) - now > timedelta(days=14):
            return False
        return self.env._(
            "The CA certificate expires on %s. Fetch or paste the new one before that.",
            fields.Datetime.to_string(last.replace(tzinfo=None)),
        )

    def _compute_database_is_copy(self):
        for cluster in self:
            cluster.database_is_copy = cluster.sudo()._is_copied()

    @api.depends("check_ids.excess")
    def _compute_excess_rights(self):
        for cluster in self:
            lines = [line for c in cluster.check_ids for line in c._excess_lines()]
            cluster.excess_rights = "\n".join(lines) or False

    # === CRUD METHODS === #

    @api.model_create_multi
    def create(self, vals_list):
        secrets = [_take_write_only(vals) for vals in vals_list]
        clusters = super().create(vals_list)
        for cluster, parts in zip(clusters, secrets, strict=True):
            cluster._store_candidate(parts)
        return clusters

    def write(self, vals):
        vals = dict(vals)
        secrets = _take_write_only(vals)
        if not vals.get("active", True) or vals.get("connectivity_mode") == "pull":
            self._refuse_while_armed()
        moved = self if CONNECTION_FIELDS & vals.keys() else self.browse()
        destinations = {cluster: cluster._destination() for cluster in moved}
        result = super().write(vals)
        for cluster in self:
            cluster._store_candidate(secrets)
        for cluster in moved:
            if cluster._destination() != destinations[cluster]:
                cluster._destination_changed()
        return result

    @api.ondelete(at_uninstall=False)
    def _unlink_except_armed(self):
        self._refuse_while_armed()

    def _refuse_while_armed(self):
        armed = self.sudo().credential_ids.filtered(lambda c: c.state == "active")
        if armed:
            raise UserError(
                self.env._(
                    "%s still has a credential that works. Revoke it first, so that "
                    "none is left behind that nobody remembers.",
                    ", ".join(armed.cluster_id.mapped("name")),
                )
            )

    # === ACTIONS: REGISTRATION === #

    def action_fetch_certificate(self):
        """Show what the server presents, for a person to compare and accept."""
        self.ensure_one()
        self._check_admin()
        try:
            chain = certificates.fetch_certificates(
                self.server_url or "",
                tls_server_name=self.tls_server_name or None,
                policy=self._address_policy(),
                timeout=const.DELIVERY_TIMEOUT,
            )
        except (KubeError, ValueError) as exc:
            raise UserError(str(exc)) from None
        self._writer().write(
            {
                "presented_certificates": "".join(c.pem for c in chain),
                "presented_summary": "\n\n".join(map(_describe_certificate, chain)),
            }
        )
        return True

    def action_accept_certificate(self):
        """Trust what the server presented from now on, and nothing else."""
        self.ensure_one()
        self._check_admin()
        if not self.presented_certificates:
            raise UserError(self.env._("Fetch the certificate first, and compare it."))
        self.ca_certificate = self.presented_certificates
        self._writer().write(
            {"presented_certificates": False, "presented_summary": False}
        )
        self.message_post(body=self.env._("The server's certificate was accepted."))
        return True

    def action_use_in_cluster(self):
        """Make the pod's own service account the candidate."""
        self.ensure_one()
        self._check_admin()
        if not self.in_cluster_possible:
            raise UserError(self.env._("Odoo does not run in a pod here."))
        credentials = self.env["vworkspace.cluster.credential"].sudo()
        if not self.server_url:
            self.server_url = credentials._in_cluster_server()
        credentials._store(self, kind="in_cluster")
        self._request_verification()
        return True

    def action_add_proposed_namespaces(self):
        """Enter the namespaces that the cluster itself lists as managed."""
        self.ensure_one()
        self._check_admin()
        known = set(self.namespace_ids.mapped("name"))
        proposed = [
            n for n in (self.proposed_namespaces or "").split() if n not in known
        ]
        self.namespace_ids = [Command.create({"name": name}) for name in proposed]
        return True

    def action_verify(self):
        """Have the candidate verified, or the active credential when there is none."""
        for cluster in self:
            cluster._check_admin()
            if not cluster.sudo()._credential_to_verify():
                raise UserError(
                    self.env._("%s has no credential to verify yet.", cluster.name)
                )
            cluster._request_verification()
        return True

    def action_accept_excess(self):
        """Record that an admin accepts the rights beyond the needed, and why."""
        self.ensure_one()
        self._check_admin()
        reason = (self.excess_reason or "").strip()
        if len(reason) < 10:
            raise UserError(
                self.env._("Say in a few words why these rights are acceptable.")
            )
        self._writer().write(
            {
                "accepted_excess": self.excess_rights,
                "accepted_excess_reason": reason,
                "accepted_excess_by": self.env.uid,
                "accepted_excess_at": fields.Datetime.now(),
            }
        )
        self.message_post(
            body=self.env._(
                "Rights beyond the needed were accepted: %(rights)s. Why: %(reason)s",
                rights=self.excess_rights,
                reason=reason,
            )
        )
        self.excess_reason = False
        return True

    def action_activate(self):
        """Let the verified credential be used, in place of the one before it."""
        for cluster in self:
            cluster._check_admin()
            if obstacle := cluster._activation_obstacle():
                raise UserError(obstacle)
            cluster._activate()
        return True

    def action_revoke(self):
        """Stop using the credential at once, everywhere; then see that it is dead."""
        for cluster in self:
            cluster._check_admin()
            if not cluster.has_credential:
                raise UserError(
                    self.env._("%s has no credential to revoke.", cluster.name)
                )
            cluster._disarm(
                "revoking",
                self.env._(
                    "Nothing uses the credential any more. Delete it in the cluster "
                    "now, then verify that it is refused.\n%s",
                    cluster.sudo().active_credential_id._how_to_delete(),
                ),
            )
        return True

    def action_finish_revocation(self):
        """Erase the credential once the server refuses it."""
        self.ensure_one()
        self._check_admin()
        credential_sudo = self.sudo().active_credential_id
        if self.state != "revoking" or not credential_sudo:
            raise UserError(self.env._("%s is not being revoked.", self.name))
        verdict = verification.is_refused(self, credential_sudo)
        if verdict is not True:
            raise UserError(verdict)
        self._erase_revoked(self.env._("revoked; the server refused it"))
        return True

    def action_erase_unverified(self):
        """Erase the credential although the server may still accept it."""
        self.ensure_one()
        self._check_admin()
        if self.state != "revoking":
            raise UserError(self.env._("%s is not being revoked.", self.name))
        self._erase_revoked(self.env._("revoked; not seen to be refused"))
        return True

    def action_confirm_database(self):
        """Declare this database the one true one: its credentials may be used."""
        self._check_admin()
        try:
            self.env["vworkspace.cluster.credential"].sudo()._adopt_copied()
        except sealing.SealingError as exc:
            raise UserError(str(exc)) from None
        clusters = self.sudo().with_context(active_test=False)
        clusters = clusters.search([("credential_ids", "!=", False)])
        clusters._connection_changed()
        for cluster in clusters:
            cluster.message_post(
                body=self.env._("This database was confirmed as the one that writes.")
            )
        return True

    # === BUSINESS METHODS === #

    def _check_admin(self):
        self.check_access("write")

    def _store_candidate(self, parts):
        """Make a candidate of what a user entered.

        :param dict parts: of WRITE_ONLY, as far as they were entered
        """
        parts = {name: text for name, text in parts.items() if text}
        if not parts:
            return
        self.ensure_one()
        self._check_admin()
        try:
            taken = self._take_credential(parts)
        except ValueError as exc:  # kube's sentences about bad input
            raise ValidationError(str(exc)) from None
        self.env["vworkspace.cluster.credential"].sudo()._store(self, **taken)
        self._writer().write({"verification_state": "none"})
        self.message_post(body=self.env._("A credential was stored, to be verified."))

    def _take_credential(self, parts):
        """Return what is to be stored of `parts`, checked; set address and CA from it.

        :raise ValueError: with a sentence about what is wrong with it
        """
        if "kubeconfig" in parts:
            return self._take_kubeconfig(parts)
        client_cert, client_key = (
            parts.get("client_certificate"),
            parts.get("client_key"),
        )
        if client_cert or client_key:
            certificates.check_client_certificate(client_cert or "", client_key or "")
        token = tokens.check_token(parts["token"]) if "token" in parts else None
        known = self.sudo()._credential_to_verify()
        stays_in_cluster = token is None and known.kind == "in_cluster"
        return {
            "kind": "in_cluster" if stays_in_cluster else "token",
            "token": token,
            "client_cert": client_cert,
            "client_key": client_key,
        }

    def _take_kubeconfig(self, parts):
        if "token" in parts:
            raise ValueError("Enter a token or a kubeconfig, not both.")
        taken = kubeconfig.parse_kubeconfig(
            parts["kubeconfig"], allow_insecure=self.is_test
        )
        self.write(
            {
                "insecure": taken.insecure,
                "server_url": taken.server,
                "ca_certificate": taken.ca_pem,
                "tls_server_name": taken.tls_server_name,
            }
        )
        client_cert = parts.get("client_certificate") or taken.client_cert_pem
        client_key = parts.get("client_key") or taken.client_key_pem
        if client_cert or client_key:
            certificates.check_client_certificate(client_cert or "", client_key or "")
        return {
            "kind": "kubeconfig",
            "token": tokens.check_token(taken.token) if taken.token else None,
            "client_cert": client_cert,
            "client_key": client_key,
            "summary": " ".join((_describe_context(taken), *taken.notes)),
        }

    def _rights_commands(self, namespaces):
        if not namespaces:
            return self.env._("# Enter the namespaces first.")
        bound = access.commands(namespaces=namespaces)
        long_lived = access.commands(namespaces=namespaces, long_lived=True)
        return "\n\n".join(
            [
                *(f"# {c.title}\n{c.command}" for c in bound),
                self.env._("# Or, instead of that token:"),
                *(f"# {c.title}\n{c.command}" for c in long_lived[2:]),
            ]
        )

    def _credential_to_verify(self):
        disarmed = self.state in ("revoking", "revoked")
        return self.candidate_id or (
            self.env["vworkspace.cluster.credential"]
            if disarmed
            else self.active_credential_id
        )

    def _request_verification(self):
        self._writer().write(
            {
                "verification_state": "running",
                "verification_requested_at": fields.Datetime.now(),
            }
        )
        self.env.ref("vworkspace_push.ir_cron_verify").sudo()._trigger()

    def _activation_obstacle(self):
        """Return what keeps the cluster from being activated, or nothing.

        :rtype: str | None
        """
        cluster_sudo = self.sudo()
        credential = cluster_sudo._credential_to_verify()
        if self.state == "revoking" and not credential:
            return self.env._(
                "The credential is being revoked. Finish that, or store another one."
            )
        if not credential:
            return self.env._("Store a credential first.")
        if cluster_sudo.verified_credential_id != credential:
            return self.env._("Verify the credential first.")
        if self.verification_state == "running":
            return self.env._("The verification is still running.")
        if failed := self.check_ids.filtered(
            lambda c: c.required and c.state in ("failed", "skipped")
        ):
            return self.env._(
                "Something required is missing: %s", ", ".join(failed.mapped("title"))
            )
        if self.excess_rights and self.accepted_excess != self.excess_rights:
            return self.env._(
                "The credential has rights beyond the needed. Take them away in the "
                "cluster, or accept them with a reason."
            )
        return None

    def _activate(self):
        cluster_sudo = self.sudo()
        if candidate := cluster_sudo.candidate_id:
            cluster_sudo.active_credential_id._retire(
                self.env._("replaced while being revoked; not seen to be refused")
                if self.state == "revoking"
                else self.env._("replaced")
            )
            self.env.flush_all()  # one active credential at a time, in this order too
            candidate._writer().write({"state": "active"})
        self._writer().write(
            {
                "state": "active",
                "state_message": False,
                "activated_at": fields.Datetime.now(),
            }
        )
        self._connection_changed()
        self.message_post(body=self.env._("The cluster is active."))

    def _disarm(self, state, message):
        """Stop using the cluster's credential, here and in every other process."""
        self._writer().write({"state": state, "state_message": message})
        self._connection_changed()
        self.message_post(body=message)

    def _destination_changed(self):
        """Stop using a credential that was stored for another address."""
        self._writer().write(
            {"verification_state": "none", "verified_credential_id": False}
        )
        if self.state in ("active", "refused"):
            self._disarm(
                "registering",
                self.env._(
                    "The cluster's address, certificate or proxy changed. Its "
                    "credential is sent nowhere else than it was meant for: store it "
                    "again, verify and activate."
                ),
            )

    def _erase_revoked(self, reason):
        self.sudo().credential_ids.filtered(
            lambda c: c.state in ("candidate", "active")
        )._retire(reason)
        self._writer().write(
            {"state": "revoked", "state_message": self.env._("Its credential is gone.")}
        )
        self._connection_changed()
        self.message_post(body=self.env._("The credential was erased: %s", reason))

    def _credential_refused(self, version):
        """Stop using a credential that the server refused.

        Unless it is replaced by now: then the newer one is used instead.

        :param int version: the connection's, at which the refusal was seen
        """
        self.ensure_one()
        if self.state != "active" or self.connection_version != version:
            return
        self._disarm(
            "refused",
            self.env._(
                "The server does not accept the credential any more. Nothing is sent "
                "until a new one is stored and activated."
            ),
        )
        self._tell_admin(self.env._("Credential refused"), self.state_message)

    def _tell_admin(self, summary, note):
        """Put an activity on the cluster, once, for whoever stored the credential."""
        user = self.sudo().active_credential_id.stored_by or self.create_uid
        known = self.activity_ids.filtered(lambda a: a.summary == summary)
        if not known:
            self.activity_schedule(
                "mail.mail_activity_data_todo",
                summary=summary,
                note=note,
                user_id=user.id,
            )

    def _is_copied(self):
        for credential in self.credential_ids.filtered(lambda c: c.state == "active"):
            try:
                credential._open()
            except sealing.CopiedDatabase:
                return True
            except sealing.SealingError:
                return False
        return False

    # === CRONS === #

    @api.model
    def _cron_verify(self):
        verification.run_cron(self.env)
        renewal.renew_due(self.env.registry)
        in_transaction(self.env.registry, verification.warn_of_expiry)


def _take_write_only(vals):
    return {name: vals.pop(name) for name in WRITE_ONLY if name in vals}


def _describe_context(taken):
    return (
        f"Context {taken.context}: cluster {taken.cluster}, user {taken.user}, "
        f"server {taken.server}."
    )


def _describe_certificate(certificate):
    return (
        f"Subject: {certificate.subject}\nIssuer: {certificate.issuer}\n"
        f"Valid: {certificate.not_before:%Y-%m-%d} to "
        f"{certificate.not_after:%Y-%m-%d}\n"
        f"SHA-256: {certificate.sha256}"
    )


def _expiry_sentence(credential, now):
    """Return a warning when the credential's end is near, else nothing.

    It changes with each stage (80 % of its life, 14, 3 and 1 days before the end), so
    that each raises an activity of its own.
    """
    if not credential.expires_at:
        return False
    left = credential.expires_at - now
    if left <= timedelta(0):
        return credential.env._("The credential has expired.")
    for days in (1, 3, 14):
        if left <= timedelta(days=days):
            return credential.env._(
                "The credential expires in less than %(hours)s hours, on %(date)s. "
                "Store a new one before that.",
                hours=days * 24,
                date=fields.Datetime.to_string(credential.expires_at),
            )
    begun = credential.issued_at or credential.stored_at
    if left <= (credential.expires_at - begun) * (1 - const.RENEW_AT):
        return credential.env._(
            "Most of the credential's life is over: it expires on %(date)s.",
            date=fields.Datetime.to_string(credential.expires_at),
        )
    return False
