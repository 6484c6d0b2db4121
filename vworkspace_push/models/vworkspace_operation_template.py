import json

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from odoo import api, fields, models
from odoo.exceptions import ValidationError

from ..kube import resources

MAX_MESSAGE = 200  # characters of the library's words, which quote the value
MAX_PROBLEMS = 20  # listed for one operation's parameters

NO_PARAMETERS = """{
  "type": "object",
  "properties": {},
  "additionalProperties": false
}
"""


class VworkspaceOperationTemplate(models.Model):
    """One thing that operators can do to applications, and which parameters it takes.

    Operator versions differ in the details, so this is data. The cluster's own
    admission has the last word.
    """

    _name = "vworkspace.operation.template"
    _description = "Operation Template"
    _order = "sequence, name, id"

    name = fields.Char(
        required=True, help="As the operator's documents have it, as backup.velero."
    )
    sequence = fields.Integer(default=10)
    active = fields.Boolean(default=True)
    type = fields.Selection(
        [(name, name) for name in resources.OPERATION_TYPES], required=True
    )
    engine = fields.Selection(
        [(name, name) for name in resources.OPERATION_ENGINES], required=True
    )
    capability = fields.Selection(
        [(name, name) for name in resources.CAPABILITIES],
        string="Needed Capability",
        help="An application must have it, with this template's engine.",
    )
    needs_approval = fields.Boolean(
        help="Operations of this type and engine wait until somebody approved them."
    )
    parameters_schema = fields.Text(
        required=True,
        default=NO_PARAMETERS,
        help="JSON Schema, draft 2020-12, of the parameters that the operator takes.",
    )
    parameters_summary = fields.Text(
        string="Parameters", compute="_compute_parameters_summary"
    )

    _name_uniq = models.Constraint(
        "UNIQUE (name)", "There is already an operation template of this name."
    )

    # === COMPUTE METHODS === #

    @api.depends("parameters_schema")
    def _compute_parameters_summary(self):
        for template in self:
            try:
                schema = template._schema()
            except ValidationError:
                template.parameters_summary = False
                continue
            required = schema.get("required", ())
            lines = [
                self._parameter_line(name, parameter, required=name in required)
                for name, parameter in schema.get("properties", {}).items()
            ]
            template.parameters_summary = "\n".join(lines) or False

    def _parameter_line(self, name, parameter, *, required):
        kind = parameter.get("type") if isinstance(parameter, dict) else None
        shown = kind if isinstance(kind, str) else self.env._("any value")
        if required:
            return self.env._("%(name)s: %(kind)s, required", name=name, kind=shown)
        return f"{name}: {shown}"

    # === CONSTRAINT METHODS === #

    @api.constrains("parameters_schema")
    def _check_parameters_schema(self):
        for template in self:
            template._schema()

    # === BUSINESS METHODS === #

    def _schema(self):
        """Return the schema of the parameters.

        :rtype: dict
        :raise ValidationError: when it is not one
        """
        self.ensure_one()
        try:
            schema = json.loads(self.parameters_schema or "")
            Draft202012Validator.check_schema(schema)
        except ValueError as exc:
            raise ValidationError(
                self.env._(
                    "The schema of %(name)s is not valid JSON: %(why)s.",
                    name=self.name,
                    why=exc,
                )
            ) from None
        except (SchemaError, RecursionError) as exc:
            raise ValidationError(
                self.env._(
                    "The schema of %(name)s is not a JSON Schema: %(why)s",
                    name=self.name,
                    why=getattr(exc, "message", str(exc))[:MAX_MESSAGE],
                )
            ) from None
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise ValidationError(
                self.env._(
                    'The schema of %s must describe an object: "type": "object".',
                    self.name,
                )
            )
        return schema

    def _parameter_problems(self, parameters):
        """Return what the schema objects to, one sentence each, which names the field.

        :param dict parameters: as they would be sent
        :rtype: list[str]
        """
        self.ensure_one()
        # An empty registry: no reference in a schema makes the library fetch a URL.
        validator = Draft202012Validator(self._schema(), registry=Registry())
        try:
            errors = sorted(validator.iter_errors(parameters), key=_position)
        except (Unresolvable, RecursionError):
            return [
                self.env._(
                    "The schema of the template %s refers to what is not in it. An "
                    "administrator can correct it.",
                    self.name,
                )
            ]
        sentences = [line for error in errors for line in self._sentences(error)]
        return list(dict.fromkeys(sentences))[:MAX_PROBLEMS]

    def _sentences(self, error):
        """Say one error of the library in the words of the form."""
        place = error.json_path.removeprefix("$").removeprefix(".")
        prefix = f"{place}." if place else ""
        match error.validator:
            case "required":
                missing = [n for n in error.validator_value if n not in error.instance]
                return [
                    self.env._("%s: it is missing.", prefix + name) for name in missing
                ]
            case "additionalProperties" if error.validator_value is False:
                known = error.schema.get("properties", {})
                return [
                    self.env._(
                        "%(field)s: %(template)s has no such parameter.",
                        field=(prefix + name)[:MAX_MESSAGE],
                        template=self.name,
                    )
                    for name in error.instance
                    if name not in known
                ]
            case "type" if isinstance(error.validator_value, str):
                return [
                    self.env._(
                        "%(field)s: it must be of the type %(type)s.",
                        field=place,
                        type=error.validator_value,
                    )
                ]
        return [f"{place or self.env._('Parameters')}: {error.message[:MAX_MESSAGE]}"]


def _position(error):
    return [str(part) for part in error.absolute_path]
