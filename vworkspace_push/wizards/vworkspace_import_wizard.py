import json
from itertools import islice

import yaml

from odoo import Command, api, fields, models
from odoo.exceptions import UserError

from .. import const
from ..identity import database_uuid
from ..kube import apply, diff, ownership, resources
from ..kube.errors import KubeError, describe
from ..models.vworkspace_managed_resource import IDENTITY_FIELDS
from ..status import sink
from .vworkspace_wizard import CALL_ERRORS, OF_THE_CLUSTER

INSTANCE = "vworkspace.application.instance"
GONE = ("deleted", "lost")

MAX_LISTED = 2_000  # objects that one dialog offers
MAX_STORED = 64_000_000  # characters of all objects that one dialog keeps
MAX_SHOWN = 20_000  # characters of an object on screen
MAX_PATHS = 10  # that a note names


class VworkspaceImportWizard(models.TransientModel):
    """Compares a cluster with Odoo, and makes records of what only the cluster has.

    Nothing is written to the cluster: what is imported is a draft that knows its
    object, and its first deployment is what writes.
    """

    _name = "vworkspace.import.wizard"
    _description = "Import Applications"
    _inherit = ["vworkspace.wizard"]

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, readonly=True, ondelete="cascade"
    )
    line_ids = fields.One2many(
        "vworkspace.import.line", "wizard_id", string="In the Cluster, Not in Odoo"
    )
    missing_ids = fields.Many2many(
        INSTANCE, readonly=True, string="In Odoo, Not in the Cluster"
    )
    errors = fields.Text(readonly=True)
    listed_count = fields.Integer(readonly=True, string="Found in the Cluster")
    is_single = fields.Boolean(readonly=True)
    has_existing = fields.Boolean(compute="_compute_line_columns")
    has_obstacle = fields.Boolean(compute="_compute_line_columns")
    has_other_database = fields.Boolean(compute="_compute_line_columns")

    _protected_fields = frozenset(
        {"cluster_id", "missing_ids", "errors", "listed_count", "is_single"}
    )

    # === COMPUTE METHODS === #

    @api.depends("line_ids.existing_id")
    def _compute_line_columns(self):
        for wizard in self:
            wizard.has_existing = bool(wizard.line_ids.existing_id)
            wizard.has_obstacle = any(wizard.line_ids.mapped("obstacle"))
            wizard.has_other_database = any(wizard.line_ids.mapped("other_database"))

    # === ACTIONS === #

    def action_look(self):
        """Read the cluster again."""
        self.ensure_one()
        self._check_operator(self.cluster_id)
        self._look()
        return self._open_again()

    def action_select_all(self):
        """Tick everything that can be imported without a second thought."""
        self.ensure_one()
        self._check_operator(self.cluster_id)
        for line in self.line_ids:
            line.selected = line._is_plain()
        return self._open_again()

    def action_select_none(self):
        """Tick nothing."""
        self.ensure_one()
        self._check_operator(self.cluster_id)
        self.line_ids.write({"selected": False, "bind": False})
        return self._open_again()

    def action_import(self):
        """Make records of what is ticked, with the status that the cluster reported."""
        self.ensure_one()
        self._check_operator(self.cluster_id)
        chosen = self.line_ids.filtered(lambda l: l.selected or l.bind)
        if not chosen:
            raise UserError(self.env._("Tick what shall be imported."))
        places = self._known_places()
        known = self._known_uids(chosen.mapped("uid"))
        made, bound, skipped, new = self.env[INSTANCE], {}, [], []
        for line in chosen:
            existing = places.get((line.namespace_id.id, line.name))
            if line.obstacle or line.uid in known:
                skipped.append(line)
            elif not existing:
                new.append(line)
            elif line.bind and _is_free(existing) and _is_idle(existing):
                bound[existing] = line
            else:
                skipped.append(line)
        if new:
            records = made.with_context(tracking_disable=True).create(
                [line._values() for line in new]
            )
            made = records
        lines = dict(zip(made, new, strict=True)) | bound
        if not lines:
            raise UserError(self._why_skipped(skipped))
        records = made.union(*bound)
        for record, line in lines.items():
            record.check_access("write")
            record.revision_id._close("withdrawn")
            record._writer().write(line._identity())
        records._audit("import", message=self.env._("Nothing was sent to the cluster."))
        self.env.flush_all()
        reports = [
            sink.Report.from_object(
                line._object(), kind=resources.APPLICATION_INSTANCE.kind
            )
            for line in lines.values()
        ]
        sink.ingest(self.env, self.cluster_id.id, reports)
        return self._imported(records, skipped)

    # === BUSINESS METHODS === #

    def _open_for(self, cluster):
        """Look at all namespaces of `cluster`."""
        cluster.ensure_one()
        self._check_operator(cluster)
        wizard = self._make({"cluster_id": cluster.id})
        wizard._look()
        return wizard._open_again()

    def _open_for_instance(self, instance):
        """Look at the one object that stands in the way of `instance`."""
        instance.ensure_one()
        instance.check_access("write")
        if instance.delivery_reason != "AlreadyExists":
            raise UserError(
                self.env._("No object of the name %s is in its way.", instance.name)
            )
        live = instance._read_live()
        wizard = self._make({"cluster_id": instance.cluster_id.id, "is_single": True})
        rows = wizard._rows([(instance.namespace_id, live)])
        for row in rows:
            row |= {"selected": not row["obstacle"], "bind": not row["obstacle"]}
        wizard._store(rows, listed=1)
        return wizard._open_again()

    def _open_again(self):
        title = self.env._("Import From %s", self.cluster_id.name)
        return self._open(title, size="extra-large")

    def _check_operator(self, cluster):
        cluster.check_access("read")
        self.env[INSTANCE].check_access("create")

    def _look(self):
        cluster = self.cluster_id
        found, versions, errors = [], {}, []
        try:
            connection = cluster._connection()
        except CALL_ERRORS as exc:
            self._store([], errors=[describe(exc)])
            return
        for namespace in cluster.namespace_ids:
            try:
                objects, versions[namespace] = apply.list_all(
                    connection,
                    resources.APPLICATION_INSTANCE,
                    namespace=namespace.name,
                    timeout=const.DELIVERY_TIMEOUT,
                )
            except KubeError as exc:
                errors.append(f"{namespace.name}: {describe(exc)}")
                if isinstance(exc, OF_THE_CLUSTER):
                    break
                continue
            found += [(namespace, obj) for obj in objects]
        rows = self._rows(found)
        if len(rows) > MAX_LISTED or sum(len(r["source"]) for r in rows) > MAX_STORED:
            rows, more = _cut(rows)
            errors.append(
                self.env._(
                    "%s more are not shown: import these first, then look again.", more
                )
            )
        uids = {resources.metadata_text(obj, "uid") for _namespace, obj in found}
        self._store(
            rows,
            listed=len(found),
            errors=errors,
            missing=self._missing(versions, uids),
        )

    def _store(self, rows, *, listed=0, errors=(), missing=()):
        self._writer().write(
            {
                "line_ids": [
                    Command.clear(),
                    *(Command.create(row) for row in rows),
                ],
                "missing_ids": [Command.set([record.id for record in missing])],
                "errors": "\n".join(errors) or False,
                "listed_count": listed,
            }
        )

    def _rows(self, found):
        """Return the values of a line for each object that no record stands for.

        :param found: pairs of a namespace's record and an object in it
        """
        known = self._known_uids(
            [resources.metadata_text(obj, "uid") for _namespace, obj in found]
        )
        places = self._known_places()
        database = database_uuid(self.env)
        rows = []
        for namespace, obj in found:
            seen = resources.observe(obj)
            if seen.uid in known:
                continue
            existing = places.get((namespace.id, seen.name))
            other = seen.annotations.get(resources.DATABASE_ANNOTATION)
            row = {
                "namespace_id": namespace.id,
                "name": seen.name,
                "uid": seen.uid,
                **_chart(obj),
                "managers": ", ".join(_managers(obj))[: const.MAX_STORED_VALUE],
                "other_database": other if other and other != database else False,
                "is_ending": bool(seen.deletion_timestamp),
                "existing_id": existing.id
                if existing and _is_free(existing)
                else False,
                "obstacle": self._obstacle(seen, existing),
                "unknown_paths": self._unknown_paths(obj),
                "source": _source(obj),
            }
            row["selected"] = not any(
                row[name]
                for name in ("obstacle", "existing_id", "other_database", "is_ending")
            )
            rows.append(row)
        return rows

    def _obstacle(self, seen, existing):
        if not (seen.uid and seen.name):
            return self.env._("The cluster names neither it nor its UID.")
        if existing and not _is_free(existing):
            return self.env._(
                "A record of this name stands for another object here, which is gone: "
                "deploy it once, so that it is known to be lost, and import again."
            )
        return False

    def _unknown_paths(self, obj):
        _values, paths = self.env[INSTANCE]._values_from_object(obj)
        more = len(paths) - MAX_PATHS
        shown = ", ".join(diff.text(p, "")[1:-1] for p in islice(paths, MAX_PATHS))
        return f"{shown}, … (+{more})" if more > 0 else shown or False

    def _missing(self, versions, uids):
        """Return the records whose object is not in the lists that are complete.

        :param dict versions: resourceVersion of each list, by namespace
        """
        namespaces = self.env["vworkspace.cluster.namespace"].union(*versions)
        records = self.env[INSTANCE].search(
            [
                ("namespace_id", "in", namespaces.ids),
                ("uid", "!=", False),
                ("delivery_state", "!=", "deleted"),
            ]
        )
        # What was applied after the list was made is not expected in it.
        return records.filtered(
            lambda r: (
                r.uid not in uids
                and not resources.newer(
                    r.resource_version or "", versions[r.namespace_id]
                )
            )
        )

    def _known_uids(self, uids):
        records = self.env[INSTANCE].search(
            [
                ("cluster_id", "=", self.cluster_id.id),
                ("uid", "in", uids),
                ("delivery_state", "not in", GONE),
            ]
        )
        return set(records.mapped("uid"))

    def _known_places(self):
        records = self.env[INSTANCE].search([("cluster_id", "=", self.cluster_id.id)])
        return {(record.namespace_id.id, record.name): record for record in records}

    def _why_skipped(self, lines):
        return self.env._(
            "Not imported: %s. A record stands in the way; look again to see which.",
            ", ".join(line.name for line in islice(lines, MAX_PATHS)),
        )

    def _imported(self, records, skipped):
        action = records._get_records_action(name=self.env._("Imported"), context={})
        if not skipped:
            return action
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {
                "type": "warning",
                "message": self._why_skipped(skipped),
                "sticky": True,
                "next": action,
            },
        }


