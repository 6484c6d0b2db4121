"""Tells open views what the writer changed: at once, and then every so often.

A busy cluster has dozens of batches in a second, and each message goes to every client.
So a batch tells only of models that were not told of just now; of the others it is told
by a later one, or by a transaction of its own once their time has come.
"""

import math
import time

from .. import const

TELL_EVERY = 0.25  # s between two messages about records of one model


class Updates:
    """What one writer has not told yet, by model. Used by its thread alone."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._waiting: dict[str, set[int]] = {}  # ids
        self._due: dict[str, float] = {}  # when a model may be told of again

    def until_due(self) -> float:
        """Return the s until something can be told of; infinite when nothing waits."""
        due = [self._due.get(model, 0.0) for model in self._waiting]
        return max(0.0, min(due) - self._clock()) if due else math.inf

    def settle(self, env, *, all_of_it=False):
        """Have a transaction tell exactly what is due; call it at its end.

        Nothing is noted before it is committed: it may be tried again.

        :return: what `settled` takes after the commit
        """
        now = self._clock()

        def is_due(model):
            return all_of_it or now >= self._due.get(model, -math.inf)

        changed = env.cr.precommit.data.get(const.UPDATED, {})
        later = {m: changed.pop(m) for m in list(changed) if not is_due(m)}
        for model, ids in self._waiting.items():
            if is_due(model):
                env[model].browse(ids)._notify_updated()
        return list(env.cr.precommit.data.get(const.UPDATED, {})), later

    def settled(self, told, later) -> None:
        for model in told:
            self._waiting.pop(model, None)
            self._due[model] = self._clock() + TELL_EVERY
        for model, ids in later.items():
            self._waiting.setdefault(model, set()).update(ids)

    def forget(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
