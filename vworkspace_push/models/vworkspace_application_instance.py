import json
from datetime import timedelta

import yaml

from odoo import Command, api, fields, models, tools
from odoo.exceptions import AccessError, UserError

from .. import const
from ..delivery import waker
from ..kube import apply, diff, ownership, resources
from ..kube.errors import KubeError, describe
from ..kube.values import ValuesError, edit_values, parse_values
from ..sealing import SealingError
from ..status import embedded, poll
from ..times import naive
from .vworkspace_managed_resource import VworkspaceManagedResource

INLINE_VALUES = ".spec.values.inline"

MAX_TIMELINE_OPERATIONS = 200  # the newest, whose rows an application's timeline has

# What the form and `resources.application_instance` call the same
CHART_FIELDS = {
    "chart_source_type": "source_type",
    "chart_url": "url",
    "chart_name": "name",
    "chart_version": "version",
}


class VworkspaceApplicationInstance(models.Model):
    _name = "vworkspace.application.instance"
    _description = "Application Instance"
    _inherit = ["vworkspace.managed.resource"]

    _resource = resources.APPLICATION_INSTANCE
    _desired_fields = frozenset(
        {
            "name",
            "cluster_id",
            "namespace_id",
            *("catalog_id", "mode", "release_name"),
            *CHART_FIELDS,
            *("values_source", "values_yaml", "values_ref_name", "values_ref_key"),
            *("with_external_secrets", "with_cert_manager"),
            *("with_ingress", "ingress_host"),
            *("capability_ids.capability", "capability_ids.engine"),
            *("left_field_ids.field",),
        }
    )

    catalog_entry_id = fields.Many2one(
        "vworkspace.catalog.entry",
        string="From the Catalog",
        ondelete="set null",
        index="btree_not_null",
        help="Choosing one fills in the chart, its values and its capabilities.",
    )
    catalog_id = fields.Char(
        string="Catalog ID",
        required=True,
        tracking=True,
        help="The catalog entry that this application is an instance of, such as "
        "wordpress. It is recorded in the cluster.",
    )
    mode = fields.Selection(
        [("managed", "Managed"), ("placeholder", "Placeholder")],
        required=True,
        default="managed",
        tracking=True,
        help="Managed: the operator installs the chart. Placeholder: the object only "
        "reserves its name and takes operations; nothing is installed.",
    )
    chart_source_type = fields.Selection(
        [("oci", "OCI registry"), ("helm", "Helm repository")],
        string="Chart Source",
        default="oci",
        tracking=True,
    )
    chart_url = fields.Char(
        string="Chart Address",
        tracking=True,
        help="oci://… for an OCI registry, https://… for a Helm repository.",
    )
    chart_name = fields.Char(tracking=True)
    chart_version = fields.Char(
        tracking=True,
        help="One exact version, such as 1.4.2. Ranges and “latest” are refused: what "
        "runs would depend on when it was installed.",
    )
    release_name = fields.Char(
        tracking=True,
        help="The name of the Helm release. Left empty: the name of the instance.",
    )
    values_source = fields.Selection(
        [
            ("inline", "Entered here"),
            ("secretRef", "A Secret in the namespace"),
            ("configMapRef", "A ConfigMap in the namespace"),
        ],
        required=True,
        default="inline",
        tracking=True,
    )
    values_yaml = fields.Text(
        string="Values",
        help="The chart's values as YAML. No secrets: those belong into a Secret in "
        "the cluster.",
    )
    # What they say, as JSON: a deployment of many reads this, not YAML. A release that
    # reads YAML otherwise sets it to NULL in its migration; then YAML is read again.
    values_json = fields.Text(
        compute="_compute_values_json",
        store=True,
        precompute=True,
        prefetch=False,
        exportable=False,
    )
    values_ref_name = fields.Char(
        string="Its Name", help="Of the Secret or ConfigMap, in the same namespace."
    )
    values_ref_key = fields.Char(
        string="Its Key",
        default="values.yaml",
        help="The key under which it holds the values as a YAML document.",
    )
    with_external_secrets = fields.Boolean(
        string="External Secrets",
        help="The operator connects the release with External Secrets.",
    )
    with_cert_manager = fields.Boolean(
        string="Certificates", help="The operator asks cert-manager for certificates."
    )
    with_ingress = fields.Boolean(
        string="Ingress", help="The application gets an address of its own."
    )
    ingress_host = fields.Char(
        string="Host", help="The host name of its address, such as wiki.example.com."
    )
    capability_ids = fields.One2many(
        "vworkspace.capability", "instance_id", string="Capabilities", copy=True
    )
    manifest_text = fields.Text(
        string="Manifest",
        compute="_compute_manifest_text",
        help="What is sent to the cluster.",
    )

    user_id = fields.Many2one(
        "res.users",
        string="Responsible",
        default=lambda self: self.env.user,
        index="btree_not_null",
        copy=False,
        tracking=True,
        domain=[("share", "=", False)],
        help="Gets an activity when the application degrades, fails or is blocked.",
    )

    condition_ids = fields.One2many("vworkspace.condition", "instance_id")
    endpoint_ids = fields.One2many("vworkspace.endpoint", "instance_id")
    conflict_ids = fields.One2many("vworkspace.field.conflict", "instance_id")
    drift_ids = fields.One2many("vworkspace.field.drift", "instance_id")
    left_field_ids = fields.One2many("vworkspace.left.field", "instance_id")
    operation_ids = fields.One2many("vworkspace.operation", "target_id")
    operation_count = fields.Integer(compute="_compute_operation_count")
    endpoint_url = fields.Char(
        compute="_compute_endpoint_url", string="Address", help="Its first endpoint."
    )

    # Drift: what was ours and was overwritten
    is_drifted = fields.Boolean(readonly=True, copy=False, string="Drifted")
    heal_mode = fields.Selection(
        [("cluster", "As the cluster"), ("on", "By itself"), ("off", "By hand")],
        string="Drift Is Healed",
        required=True,
        default="cluster",
        copy=False,
        tracking=True,
        help="By itself: Odoo takes fields back that somebody overwrote in the "
        "cluster, ever more slowly if they are overwritten again.",
    )
    heal_attempts = fields.Integer(readonly=True, copy=False)
    next_heal_at = fields.Datetime(readonly=True, copy=False)

    _protected_fields = VworkspaceManagedResource._protected_fields | {
        *("is_drifted", "heal_attempts", "next_heal_at"),
        *("conflict_ids", "drift_ids", "left_field_ids", "values_json"),
    }

    _name_uniq = models.Constraint(
        "UNIQUE (cluster_id, namespace_id, name)",
        "There is already an application of this name in this namespace.",
    )
    _due_idx = models.Index(
        "(cluster_id, next_attempt_at, id) WHERE next_attempt_at IS NOT NULL"
    )
    _heal_idx = models.Index("(next_heal_at) WHERE is_drifted")
    _cluster_uid_idx = models.Index("(cluster_id, uid)")
    _cluster_health_idx = models.Index("(cluster_id, health)")
    _name_idx = models.Index("(name, id)")  # the order of lists

    # === COMPUTE METHODS === #

    @api.depends("values_yaml")
    def _compute_values_json(self):
        for instances in self.grouped("values_yaml").values():
            try:
                values = instances[0]._parse_values()
            except ValuesError:
                instances.values_json = False  # whoever wants them is told why
            else:
                instances.values_json = json.dumps(values, ensure_ascii=False)

    @api.depends(lambda self: sorted(self._desired_fields))
    def _compute_manifest_text(self):
        for instance in self:
            try:
                manifest = instance._build_manifest()
            except ValuesError as exc:
                instance.manifest_text = str(exc)
                continue
            if instance._origin:
                manifest = instance._signed(manifest)
            instance.manifest_text = yaml.safe_dump(
                manifest, sort_keys=False, allow_unicode=True
            )

    def _compute_operation_count(self):
        groups = self.env["vworkspace.operation"]._read_group(
            [("target_id", "in", self.ids)], ["target_id"], ["__count"]
        )
        counts = {target.id: count for target, count in groups}
        for instance in self:
            instance.operation_count = counts.get(instance.id, 0)

    @api.depends("endpoint_ids.url")
    def _compute_endpoint_url(self):
        for instance in self:
            instance.endpoint_url = instance.endpoint_ids[:1].url

    # === ONCHANGE METHODS === #

    @api.onchange("cluster_id")
    def _onchange_cluster_id(self):
        if self.namespace_id.cluster_id != self.cluster_id:
            namespaces = self.cluster_id.namespace_ids
            self.namespace_id = namespaces if len(namespaces) == 1 else False

    @api.onchange("catalog_entry_id")
    def _onchange_catalog_entry_id(self):
        entry = self.catalog_entry_id
        if not entry:
            return None
        lost = self._edited_since_the_catalog(entry)
        self.update(entry._instance_values())
        if not lost:
            return None
        labels = [self._fields[name]._description_string(self.env) for name in lost]
        return {
            "warning": {
                "title": self.env._("What you entered was replaced"),
                "message": self.env._(
                    "%(entry)s fills in its own values: what was entered under "
                    "%(fields)s is gone from this form. Discard the changes to have it "
                    "back.",
                    entry=entry.name,
                    fields=", ".join(labels),
                ),
            }
        }

    def _edited_since_the_catalog(self, entry):
        """Return the fields that `entry` would overwrite and that hold what neither it
        nor the entry before it filled in.

        :rtype: list[str]
        """
        before = self._origin.catalog_entry_id | entry.search(
            [("catalog_id", "=", self.catalog_id)]
        )
        filled = [
            {**known._instance_values(), "capability_ids": known._capabilities()}
            for known in entry | before
        ]
        names = list(filled[0])
        filled.append(self.default_get(names))
        held = {name: self[name] for name in names}
        held["capability_ids"] = {c.capability: c.engine for c in self.capability_ids}
        return [
            name
            for name, value in held.items()
            if value and all(value != values.get(name) for values in filled)
        ]

    # === CRUD METHODS === #

    def _init_column(self, column_name):
        if column_name != "user_id":
            return super()._init_column(column_name)
        # Who made it before there was somebody responsible
        self.env.cr.execute(f"UPDATE {self._table} SET user_id = create_uid")  # noqa: S608

    @api.model_create_multi
    def create(self, vals_list):
        instances = super().create(vals_list)
        if instances.filtered(lambda i: i.heal_mode != "cluster"):
            self._check_may_decide_healing()
        return instances

    def write(self, vals):
        mode = vals.get("heal_mode", "")
        deciding = self.filtered(lambda i: mode and i.heal_mode != mode)
        if deciding:
            self._check_may_decide_healing()
        if vals.keys() & {"mode", "release_name"}:
            self._refuse_immutable(vals)
        result = super().write(vals)
        modes = dict(self._fields["heal_mode"]._description_selection(self.env))
        deciding._audit("healing", message=modes.get(mode))
        return result

    def unlink(self):
        self.sudo().operation_ids.unlink()  # refused while one of them is deployed
        return super().unlink()

    def _check_may_decide_healing(self):
        if not (self.env.su or self.env.user.has_group("vworkspace_push.group_admin")):
            raise AccessError(
                self.env._("Only an administrator decides how drift is healed.")
            )

    def _refuse_immutable(self, vals):
        for instance in self.filtered(lambda i: i.uid and i.applied_revision_id):
            if "release_name" in vals and (vals["release_name"] or instance.name) != (
                instance.release_name or instance.name
            ):
                raise UserError(
                    self.env._(
                        "The release name of %s cannot change once it is applied.",
                        instance.name,
                    )
                )
            if vals.get("mode") == "placeholder" and instance.mode == "managed":
                raise UserError(
                    self.env._(
                        "%s may have a release in the cluster: it cannot become a "
                        "placeholder any more.",
                        instance.name,
                    )
                )

    def copy_data(self, default=None):
        default = {"release_name": False, **(default or {})}
        copies = super().copy_data(default)
        if "name" not in default:
            for instance, vals in zip(self, copies, strict=True):
                vals["name"] = f"{instance.name}-copy"
        return copies

    # === ACTIONS === #

    def action_restore_ours(self):
        """Take back the fields that somebody overwrote in the cluster."""
        self.check_access("write")
        drifted = self.filtered("is_drifted")
        if waiting := drifted.filtered(lambda i: i.delivery_state != "applied"):
            raise UserError(
                self.env._(
                    "%s has a delivery that is not finished: deal with it first.",
                    waiting[0].name,
                )
            )
        drifted._heal(reason=self.env._("Taken back by hand after drift."))
        return True

    def action_adopt(self):
        """Move the ownership of our fields from Pull mode's managers to us."""
        self.check_access("write")
        for instance in self:
            if not instance.uid:
                raise UserError(
                    self.env._(
                        "%s is not in its cluster yet: there is nothing to adopt.",
                        instance.name,
                    )
                )
            if problems := instance._find_problems():
                raise UserError("\n".join([f"{instance.name}:", *problems]))
        manifests = {instance.id: instance._build_manifest() for instance in self}
        self._intend("adopt", manifests=manifests)
        return True

    def action_open_operations(self):
        """Show the operations on this application."""
        self.ensure_one()
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_operation_action"
        )
        action["domain"] = [("target_id", "=", self.id)]
        action["context"] = {"default_target_id": self.id}
        return action

    def action_open_preview(self):
        """Show what deploying the form as it stands would do."""
        return self.env["vworkspace.preview"]._open_for(self)

    def action_open_conflicts(self):
        """Ask for a decision about each field that others own."""
        return self.env["vworkspace.conflict.wizard"]._open_for(self)

    def action_open_copy(self):
        """Ask where a copy shall go."""
        return self.env["vworkspace.copy.wizard"]._open_for(self)

    def action_open_adopt(self):
        """Show which fields of Pull mode's managers would become ours."""
        return self.env["vworkspace.adopt.wizard"]._open_for(self)

    def action_import_existing(self):
        """Offer to let the record stand for the object that is in its way."""
        return self.env["vworkspace.import.wizard"]._open_for_instance(self)

    def get_ownership(self):
        """Return who owns each field of the live object, read from the cluster now.

        :rtype: dict
        :return: ``as_of``, ``error`` (a sentence, or False) and ``fields``
        """
        self.ensure_one()
        self.check_access("read")
        answer = {"as_of": fields.Datetime.now(), "error": False, "fields": []}
        if not self.uid:
            return answer
        try:
            live = self._read_live()
        except UserError as exc:
            return {**answer, "error": str(exc)}
        drifted = {d.field for d in ownership.drift(self.applied_fields or "", live)}
        owned = ownership.owners(live)
        answer["fields"] = [
            {
                "field": entry.field,
                "value": diff.text(entry.value, entry.field),
                "ours": entry.ours,
                "drifted": entry.field in drifted,
                "managers": [_manager_values(m) for m in entry.managers],
            }
            for entry in owned
        ]
        return answer

    # === BUSINESS METHODS === #

    def _responsible_user(self):
        return self.user_id

    def _residue(self):
        endpoints = ", ".join(filter(None, self.endpoint_ids.mapped("url")))
        return [
            (self.env._("Addresses"), endpoints or self.env._("none known")),
            (self.env._("Helm release"), self.release_name or self.name),
        ]

    def _timeline_subjects(self):
        operations = self.env["vworkspace.operation"].search(
            [("target_id", "=", self.id)], limit=MAX_TIMELINE_OPERATIONS
        )
        return {**super()._timeline_subjects(), operations._name: operations.ids}

    def _examine(self):
        """Return the whole manifest, and what keeps it from being deployed.

        :rtype: tuple[dict | None, list[str]]
        """
        self.ensure_one()
        if not (self.name and self.cluster_id and self.namespace_id):
            return None, []  # the form marks what is required
        try:
            manifest = self._whole_manifest()
        except ValuesError as exc:
            return None, [str(exc)]
        return manifest, [
            self._problem_sentence(problem)
            for problem in resources.check_application_instance(manifest)
        ]

    def _find_problems(self):
        return self._examine()[1]

    def _prepare(self):
        manifest, problems = self._examine()
        return (None if problems else self._without_left(manifest)), problems

    def _build_manifest(self):
        return self._without_left(self._whole_manifest())

    def _without_left(self, manifest):
        if left := self.left_field_ids.mapped("field"):
            return ownership.without(manifest, left)
        return manifest

    def _whole_manifest(self):
        """Return the manifest with what was left to other managers still in it."""
        self.ensure_one()
        inline = self.values_source == "inline"
        return resources.application_instance(
            name=self.name or "",
            namespace=self.namespace_id.name or "",
            cluster_id=self.cluster_id.cluster_id or "",
            catalog_id=self.catalog_id or "",
            mode=self.mode or "managed",
            chart={theirs: self[ours] or "" for ours, theirs in CHART_FIELDS.items()},
            release_name=self.release_name or self.name or "",
            values_source=self.values_source or "inline",
            values=self._values() if inline else None,
            values_ref=None
            if inline
            else {
                "name": self.values_ref_name or "",
                "key": self.values_ref_key or "",
            },
            integrations={
                "external_secrets": self.with_external_secrets,
                "cert_manager": self.with_cert_manager,
                "ingress": self.with_ingress,
                "ingress_host": self.ingress_host or "" if self.with_ingress else "",
            },
            capabilities={c.capability: c.engine for c in self.capability_ids},
        )

    def _values(self):
        """Return the values as data.

        :rtype: dict
        :raise kube.values.ValuesError: when they are not valid YAML
        """
        known = self.values_json
        return json.loads(known) if known else self._parse_values()

    def _parse_values(self):
        return parse_values(self.values_yaml or "", max_bytes=const.MAX_VALUES_BYTES)

    def _desired(self):
        return {
            **{name: self[name] or False for name in self._restored_fields()},
            "capabilities": {c.capability: c.engine for c in self.capability_ids},
        }

    @api.model
    @tools.ormcache()
    def _restored_fields(self):
        """Return which fields a revision restores as they are."""
        names = self._desired_fields & self._fields.keys()
        return tuple(sorted(names - {"name", "cluster_id", "namespace_id"}))

    def _restore_desired(self, desired):
        desired = dict(desired)
        capabilities = desired.pop("capabilities", {})
        known = desired.keys() & self._fields.keys()
        self.write(
            {
                **{name: desired[name] for name in known},
                "capability_ids": capability_commands(capabilities),
            }
        )

    @api.model
    def _values_from_object(self, obj):
        """Return the form's values for an object, and the paths that it has no field
        for.

        :param dict obj: a live object or a manifest
        :rtype: tuple[dict, list[str]]
        """
        read, unknown = resources.read_application_instance(obj)
        chart = read.get("chart") or {}
        reference = read.get("values_ref") or {}
        integrations = read.get("integrations") or {}
        name = read.get("name") or ""
        release = read.get("release_name") or ""
        values = read.get("values")
        return {
            "name": name,
            "catalog_id": read.get("catalog_id") or "",
            "mode": read.get("mode") or "managed",
            **{ours: chart.get(theirs) for ours, theirs in CHART_FIELDS.items()},
            "release_name": release if release != name else False,
            "values_source": read.get("values_source") or "inline",
            "values_yaml": write_values(values) or False,
            "values_ref_name": reference.get("name") or False,
            "values_ref_key": reference.get("key") or "values.yaml",
            "with_external_secrets": bool(integrations.get("external_secrets")),
            "with_cert_manager": bool(integrations.get("cert_manager")),
            "with_ingress": bool(
                integrations.get("ingress") or integrations.get("ingress_host")
            ),
            "ingress_host": integrations.get("ingress_host") or False,
            "capability_ids": capability_commands(read.get("capabilities") or {}),
        }, unknown

    def _read_live(self):
        """Return the object as the cluster has it now.

        :raise UserError: when it cannot be read; with the reason
        """
        self.ensure_one()
        try:
            return apply.get(
                self.cluster_id._connection(),
                self._resource,
                self.name,
                self.namespace_id.name,
                timeout=const.DELIVERY_TIMEOUT,
            )
        except (KubeError, SealingError, ValueError) as exc:
            raise UserError(describe(exc)) from None

    # === BUSINESS METHODS - CONFLICTS === #

    def _decide(self, decisions, live):
        """Carry out what a person decided about the fields in conflict, and deliver.

        :param dict decisions: by field: ``{"decision": take_over, leave or accept,
            "reason": text, "manager": name}``
        :param dict live: the object as the cluster has it now
        :raise UserError: when one of them cannot be carried out
        """
        self.ensure_one()
        self.check_access("write")
        by_kind = {"take_over": [], "leave": [], "accept": []}
        for field, decided in decisions.items():
            by_kind[decided["decision"]].append(field)
        before = self._whole_manifest()
        for field, decided in decisions.items():
            self._check_decision(field, decided["decision"], live, before)
        self._accept_values(by_kind["accept"], live)
        self.env["vworkspace.left.field"].sudo().create(
            [
                {
                    "instance_id": self.id,
                    "field": field,
                    "manager": decisions[field].get("manager"),
                    "reason": decisions[field]["reason"],
                    "user_id": self.env.uid,
                }
                for field in by_kind["leave"]
            ]
        )
        self._audit_decisions(decisions, before, live)
        self._deploy(
            reason=self.env._("Conflict decided."),
            unchanged=True,
            takeover={self.id: by_kind["take_over"]},
            given_up={self.id: by_kind["leave"]},
        )

    def _check_decision(self, field, decision, live, manifest):
        """Check that a decision about `field` can be carried out.

        :param dict live: the object as the cluster has it
        :param dict manifest: the whole one of this record
        :raise UserError: when it cannot
        """
        if decision != "take_over" and field.startswith(IDENTITY_PREFIXES):
            raise UserError(
                self.env._(
                    "%s says whose object this is: it can only be taken over.", field
                )
            )
        if decision == "leave" and not ownership.other_owners(live, field):
            raise UserError(
                self.env._(
                    "%s cannot be left to others: nobody else owns it in the cluster, "
                    "so giving it up would delete it there. Take it over, or accept "
                    "its live value.",
                    field,
                )
            )
        if decision == "leave" and field in (".spec", ".metadata"):
            raise UserError(self.env._("%s as a whole cannot be left.", field))
        if decision == "accept" and not _fits_form(field, live, manifest):
            raise UserError(
                self.env._(
                    "This form has no field for %s: take it over, or leave it to them.",
                    field,
                )
            )

    def _accept_values(self, accepted, live):
        """Take the live values at these fields into the form.

        :raise UserError: when the form would not describe them
        """
        if not accepted:
            return
        text = self.values_yaml or ""
        before = manifest = self._whole_manifest()
        try:
            for field in accepted:
                value = ownership.value_at(live, field)
                if field == INLINE_VALUES:
                    text = write_values(value)
                elif field.startswith((f"{INLINE_VALUES}.", f"{INLINE_VALUES}[")):
                    path = ownership.route(manifest, field)[len(INLINE_PATH) :]
                    text = edit_values(text, path, value)
                manifest = ownership.with_value(manifest, field, value)
        except ValueError as exc:
            raise UserError(str(exc)) from None
        # Only what differs: the form holds more than its manifest tells, such as the
        # chart of a placeholder.
        values, _unknown = self._values_from_object(manifest)
        values_before, _unknown = self._values_from_object(before)
        changed = {
            name: value
            for name, value in values.items()
            if name != "values_yaml" and value != values_before[name]
        }
        if text != (self.values_yaml or ""):
            changed["values_yaml"] = text
        self.write(changed)
        after = self._whole_manifest()
        for field in accepted:
            if ownership.value_at(after, field) != ownership.value_at(live, field):
                raise UserError(
                    self.env._(
                        "The value of %s in the cluster cannot be taken into this "
                        "form: take it over, or leave it to them.",
                        field,
                    )
                )

    def _audit_decisions(self, decisions, before, live):
        for field, decided in decisions.items():
            ours = diff.text(ownership.value_at(before, field), field)
            theirs = diff.text(ownership.value_at(live, field), field)
            self._audit(
                "decide",
                outcome=decided["decision"],
                reason=decided["reason"],
                changes=f"~ {field}: {theirs} ({decided.get('manager')}) / {ours}",
            )

    # === BUSINESS METHODS - DRIFT === #

    def _heals_by_itself(self):
        if self.heal_mode == "cluster":
            return self.cluster_id.heals_drift
        return self.heal_mode == "on"

    def _heal(self, *, reason):
        """Deliver once more what is applied, taking the drifted fields over."""
        applied = self.filtered("applied_revision_id")
        applied._audit("heal", reason=reason)
        applied._intend(
            "deploy",
            manifests={
                i.id: json.loads(i.applied_revision_id.manifest) for i in applied
            },
            desired={i.id: i.applied_revision_id.desired for i in applied},
            reason=reason,
            takeover={i.id: i.drift_ids.mapped("field") for i in applied},
        )

    def _store_drift(self, drifted):
        """Bring the rows to the fields that are overwritten now.

        :param drifted: `kube.ownership.DriftedField` of each
        """
        self.ensure_one()
        instance_sudo = self.sudo()
        manifest = json.loads(self.applied_revision_id.manifest or "{}")
        rows = [_drift_values(d, manifest) for d in drifted]
        names = ("field", "live_value", "manager", "since")
        # Sorted here: the database may have another order of letters.
        stored = [
            {n: row[n] or False for n in names}
            for row in instance_sudo.drift_ids.sorted("field")
        ]
        if [{n: row[n] or False for n in names} for row in rows] == stored:
            return
        instance_sudo.drift_ids.unlink()
        instance_sudo.drift_ids.create(
            [{"instance_id": self.id, **row} for row in rows]
        )
        self._writer().is_drifted = bool(rows)
        if rows:
            self._drift_appeared()

    def _drift_appeared(self):
        changed_by = ", ".join(sorted({d.manager or "?" for d in self.drift_ids}))
        fields_text = ", ".join(self.drift_ids.mapped("field")[:5])
        self._audit(
            "observe", outcome="drifted", message=f"{changed_by}: {fields_text}"
        )
        if not self._heals_by_itself():
            return
        now = fields.Datetime.now()
        if self.next_heal_at and self.next_heal_at > now:
            return  # it is healed then, however often it changes until then
        attempts = self.heal_attempts
        if not self.next_heal_at or now - self.next_heal_at > const.HEAL_FORGET:
            attempts = 0
        wait = min(const.RETRY_MAX, const.RETRY_FIRST * 2 ** min(attempts, 16))
        at = now if not attempts else now + timedelta(seconds=wait)
        self._writer().write({"next_heal_at": at, "heal_attempts": attempts + 1})
        waker.trigger(self.env, at)

    @api.model
    def _heal_due(self):
        """Take back what drifted where that is switched on, as far as it is time."""
        due = self.sudo().search(
            [
                ("is_drifted", "=", True),
                ("delivery_state", "=", "applied"),
                *("|", ("heal_mode", "=", "on")),
                *("&", ("heal_mode", "=", "cluster")),
                ("cluster_id.heals_drift", "=", True),
                # None: it drifted before healing was switched on.
                *("|", ("next_heal_at", "=", False)),
                ("next_heal_at", "<=", fields.Datetime.now()),
                # Not behind the back of whoever holds it back
                *(("is_paused", "=", False), ("cluster_id.is_paused", "=", False)),
                ("foreign_database", "=", False),
            ],
            limit=const.DELIVERY_BATCH,
        )
        due._lock_for_intent()
        due.invalidate_recordset()  # somebody may have deployed before the lock
        due = due.filtered(lambda i: i.is_drifted and i.delivery_state == "applied")
        due._heal(reason=self.env._("Taken back by itself after drift."))

    # === BUSINESS METHODS - OBSERVED === #

    def _problem_sentence(self, problem):
        """Say a problem in terms of the form, where the field is one of the form's."""
        label = {
            "metadata.name": self._fields["name"].string,
            "spec.appRef.catalogId": self._fields["catalog_id"].string,
            "spec.chart.url": self._fields["chart_url"].string,
            "spec.chart.name": self._fields["chart_name"].string,
            "spec.chart.version": self._fields["chart_version"].string,
            "spec.release.name": self._fields["release_name"].string,
            "spec.values.secretRef.name": self._fields["values_ref_name"].string,
            "spec.values.secretRef.key": self._fields["values_ref_key"].string,
            "spec.values.configMapRef.name": self._fields["values_ref_name"].string,
            "spec.values.configMapRef.key": self._fields["values_ref_key"].string,
            "spec.integrations.ingress.host": self._fields["ingress_host"].string,
        }.get(problem.field)
        return f"{label}: {problem.message}" if label else problem.message

    def _forget_observed(self):
        for lines in ("condition_ids", "endpoint_ids", "drift_ids", "conflict_ids"):
            self.sudo()[lines].unlink()
        self._writer().is_drifted = False
        return super()._forget_observed()

    # === CRONS === #

    @api.model
    def _cron_status(self):
        embedded.start_where_wanted(self.env)
        poll.run_cron(self.env)


