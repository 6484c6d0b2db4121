"""Where each stream of a cluster resumes, and what it was last seen doing.

A position is only valid on the server that it is from: `identity` names that server.
"""

from dataclasses import dataclass
from datetime import datetime

from ..rows import as_json

Key = tuple[str, str | None]  # kind, namespace; None: the whole cluster


@dataclass(frozen=True)
class Row:
    """What is stored of one stream."""

    version: str | None
    last_event_at: datetime | None  # naive UTC


@dataclass(frozen=True)
class Note:
    """What one stream does now."""

    mode: str  # watch or poll
    state: str
    message: str
    last_event_at: datetime | None  # naive UTC
    events: int
    relists: int


def read(env, cluster_id: int, identity: str) -> dict[Key, Row]:
    """Return what is stored of a cluster's streams; no version of another server."""
    env.cr.execute(
        """SELECT kind, namespace, last_event_at,
                  CASE WHEN server_identity = %s THEN resource_version END
             FROM vworkspace_watch_stream WHERE cluster_id = %s""",
        [identity, cluster_id],
    )
    return {
        (kind, namespace): Row(version, last_event_at)
        for kind, namespace, last_event_at, version in env.cr.fetchall()
    }


def store(env, versions: dict[int, tuple[str, dict[Key, str]]]) -> None:
    """Keep how far each stream has been written, in the transaction that wrote it.

    :param versions: by cluster, the identity of its server, and the versions
    """
    rows = [
        {
            "cluster_id": cluster_id,
            "kind": kind,
            "namespace": namespace,
            "version": version,
            "identity": identity,
        }
        for cluster_id, (identity, by_key) in sorted(versions.items())
        for (kind, namespace), version in sorted(by_key.items(), key=str)
    ]
    if not rows:
        return
    env.cr.execute(
        """INSERT INTO vworkspace_watch_stream
                       (cluster_id, kind, namespace, resource_version, server_identity)
           SELECT cluster_id, kind, namespace, version, identity
             FROM json_to_recordset(%s) AS new (
                  cluster_id int, kind varchar, namespace varchar, version varchar,
                  identity varchar)
       ON CONFLICT (cluster_id, kind, COALESCE(namespace, ''))
         DO UPDATE SET resource_version = EXCLUDED.resource_version,
                       server_identity = EXCLUDED.server_identity""",
        [as_json(rows)],
        log_exceptions=False,
    )


def note(env, notes: dict[int, dict[Key, Note]]) -> None:
    """Keep what each stream does, and forget the streams that are no more.

    :param notes: by cluster, of all its streams
    """
    if not notes:
        return
    rows = as_json(
        [
            _row(cluster_id, key, each)
            for cluster_id, by_key in sorted(notes.items())
            for key, each in sorted(by_key.items(), key=str)
        ]
    )
    env.cr.execute(
        """DELETE FROM vworkspace_watch_stream stream
            WHERE cluster_id = ANY(%s)
              AND NOT EXISTS (
                  SELECT FROM json_to_recordset(%s) AS new (
                         cluster_id int, kind varchar, namespace varchar)
                   WHERE new.cluster_id = stream.cluster_id AND new.kind = stream.kind
                     AND new.namespace IS NOT DISTINCT FROM stream.namespace)""",
        [list(notes), rows],
        log_exceptions=False,
    )
    env.cr.execute(
        """INSERT INTO vworkspace_watch_stream
                       (cluster_id, kind, namespace, mode, state, message,
                        last_event_at, events, relists)
           SELECT cluster_id, kind, namespace, mode, state, message,
                  last_event_at, events, relists
             FROM json_to_recordset(%s) AS new (
                  cluster_id int, kind varchar, namespace varchar, mode varchar,
                  state varchar, message varchar, last_event_at timestamp,
                  events int, relists int)
       ON CONFLICT (cluster_id, kind, COALESCE(namespace, ''))
         DO UPDATE SET mode = EXCLUDED.mode, state = EXCLUDED.state,
                       message = EXCLUDED.message,
                       waiting_since = CASE EXCLUDED.state
                           WHEN 'waiting' THEN COALESCE(
                               vworkspace_watch_stream.waiting_since,
                               now() AT TIME ZONE 'UTC')
                           WHEN 'listing' THEN
                               vworkspace_watch_stream.waiting_since
                       END,
                       last_event_at = GREATEST(
                           vworkspace_watch_stream.last_event_at,
                           EXCLUDED.last_event_at),
                       events = EXCLUDED.events, relists = EXCLUDED.relists""",
        [rows],
        log_exceptions=False,
    )


def _row(cluster_id, key, note):
    kind, namespace = key
    return {
        "cluster_id": cluster_id,
        "kind": kind,
        "namespace": namespace,
        "mode": note.mode,
        "state": note.state,
        "message": note.message[:1000] or None,
        "last_event_at": note.last_event_at,
        "events": note.events,
        "relists": note.relists,
    }