class VworkspaceImportLine(models.TransientModel):
    _name = "vworkspace.import.line"
    _description = "Application to Import"
    _inherit = ["vworkspace.wizard"]
    _order = "namespace_id, name, id"

    wizard_id = fields.Many2one(
        "vworkspace.import.wizard",
        required=True,
        readonly=True,
        ondelete="cascade",
        index=True,
    )
    selected = fields.Boolean(string="Import")
    namespace_id = fields.Many2one(
        "vworkspace.cluster.namespace", readonly=True, ondelete="cascade"
    )
    name = fields.Char(readonly=True)
    chart = fields.Char(readonly=True)
    version = fields.Char(readonly=True)
    managers = fields.Char(
        readonly=True, string="Managed by", help="Who owns fields of it."
    )
    other_database = fields.Char(
        readonly=True,
        string="Other Odoo Database",
        help="Another Odoo writes this object. Both would overwrite each other.",
    )
    is_ending = fields.Boolean(readonly=True, string="Being Deleted")
    existing_id = fields.Many2one(
        INSTANCE, readonly=True, ondelete="cascade", string="Record of This Name"
    )
    bind = fields.Boolean(
        help="The record of this name stands for the object from now on. What its form "
        "says stays; its preview shows what deploying it would change."
    )
    obstacle = fields.Char(readonly=True, string="Not Possible")
    unknown_paths = fields.Char(
        readonly=True,
        string="No Field For",
        help="The form has no field for these. They stay in the cluster as they are.",
    )
    object_text = fields.Text(compute="_compute_object_text", string="Object")
    uid = fields.Char(readonly=True)
    source = fields.Text(readonly=True, groups=fields.NO_ACCESS)

    _protected_fields = frozenset(
        {
            *("wizard_id", "namespace_id", "name", "chart", "version", "managers"),
            *("other_database", "is_ending", "existing_id", "obstacle"),
            *("unknown_paths", "uid", "source"),
        }
    )

    @api.depends("uid")
    def _compute_object_text(self):
        for line in self:
            shown = diff.mask(diff.clean(line._origin._object()), "")
            text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
            line.object_text = text[:MAX_SHOWN]

    def action_show(self):
        """Show the object as it is in the cluster."""
        self.ensure_one()
        self.wizard_id._check_operator(self.wizard_id.cluster_id)
        return self._open(self.name, size="extra-large")

    def action_back(self):
        """Go back to the list."""
        self.ensure_one()
        self.wizard_id._check_operator(self.wizard_id.cluster_id)
        return self.wizard_id._open_again()

    @api.onchange("bind")
    def _onchange_bind(self):
        if self.bind:
            self.selected = True

    def _is_plain(self):
        return not (
            self.obstacle or self.existing_id or self.other_database or self.is_ending
        )

    def _object(self):
        return json.loads(self.sudo().source or "{}")

    def _values(self):
        values, _paths = self.env[INSTANCE]._values_from_object(self._object())
        return {
            **values,
            "cluster_id": self.wizard_id.cluster_id.id,
            "namespace_id": self.namespace_id.id,
        }

    def _identity(self):
        """Return what ties a record to this object: a draft, since nothing was sent."""
        seen = resources.observe(self._object())
        return {
            **dict.fromkeys(IDENTITY_FIELDS, False),
            "uid": self.uid,
            "resource_version": seen.resource_version,
            "generation": seen.generation or 0,
            "delivery_state": "draft",
            "delivery_reason": False,
            "delivery_message": False,
            "delivery_attempts": 0,
            "next_attempt_at": False,
        }


