"""cloudpickle under Ray's import path.

A re-export, not a copy: functions and classes pickled through `ray.cloudpickle` and through `cloudpickle` are the same bytes,
and a reducer registered with one is known to the other.
"""

import cloudpickle as _cloudpickle
from cloudpickle import *
from cloudpickle import CloudPickler, Pickler, dump, dumps, load, loads, register_pickle_by_value, unregister_pickle_by_value
from cloudpickle.cloudpickle import DEFAULT_PROTOCOL, dynamic_subimport, is_tornado_coroutine, list_registry_pickle_by_value, subimport

# Ray's names for "dump, and say which attribute failed"; here every failure names it.
dump_debug = dump
dumps_debug = dumps

__version__ = _cloudpickle.__version__

__all__ = [
    "DEFAULT_PROTOCOL",
    "CloudPickler",
    "Pickler",
    "dump",
    "dump_debug",
    "dumps",
    "dumps_debug",
    "dynamic_subimport",
    "is_tornado_coroutine",
    "list_registry_pickle_by_value",
    "load",
    "loads",
    "register_pickle_by_value",
    "subimport",
    "unregister_pickle_by_value",
]
