"""What came of one attempt to bring an intent to a cluster, as data.

Which state follows from which error is written down here and nowhere else:

====================================  ===========  ====================================
What the cluster said                 State        What happens next
====================================  ===========  ====================================
stored it                             applied      nothing; the status will follow
conflict with another field manager   conflict     a person decides
refused by RBAC or admission          denied       a person changes intent or rights
vanished, or replaced (other uid)     lost         a person decides; never re-created
no such namespace                     denied       a person creates it, then deploys
kinds not served                      failed       tried again, slowly
wrong certificate or credential       failed       tried again slowly, or when replaced
unreachable, 429, 5xx                 failed       tried again, with back-off
====================================  ===========  ====================================
"""

import random
from dataclasses import dataclass, field

from .. import const
from ..kube import errors
from ..kube.ownership import FieldConflict


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one attempt.

    :param retry_in: s until it is tried again; None: only when a person asks for it
    """

    record_id: int
    revision: int
    state: str
    message: str = ""
    retry_in: float | None = None
    object: dict | None = None
    warnings: tuple[str, ...] = ()
    conflicts: tuple[FieldConflict, ...] = field(default=())
    credential_refused: bool = False


def from_error(error: Exception, *, record_id, revision, attempts, deleting=False):
    """Return the outcome that `error` amounts to, at the given number of attempts."""
    state, retry_in = _classify(error, attempts)
    if deleting and state in ("denied", "failed", "conflict"):
        # It stays `deleting`: the wish to delete is not given up by a failure.
        state, retry_in = "deleting", retry_in or const.RETRY_MAX
    return Outcome(
        record_id=record_id,
        revision=revision,
        state=state,
        message=errors.describe(error),
        retry_in=retry_in,
        conflicts=getattr(error, "conflicts", ()),
        credential_refused=isinstance(error, errors.Unauthorized),
    )


def _classify(error: Exception, attempts: int) -> tuple[str, float | None]:
    match error:
        case errors.Conflict():
            return "conflict", None
        case errors.IdentityMismatch():
            return "lost", None
        case errors.NotFound(what="definition"):
            return "failed", const.RETRY_SETTINGS
        case errors.Denied() | errors.Forbidden() | errors.NotFound():
            return "denied", None
        case errors.KubeError(retryable=True):
            return "failed", back_off(attempts, at_least=error.retry_after)
    return "failed", const.RETRY_SETTINGS


def back_off(attempts: int, *, at_least: float | None = None) -> float:
    """Return the seconds to wait after that many failed attempts, with jitter."""
    longest = min(const.RETRY_MAX, const.RETRY_FIRST * 2 ** min(attempts, 16))
    return max(at_least or 0.0, random.uniform(longest / 2, longest))  # noqa: S311
