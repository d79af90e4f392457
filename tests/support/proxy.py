"""A TCP proxy that is late, silent, or breaks connections on demand. Also a program, for a host whose connections are redirected to it.

usage: proxy.py --delay SECONDS [--mark N]: prints its port; every connection goes on to where it was going before the redirection.
"""

import argparse
import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

Address = tuple[str, int]
Chunk = tuple[float, bytes]
CHUNK_BYTES = 1 << 16
QUEUED_CHUNKS = 256
FIRST_BYTES = 4096
SO_ORIGINAL_DST = 80
SO_MARK = 36
RESET = struct.pack("ii", 1, 0)  # to linger for 0 s: closing sends a reset


class Direction:
    """What happens to the bytes of one direction."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.passed_bytes = 0
        self.first = b""  # what the first connections said, up to FIRST_BYTES


class Proxy:
    """Forwards every connection to `target`, or (None) to where a redirection of the kernel took it from. A context manager."""

    def __init__(self, target: Address | None, host: str = "127.0.0.1", port: int = 0, mark: int = 0) -> None:
        self.target = target
        self._mark = mark
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self.there, self.back = Direction(), Direction()
        self._listener = socket.create_server((host, port), backlog=512)
        self.address: Address = self._listener.getsockname()[:2]
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._ends) // 2

    def delay(self, there_s: float, back_s: float | None = None) -> None:
        """Hold back what arrives from now on by `there_s` towards the target, by `back_s` (default: the same) back."""
        self.there.delay_s, self.back.delay_s = there_s, there_s if back_s is None else back_s

    def stall(self, *directions: Direction) -> None:
        """Pass nothing on (default: in both directions) until `resume`; nobody is told."""
        self._call(lambda: [one.flowing.clear() for one in directions or (self.there, self.back)])

    def resume(self) -> None:
        self._call(lambda: [one.flowing.set() for one in (self.there, self.back)])

    def reset(self) -> None:
        """Break every connection with a reset at both ends; new ones work."""
        self._call(self._reset)

    def cut(self) -> None:
        """Break every connection and refuse new ones until `heal`."""
        self._do(self._cut())

    def heal(self) -> None:
        self._listener = socket.create_server(self.address, backlog=512)
        self._do(self._listen())

    def close(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def _call(self, what: Callable[[], object]) -> None:
        async def call() -> None:
            what()

        self._do(call())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._listener)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()  # without waiting: it would wait for connections, too
        self._server = None
        self._reset()

    async def _end(self) -> None:
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        for end in self._ends:
            abort(end)
        for task in self._tasks:
            task.cancel()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._onward(writer)
        except BaseException as error:
            abort(writer)
            if isinstance(error, OSError):
                return
            raise
        ends = {writer, far_writer}
        self._ends |= ends
        queues = [asyncio.Queue[Chunk](QUEUED_CHUNKS) for _ in range(2)]
        halves = [
            asyncio.ensure_future(receive(reader, queues[0], self.there)),
            asyncio.ensure_future(send(queues[0], far_writer, self.there)),
            asyncio.ensure_future(receive(far_reader, queues[1], self.back)),
            asyncio.ensure_future(send(queues[1], writer, self.back)),
        ]
        try:
            await asyncio.gather(*halves)
            for end in ends:
                end.close()
        except OSError:  # one end broke, so both do
            for end in ends:
                abort(end)
        finally:
            self._ends -= ends
            for half in halves:
                half.cancel()

    async def _onward(self, writer: asyncio.StreamWriter) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self.target or original_destination(writer.get_extra_info("socket"))
        onward = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        onward.setblocking(False)
        if self._mark:
            onward.setsockopt(socket.SOL_SOCKET, SO_MARK, self._mark)
        try:
            await self._loop.sock_connect(onward, target)
            return await asyncio.open_connection(sock=onward)
        except BaseException:
            onward.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            onward.close()
            raise


async def receive(reader: asyncio.StreamReader, queue: "asyncio.Queue[Chunk]", direction: Direction) -> None:
    """Note what arrives in one direction, up to its end, with the moment when it is due."""
    data = b"-"
    while data:
        data = await reader.read(CHUNK_BYTES)
        await queue.put((asyncio.get_running_loop().time() + direction.delay_s, data))


async def send(queue: "asyncio.Queue[Chunk]", writer: asyncio.StreamWriter, direction: Direction) -> None:
    """Pass on what is due; late bytes keep their distances."""
    loop = asyncio.get_running_loop()
    while True:
        due_s, data = await queue.get()
        if due_s > loop.time():
            await asyncio.sleep(due_s - loop.time())
        await direction.flowing.wait()
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()
        direction.passed_bytes += len(data)
        direction.first += data[: FIRST_BYTES - len(direction.first)]


def abort(end: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    connection = end.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.transport.abort()


def original_destination(connection: Any) -> Address:
    """Where a redirected connection was going."""
    record = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
    port, packed = struct.unpack_from("!2xH4s", record)
    return socket.inet_ntoa(packed), port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--mark", type=int, default=0)
    chosen = parser.parse_args()
    with Proxy(None, host="0.0.0.0", mark=chosen.mark) as proxy:
        proxy.delay(chosen.delay)
        print(proxy.address[1], flush=True)
        sys.stdin.read()  # until the test goes


if __name__ == "__main__":
    main()
