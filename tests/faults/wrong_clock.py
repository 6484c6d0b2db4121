"""Shifts the time of day that Python code sees; a process loads it as sitecustomize.

WRONG_CLOCK_FILE names a file with the offset in s, which may change at any time.
"""

import datetime
import os
import time

_FILE = os.environ["WRONG_CLOCK_FILE"]
_right_time, _right_time_ns = time.time, time.time_ns
_right_datetime = datetime.datetime


def _offset():
    with open(_FILE) as file:
        return float(file.read())


class _Meta(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _right_datetime)

    def __subclasscheck__(cls, subclass):
        return issubclass(subclass, _right_datetime)


class _WrongDatetime(_right_datetime, metaclass=_Meta):
    @classmethod
    def now(cls, tz=None):
        return _right_datetime.now(tz) + datetime.timedelta(seconds=_offset())

    @classmethod
    def utcnow(cls):
        now = _right_datetime.now(datetime.UTC).replace(tzinfo=None)
        return now + datetime.timedelta(seconds=_offset())

    @classmethod
    def today(cls):
        return cls.now()


time.time = lambda: _right_time() + _offset()
time.time_ns = lambda: _right_time_ns() + int(_offset() * 1e9)
datetime.datetime = _WrongDatetime
