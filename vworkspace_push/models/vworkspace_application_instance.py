import json

from odoo import Command, api, fields, models

from .. import const
from ..kube import resources
from ..kube.values import ValuesError, parse_values
from ..status import poll
from ..times import naive


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
            "catalog_id",
            "chart_source_type",
            "chart_url",
            "chart_name",
            "chart_version",
            "release_name",
            "values_yaml",
        }
    )

    catalog_id = fields.Char(
        string="Catalog ID",
        required=True,
        tracking=True,
        help="The catalog entry that this application is an instance of, such as "
        "wordpress. It is recorded in the cluster.",
    )
    chart_source_type = fields.Selection(
        [("oci", "OCI registry"), ("helm", "Helm repository")],
        string="Chart Source",
        required=True,
        default="oci",
        tracking=True,
    )
    chart_url = fields.Char(
        string="Chart Address",
        required=True,
        tracking=True,
        help="oci://… for an OCI registry, https://… for a Helm repository.",
    )
    chart_name = fields.Char(required=True, tracking=True)
    chart_version = fields.Char(
        required=True,
        tracking=True,
        help="One exact version, such as 1.4.2. Ranges and “latest” are refused: what "
        "runs would depend on when it was installed.",
    )
    release_name = fields.Char(
        tracking=True,
        help="The name of the Helm release. Left empty: the name of the instance.",
    )
    values_yaml = fields.Text(
        string="Values",
        help="The chart's values as YAML. No secrets: those belong into a Secret in "
        "the cluster.",
    )
    manifest_text = fields.Text(
        string="Manifest",
        compute="_compute_manifest_text",
        help="What is sent to the cluster.",
    )

    condition_ids = fields.One2many("vworkspace.condition", "instance_id")
    endpoint_ids = fields.One2many("vworkspace.endpoint", "instance_id")
    conflict_ids = fields.One2many("vworkspace.field.conflict", "instance_id")
    endpoint_url = fields.Char(
        compute="_compute_endpoint_url", string="Address", help="Its first endpoint."
    )

    _name_uniq = models.Constraint(
        "UNIQUE (cluster_id, namespace_id, name)",
        "There is already an application of this name in this namespace.",
    )
    _due_idx = models.Index(
        "(next_attempt_at) WHERE delivery_state IN ('pending', 'failed', 'deleting')"
    )
    _cluster_uid_idx = models.Index("(cluster_id, uid)")

    # === COMPUTE METHODS === #

    @api.depends(lambda self: sorted(self._desired_fields))
    def _compute_manifest_text(self):
        for instance in self:
            try:
                manifest = instance._build_manifest()
            except ValuesError as exc:
                instance.manifest_text = str(exc)
            else:
                instance.manifest_text = json.dumps(
                    manifest, indent=2, ensure_ascii=False
                )

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

    # === CRUD METHODS === #

    def copy_data(self, default=None):
        default = {"release_name": False, **(default or {})}
        copies = super().copy_data(default)
        if "name" not in default:
            for instance, vals in zip(self, copies, strict=True):
                vals["name"] = f"{instance.name}-copy"
        return copies

    # === BUSINESS METHODS === #

    def _build_manifest(self):
        self.ensure_one()
        return resources.application_instance(
            name=self.name or "",
            namespace=self.namespace_id.name or "",
            cluster_id=self.cluster_id.cluster_id or "",
            catalog_id=self.catalog_id or "",
            chart={
                "source_type": self.chart_source_type or "",
                "url": self.chart_url or "",
                "name": self.chart_name or "",
                "version": self.chart_version or "",
            },
            release_name=self.release_name or self.name or "",
            values=parse_values(
                self.values_yaml or "", max_bytes=const.MAX_VALUES_BYTES
            ),
        )

    def _find_problems(self):
        self.ensure_one()
        if not (self.name and self.cluster_id and self.namespace_id):
            return []  # the form marks what is required
        try:
            manifest = self._build_manifest()
        except ValuesError as exc:
            return [str(exc)]
        return [
            self._problem_sentence(problem)
            for problem in resources.check_application_instance(manifest)
        ]

    def _problem_sentence(self, problem):
        """Say a problem in terms of the form, where the field is one of the form's."""
        label = {
            "metadata.name": self._fields["name"].string,
            "spec.appRef.catalogId": self._fields["catalog_id"].string,
            "spec.chart.url": self._fields["chart_url"].string,
            "spec.chart.name": self._fields["chart_name"].string,
            "spec.chart.version": self._fields["chart_version"].string,
            "spec.release.name": self._fields["release_name"].string,
        }.get(problem.field)
        return f"{label}: {problem.message}" if label else problem.message

    def _store_observed_details(self, observed):
        self._store_conditions(observed)
        self._store_endpoints(observed)

    def _store_conditions(self, observed):
        instance_sudo = self.sudo()
        known = {c.type: c for c in instance_sudo.condition_ids}
        for condition in observed.conditions:
            values = {
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "last_transition_time": naive(condition.last_transition_time),
                "observed_generation": condition.observed_generation or 0,
            }
            row = known.pop(condition.type, None)
            if row is None:
                row = instance_sudo.condition_ids.create(
                    {"instance_id": self.id, "type": condition.type, **values}
                )
            elif changed := {
                k: v for k, v in values.items() if (row[k] or "") != (v or "")
            }:
                row.write(changed)
        for gone in known.values():
            gone.unlink()

    def _store_endpoints(self, observed):
        instance_sudo = self.sudo()
        names = ("name", "url", "type", "notes")
        reported = [{n: getattr(e, n) or "" for n in names} for e in observed.endpoints]
        stored = [{n: e[n] or "" for n in names} for e in instance_sudo.endpoint_ids]
        if reported != stored:
            created = [Command.create(endpoint) for endpoint in reported]
            instance_sudo.endpoint_ids = [Command.clear(), *created]

    # === CRONS === #

    @api.model
    def _cron_status(self):
        poll.run_cron(self.env)
