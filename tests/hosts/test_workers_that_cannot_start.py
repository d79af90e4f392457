"""A host on which the driver runs and its workers can't: said once, with the cause, and tried again without haste."""

import pytest

from support.hosts import WORKED, run

pytestmark = pytest.mark.limit(60)


def test_template_that_cannot_import_ray_is_explained_and_tried_again(tmp_path):
    """The workers' interpreter does not find the package: the driver is told once, with what it said; calls wait; `shutdown` ends everything."""
    code = f"""
import sys, ray
from support import of_role
ray.init(num_cpus=1, include_dashboard=False)  # everything that is imported at first use
assert ray.get(ray.remote(lambda: 1).remote()) == 1
ray.shutdown()
sys.path[:] = ["/nonexistent"]
ray.init(num_cpus=1, include_dashboard=False)
ref = ray.remote(lambda: 1).remote()
daemon = of_role("daemon")[0].pid
assert ray.wait([ref], timeout=3)[0] == []
assert of_role("daemon")[0].pid == daemon
ray.shutdown()
print({WORKED!r})
"""
    done = run(tmp_path, code)
    assert done.rc == 0 and WORKED in done.stdout, done
    assert done.stderr.count("the template process did not get ready (exit status: 1)") == 1, done
    assert "ModuleNotFoundError: No module named 'ray'" in done.stderr and "hint: " in done.stderr, done
