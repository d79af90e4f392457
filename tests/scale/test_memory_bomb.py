"""Culprits that grow among innocents. tests/scale/memory_bomb.py is the program; by hand it runs ten minutes."""

import subprocess
import sys
from pathlib import Path

import pytest

BOMB = Path(__file__).parent / "memory_bomb.py"


def bomb(minutes, timeout_s):
    done = subprocess.run([sys.executable, str(BOMB), "--minutes", str(minutes)], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.limit(120)
def test_memory_bomb_of_twenty_seconds_ends_culprits_only():
    """Every culprit is ended and named, no innocent is, and the runtime's processes are those from before."""
    told = bomb(20 / 60, 100)
    assert "culprits ended: 0 task, 0 steps, 0 actor, 0 child" not in told


@pytest.mark.slow
@pytest.mark.limit(900)
def test_memory_bomb_of_ten_minutes_ends_culprits_only():
    """The same for ten minutes."""
    bomb(10, 800)