INLINE_PATH = ("spec", "values", "inline")
# Labels and annotations by which an object is known to be ours
IDENTITY_PREFIXES = (
    ".metadata.labels.",
    f".metadata.annotations.{resources.DATABASE_ANNOTATION}",
    f".metadata.annotations.{resources.RECORD_ANNOTATION}",
)


class _ValuesDumper(yaml.SafeDumper):
    """Writes YAML that `parse_values` reads as it was."""


def _represent_text(dumper, text):
    # PyYAML leaves text such as 1e3 unquoted, which others read as a number.
    style = '"' if text[:1] in tuple("+-.0123456789") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ValuesDumper.add_representer(str, _represent_text)


def write_values(values):
    """Return chart values as YAML text; "" for none."""
    if not values:
        return ""
    return yaml.dump(values, Dumper=_ValuesDumper, sort_keys=False, allow_unicode=True)


def _fits_form(field, live, manifest):
    """Tell whether the form can hold the live value of `field`."""
    value = ownership.value_at(live, field)
    try:
        wanted = ownership.with_value(manifest, field, value)
    except ValueError:
        return False
    described, _unknown = resources.read_application_instance(wanted)
    rebuilt = resources.application_instance(**described)
    return ownership.value_at(rebuilt, field) == value


def capability_commands(capabilities):
    """Return the commands that make `capability_ids` hold these, by capability."""
    created = [
        Command.create({"capability": capability, "engine": engine})
        for capability, engine in capabilities.items()
    ]
    return [Command.clear(), *created]


def _manager_values(manager):
    return {
        "name": manager.name,
        "operation": manager.operation,
        "subresource": manager.subresource or "",
        "since": naive(manager.since),
    }


def _drift_values(drifted, manifest):
    manager = drifted.managers[0] if drifted.managers else None
    return {
        "field": drifted.field,
        "our_value": diff.text(
            ownership.value_at(manifest, drifted.field), drifted.field
        ),
        "live_value": diff.text(drifted.live_value, drifted.field)
        if drifted.present
        else False,
        "manager": manager.name if manager else False,
        "operation": manager.operation if manager else False,
        "since": naive(manager.since) if manager else False,
    }
