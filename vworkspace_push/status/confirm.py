"""Whether an object that a list or a watch misses is really gone.

A list can be filtered, old or made by a server in trouble, and a watch ends with a
``DELETED`` for every object when its definition is deleted. Only the API server's own
answer for the one object ends a record, and only while its kind is served.
"""

import logging

from ..kube import apply, resources
from ..kube.errors import KubeError, NotFound, Unauthorized, Unreachable
from ..kube.resources import metadata_text

_logger = logging.getLogger(__name__)

RESOURCES = {r.kind: r for r in (*resources.WATCHED, resources.CLUSTER)}


def confirm(connection, missing, *, timeout):
    """Return those of `missing` that the API server says are gone.

    Gone is what it answers 404 for, or has under another uid. Whatever else it says,
    or if it says nothing, the object may well be there: the next list asks again.

    :param list[sink.Missing] missing: what a list or a watch did not have
    :param timeout: s for each request
    :rtype: list[sink.Missing]
    """
    gone = []
    for asked, one in enumerate(missing):
        try:
            if _is_gone(connection, one, timeout):
                gone.append(one)
        except (Unauthorized, Unreachable) as exc:
            left = len(missing) - asked  # the others would be asked for in vain
            _logger.info("%s ends could not be confirmed: %s", left, exc)
            break
        except (KubeError, ValueError) as exc:
            _logger.info("the end of %s could not be confirmed: %s", one, exc)
    served = {kind: _is_served(connection, kind, timeout) for kind in _kinds(gone)}
    return [one for one in gone if served[one.kind]]


def _kinds(missing):
    return {one.kind for one in missing}


def _is_served(connection, kind, timeout):
    """Tell whether objects of a kind may exist: its definition is not being deleted.

    While it is, the API server deletes all of its objects and still answers for each
    that it is gone; it only lets nobody create one any more.
    """
    resource = RESOURCES[kind]
    try:
        answer = connection.request(
            "GET", f"/apis/{resource.group}/{resource.version}", timeout=timeout
        )
        return any(
            entry["name"] == resource.plural and "create" in entry["verbs"]
            for entry in answer.data["resources"]
        )
    except (KubeError, KeyError, TypeError) as exc:
        _logger.info("whether %s is served could not be seen: %s", kind, exc)
        return False


def _is_gone(connection, one, timeout):
    """Ask for one object.

    :raise KubeError: the server does not say
    :raise ValueError: it has no name that can be asked for
    """
    try:
        live = apply.get(
            connection,
            RESOURCES[one.kind],
            one.name,
            one.namespace or None,
            timeout=timeout,
        )
    except NotFound as exc:
        if exc.what == "object":
            return True
        raise
    uid = metadata_text(live, "uid")
    return bool(uid) and uid != one.uid
