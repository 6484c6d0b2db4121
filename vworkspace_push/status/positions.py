"""Where each stream of a cluster resumes, and what it was last seen doing.

A position is only valid on the server that it is from: `identity` names that server.
"""

from dataclasses import dataclass
from datetime import datetime

from psycopg2.extras import execute_values

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


def store(env, cluster_id: int, identity: str, versions: dict[Key, str]) -> None:
    """Keep how far each stream has been written, in the transaction that wrote it."""
    if not versions:
        return
    execute_values(
        env.cr._obj,
        """INSERT INTO vworkspace_watch_stream
                       (cluster_id, kind, namespace, resource_version, server_identity)
                VALUES %s
           ON CONFLICT (cluster_id, kind, COALESCE(namespace, ''))
             DO UPDATE SET resource_version = EXCLUDED.resource_version,
                           server_identity = EXCLUDED.server_identity""",
        [
            (cluster_id, kind, namespace, version, identity)
            for (kind, namespace), version in sorted(versions.items(), key=str)
        ],
    )


def note(env, cluster_id: int, notes: dict[Key, Note]) -> None:
    """Keep what each stream does, and forget the streams that are no more."""
    env.cr.execute(
        """DELETE FROM vworkspace_watch_stream
            WHERE cluster_id = %s
              AND NOT (kind || '/' || COALESCE(namespace, '')) = ANY(%s)""",
        [cluster_id, [f"{kind}/{namespace or ''}" for kind, namespace in notes]],
    )
    if not notes:
        return
    execute_values(
        env.cr._obj,
        """INSERT INTO vworkspace_watch_stream
                       (cluster_id, kind, namespace, mode, state, message,
                        last_event_at, events, relists)
                VALUES %s
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
        [
            (
                *(cluster_id, kind, namespace, row.mode, row.state),
                *(row.message[:1000] or None, row.last_event_at),
                *(row.events, row.relists),
            )
            for (kind, namespace), row in sorted(notes.items(), key=str)
        ],
    )
