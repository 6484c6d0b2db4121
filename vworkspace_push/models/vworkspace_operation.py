import json

from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError

from ..kube import resources
from ..kube.values import ValuesError, parse_values
from ..times import naive
from .vworkspace_managed_resource import VworkspaceManagedResource

# Nothing of an operation is in its cluster in these, as long as it has no uid.
EDITABLE_STATES = ("draft", "conflict", "denied", "failed")
GONE_STATES = ("deleted", "lost")

MAX_NAME = 63  # characters of a DNS label, which jobs made from it must be


class VworkspaceOperation(models.Model):
    """One action on an application, such as a backup: it is delivered and runs once.

    What it does cannot change from its first delivery on; doing it once more takes a
    new record.
    """

    _name = "vworkspace.operation"
    _description = "Operation"
    _inherit = ["vworkspace.managed.resource"]
    _order = "id desc"

    _resource = resources.OPERATION
    _desired_fields = frozenset(
        {
            *("name", "cluster_id", "namespace_id", "target_id"),
            *("template_id", "type", "engine"),
            *("parameters_yaml", "approval_required"),
        }
    )
    # What was asked for must not run once the record says something else.
    _settled_fields = _desired_fields

    target_id = fields.Many2one(
        "vworkspace.application.instance",
        string="Application",
        required=True,
        ondelete="restrict",
        index=True,
        tracking=True,
        domain=[("uid", "!=", False), ("delivery_state", "not in", GONE_STATES)],
        help="What it is done to. It must be deployed.",
    )
    # All four are computed only as long as somebody can still change the operation.
    name = fields.Char(
        compute="_compute_name", store=True, readonly=False, precompute=True
    )
    cluster_id = fields.Many2one(
        compute="_compute_place", store=True, readonly=False, precompute=True
    )
    namespace_id = fields.Many2one(
        compute="_compute_place", store=True, readonly=False, precompute=True
    )
    template_id = fields.Many2one(
        "vworkspace.operation.template",
        ondelete="restrict",
        index="btree_not_null",
        tracking=True,
        help="Fills in type and engine, and says which parameters there are.",
    )
    type = fields.Selection(
        [(name, name) for name in resources.OPERATION_TYPES],
        required=True,
        compute="_compute_from_template",
        store=True,
        readonly=False,
        precompute=True,
        tracking=True,
    )
    engine = fields.Selection(
        [(name, name) for name in resources.OPERATION_ENGINES],
        required=True,
        compute="_compute_from_template",
        store=True,
        readonly=False,
        precompute=True,
        tracking=True,
        help="What does it in the cluster.",
    )
    parameters_yaml = fields.Text(
        string="Parameters",
        help="As YAML. No secrets: those belong into a Secret in the cluster.",
    )
    parameters_summary = fields.Text(
        related="template_id.parameters_summary", string="What It Takes"
    )
    approval_required = fields.Boolean(
        string="Needs Approval",
        compute="_compute_approval_required",
        store=True,
        readonly=False,
        precompute=True,
        tracking=True,
        help="The operator waits for an approval before it begins.",
    )
    is_editable = fields.Boolean(compute="_compute_is_editable")

    # Observed: what the cluster reports
    phase = fields.Selection(
        [(name, name) for name in resources.OPERATION_PHASES],
        readonly=True,
        copy=False,
        index=True,
        falsy_value_label="Not begun",
    )
    started_at = fields.Datetime(string="Began", readonly=True, copy=False)
    finished_at = fields.Datetime(string="Ended", readonly=True, copy=False)
    outputs = fields.Text(
        readonly=True, copy=False, help="What it made, such as the name of a backup."
    )
    logs_url = fields.Char(string="Logs", readonly=True, copy=False)
    logs_ref = fields.Char(
        string="Logs Are Kept By",
        readonly=True,
        copy=False,
        help="The object in the cluster that has the logs: kind, namespace and name.",
    )
    condition_ids = fields.One2many("vworkspace.condition", "operation_id")

    _protected_fields = VworkspaceManagedResource._protected_fields | {
        *("phase", "started_at", "finished_at", "outputs", "logs_url"),
        *("logs_ref", "condition_ids"),
    }

    _name_uniq = models.Constraint(
        "UNIQUE (cluster_id, namespace_id, name)",
        "There is already an operation of this name in this namespace.",
    )
    _due_idx = models.Index(
        "(cluster_id, next_attempt_at, id) WHERE next_attempt_at IS NOT NULL"
    )
    _cluster_uid_idx = models.Index("(cluster_id, uid)")

    # === COMPUTE METHODS === #

    @api.depends("type", "target_id")
    def _compute_name(self):
        for operation in self:
            if operation.type and operation.target_id:
                operation.name = operation._fresh_name()

    def _fresh_name(self):
        """Return a name that says what it does, to what and since when."""
        stamp = f"{fields.Datetime.now():%Y%m%d%H%M%S}"
        target = (self.target_id.name or "").replace(".", "-")
        subject = f"{self.type.lower()}-{target}"
        return f"{subject[: MAX_NAME - len(stamp) - 1].rstrip('-')}-{stamp}"

    @api.depends("target_id")
    def _compute_place(self):
        for operation in self:
            if operation.target_id:
                operation.cluster_id = operation.target_id.cluster_id
                operation.namespace_id = operation.target_id.namespace_id

    @api.depends("template_id")
    def _compute_from_template(self):
        for operation in self:
            if template := operation.template_id:
                operation.type = template.type
                operation.engine = template.engine

    @api.depends("type", "engine", "target_id")
    def _compute_approval_required(self):
        for operation in self:
            operation.approval_required = operation._must_be_approved()

    @api.depends("uid", "may_exist", "delivery_state", "phase")
    def _compute_is_editable(self):
        for operation in self:
            operation.is_editable = (
                not operation.uid
                and not operation.may_exist
                and not operation.phase
                and operation.delivery_state in EDITABLE_STATES
            )

    @api.depends(
        *("uid", "template_id.capability", "template_id.parameters_schema"),
        *("target_id.uid", "target_id.delivery_state"),
        *("target_id.applied_revision_id", "target_id.capability_ids.engine"),
    )
    def _compute_problems(self):
        return super()._compute_problems()

    @api.depends("phase", "health", "health_message")
    def _compute_waiting_for(self):
        # An operation's status carries no observedGeneration: its phase says it.
        running = self.filtered(
            lambda o: o.delivery_state == "applied" and not o.foreign_database
        )
        for operation in running:
            operation.waiting_for = operation._waiting_for_operator()
        return super(VworkspaceOperation, self - running)._compute_waiting_for()

    def _waiting_for_operator(self):
        if self.phase in resources.FINAL_PHASES:
            return False
        if self.health == "blocked":
            return self.env._(
                "An end to what blocks it in %(cluster)s: %(why)s",
                cluster=self.cluster_id.name,
                why=self.health_message or self.env._("no reason was given."),
            )
        if self.phase == "Running":
            return self.env._("The operator in %s to finish it.", self.cluster_id.name)
        return self.env._("The operator in %s to begin it.", self.cluster_id.name)

    # === CONSTRAINT METHODS === #

    @api.constrains("target_id", "cluster_id", "namespace_id")
    def _check_place(self):
        for operation in self:
            if not operation._is_at_target():
                raise ValidationError(
                    self.env._(
                        "An operation belongs to the cluster and the namespace of its "
                        "application, %s.",
                        operation.target_id.name,
                    )
                )

    # === CRUD METHODS === #

    def write(self, vals):
        fixed = self.filtered(lambda o: not o.is_editable)
        if fixed and vals.keys() & self._desired_fields:
            fixed._refuse_unsettled()
            raise UserError(
                self.env._(
                    "%s is under way: what an operation does cannot change. Make a new "
                    "one.",
                    fixed[0].name,
                )
            )
        result = super().write(vals)
        if "target_id" in vals:
            self.check_access("write")  # its company may be another one now
        return result

    def copy_data(self, default=None):
        default = dict(default or {})
        copies = super().copy_data(default)
        if "name" not in default:
            for vals in copies:
                del vals["name"]  # computed afresh
        return copies

    # === ACTIONS === #

    def action_repeat(self):
        """Make a new draft that does the same once more, and open it."""
        self.ensure_one()
        self.check_access("read")
        return self.copy()._get_records_action()

    # === BUSINESS METHODS === #

    def _parameters(self):
        """Return the parameters as they are sent.

        :rtype: dict
        :raise kube.values.ValuesError: when they are not a valid YAML mapping
        """
        return parse_values(self.parameters_yaml or "")

    def _build_manifest(self):
        self.ensure_one()
        return resources.operation(
            name=self.name or "",
            namespace=self.namespace_id.name or "",
            cluster_id=self.cluster_id.cluster_id or "",
            target=self.target_id.name or "",
            type_=self.type or "",
            engine=self.engine or "",
            parameters=self._parameters(),
            approval_required=self.approval_required,
        )

    def _desired(self):
        return {
            "target": self.target_id.name,
            **{
                name: self[name] or False
                for name in ("type", "engine", "parameters_yaml", "approval_required")
            },
        }

    def _restore_desired(self, desired):
        raise UserError(
            self.env._(
                "%s cannot be taken back: an operation runs once. Make a new one.",
                self.name,
            )
        )

    def _why_not_deployable(self):
        if self.delivery_state == "deleted" or (self.phase and not self.uid):
            return self.env._(
                "%s was in its cluster before, and an operation runs once. Choose "
                "“Repeat” to have it done again.",
                self.name,
            )
        return super()._why_not_deployable()

    def _find_problems(self):
        self.ensure_one()
        if self.uid or not (self.name and self.target_id and self.type and self.engine):
            return []  # it is there already, or the form marks what is required
        try:
            parameters = self._parameters()
        except ValuesError as exc:
            return [f"{self._fields['parameters_yaml'].string}: {exc}"]
        checked = resources.check_operation(self._build_manifest())
        return [
            *self._target_problems(),
            *self._template_problems(parameters),
            *[self._problem_sentence(problem) for problem in checked],
        ]

    def _is_at_target(self):
        target = self.target_id
        return (self.cluster_id, self.namespace_id) == (
            target.cluster_id,
            target.namespace_id,
        )

    def _target_problems(self):
        target = self.target_id
        if not target.uid or target.delivery_state in GONE_STATES:
            yield self.env._("%s is not in its cluster: deploy it first.", target.name)
        if not self._is_at_target():
            yield self.env._(
                "%s is in another place now: choose it once more.", target.name
            )

    def _template_problems(self, parameters):
        if self._must_be_approved() and not self.approval_required:
            yield self.env._(
                "%(field)s: it cannot be switched off for this operation.",
                field=self._fields["approval_required"].string,
            )
        template = self.template_id
        if not template:
            return
        if (self.type, self.engine) != (template.type, template.engine):
            yield self.env._(
                "%(template)s is for the type %(type)s and the engine %(engine)s. "
                "Choose these, or no template.",
                template=template.name,
                type=template.type,
                engine=template.engine,
            )
        target = self.target_id
        capability = template.capability
        if capability and self._target_engine(capability) != self.engine:
            yield self.env._(
                "%(target)s does not have the capability %(capability)s with the "
                "engine %(engine)s: add it under Capabilities on its form, and deploy "
                "it.",
                target=target.name,
                capability=capability,
                engine=self.engine,
            )
        yield from template._parameter_problems(parameters)

    def _target_engine(self, capability):
        """Return by which engine the target can do this, as its cluster knows it."""
        target = self.target_id
        if manifest := target.applied_revision_id.manifest:
            annotations = json.loads(manifest)["metadata"].get("annotations", {})
            return annotations.get(f"{resources.CAPABILITY_PREFIX}{capability}")
        rows = target.capability_ids.filtered(lambda c: c.capability == capability)
        return rows.engine

    def _must_be_approved(self):
        """Tell whether an administrator decided that this needs an approval.

        Type and engine count, not the template that was chosen: else choosing none
        would do without.
        """
        templates = self.env["vworkspace.operation.template"]
        same = templates.with_context(active_test=False).search(
            [("type", "=", self.type), ("engine", "=", self.engine)]
        )
        asked_sudo = self.target_id.sudo().catalog_entry_id.approval_template_ids
        return any(same.mapped("needs_approval")) or bool(same & asked_sudo)

    def _problem_sentence(self, problem):
        """Say a problem in terms of the form, where the field is one of the form's."""
        name = {
            "metadata.name": "name",
            "spec.targetRef.name": "target_id",
            "spec.type": "type",
            "spec.engine": "engine",
        }.get(problem.field)
        if problem.field.startswith("spec.parameters"):
            name = "parameters_yaml"
        label = self._fields[name].string if name else ""
        return f"{label}: {problem.message}" if label else problem.message

    # === BUSINESS METHODS - OBSERVED === #

    @api.model
    def _observed_values(self, observed):
        outputs = "\n".join(f"{k}: {v}" for k, v in observed.outputs.items())
        return {
            "phase": observed.phase or None,
            "started_at": naive(observed.started_at) or None,
            "finished_at": naive(observed.finished_at) or None,
            "outputs": outputs or None,
            "logs_url": observed.logs_url or None,
            "logs_ref": observed.logs_ref or None,
        }
