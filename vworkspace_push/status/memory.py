"""How a process of hundreds of threads keeps its memory small.

glibc's malloc keeps most of what is freed, for what may come: each of its arenas for
itself, and the space between blocks that stay for ever. After lists of thousands of
objects that is tens of MiB. Other C libraries are left alone.
"""

import ctypes
import os
import sys
from contextlib import suppress

M_ARENA_MAX = -8  # of malloc.h
ARENAS = 2  # as in Odoo's own server


def share_arenas():
    """Have all threads share a few arenas, unless the environment says otherwise."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        _call("mallopt", M_ARENA_MAX, ARENAS)


def give_back():
    """Give what is free to the kernel; takes milliseconds, so not for each batch."""
    _call("malloc_trim", 0)


def _call(name, *numbers):
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL(None), name)(*numbers)
