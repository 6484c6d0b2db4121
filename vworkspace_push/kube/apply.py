"""The verbs: server-side apply, get, list, and delete guarded by uid.

An apply says what we own of an object and nothing else; repeating it changes nothing,
so every failure may be retried (Kubernetes API: Server-Side Apply). A write to an
object that we know carries its uid, so that one which vanished or was replaced is
never created or changed by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .connection import Cancellation, Connection, Response
from .errors import (
    Conflict,
    Expired,
    IdentityMismatch,
    InvalidResponse,
    KubeError,
    NotFound,
)
from .ownership import complete_conflicts
from .resources import FIELD_MANAGER, Resource, metadata_text, observe

# JSON is YAML. With any other content type the server would do a merge patch, as a
# manager of the same name that later conflicts with ours.
APPLY_PATCH = "application/apply-patch+yaml"
PAGE_SIZE = 500  # objects of one page of a list
MAX_PAGES = 1_000


@dataclass(frozen=True)
class Applied:
    """What the server stored, or would store in a dry run."""

    object: dict[str, Any]
    uid: str
    resource_version: str
    generation: int
    created: bool
    warnings: tuple[str, ...]


def apply(
    connection: Connection,
    resource: Resource,
    manifest: Mapping[str, Any],
    *,
    uid: str | None,
    force: bool = False,
    dry_run: bool = False,
    timeout: float | None = None,
) -> Applied:
    """Apply `manifest` as the manager vworkspace-odoo.

    :param uid: of the object as we know it; None only for the first delivery, which
        creates it or joins the one that is there
    :param force: take over fields that conflict
    :param dry_run: nothing is stored; admission and conflicts answer as for real
    :param timeout: s for the whole call
    :raise Conflict: completed with both values and the time of the rival's last write
    :raise IdentityMismatch: no object with that uid
    :raise KubeError: the others of its kinds
    """
    metadata = dict(manifest["metadata"])
    path = resource.path(metadata["name"], metadata.get("namespace"))
    if uid:
        metadata["uid"] = uid
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
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
    except Conflict as exc:
        live = _live(connection, path, timeout=timeout)
        # The server compares fields before uids: another object of this name that
        # differs from ours is reported as a conflict.
        if uid and observe(live).uid not in ("", uid):
            raise IdentityMismatch(
                "Another object has this name in the cluster now."
            ) from exc
        exc.conflicts = complete_conflicts(exc.conflicts, manifest=manifest, live=live)
        raise
    return _applied(response)


def _applied(response: Response) -> Applied:
    seen = observe(response.data)
    if not seen.uid:
        raise InvalidResponse("The server's answer to the apply is not an object.")
    return Applied(
        object=response.data,
        uid=seen.uid,
        resource_version=seen.resource_version,
        generation=seen.generation or 0,
        created=response.status == 201,
        warnings=response.warnings,
    )


def _live(
    connection: Connection, path: str, *, timeout: float | None
) -> dict[str, Any]:
    """Return the object for the words about a conflict; empty if that read fails."""
    with suppress(KubeError):
        return _object(connection.request("GET", path, timeout=timeout))
    return {}


def get(
    connection: Connection,
    resource: Resource,
    name: str,
    namespace: str | None,
    *,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Return one object as the server has it.

    :param timeout: s for the whole call
    :raise NotFound: the object, or its kind, is not there
    """
    path = resource.path(name, namespace)
    return _object(connection.request("GET", path, timeout=timeout))


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

    :param namespace: None lists the whole cluster
    :param timeout: s for each page
    :param cancellation: lets another thread end the call
    :raise KubeError: the list is not complete; never an incomplete result
    """
    path = resource.collection_path(namespace)

    def pages() -> tuple[list[dict[str, Any]], str]:
        items: list[dict[str, Any]] = []
        query = {"limit": str(page_size)}
        for _ in range(MAX_PAGES):
            response = connection.request(
                "GET", path, query=query, timeout=timeout, cancellation=cancellation
            )
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
