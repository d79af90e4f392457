"""Mixed calls, then rest: nothing is left in use. tests/scale/soak.py is the program; by hand it runs ten million calls."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "soak.py"


def soak(calls, timeout_s):
    done = subprocess.run([sys.executable, str(SOAK), "--calls", str(calls)], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT AT THE BASELINE" not in done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.limit(300)
def test_soak_of_100k_calls_ends_at_the_baseline():
    """Object table, extents, descriptors, threads, maps, processes and memory are those from before."""
    table = soak(100_000, 280)
    assert "bytes of extents" in table and "RSS of the daemon" in table


@pytest.mark.slow
@pytest.mark.limit(1500)
def test_soak_of_1m_calls_ends_at_the_baseline():
    """The same for ten times as many."""
    soak(1_000_000, 1400)
