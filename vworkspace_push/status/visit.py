"""One look at a cluster without streams: complete lists of everything that is watched.

One request for each kind where the credential may read the whole cluster, else one for
each namespace. That it may not is remembered for a while, in this process.
"""

import random
import time
from dataclasses import dataclass, field
from datetime import datetime

from odoo import fields

from ..kube import apply, resources
from ..kube.connection import Cancellation
from ..kube.errors import (
    Denied,
    Forbidden,
    KubeError,
    NotFound,
    Unauthorized,
    Unreachable,
)

LIST_TIMEOUT = 20.0  # s for one page of a list
PROBE_TIMEOUT = 3.0  # s
REFUSED_AGAIN = 3.0  # s until a credential that was refused is tried once more
RECHECK = 600.0  # s until what the credential may not list is tried again

# (database, cluster, kind): connection version, and until when (monotonic) not to list
# the kind in the whole cluster.
_refusals: dict[tuple[str, int, str], tuple[int, float]] = {}


@dataclass(frozen=True)
class Listed:
    """A complete list."""

    resource: resources.Resource
    namespace: str | None  # None: the whole cluster
    objects: list
    version: str
    asked_at: datetime  # naive UTC


@dataclass
class Visit:
    """How to reach a cluster, and what came of it.

    :param problems: why something could not be listed, in sentences
    """

    dbname: str
    cluster_id: int
    connection: object = field(repr=False)
    namespaces: list[str]
    version: int  # of the connection
    cancellation: Cancellation = field(repr=False, default_factory=Cancellation)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls, env, cluster_id, **options):
        """Return a visit of a cluster that exists, else None.

        :raise UserError, SealingError, KubeError, ValueError: it cannot be reached as
            it is set up
        """
        cluster = env["vworkspace.cluster"].browse(cluster_id).exists()
        if not cluster:
            return None
        names = cluster.namespace_ids.mapped("name")
        return cls(
            dbname=env.cr.dbname,
            cluster_id=cluster_id,
            connection=cluster._connection(),
            # If there are too many for one visit, others are first the next time.
            namespaces=random.sample(names, len(names)),
            version=cluster.connection_version,
            **options,
        )

    def lists(self):
        """Yield a `Listed` for all that can be read; the rest becomes a problem.

        :raise Unauthorized: the server does not accept the credential
        :raise Unreachable: it does not answer, or the visit was cancelled
        """
        for resource in resources.WATCHED:
            yield from self._lists_of(resource)
        if not self._is_refused(resources.CLUSTER):
            yield from self._everywhere(resources.CLUSTER)

    def is_server_there(self):
        """Whether the server answers anything at all, be it a refusal."""
        return not isinstance(self._probe(), Unreachable)

    def is_refused_again(self):
        """Whether the server still refuses the credential, a moment later.

        One that starts may refuse all for a moment.
        """
        time.sleep(REFUSED_AGAIN)
        return isinstance(self._probe(), Unauthorized)

    def _probe(self):
        """Ask what anybody may know; return the error, if any."""
        try:
            self.connection.request("GET", "/version", timeout=PROBE_TIMEOUT)
        except KubeError as exc:
            return exc
        return None

    def _lists_of(self, resource):
        if len(self.namespaces) > 1 and not self._is_refused(resource):
            yield from self._everywhere(resource)
            if not self._is_refused(resource):
                return
        for namespace in self.namespaces:
            try:
                yield self._list(resource, namespace)
            except (Unauthorized, Unreachable):
                raise
            except KubeError as exc:
                self.problems.append(str(exc))

    def _everywhere(self, resource):
        """Yield the list of the whole cluster, unless that is refused."""
        try:
            yield self._list(resource, None)
        except (Unauthorized, Unreachable):
            raise
        except (Forbidden, Denied):
            self._refuse(resource)
        except NotFound as exc:
            # Operators need not keep an object that stands for the cluster.
            if resource.namespaced:
                self.problems.append(str(exc))
            else:
                self._refuse(resource)
        except KubeError as exc:
            self.problems.append(str(exc))

    def _list(self, resource, namespace):
        asked_at = fields.Datetime.now()
        objects, version = apply.list_all(
            self.connection,
            resource,
            namespace=namespace,
            timeout=LIST_TIMEOUT,
            cancellation=self.cancellation,
        )
        return Listed(resource, namespace, objects, version, asked_at)

    def _is_refused(self, resource):
        version, until = _refusals.get(self._key(resource), (None, 0.0))
        return version == self.version and time.monotonic() < until

    def _refuse(self, resource):
        _refusals[self._key(resource)] = (self.version, time.monotonic() + RECHECK)

    def _key(self, resource):
        return self.dbname, self.cluster_id, resource.kind
