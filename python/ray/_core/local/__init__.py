"""Local mode: the whole runtime in the driver's process, for debugging and for tests. No daemon, no fork, no shared memory.

It stands where the native engine stands: `LocalCore` has the interface of `ray._native.Core`, `LocalTemplate` that of `CallTemplate`, so options, signatures,
serialization and errors are the same code. docs/design/009-local-mode.md says how calls run and why.

Invariants
1. A call runs in the thread that waits for it without a time limit, on top of the waiting frame, if it can be started then; all others run in helper threads.
   What is below a call on a stack so always waits for just that call: two calls on one stack can never wait for each other.
2. Arguments and results are pickled and unpickled; caller and callee share no object.
3. `Scheduler.lock` is the only lock, and it is re-entrant: a destructor of the user's may call the API at any moment. No call of the user's runs under it.
"""
