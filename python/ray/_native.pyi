"""Types of the extension module (crate ray-py). The one contract between the Python and the Rust half of the core."""

from asyncio import Future as AsyncioFuture
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar, final

from ray._core.ids import JobID, TaskID

T_co = TypeVar("T_co", covariant=True)

__version__: str
"""Our own release, for example "0.1.0"."""

@final
class ObjectRef(Generic[T_co]):
    """A counted reference to an object. Hashable, comparable by id, picklable inside `ray` calls and out of band.

    Dropping the last reference in any thread at any moment is safe: it only appends to a lock-free list.
    """

    def __init__(
        self, id: bytes, owner_addr: str = "", call_site_data: str = "", skip_adding_local_ref: bool = False, tensor_transport: str | None = None
    ) -> None: ...
    def binary(self) -> bytes:
        """28 bytes."""
    def hex(self) -> str: ...
    def is_nil(self) -> bool: ...
    @classmethod
    def size(cls) -> int: ...
    def task_id_binary(self) -> bytes:
        """24 bytes."""
    def job_id_binary(self) -> bytes:
        """4 bytes."""
    def actor_id_binary(self) -> bytes:
        """16 bytes; meaningful for the handle object of an actor."""
    def owner_proc(self) -> int: ...
    def owner_address(self) -> bytes: ...
    def task_id(self) -> TaskID: ...
    def job_id(self) -> JobID: ...
    def call_site(self) -> str:
        """Always "": call sites are not recorded."""
    def tensor_transport(self) -> str | None: ...
    def redis_shard_hash(self) -> int: ...
    @classmethod
    def nil(cls) -> ObjectRef[Any]: ...
    @classmethod
    def from_binary(cls, id_bytes: bytes) -> ObjectRef[Any]: ...
    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]: ...
    @classmethod
    def from_random(cls) -> ObjectRef[Any]: ...
    def future(self) -> Future[T_co]: ...
    def as_future(self, _internal: bool = False) -> AsyncioFuture[T_co]: ...
    def __await__(self) -> Generator[Any, None, T_co]: ...

@final
class CallTemplate:
    """Everything constant about a call site: built once per (function, options) or (actor, method, options), then called many times.

    Calling it pickles the arguments, submits, and returns one ObjectRef (num_returns == 1), a list (num_returns > 1) or None (num_returns == 0);
    an ObjectRefGenerator for "streaming", one ObjectRef for "dynamic". `backpressure`: items made and not read at most, without limit below 1.
    Fast check: without keyword arguments and with min_args <= len(args) <= max_args (max_args None = unbounded) nothing else is checked;
    otherwise `binder(*args, **kwargs)` is called first and its TypeError propagates.
    """

    @staticmethod
    def task(
        core: Core,
        *,
        payload: bytes,
        name: str,
        num_returns: int | str,
        backpressure: int,
        max_retries: int,
        retry_exceptions: bool,
        max_calls: int,
        resources: dict[str, float],
        strategy: tuple[Any, ...] = ("default",),
        follows: bool = False,
        env: str,
        min_args: int,
        max_args: int | None,
        binder: Callable[..., Any] | None,
    ) -> CallTemplate:
        """`follows`: to the caller's placement group, if that captures what is started there, whatever `strategy` says. `payload`: opaque bytes for the worker (see ray._core.payload). `resources`: {"CPU": 1.0, "GPU": .., "memory": bytes, custom..}. `strategy`: where it may go, see ray._core.calls.strategies.
        `env`: canonical JSON of the runtime_env, "" for none. `max_retries` -1 = for ever. `retry_exceptions`: whether the worker's verdict "retryable" counts."""
    @staticmethod
    def method(
        core: Core,
        actor: ObjectRef[Any],
        *,
        payload: bytes,
        name: str,
        num_returns: int | str,
        backpressure: int,
        max_task_retries: int,
        retry_exceptions: bool,
        max_pending_calls: int,
        group: int,
        unordered: bool,
        min_args: int,
        max_args: int | None,
        binder: Callable[..., Any] | None,
    ) -> CallTemplate:
        """`max_pending_calls` -1 = unbounded, else PendingCallsLimitExceeded. `group`: 0 is the default one. `unordered`: later calls may overtake one that
        waits for arguments. The template holds a reference to the actor's handle object."""
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

