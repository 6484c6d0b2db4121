"""What came of one attempt to bring an intent to a cluster, as data.

Which state follows from which error is written down here and nowhere else:

====================================  ===========  ====================================
What the cluster said                 State        What happens next
====================================  ===========  ====================================
stored it                             applied      nothing; the status will follow
conflict with another field manager   conflict     a person decides
an object of that name exists         denied       a person imports it or renames
refused by admission or schema        denied       a person changes the intent
refused by RBAC                       denied       tried again slowly, or when granted
no such namespace, or it is ending    denied       tried again slowly
vanished, or replaced (other uid)     lost         a person decides; never re-created
kinds not served                      failed       tried again, slowly
wrong certificate or credential       failed       tried again slowly, or when replaced
unreachable, 429                      failed       tried again, with back-off
5xx                                   failed       the same; after an hour a person
====================================  ===========  ====================================
"""

import random
from dataclasses import dataclass, field, replace

from .. import const
from ..kube import errors
from ..kube.ownership import FieldConflict


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The end of one attempt.

    :param retry_in: s until it is tried again; None: only when a person asks for it
    :param object: as the cluster answered with it
    :param may_exist: whether an object that the record does not know may be its own
        (the answer was lost), or cannot; None: nothing new is known of that
    :param duration: s that the attempt took
    """

    state: str
    reason: str = ""
    message: str = ""
    retry_in: float | None = None
    object: dict | None = None
    may_exist: bool | None = None
    warnings: tuple[str, ...] = ()
    conflicts: tuple[FieldConflict, ...] = field(default=())
    audit_id: str = ""
    duration: float = 0.0
    credential_refused: bool = False


def from_error(error: Exception, *, attempts, deleting=False):
    """Return the outcome that `error` amounts to, after that many attempts before."""
    state, retry_in = _classify(error, attempts)
    if deleting and state in ("denied", "failed", "conflict"):
        # It stays `deleting`: the wish to delete is not given up by a failure.
        state, retry_in = "deleting", retry_in or const.RETRY_MAX
    return Outcome(
        state=state,
        reason=getattr(error, "reason", type(error).__name__),
        message=errors.describe(error),
        retry_in=retry_in,
        may_exist=_may_exist(error),
        conflicts=getattr(error, "conflicts", ()),
        audit_id=getattr(error, "audit_id", ""),
        credential_refused=isinstance(error, errors.Unauthorized),
    )


def accepted_again(refused: Outcome) -> Outcome:
    """Return the outcome where a server refused a credential for a moment only."""
    wait = jitter(const.RETRY_FIRST)
    return replace(refused, credential_refused=False, retry_in=wait)


def _may_exist(error: Exception) -> bool | None:
    match error:
        case errors.AlreadyExists():
            return not error.live  # else it is somebody else's
        case errors.IdentityMismatch() | errors.NotFound(what="namespace"):
            return False
    return getattr(error, "unsettled", False) or None


def _classify(error: Exception, attempts: int) -> tuple[str, float | None]:
    match error:
        case errors.Conflict():
            return "conflict", None
        case errors.IdentityMismatch():
            return "lost", None
        case errors.NotFound(what="definition"):
            return "failed", jitter(const.RETRY_SETTINGS)
        case errors.Forbidden() | errors.NotFound(what="namespace"):
            return "denied", jitter(const.RETRY_SETTINGS)
        case errors.Denied(reason="NamespaceTerminating"):
            return "denied", jitter(const.RETRY_SETTINGS)
        case errors.Denied() | errors.NotFound():
            return "denied", None
        case errors.AlreadyExists(retryable=False):
            return "denied", None
        case errors.ServerFailed() if attempts + 1 >= const.MAX_SERVER_FAILURES:
            return "failed", None
        case errors.KubeError(retryable=True):
            return "failed", back_off(attempts, at_least=error.retry_after)
    return "failed", jitter(const.RETRY_SETTINGS)


def back_off(attempts: int, *, at_least: float | None = None) -> float:
    """Return the seconds to wait after that many failed attempts, with jitter."""
    longest = min(const.RETRY_MAX, const.RETRY_FIRST * 2 ** min(attempts, 16))
    return max(at_least or 0.0, jitter(longest))


def jitter(longest: float) -> float:
    """Return between half of `longest` and all of it, so that retries spread."""
    return random.uniform(longest / 2, longest)  # noqa: S311
