"""Chaos over three hosts while work verifies its results. chaos.py is the program; by hand it runs ten minutes."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import netns

CHAOS = Path(__file__).with_name("chaos.py")

pytestmark = pytest.mark.skipif(bool(netns.available()), reason=netns.available() or "machines can be made")


def chaos(*options, timeout_s):
    done = subprocess.run([sys.executable, str(CHAOS), *options], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "all right" in done.stdout


@pytest.mark.limit(60)
def test_work_of_the_chaos_run_is_right_without_chaos():
    """The shuffle, the actors and the chain verify their results over three hosts for a few seconds, and nothing is in use afterwards."""
    chaos("--calm", "--minutes", "0.05", timeout_s=55)


@pytest.mark.slow
@pytest.mark.limit(1000)
def test_ten_minutes_of_chaos_leave_every_result_right():
    """Nodes killed and joined again, cuts, stops, resets, losses: every result right, no hang, nothing in use afterwards."""
    chaos(timeout_s=900)
