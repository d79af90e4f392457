"""Lets the tidy tests import their own modules. They read the tree as text; only test_stub.py and test_import_cost.py need a build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
