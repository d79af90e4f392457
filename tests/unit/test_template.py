"""The template process: what a worker gets to know of the job that it is for."""

import json
import os
import socket
import subprocess
import sys

CODE = """
import json, os, socket, sys
from ray._core.worker import main as worker_main
from ray._core.worker.template import run

def main(link_fd, slot, board_fd, config, env):
    print(json.dumps([slot, config, env, sys.path]), flush=True)
    return 7

worker_main.main = main
sys.path[:] = ["/of-the-node", *sys.path]
link = socket.socket(fileno=int(sys.argv[1]))
run(link, os.open(os.devnull, os.O_RDONLY), {"sys_path": sys.path, "soft_fd_limit": 256})
"""


def test_worker_has_the_jobs_path_settings_and_environment() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        template = subprocess.Popen([sys.executable, "-c", CODE, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        assert ours.recv(100) == b"ready"
        env = '{"env_vars":{"A":"b c"}}'
        for number, path in ((1, ["/first job", "/shared"]), (2, ["/second"])):
            job = {"sys_path": path, "namespace": f"space {number}", "settings": {"a": "1\n2"}}
            read, write = os.pipe()
            link, other = socket.socketpair()
            request = f"fork {number} {number + 40} {env if number == 1 else ''}\n{json.dumps(job)}"
            socket.send_fds(ours, [request.encode()], [other.fileno(), write, write])
            os.close(write)
            word, proc, pid = ours.recv(100).decode().split()
            assert (word, proc) == ("forked", str(number))
            with open(read) as output:
                slot, config, its_env, its_path = json.loads(output.read())
            assert (slot, config, its_env) == (number + 40, job, env if number == 1 else "")
            assert its_path[: len(path)] == path
            assert its_path[len(path)] == "/of-the-node"
            assert ours.recv(100).decode().split()[:3] == ["exited", pid, "7"]
            link.close()
            other.close()
        ours.close()
        assert template.wait(10) == 0
