"""The module inside the package, under Ray's import path."""

from cloudpickle.cloudpickle import *