def _is_free(instance):
    """Tell whether the record stands for no object, or for one that is gone."""
    return not instance.uid or instance.delivery_state in GONE


def _is_idle(instance):
    """Tell whether nothing is being delivered; nothing is, until the commit."""
    lock_sudo = instance.sudo().delivery_lock_id
    return bool(lock_sudo.try_lock_for_update(allow_referencing=True))


def _chart(obj):
    read, _paths = resources.read_application_instance(obj)
    chart = read["chart"]
    return {"chart": chart["name"] or False, "version": chart["version"] or False}


def _managers(obj):
    """Return who owns fields of the object, status apart."""
    return sorted(
        {
            manager.name
            for owned in ownership.owners(obj)
            for manager in owned.managers
            if not manager.subresource
        }
    )


def _source(obj):
    """Return the object as it is kept: without who owns what, which is half of it."""
    metadata = obj.get("metadata") or {}
    metadata = {k: v for k, v in metadata.items() if k != "managedFields"}
    return json.dumps({**obj, "metadata": metadata}, separators=(",", ":"))


def _cut(rows):
    """Return as many rows as one dialog keeps, and how many are left out."""
    kept, size = [], 0
    for row in rows[:MAX_LISTED]:
        size += len(row["source"])
        if size > MAX_STORED:
            break
        kept.append(row)
    return kept, len(rows) - len(kept)
