"""cloudpickle under Ray's import path.

A re-export, not a copy: functions and classes pickled through `ray.cloudpickle` and through `cloudpickle` are the same bytes,
and a reducer registered with one is known to the other.
"""

import cloudpickle as _cloudpickle
from cloudpickle import *
from cloudpickle import CloudPickler, Pickler, dump, dumps, load, loads, register_pickle_by_value, unregister_pickle_by_value

# Ray's names for "dump, and say which attribute failed"; here every failure names it.
dump_debug = dump
dumps_debug = dumps

__version__ = _cloudpickle.__version__

__all__ = [
    "CloudPickler",
    "Pickler",
    "dump",
    "dump_debug",
    "dumps",
    "dumps_debug",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]