@final
class Core:
    """The engine of this process: owner, store and links. One per process."""

    @staticmethod
    def start(config: dict[str, Any]) -> Core:
        """Start a daemon and connect to it as its driver. Raises RuntimeError naming what failed.

        Keys: python (str), native_path (str), resources (dict[str, float]), labels, object_store_memory (int, bytes), session_dir (str),
        door (str), sys_path (list[str]), job_env (str), namespace (str), log_to_driver (bool), settings (dict[str, str])."""
    @staticmethod
    def connect(config: dict[str, Any]) -> Core:
        """Connect, as a driver, to a running node of this user on this machine. Raises RuntimeError naming what failed.

        Keys: door (str), sys_path (list[str]), job_env (str), namespace (str), log_to_driver (bool), settings (dict[str, str]), entrypoint (str),
        weight (int: the job's share of what is scarce; 100 is one share)."""
    @staticmethod
    def observe(door: str) -> Core:
        """Connect through a session's door, to ask questions. Raises RuntimeError naming what failed."""
    @staticmethod
    def attach(fd: int, slot: int, board_fd: int, namespace: str, env: str, settings: dict[str, str]) -> Core:
        """Connect as a worker over an inherited socket. Called after fork, never before."""
    def shutdown(self, exiting: bool) -> None:
        """Idempotent. Ends the daemon that `start` started, and waits for it; otherwise only disconnects. Every blocked call in this process raises; when the interpreter is `exiting`, by this thread,
        those of other threads, all of them daemon threads, never return."""
    def is_alive(self) -> bool: ...
    @property
    def node_id(self) -> bytes: ...
    @property
    def proc_id(self) -> int: ...
    @property
    def daemon_pid(self) -> int: ...

    # objects
    def put(self, value: Any) -> ObjectRef[Any]: ...
    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Values in order. Raises the first error found, GetTimeoutError after timeout_s, KeyboardInterrupt at once."""
    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Arguments are already checked for type; ValueError for duplicates."""

    # actors
    def create_actor(
        self,
        *,
        payload: bytes,
        class_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: dict[str, float],
        placement_resources: dict[str, float],
        strategy: tuple[Any, ...] = ("default",),
        follows: bool = False,
        env: str,
        max_restarts: int,
        max_concurrency: int,
        is_async: bool,
        name: str,
        namespace: str,
        detached: bool,
        get_if_exists: bool,
    ) -> tuple[ObjectRef[Any], bytes | None]:
        """(handle object, None). With a name that is taken: ValueError, or the existing actor's handle and its payload if get_if_exists.
        `resources` are held while the actor lives, `placement_resources` are needed to place it (Ray: 1 CPU to place, 0 to run, by default)."""
    def get_actor(self, name: str, namespace: str) -> tuple[ObjectRef[Any], bytes] | None:
        """(handle object, payload given at creation) of a living or pending named actor, None if there is none."""
    def list_named_actors(self, all_namespaces: bool, namespace: str) -> list[tuple[str, str]]: ...
    def kill_actor(self, actor: ObjectRef[Any], no_restart: bool) -> None: ...
    def cancel(self, reference: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Cancel the call that makes an object. ValueError: it is an actor's, and `force` is asked for."""
    def is_canceled(self) -> bool:
        """The call that asks was cancelled."""
    def current_actor(self) -> tuple[ObjectRef[Any], bytes] | None:
        """(handle object, payload given at creation) of the actor that this process is."""
    def leave_actor(self, reason: str) -> None:
        """This actor ends itself: its exit is no failure."""
    def stop_calls(self) -> None:
        """No further call starts here, in any group: this actor ends when those that run are done."""

    def wait_until_unneeded(self) -> None:
        """Wait until no other process needs an object of this one, taking no more calls."""

    # calls that Python runs itself
    def work_fd(self, group: int) -> int:
        """Readable when calls of a concurrency group came; then `take_calls`."""
    def set_groups(self, count: int) -> None:
        """This actor has so many concurrency groups, the default one included. Once, before its first call."""
    def take_cancelled(self, group: int) -> list[tuple[int, int]]:
        """Keys (`PendingCall.key`) of running calls of a group that its event loop is to cancel, each once for each time that it was asked for."""
    def set_async_variable(self, variable: ContextVar[Any]) -> None:
        """Where coroutines keep their PendingCall, for `context`."""

    # introspection
    def running_name(self) -> str:
        """Name of the call that this thread or coroutine runs, "" outside of calls."""
    def holdings(self) -> list[tuple[str, bytes, str, int]]:
        """What this process keeps of its own: ("object", id, "", bytes), ("actor", id of its handle's object, "", 0), ("call", task id, name, 0)."""
    def table_sizes(self) -> tuple[int, int, int, int]:
        """Entries of this process's tables: (objects, tasks, leases, waits). For leak checks."""
    def create_group(
        self,
        *,
        bundles: list[dict[str, float]],
        selectors: list[list[tuple[str, list[str], bool]]],
        strategy: str,
        domain: str,
        name: str,
        namespace: str,
        detached: bool,
        soft_node: bytes,
    ) -> bytes | None:
        """Create a placement group; its id (18 bytes). None: the name is taken. Without a name it asks nobody."""
    def remove_group(self, group: bytes) -> None: ...
    def group_ready(self, group: bytes, value: Any) -> ObjectRef[Any]:
        """A reference that becomes ready with the group, as `value`; as an error if the group is removed before."""
    def groups(self, group: bytes | None = None, name: tuple[str, str] | None = None) -> list[dict[str, Any]]:
        """The group of this id, or of this (namespace, name), or all: id (bytes 18), name, namespace, strategy, state, detached, bundles (list[dict[str, float]]),
        nodes (indices, None without one), why, infeasible, latency_us, attempts. Those removed lately are among them."""
    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """(total, available) of the whole cluster. Cached leases count as available."""
    def nodes(self) -> list[dict[str, Any]]:
        """Every node that is or was, by index: index (int), node_id (bytes 28), address ("ip:port", "" without a network), host, pid, total and available
        (dict[str, float]), labels (dict), python, started_ms, death ("" while it lives), waiting (int), store_used (int, bytes)."""
    def jobs(self) -> list[dict[str, Any]]:
        """Every job that is or was: job (int), driver_proc (int), entrypoint, namespace, started_ms, ended_ms (0 while it runs)."""
    def kv_put(self, key: bytes, value: bytes, overwrite: bool) -> bool:
        """Keep a value under a key at the head. Whether the key existed before."""
    def kv_get(self, key: bytes) -> bytes | None: ...
    def kv_del(self, key: bytes, is_prefix: bool) -> int:
        """Remove a key, or all that start with it. How many were removed."""
    def kv_exists(self, key: bytes) -> bool: ...
    def kv_keys(self, prefix: bytes) -> list[bytes]: ...
    def context(self) -> dict[str, Any]:
        """Of the calling thread's running call: task_id (bytes 24), actor_id (bytes 16 or b""), task_name, attempt, resources (dict),
        devices (dict[str, list[int]]: indices of accelerators by resource), payload (bytes: its call site's, b"" outside of calls), worker_id (bytes 28),
        node_id (bytes 28), job_id (bytes 4), namespace, was_restarted (bool), env (str), actor_lifetime (str: of actors that say nothing of theirs),
        placement_group (bytes 18 or b""), captures_children (bool). In the driver the task fields are the driver's."""
    def next_log(self) -> list[tuple[str, int, bool, str, bytes]] | None:
        """Blocks (without the GIL) for lines of workers: (name, pid, is_stderr, kind, text); kind "out" for a worker's line, "notice" for a message of the runtime. None = shut down."""

@final
class ResultStream:
    """The reader's end of a call that gives its results one after another. Dropping it stops the call, unless its `completed` is referred to."""

    def next(self, timeout_s: float | None) -> ObjectRef[Any] | None:
        """The next item; waits for it. StopIteration: there is none. None: the time is over."""
    def take(self) -> ObjectRef[Any] | None:
        """The next item if it is here. StopIteration: there is none. None: it has not come."""
    def peek(self) -> ObjectRef[Any]:
        """A reference that is ready when `take` would not give None. Its value is of no use."""
    def completed(self) -> ObjectRef[Any]:
        """Ready when the call has ended."""
    def state(self) -> tuple[bool, bool]:
        """Whether the next item is here, and whether all are read."""

@final
class PinnedBuffer:
    """A read-only buffer over shared memory that keeps its object alive."""

    def __len__(self) -> int: ...

@final
class ArgSlot:
    """Stands for a reference among the pickled arguments of a call."""

    def __init__(self, index: int) -> None: ...

@final
class PendingCall:
    """A call that Python runs at its own pace."""

    @property
    def name(self) -> str: ...
    def prepare(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]:
        """(function, args, kwargs). Raises what an argument that failed raises."""
    def finish(self, value: object) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    @property
    def is_stream(self) -> bool:
        """It gives its results one after another: `push` each, then `finish_stream`."""
    def push(self, item: object) -> bool | None:
        """One more item. True: go on. False: stop, nobody reads. None: wait for credit."""
    def permit(self) -> bool | None:
        """Ask again, as after `push`."""
    def watch_credit(self, queue: CompletionQueue, token: int) -> bool:
        """Queue `token` when it is worth to ask again. True: it already is, and nothing will be queued."""
    def finish_stream(self) -> None: ...
    @property
    def key(self) -> tuple[int, int]:
        """What `Core.take_cancelled` calls it."""
    def finish_cancelled(self, interruption: BaseException | None) -> None:
        """It ends as its caller wished. `interruption`: what its code saw; None if it had not begun."""

@final
class CompletionQueue:
    """Objects that became ready, behind one descriptor to poll."""

    def __init__(self) -> None: ...
    def fileno(self) -> int: ...
    def watch(self, core: Core, object: ObjectRef[Any], token: int) -> int | None:
        """Queue `token` when the object is ready. The number of the wait; None: it already is, and nothing will be queued.

        A core that is not native, that of local mode, is asked: `core.watch(queue, object, token)`."""
    def unwatch(self, object: ObjectRef[Any], wait: int) -> None:
        """Give a wait up. Its token may be in the queue already."""
    def complete(self, token: int) -> None:
        """Queue `token`. For a core that is not native."""
    def take(self) -> list[int]: ...
    def wake(self) -> None:
        """Make the descriptor readable although nothing is done."""

@final
class LocalValue:
    """A pickled value of local mode; it counts the references inside it."""

@final
class LocalObjects:
    """The objects of a session in local mode: values and reference counts of one process. What runs calls is `ray._core.local`.

    Objects are named by the number of the call that makes them and their index in it: 0 for a `put`, 1 and up for results.
    """

    def __init__(self, actor_unneeded: Callable[[int], Any], unwatched: Callable[[int], Any]) -> None:
        """`actor_unneeded` is called with an actor's number when the last reference to it is gone, in any thread at any moment: it may only take a note.
        `unwatched` is called with the number of a wait that `CompletionQueue.unwatch` gives up."""
    def install(self) -> None:
        """References that are unpickled find their objects here from now on."""
    def close(self) -> None:
        """The session is over: no object is left."""
    def reference(self, call: int, index: int) -> ObjectRef[Any]: ...
    def actor(self, number: int) -> ObjectRef[Any]: ...
    def end(self, call: int) -> ObjectRef[Any]:
        """The object that is ready at the end of a call that gives its results one after another."""
    def store_end(self, call: int, value: LocalValue) -> None: ...
    def is_end_referred(self, call: int) -> bool: ...
    def is_actor_referred(self, number: int) -> bool: ...
    def call_of(self, object: ObjectRef[Any]) -> int:
        """The number of the call that makes the object. ValueError for a reference of no session or of another one."""
    def index_of(self, object: ObjectRef[Any]) -> int | None:
        """Which of the results of its call the object is; None: what is ready at the call's end."""
    def task_id(self, call: int) -> bytes: ...
    def actor_id(self, number: int) -> bytes: ...
    def job_id(self) -> bytes: ...
    def pickle(self, value: Any) -> LocalValue: ...
    def pickle_results(self, name: str, num_returns: int, value: Any) -> list[LocalValue]:
        """The values of what a call returned. ValueError: not as many as `num_returns`."""
    def pickle_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[LocalValue, list[ObjectRef[Any]]]:
        """The arguments, and the references at their top level, which stand for values."""
    def unpickle_args(self, args: LocalValue, arguments: Sequence[ObjectRef[Any]]) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
        """(args, kwargs) as the callee sees them. Raises what an argument that failed raises."""
    def raised(self, record: bytes) -> LocalValue:
        """The value that stands for an exception; `record` comes from `ray._core.errors.encode_exception`."""
    def failed(self, code: str, fields: dict[str, str], cause: LocalValue | None = None) -> LocalValue:
        """The value that stands for a failure that is no call's exception; `fields` as in `ray._core.errors.system_error`."""
    def store(self, call: int, index: int, value: LocalValue, frames: TracebackType | None = None) -> None:
        """The object is ready. Nothing is kept if nobody refers to it. `frames`: where the error was raised."""
    def value(self, object: ObjectRef[Any]) -> Any:
        """A fresh copy of the value. Raises the error that it stands for."""
    def sizes(self) -> list[tuple[bytes, int]]:
        """(id, bytes) of every object that is there."""
    def __len__(self) -> int: ...

def run_calls(core: Core, group: int = 0) -> str:
    """Run calls of one concurrency group in this thread until the process is to end; the reason. "constructed" after an actor's constructor ran."""

def take_calls(core: Core, group: int, room: int) -> tuple[list[PendingCall], str | None]:
    """Queued calls of one concurrency group, at most `room`, and the reason if the process is to end."""

def interrupt_signal() -> int:
    """The signal that tells a worker's main thread that its call was cancelled."""

def interrupt_if_cancelled(signum: int, frame: FrameType | None) -> None:
    """Handle that signal: raise KeyboardInterrupt if the call that this thread runs was cancelled."""

def ref_from_bytes(bytes: bytes) -> ObjectRef[Any]:
    """Rebuild a pickled reference."""

def stay_if_interpreter_exits() -> None:
    """Never return if another thread ends the interpreter: this is a daemon thread then, which goes with the process."""

def set_process_name(name: str) -> None:
    """What ps and top show."""

def daemon_main() -> str | None:
    """Run a node's daemon on file descriptor 0 until its driver goes away. Used by `Core.start` only. Returns why it could not."""

def start_node(config: dict[str, Any]) -> dict[str, Any]:
    """Start a daemon that outlives its caller, in a session of its own. Returns when the node is a part of its cluster.

    Keys: python (str), native_path (str), resources (dict[str, float]), labels (dict[str, str]), object_store_memory (int, bytes), session_dir (str), door (str),
    settings (dict[str, str]), sys_path (list[str], for the template), ip (str), port (int, 0 for any), head (str, "" to be the head, else its "ip:port"),
    token (bytes), cluster (bytes: 28 random ones for a head, b"" for others), host (str), python_version (str), release (str), log (str, a file for what the
    daemon itself says).
    Gives: pid (int, a child of the caller, who reaps it), node_id (bytes), index (int), address ("ip:port"), head ("ip:port"), cluster (bytes).
    Raises RuntimeError with a text for users."""

def stop_node(door: str, reason: str) -> None:
    """Ask a node, through its door, to end. Returns once it is asked. Raises RuntimeError if it can't be reached."""

def is_plain(value: object) -> bool:
    """True for None, bool, int, float, str, bytes and small tuples, lists and dicts of them: values that plain pickle carries with the same meaning everywhere."""

def ask_about(core: Core, whom: int, subject: tuple[Any, ...]) -> list[dict[str, Any]] | None:
    """Ask process `whom` (0: the node) for the facts about `subject`; None when it does not answer within a second. See ray._core.why."""
