//! Waits of Python threads: without the GIL, and with signals handled.

use crate::{context, errors};
use pyo3::prelude::*;
use ray_proto::{ObjectId, ProcId, Value};
use ray_worker::{Gate, Library, Ticket, Woken};
use std::sync::Arc;

/// A signal that comes after the last look for signals and before the sleep interrupts nothing: its handler runs this much later at most.
const NAP_US: u64 = 100_000;

/// How long to sleep at once. Only the main thread runs handlers.
fn nap(left: Option<u64>) -> Option<u64> {
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    if is_main {
        return Some(left.unwrap_or(NAP_US).min(NAP_US));
    }
    left
}

/// Wait for an answer; signals are handled meanwhile.
pub(crate) fn wait_at(py: Python<'_>, library: &Library, gate: &Gate) -> PyResult<()> {
    while py.detach(|| library.wait_at(gate, nap(None))) != Woken::Open {
        py.check_signals()?;
    }
    Ok(())
}

/// The value of an object that was lost, once there is one again. It may be an error.
pub(crate) fn wait_for_value(py: Python<'_>, library: &Arc<Library>, id: ObjectId) -> PyResult<Value> {
    loop {
        if let Some(value) = library.values(&[id]).and_then(|mut values| values.pop()) {
            return Ok(value);
        }
        let start = |call| library.wait_start(&[id], 1, call).map_err(|failure| errors::failure(py, failure));
        block(py, library, &[id], None, start)?;
        library.check().map_err(|failure| errors::failure(py, failure))?;
    }
}

/// The moment on the monotonic clock, in microseconds, when a wait of so many seconds is over.
pub(crate) fn deadline(timeout_s: Option<f64>) -> Option<u64> {
    timeout_s.map(|s| ray_shm::now_us().saturating_add((s.max(0.0) * 1e6).min(1e15) as u64))
}

/// Block in a wait for `ids` that `start` begins; it is told which call of a worker waits, if one does. False: the time is over.
pub(crate) fn block(
    py: Python<'_>,
    library: &Library,
    ids: &[ObjectId],
    deadline: Option<u64>,
    start: impl FnOnce(Option<(ProcId, u64)>) -> PyResult<Option<Ticket>>,
) -> PyResult<bool> {
    let is_worker = library.slot().is_some();
    let call = context::call_of_thread().filter(|_| is_worker);
    let Some(ticket) = start(call)? else { return Ok(true) };
    if is_worker && call.is_none() {
        py.import("ray._core.worker.main")?.call_method0("note_blocking_wait")?;
    }
    let outcome = loop {
        let left = deadline.map(|at| at.saturating_sub(ray_shm::now_us()));
        match py.detach(|| library.wait_at(&ticket.gate, nap(left))) {
            Woken::Open => break Ok(true),
            Woken::TimedOut if left.is_some_and(|left| left <= NAP_US) => break Ok(false),
            Woken::TimedOut | Woken::Interrupted => {
                if let Err(raised) = py.check_signals() {
                    break Err(raised);
                }
            }
        }
    };
    library.wait_end(&ticket, ids);
    outcome
}
