"""One attempt to bring one intent to its cluster: network alone, no database."""

import hashlib
import json
import logging
import time
from dataclasses import dataclass, field

from .. import const
from ..kube import apply, diff, ownership, resources
from ..kube.errors import AlreadyExists, KubeError
from ..kube.resources import Resource
from . import outcome
from .outcome import Outcome

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Intent:
    """One record's intent as committed, and the connection to deliver it on."""

    record_id: int
    record: str  # names the record, in an annotation of the object
    database: str  # uuid of this database, in an annotation of the object
    revision: int
    revision_id: int
    kind: str  # deploy, adopt or delete
    resource: Resource
    manifest: dict
    manifest_before: str | None  # of the revision before, as JSON
    uid: str | None
    may_exist: bool  # whether an earlier attempt may have made the object
    attempts: int  # in a row that failed and may succeed by themselves
    applied_fields: str | None = None  # what we owned after the last apply
    takeover: frozenset[str] = frozenset()
    given_up: frozenset[str] = frozenset()
    connection: object = field(repr=False)  # a kube Connection, or why there is none
    # Known from `work_out` on
    signed: dict | None = None  # the manifest as it is sent
    digest: str = ""  # SHA-256 of that
    changes: str = ""  # to the revision before, as lines of text

    @property
    def makes_object(self):
        """Whether it is a first delivery, after which there is an object."""
        return self.kind == "deploy" and not self.uid

    def work_out(self):
        """Work out what is sent and what is told of it, unless it is known."""
        if self.signed is not None:
            return
        signed = resources.signed(
            self.manifest, database=self.database, record=self.record
        )
        text = json.dumps(signed, sort_keys=True, separators=(",", ":"))
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.changes = diff.revised(self.manifest_before, self.manifest)
        self.signed = signed


def attempt(intent: Intent, errors: tuple[type[Exception], ...]):
    """Carry out `intent` once.

    :param errors: besides those of the cluster, which may stand for the connection
    :return: the outcome, and the error that it comes from, if any
    :rtype: tuple[Outcome, Exception | None]
    """
    started = time.monotonic()
    error = None
    try:
        intent.work_out()
        if isinstance(intent.connection, Exception):
            raise intent.connection
        result = _VERBS[intent.kind](intent)
    except (KubeError, ValueError, *errors) as exc:
        error = exc
        result = _failed(intent, exc)
    except Exception as exc:
        # A defect of ours: the other intents of its batch go on.
        _logger.exception("Revision %s of %s failed", intent.revision, intent.record)
        error = KubeError(
            f"Odoo itself failed while it delivered this ({type(exc).__name__}).",
            reason="Unexpected",
            hint="It is tried again. The server's log says more: report it.",
            retryable=True,
        )
        error.unsettled = True
        result = _failed(intent, error)
    result.duration = time.monotonic() - started
    return result, error


def _failed(intent, error):
    return outcome.from_error(
        error, attempts=intent.attempts, deleting=intent.kind == "delete"
    )


def _deploy(intent):
    if intent.uid and (intent.takeover or intent.given_up):
        applied = _apply_decided(intent)
    else:
        applied = _apply(intent)
    return _applied(applied)


def _apply(intent):
    try:
        return _apply_to(intent, intent.uid)
    except AlreadyExists as exc:
        made_by_us = _uid_if_ours(exc.live, intent)
        if intent.uid or not made_by_us:
            raise _explained(exc, intent) from None
    try:
        return _apply_to(intent, made_by_us)
    except KubeError as exc:
        exc.unsettled = True  # it is there, and ours
        raise


def _apply_to(intent, uid):
    if uid and ownership.may_empty(intent.signed, intent.applied_fields):
        return apply.apply_emptying(
            intent.connection,
            intent.resource,
            intent.signed,
            uid=uid,
            timeout=const.DELIVERY_TIMEOUT,
        )
    return apply.apply(
        intent.connection,
        intent.resource,
        intent.signed,
        uid=uid,
        timeout=const.DELIVERY_TIMEOUT,
    )


def _apply_decided(intent):
    """Apply what a person decided about fields that others own."""
    return apply.take_over(
        intent.connection,
        intent.resource,
        intent.signed,
        uid=intent.uid,
        fields=intent.takeover,
        given_up=intent.given_up,
        timeout=const.DELIVERY_TIMEOUT,
    )


def _uid_if_ours(live, intent):
    """Return the uid of an object that this very record made, else None.

    A crash between the apply and its outcome leaves such an object behind.
    """
    seen = resources.observe(live)
    ours = (intent.database, intent.record)
    signature = (
        seen.annotations.get(resources.DATABASE_ANNOTATION),
        seen.annotations.get(resources.RECORD_ANNOTATION),
    )
    return seen.uid if signature == ours else None


def _explained(error, intent):
    """Say of an object that exists whose it is."""
    if not error.live:
        return error  # it could not be read: perhaps it is ours
    seen = resources.observe(error.live)
    other = seen.annotations.get(resources.DATABASE_ANNOTATION)
    name = intent.manifest["metadata"]["name"]
    whose = (
        f" The Odoo database {other} wrote it."
        if other and other != intent.database
        else ""
    )
    return AlreadyExists(
        f"An object of the name {name} exists already in this namespace, and it was "
        f"not touched.{whose}",
        live=error.live,
        audit_id=error.audit_id,
    )


def _adopt(intent):
    adopted = apply.adopt(
        intent.connection,
        intent.resource,
        intent.signed,
        uid=intent.uid,
        timeout=const.DELIVERY_TIMEOUT,
    )
    moved = sorted({manager for _field, manager in adopted.moved})
    message = (
        f"{len(adopted.moved)} fields were taken over from {', '.join(moved)}."
        if moved
        else "There was nothing to take over: these managers own none of our fields."
    )
    if differing := _differing(intent.manifest, adopted.object):
        message += (
            f" {len(differing)} values differ from what the form says, such as "
            f"{differing[0]}: deploy to bring them to the cluster."
        )
    return Outcome(
        # No value was changed: what differs is still to be deployed.
        state="draft" if differing else "applied",
        reason="Adopted",
        message=message,
        object=adopted.object,
        audit_id=adopted.audit_id,
    )


def _differing(manifest, live):
    """Return the fields of `manifest` that the live object has otherwise."""
    changes = diff.changes(diff.clean(live), manifest)
    return [change.path for change in changes if change.new is not diff.ABSENT]


def _delete(intent):
    metadata = intent.manifest["metadata"]
    remaining = apply.delete(
        intent.connection,
        intent.resource,
        metadata["name"],
        metadata["namespace"],
        uid=intent.uid,
        timeout=const.DELIVERY_TIMEOUT,
    )
    if remaining is None:
        return Outcome(state="deleted")
    return Outcome(
        state="deleting",
        reason="Finalizers",
        retry_in=outcome.back_off(intent.attempts),
        object=remaining,
    )


def _applied(applied):
    return Outcome(
        state="applied",
        object=applied.object,
        warnings=applied.warnings,
        audit_id=applied.audit_id,
    )


_VERBS = {"deploy": _deploy, "adopt": _adopt, "delete": _delete}
