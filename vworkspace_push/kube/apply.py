"""The verbs: server-side apply and what is built on it, get, list, guarded delete.

An apply says what we own of an object and nothing else; repeating it changes nothing,
so every failure may be retried (Kubernetes API: Server-Side Apply). A write to an
object that we know carries its uid, so that one which vanished or was replaced is
never created or changed by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from .connection import Cancellation, Connection, Response
from .errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Expired,
    Forbidden,
    IdentityMismatch,
    InvalidResponse,
    KubeError,
    NotFound,
    StaleVersion,
)
from .ownership import (
    MAX_CONFLICTS,
    MAX_FIELD,
    FieldConflict,
    adoption,
    complete_conflicts,
    emptied,
    emptying,
    other_owners,
    owners,
    transplant,
)
from .resources import (
    FIELD_MANAGER,
    Resource,
    metadata_text,
    observe,
)

# JSON is YAML. With any other content type the server would do a merge patch, as a
# manager of the same name that later conflicts with ours.
APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
# Nothing is ever owned by it: a JSON patch with our name, or with none (the server
# takes it from the user agent), could leave an entry (Update) that conflicts with ours.
ADOPTION_MANAGER = f"{FIELD_MANAGER}-adoption"
NO_VERSION = "1"  # a resourceVersion that no object ever has
TRIES = 3  # for an object that changes under our hands
PAGE_SIZE = 500  # objects of one page of a list
SMALLER = 4  # times fewer are asked for where an answer is larger than we read
MAX_PAGES = 1_000  # of PAGE_SIZE, or more of smaller ones


@dataclass(frozen=True)
class Applied:
    """What the server stored, or would store in a dry run."""

    object: dict[str, Any]
    uid: str
    resource_version: str
    generation: int
    created: bool
    warnings: tuple[str, ...]
    audit_id: str  # of the request in the cluster's audit log, "" if it keeps none


# === APPLY === #


def apply(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str | None,
    resource_version: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    timeout: float | None = None,
) -> Applied:
    """Apply `manifest` as the manager vworkspace-odoo.

    The first delivery only ever creates. An apply has no precondition for that, but a
    resourceVersion that no object has serves as one: it does not matter where there is
    no object, and it is stale where there is one. The server compares it in the same
    transaction in which it stores, so nothing slips between.

    :param uid: of the object as we know it; None only for the first delivery
    :param resource_version: with `uid`: only if this version is still stored
    :param force: take over fields that conflict
    :param dry_run: nothing is stored; admission and conflicts answer as for real
    :param timeout: s for the whole call
    :raise AlreadyExists: `uid` is None and there is an object, in `live`; retryable
        when that object could not be read
    :raise Conflict: completed with both values and the time of the rival's last write
    :raise StaleVersion: another version than `resource_version` is stored
    :raise IdentityMismatch: no object with that uid
    :raise KubeError: the others of its kinds
    """
    metadata = dict(manifest["metadata"])
    path = resource.path(metadata["name"], metadata.get("namespace"))
    if uid:
        metadata["uid"] = uid
    if version := resource_version if uid else NO_VERSION:
        metadata["resourceVersion"] = version
    # An apply refuses fields that the schema does not declare in any case; a stricter
    # validation would only have the server parse the body a second time.
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Ignore"}
    if force:
        query["force"] = "true"
    if dry_run:
        query["dryRun"] = "All"
    try:
        response = connection.request(
            "PATCH",
            path,
            query=query,
            body={**manifest, "metadata": metadata},
            content_type=APPLY_PATCH,
            timeout=timeout,
        )
    except (Conflict, StaleVersion, AlreadyExists) as exc:
        live = _live(connection, path, timeout=timeout)
        if not uid and live is not None:
            raise _already_exists(resource, metadata["name"], live, exc) from exc
        # The server compares fields and versions before uids: another object of this
        # name is reported as a conflict or as stale.
        if observe(live).uid not in ("", uid):
            raise _mismatch(live, exc) from exc
        if isinstance(exc, Conflict):
            exc.conflicts = complete_conflicts(
                exc.conflicts, manifest=manifest, live=live or {}
            )
        raise
    return _applied(response)


def _already_exists(
    resource: Resource, name: str, live: dict[str, Any], cause: KubeError | None = None
) -> AlreadyExists:
    return AlreadyExists(
        f"The cluster has an object of the kind {resource.kind} named {name} already.",
        live=live,
        retryable=not live,
        **_request(cause),
    )


def _mismatch(
    live: dict[str, Any] | None, cause: KubeError | None = None
) -> IdentityMismatch:
    return IdentityMismatch(
        "Another object has this name in the cluster now."
        if live
        else "The object is not in the cluster any more.",
        **_request(cause),
    )


def _request(cause: KubeError | None) -> dict[str, Any]:
    """Return by which request an error became known that we tell in our own words."""
    if cause is None:
        return {}
    return {"http_status": cause.http_status, "audit_id": cause.audit_id}


def _applied(response: Response) -> Applied:
    uid = metadata_text(response.data, "uid")
    if not uid:
        raise InvalidResponse("The server's answer to the apply is not an object.")
    generation = response.data["metadata"].get("generation")
    return Applied(
        object=response.data,
        uid=uid,
        resource_version=metadata_text(response.data, "resourceVersion"),
        generation=generation if type(generation) is int else 0,
        created=response.status == 201,
        warnings=response.warnings,
        audit_id=response.audit_id,
    )


def _live(
    connection: Connection, path: str, *, timeout: float | None
) -> dict[str, Any] | None:
    """Return the object behind a 409: empty if that read fails, None if none is there.

    A quota that many write at once answers 409 as well, without any object.
    """
    try:
        return _object(connection.request("GET", path, timeout=timeout))
    except NotFound:
        return None
    except KubeError:
        return {}


def apply_emptying(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str,
    timeout: float | None = None,
) -> Applied:
    """Apply `manifest`, which may empty maps in which we own all there is.

    What an apply removes last from a map takes the map with it: null is stored, or the
    apply is refused. So the maps are emptied first, if the rest would go through.

    :param timeout: s for each request
    :raise StaleVersion: the object changed between the requests, TRIES times
    :raise IdentityMismatch: no object with that uid
    :raise KubeError: as `apply`
    """
    live, _version = _known(connection, resource, manifest, uid=uid, timeout=timeout)
    verb = partial(apply, connection, resource, uid=uid, timeout=timeout)
    if routes := emptied(manifest, live):
        verb(transplant(live, manifest, routes), dry_run=True)
        _empty(connection, resource, manifest, uid=uid, timeout=timeout)
    return verb(manifest)


def _empty(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str,
    timeout: float | None,
) -> str:
    """Empty the maps of the live object that `manifest` has empty and we own alone.

    :return: the object's resourceVersion afterwards
    """

    def patch(live: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
        routes = emptied(manifest, live)
        return emptying(live, routes) if routes else None

    obj, _audit_id = _patch_known(
        connection, resource, manifest, patch, uid=uid, timeout=timeout
    )
    return metadata_text(obj, "resourceVersion")


# === GET, DELETE, LIST === #


def get(
    connection: Connection,
    resource: Resource,
    name: str,
    namespace: str | None,
    *,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> dict[str, Any]:
    """Return one object as the server has it.

    :param timeout: s for the whole call
    :param cancellation: lets another thread end the call
    :raise NotFound: the object, or its kind, is not there
    """
    path = resource.path(name, namespace)
    return _object(
        connection.request("GET", path, timeout=timeout, cancellation=cancellation)
    )


def delete(
    connection: Connection,
    resource: Resource,
    name: str,
    namespace: str | None,
    *,
    uid: str,
    timeout: float | None = None,
) -> dict[str, Any] | None:
    """Delete the object of that uid.

    :param uid: another object of the same name stays
    :param timeout: s for the whole call
    :return: the object while finalizers hold it, None once it is gone
    :raise IdentityMismatch: another object has that name now
    """
    # All options go into the body: when there is one, the server ignores the query.
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    path = resource.path(name, namespace)
    try:
        response = connection.request("DELETE", path, body=options, timeout=timeout)
    except NotFound as exc:
        if exc.what == "object":
            return None
        raise
    answer = _object(response)
    return None if answer.get("kind") == "Status" else answer


def list_all(
    connection: Connection,
    resource: Resource,
    *,
    namespace: str | None,
    page_size: int = PAGE_SIZE,
    timeout: float | None = None,
    cancellation: Cancellation | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Return all objects and the resourceVersion of that one consistent view.

    A page of objects so large that its answer is not read is asked for in smaller ones.

    :param namespace: None lists the whole cluster
    :param timeout: s for each page
    :param cancellation: lets another thread end the call
    :raise KubeError: the list is not complete; never an incomplete result
    """
    path = resource.collection_path(namespace)

    def pages() -> tuple[list[dict[str, Any]], str]:
        items: list[dict[str, Any]] = []
        query: dict[str, str] = {}
        limit, allowed = page_size, MAX_PAGES * page_size
        while allowed > 0:
            query["limit"] = str(limit)
            try:
                response = connection.request(
                    "GET", path, query=query, timeout=timeout, cancellation=cancellation
                )
            except InvalidResponse as exc:
                if exc.reason != "TooLarge" or limit == 1:
                    raise
                limit = max(1, limit // SMALLER)
                continue
            allowed -= limit
            page, version, token = _page(response, resource)
            items += page
            if not token:
                return items, version
            query["continue"] = token
        raise InvalidResponse("The list does not come to an end.", reason="TooLarge")

    try:
        return pages()
    except Expired:  # the view was compacted away while its pages were read
        return pages()


def _page(
    response: Response, resource: Resource
) -> tuple[list[dict[str, Any]], str, str]:
    answer = _object(response)
    metadata = answer.get("metadata")
    items = answer.get("items")
    items = [] if items is None else items
    if (
        answer.get("kind") != f"{resource.kind}List"
        or not isinstance(metadata, dict)
        or not isinstance(metadata.get("resourceVersion"), str)
        or not isinstance(items, list)
        or not all(metadata_text(item, "uid") for item in items)
    ):
        raise InvalidResponse(f"The server's answer is not a list of {resource.kind}.")
    token = metadata.get("continue")
    return items, metadata["resourceVersion"], token if isinstance(token, str) else ""


def _object(response: Response) -> dict[str, Any]:
    if not isinstance(response.data, dict):
        raise InvalidResponse("The server's answer is not an object.")
    return response.data


# === DECIDED CONFLICTS === #


def take_over(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str,
    fields: Collection[str],
    given_up: Collection[str] = (),
    timeout: float | None = None,
) -> Applied:
    """Apply `manifest` and overwrite exactly the conflicts that were decided.

    Force is all or nothing, so it is used only on the version of the object whose
    conflicts are known to be among `fields`.

    :param fields: paths of the decided conflicts, as `FieldConflict.field` has them
    :param given_up: paths that `manifest` leaves to others from now on: those that we
        alone own would be deleted
    :raise Denied: SoleOwner: nobody else owns one of `given_up`; nothing was sent
    :param timeout: s for each request
    :raise Conflict: there are others, or more than can be told; nothing was overwritten
    :raise StaleVersion: the object changed between the two requests, TRIES times
    :raise IdentityMismatch: no object with that uid
    """
    for _ in range(TRIES):
        live, version = _known(connection, resource, manifest, uid=uid, timeout=timeout)
        _check_given_up(live, given_up)
        verb = partial(apply, connection, resource, uid=uid, timeout=timeout)
        if routes := emptied(manifest, live):
            try:
                verb(transplant(live, manifest, routes), dry_run=True)
            except Conflict as exc:
                if not _all_decided(exc.conflicts, fields):
                    raise
            version = _empty(connection, resource, manifest, uid=uid, timeout=timeout)
        attempt = partial(verb, manifest, resource_version=version)
        with suppress(StaleVersion):
            try:
                return attempt()  # stores nothing where there is a conflict
            except Conflict as exc:
                if not _all_decided(exc.conflicts, fields):
                    raise
            return attempt(force=True)
    raise _kept_changing()


def _check_given_up(live: Mapping[str, Any], given_up: Collection[str]) -> None:
    ours = {owned.field for owned in owners(live) if owned.ours} if given_up else set()
    for field in sorted(ours.intersection(given_up)):
        if not other_owners(live, field):
            raise Denied(
                f"{field} was to be left to others, but nobody else owns it any more: "
                "it would be deleted.",
                reason="SoleOwner",
                hint="Claim it again on the form, and deploy.",
            )


def _kept_changing() -> StaleVersion:
    return StaleVersion(f"The object was changed by others during {TRIES} attempts.")


def _all_decided(conflicts: tuple[FieldConflict, ...], fields: Collection[str]) -> bool:
    """Tell whether force would overwrite nothing but `fields`."""
    may_be_cut = len(conflicts) >= MAX_CONFLICTS or any(
        len(conflict.field) >= MAX_FIELD for conflict in conflicts
    )
    return not may_be_cut and all(conflict.field in fields for conflict in conflicts)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a delivery would do."""

    live: dict[str, Any] | None = None  # None: there is no object
    result: dict[str, Any] | None = None  # with conflicts: what a take-over would give
    created: bool = False
    warnings: tuple[str, ...] = ()
    conflicts: tuple[FieldConflict, ...] = ()
    refusal: KubeError | None = None


# What a person can change; all else means that there is no answer yet.
REFUSALS = (Denied, Forbidden, NotFound, IdentityMismatch, AlreadyExists)


def preview(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str | None,
    timeout: float | None = None,
) -> Preview:
    """Return what `apply` would do; nothing is stored.

    :param uid: as for `apply`. Where an object exists that we do not know, the refusal
        says so, and the rest is what joining it would give
    :param timeout: s for each request
    :raise KubeError: no answer; refusals are in the result
    """
    metadata = manifest["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace")
    live = None
    try:
        live = get(connection, resource, name, namespace, timeout=timeout)
    except NotFound as exc:
        if exc.what != "object":
            return Preview(refusal=exc)
    except REFUSALS as exc:
        return Preview(refusal=exc)
    found = observe(live).uid
    if uid and found != uid:
        return Preview(live=live, refusal=_mismatch(live))
    refusal = None
    if live is not None and not uid:
        refusal = _already_exists(resource, name, live)
    # See `apply_emptying`: a dry run cannot empty them first.
    routes = emptied(manifest, live) if live else ()
    attempt = partial(
        apply,
        connection,
        resource,
        transplant(live, manifest, routes) if live and routes else manifest,
        uid=found or None,
        dry_run=True,
        timeout=timeout,
    )
    conflicts: tuple[FieldConflict, ...] = ()
    try:
        try:
            applied = attempt()
        except Conflict as exc:
            conflicts = exc.conflicts
            applied = attempt(force=True)
    except REFUSALS as exc:
        return Preview(live=live, conflicts=conflicts, refusal=refusal or exc)
    return Preview(
        live=live,
        result=transplant(manifest, applied.object, routes),
        created=applied.created,
        warnings=applied.warnings,
        conflicts=conflicts,
        refusal=refusal,
    )


@dataclass(frozen=True)
class Adopted:
    """The object after an adoption, and which fields moved from whom."""

    object: dict[str, Any]
    moved: tuple[tuple[str, str], ...]  # field, the manager that had it
    audit_id: str


def adopt(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str,
    timeout: float | None = None,
) -> Adopted:
    """Make fields of `manifest` ours that managers of Pull mode own; change no value.

    :param timeout: s for each request
    :raise StaleVersion: the object changed between the two requests, TRIES times
    :raise IdentityMismatch: no object with that uid
    """
    moved: tuple[tuple[str, str], ...] = ()

    def patch(live: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
        nonlocal moved
        wanted = adoption(live, manifest)
        moved = wanted.moved if wanted else ()
        return wanted.patch if wanted else None

    adopted, audit = _patch_known(
        connection, resource, manifest, patch, uid=uid, timeout=timeout
    )
    return Adopted(object=adopted, moved=moved, audit_id=audit)


def _patch_known(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    patch: Callable[[dict[str, Any]], tuple[dict[str, Any], ...] | None],
    *,
    uid: str,
    timeout: float | None,
) -> tuple[dict[str, Any], str]:
    """Change the object of `manifest` by a JSON patch that owns nothing afterwards.

    :param patch: returns what to change in the live object, guarded by its version;
        None: nothing
    :return: the object afterwards, and the audit id of the request ("" without one)
    :raise StaleVersion: the object changed between the two requests, TRIES times
    :raise IdentityMismatch: no object with that uid
    """
    metadata = manifest["metadata"]
    path = resource.path(metadata["name"], metadata.get("namespace"))
    seen, refused = "", None
    for _ in range(TRIES):
        live, version = _known(connection, resource, manifest, uid=uid, timeout=timeout)
        if refused and version == seen:
            raise refused
        changes = patch(live)
        if changes is None:
            return live, ""
        try:
            response = connection.request(
                "PATCH",
                path,
                query={"fieldManager": ADOPTION_MANAGER},
                body=list(changes),
                content_type=JSON_PATCH,
                timeout=timeout,
            )
        except (StaleVersion, Denied, NotFound) as exc:
            # A failed test is answered 422 without a word about it: only the object,
            # read again, tells whether it was that.
            if exc.http_status not in (404, 409, 422):
                raise
            seen, refused = version, exc
            continue
        return _object(response), response.audit_id
    raise _kept_changing()


def _known(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str,
    timeout: float | None,
) -> tuple[dict[str, Any], str]:
    """Return the live object of that uid, and its resourceVersion.

    :raise IdentityMismatch: it is not there, or another one is
    """
    metadata = manifest["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace")
    try:
        live = get(connection, resource, name, namespace, timeout=timeout)
    except NotFound as exc:
        if exc.what != "object":
            raise
        raise _mismatch(None, exc) from exc
    version = metadata_text(live, "resourceVersion")
    if not version:
        raise InvalidResponse("The server's answer is not an object.")
    if metadata_text(live, "uid") != uid:
        raise _mismatch(live)
    return live, version
