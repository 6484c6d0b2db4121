"""Whether an object that a list or a watch misses is really gone.

A list can be filtered, old or made by a server in trouble, and a watch ends with a
``DELETED`` for every object when its definition is deleted. Only the API server's own
answer for the one object ends a record, and only while its kind is served.
"""

import logging
import math
import time
from dataclasses import dataclass

from ..kube import apply, resources
from ..kube.errors import (
    KubeError,
    NotFound,
    ServerFailed,
    Throttled,
    Unauthorized,
    Unreachable,
)
from ..kube.resources import metadata_text

_logger = logging.getLogger(__name__)

RESOURCES = {r.kind: r for r in (*resources.WATCHED, resources.CLUSTER)}


NO_ANSWER = (Throttled, Unauthorized, Unreachable)  # nor would there be for the others


@dataclass
class Answer:
    """What an API server said of objects that seem to be gone.

    :param gone: those that it says are
    :param left: those that it did not say anything of
    :param problem: why it did not; None when the time was over
    """

    gone: list
    left: list
    problem: KubeError | None = None


def confirm(connection, missing, *, timeout, seconds=math.inf, cancellation=None):
    """Ask an API server which of `missing` are gone.

    Gone is what it answers 404 for, or has under another uid. Whatever else it says of
    it, the object may well be there: the next list asks again.

    :param list[sink.Missing] missing: what a list or a watch did not have
    :param timeout: s for each request
    :param seconds: after which no further object is asked for
    :param cancellation: lets another thread end it
    :rtype: Answer
    """
    options = {"timeout": timeout, "cancellation": cancellation}
    until = time.monotonic() + seconds
    answer = Answer(gone=[], left=[])
    for asked, one in enumerate(missing):
        if asked and time.monotonic() >= until:
            answer.left += missing[asked:]
            break
        try:
            if _is_gone(connection, one, options):
                answer.gone.append(one)
        except NO_ANSWER as exc:
            answer.left += missing[asked:]
            answer.problem = exc
            _logger.info("%s ends are not confirmed yet: %s", len(answer.left), exc)
            break
        except ServerFailed as exc:  # perhaps of this object alone
            answer.left.append(one)
            answer.problem = exc
            _logger.info("the end of %s is not confirmed yet: %s", one, exc)
        except (KubeError, ValueError) as exc:
            _logger.info("the end of %s could not be confirmed: %s", one, exc)
    _keep_served(connection, answer, options)
    return answer


def _keep_served(connection, answer, options):
    """Believe no end of a kind that is not served."""
    for kind in {one.kind for one in answer.gone}:
        try:
            is_served = _is_served(connection, kind, options)
        except (ServerFailed, *NO_ANSWER) as exc:
            _logger.info("whether %s is served could not be seen: %s", kind, exc)
            answer.left += [one for one in answer.gone if one.kind == kind]
            answer.problem, is_served = exc, False
        if not is_served:
            answer.gone = [one for one in answer.gone if one.kind != kind]


def _is_served(connection, kind, options):
    """Tell whether objects of a kind may exist: its definition is not being deleted.

    While it is, the API server deletes all of its objects and still answers for each
    that it is gone; it only lets nobody create one any more.

    :raise KubeError: there was no answer
    """
    resource = RESOURCES[kind]
    try:
        answer = connection.request(
            "GET", f"/apis/{resource.group}/{resource.version}", **options
        )
        return any(
            entry["name"] == resource.plural and "create" in entry["verbs"]
            for entry in answer.data["resources"]
        )
    except (ServerFailed, *NO_ANSWER):
        raise
    except (KubeError, KeyError, TypeError) as exc:
        _logger.info("whether %s is served could not be seen: %s", kind, exc)
        return False


def _is_gone(connection, one, options):
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
            **options,
        )
    except NotFound as exc:
        if exc.what == "object":
            return True
        raise
    uid = metadata_text(live, "uid")
    return bool(uid) and uid != one.uid
