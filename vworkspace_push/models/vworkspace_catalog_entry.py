from odoo import api, fields, models

from .. import const
from ..kube import resources
from ..kube.values import ValuesError, parse_values
from .vworkspace_application_instance import CHART_FIELDS, capability_commands


class VworkspaceCatalogEntry(models.Model):
    """An application as it is offered: a chart, its values and its capabilities.

    It is a pattern for new applications. Changing it changes none that exist.
    """

    _name = "vworkspace.catalog.entry"
    _description = "Catalog Entry"
    _order = "name, id"

    name = fields.Char(required=True)
    catalog_id = fields.Char(
        string="Catalog ID",
        required=True,
        help="Recorded in the cluster with every application made from this entry, "
        "such as wordpress.",
    )
    description = fields.Text()
    active = fields.Boolean(default=True)
    company_id = fields.Many2one(
        "res.company", index=True, help="Left empty: offered in all companies."
    )
    chart_source_type = fields.Selection(
        [("oci", "OCI registry"), ("helm", "Helm repository")],
        string="Chart Source",
        required=True,
        default="oci",
    )
    chart_url = fields.Char(
        string="Chart Address",
        help="oci://… for an OCI registry, https://… for a Helm repository.",
    )
    chart_name = fields.Char()
    chart_version = fields.Char(
        help="One exact version, such as 1.4.2. Ranges and “latest” are refused: what "
        "runs would depend on when it was installed.",
    )
    values_yaml = fields.Text(
        string="Values",
        help="The values that a new application begins with, as YAML. No secrets: "
        "those belong into a Secret in the cluster.",
    )
    capability_ids = fields.One2many(
        "vworkspace.capability", "catalog_entry_id", string="Capabilities", copy=True
    )
    approval_template_ids = fields.Many2many(
        "vworkspace.operation.template",
        string="Operations That Need Approval",
        help="On applications of this entry, besides those that always need it.",
    )
    instance_ids = fields.One2many(
        "vworkspace.application.instance", "catalog_entry_id", string="Applications"
    )
    instance_count = fields.Integer(compute="_compute_instance_count")
    other_version_count = fields.Integer(compute="_compute_instance_count")
    problems = fields.Text(
        compute="_compute_problems",
        help="What keeps applications of this entry from being deployed.",
    )

    _catalog_id_uniq = models.UniqueIndex(
        "(catalog_id, COALESCE(company_id, 0))",
        "There is already a catalog entry with this catalog ID.",
    )

    # === COMPUTE METHODS === #

    @api.depends("instance_ids", "chart_version")
    def _compute_instance_count(self):
        groups = self.env["vworkspace.application.instance"]._read_group(
            [("catalog_entry_id", "in", self.ids)],
            ["catalog_entry_id", "chart_version"],
            ["__count"],
        )
        for entry in self:
            counts = {
                version: count
                for group_entry, version, count in groups
                if group_entry == entry._origin
            }
            entry.instance_count = sum(counts.values())
            same = counts.get(entry.chart_version, 0)
            entry.other_version_count = entry.instance_count - same

    @api.depends(
        *("catalog_id", "chart_source_type", "chart_url", "chart_name"),
        *("chart_version", "values_yaml"),
        *("capability_ids.capability", "capability_ids.engine"),
    )
    def _compute_problems(self):
        for entry in self:
            entry.problems = "\n".join(entry._find_problems()) or False

    # === CRUD METHODS === #

    def copy_data(self, default=None):
        default = dict(default or {})
        copies = super().copy_data(default)
        for entry, vals in zip(self, copies, strict=True):
            if "name" not in default:
                vals["name"] = self.env._("%s (copy)", entry.name)
            if "catalog_id" not in default:
                vals["catalog_id"] = f"{entry.catalog_id}-copy"
        return copies

    # === ACTIONS === #

    def action_deploy_new(self):
        """Open the form of a new application made from this entry."""
        self.ensure_one()
        self.check_access("read")
        self.env["vworkspace.application.instance"].check_access("create")
        return {
            "type": "ir.actions.act_window",
            "name": self.env._("New %s", self.name),
            "res_model": "vworkspace.application.instance",
            "view_mode": "form",
            "views": [(False, "form")],
            "context": {"default_catalog_entry_id": self.id},
        }

    def action_open_instances(self):
        """Show the applications that were made from this entry."""
        return self._open_instances([])

    def action_open_other_versions(self):
        """Show the applications of this entry with another version of its chart."""
        return self._open_instances([("chart_version", "!=", self.chart_version)])

    def _open_instances(self, domain):
        self.ensure_one()
        self.check_access("read")
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "vworkspace_push.vworkspace_application_instance_action"
        )
        action["domain"] = [("catalog_entry_id", "=", self.id), *domain]
        action["context"] = {"default_catalog_entry_id": self.id}
        return action

    # === BUSINESS METHODS === #

    def _instance_values(self):
        """Return what the form of a new application is filled with.

        :rtype: dict
        """
        self.ensure_one()
        return {
            "catalog_id": self.catalog_id,
            "mode": "managed",
            **{name: self[name] for name in CHART_FIELDS},
            "values_source": "inline",
            "values_yaml": self.values_yaml,
            "capability_ids": capability_commands(self._capabilities()),
        }

    def _capabilities(self):
        return {
            row.capability: row.engine
            for row in self.capability_ids
            if row.capability and row.engine
        }

    def _find_problems(self):
        self.ensure_one()
        if not self.catalog_id:
            return []  # the form marks what is required
        try:
            values = parse_values(
                self.values_yaml or "", max_bytes=const.MAX_VALUES_BYTES
            )
        except ValuesError as exc:
            return [str(exc)]
        # What an entry does not have is filled with what no check objects to.
        manifest = resources.application_instance(
            name="name",
            namespace="namespace",
            cluster_id="cluster",
            catalog_id=self.catalog_id,
            chart={theirs: self[ours] or "" for ours, theirs in CHART_FIELDS.items()},
            release_name="name",
            values=values,
            capabilities=self._capabilities(),
        )
        return [
            self._problem_sentence(problem)
            for problem in resources.check_application_instance(manifest)
        ]

    def _problem_sentence(self, problem):
        """Say a problem in terms of the form, where the field is one of the form's."""
        label = {
            "spec.appRef.catalogId": self._fields["catalog_id"].string,
            "spec.chart.url": self._fields["chart_url"].string,
            "spec.chart.name": self._fields["chart_name"].string,
            "spec.chart.version": self._fields["chart_version"].string,
        }.get(problem.field)
        return f"{label}: {problem.message}" if label else problem.message
