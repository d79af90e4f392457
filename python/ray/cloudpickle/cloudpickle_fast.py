"""An older import path of the pickler."""

from cloudpickle.cloudpickle import *
