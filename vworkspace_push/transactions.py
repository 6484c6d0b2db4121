"""Short transactions of the addon's own, beside a user's or a cron's.

They run at READ COMMITTED instead of Odoo's REPEATABLE READ: the code in them locks its
rows first (in the order of their ids, so that two never wait for each other) and then
sees their newest state, where a frozen snapshot would fail with a serialization error
each time a status and an outcome meet on a record.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import psycopg2

from odoo import SUPERUSER_ID, api
from odoo.modules.registry import Registry
from odoo.service.model import retrying

T = TypeVar("T")

LOCK_SECONDS = 1  # s that an impatient transaction waits for one lock


class Locked(psycopg2.DatabaseError):
    """Somebody else keeps locked what an impatient transaction needs."""


def in_transaction(registry: Registry, function: Callable[..., T], /, *args) -> T:
    """Run ``function(env, *args)`` in a transaction of its own and return its result.

    `function` may run several times (deadlocks and lost races are tried again), so it
    must not keep anything from an earlier try.
    """
    with registry.cursor() as cr:
        env = api.Environment(cr, SUPERUSER_ID, {})
        return retrying(partial(_read_committed, env, function, *args), env)


def in_impatient_transaction(
    registry: Registry, function: Callable[..., T], /, *args
) -> T:
    """Do as `in_transaction`, but do not wait for long for what others have locked.

    :raise Locked: nothing was done; the caller tries again when it sees fit
    """
    return in_transaction(registry, _impatient, function, *args)


def _impatient(env, function, *args):
    env.cr.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    try:
        result = function(env, *args)
        env.cr.flush()  # here and not by `retrying`, which would sleep and try again
    except psycopg2.errors.LockNotAvailable as exc:
        raise Locked(str(exc)) from exc
    return result


def _read_committed(env, function, *args):
    env.cr.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return function(env, *args)


def lock_rows(env, table: str, ids) -> list[int]:
    """Lock the rows of `ids` that still exist and return their ids, in order."""
    if not ids:
        return []
    env.cr.execute(
        f'SELECT id FROM "{table}" WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE',  # noqa: S608 the name of a model's table
        [list(ids)],
    )
    return [row[0] for row in env.cr.fetchall()]
