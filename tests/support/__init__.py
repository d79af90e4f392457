"""What the black-box tests share. It uses only the public API of `ray` and /proc, so that it works on any implementation."""

from support.gates import Gate, Tally
from support.leaks import Snapshot
from support.processes import Process, descendants, is_alive, of_role, process, tree_pids
from support.runtime import init, is_own
from support.scripts import Finished, Script, run_script, start_script
from support.waiting import let_pass, wait_for

__all__ = [
    "Finished",
    "Gate",
    "Process",
    "Script",
    "Snapshot",
    "Tally",
    "descendants",
    "init",
    "is_alive",
    "is_own",
    "let_pass",
    "of_role",
    "process",
    "run_script",
    "start_script",
    "tree_pids",
    "wait_for",
]
