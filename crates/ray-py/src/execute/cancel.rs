//! Cancelling calls from Python, and the interruption of a task that was cancelled.
//!
//! The handler runs in the main thread, between two steps of Python code. It raises only while the window of a call is open (context.rs), and only if that very
//! call was cancelled: what comes before the user's code or after it raises nothing.

use crate::context::{self, Window};
use crate::core::{current, Core};
use crate::errors;
use crate::execute::encode_error;
use crate::object_ref::{Home, ObjectRef};
use crate::waits::wait_at;
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ray_proto::msg::Cancellation;
use ray_proto::{hex, ObjectId, Payload};
use ray_worker::{CallWork, Library, Step};
use std::sync::Arc;

/// The number of the signal that `interrupt_if_cancelled` is to handle.
#[pyfunction]
pub(crate) fn interrupt_signal() -> i32 {
    ray_shm::signals::interrupt_signal()
}

/// The handler of that signal. Raises KeyboardInterrupt if the call that this thread runs was cancelled.
#[pyfunction]
pub(crate) fn interrupt_if_cancelled(py: Python<'_>, signum: i32, frame: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let _ = (signum, frame);
    let Some(call) = context::interruptible() else { return Ok(()) };
    let Ok(Home::Engine(library)) = current(py) else { return Ok(()) };
    match library.take_interrupt(call) {
        true => Err(interruption()),
        false => Ok(()),
    }
}

/// What the user's code sees. Compat: the same as for Ctrl-C.
fn interruption() -> PyErr {
    PyKeyboardInterrupt::new_err(())
}

/// Run what belongs to a call's user. A task may be interrupted meanwhile, and does not begin if it was cancelled before. The calls of an actor are not
/// interrupted: they ask by themselves.
pub(crate) fn interruptible<T>(library: &Library, work: &CallWork, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    if work.call.actor_seq.is_some() {
        return body();
    }
    let call = (work.from, work.call.task);
    let window = Window::open(call);
    // A signal that came before the window was open has raised nothing.
    let result = if library.take_interrupt(call) { Err(interruption()) } else { body() };
    drop(window);
    result
}

/// Whether the error of a task is its cancellation, and whose.
pub(crate) fn cancelled_by(py: Python<'_>, library: &Library, work: &CallWork, error: &PyErr) -> Option<String> {
    let may_be = error.is_instance_of::<PyKeyboardInterrupt>(py) && work.call.actor_seq.is_none();
    may_be.then(|| library.cancelled_by((work.from, work.call.task)))?
}

/// Whether a method that has returned was cancelled meanwhile: then nobody gets what it returned. Compat: as in Ray, where that of a task is its result.
pub(crate) fn is_unwanted(library: &Library, work: &CallWork) -> bool {
    work.call.actor_seq.is_some() && library.any_untold() && library.cancelled_by((work.from, work.call.task)).is_some()
}

/// A running call ends as its caller wished. `interruption`: what its code saw, and where.
pub(crate) fn finish_cancelled(
    py: Python<'_>,
    library: &Arc<Library>,
    work: &CallWork,
    by: &str,
    interruption: Bound<'_, PyAny>,
    leaving: bool,
) -> PyResult<()> {
    let task_id = PyBytes::new(py, &ObjectId::new(work.from, work.call.task, 0).task_bytes());
    let main = py.import(intern!(py, "ray._core.worker.main"))?;
    let error = main.call_method1(intern!(py, "cancelled_error"), (interruption, &work.template.name, task_id, by))?;
    let value = encode_error(py, library, &work.template.name, work.call.attempt, PyErr::from_value(error))?;
    library.finish_cancelled(work, vec![Payload { value, refs: vec![] }], leaving);
    Ok(())
}

/// Who is asking, for people.
fn who(py: Python<'_>, library: &Library) -> String {
    let pid = std::process::id();
    match context::current(py) {
        Some(running) => format!("{} (task {}, pid {pid})", running.name, hex(&ObjectId::new(running.from, running.task, 0).task_bytes())),
        None if library.slot().is_some() => format!("a thread of the worker with pid {pid}"),
        None => format!("the driver (pid {pid})"),
    }
}

pub(crate) fn cancel(py: Python<'_>, core: &Core, reference: &ObjectRef, force: bool, recursive: bool) -> PyResult<()> {
    let library: &Arc<Library> = core.library();
    reference.check_is_of(library)?;
    let how = Cancellation { force, recursive, by: who(py, library) };
    let step = py.detach(|| library.cancel(reference.id, &how)).map_err(|failure| errors::failure(py, failure))?;
    let refused = match step {
        Step::Done => return Ok(()),
        Step::Refused(why) => why,
        Step::Asked(asked) => {
            let waited = wait_at(py, library, &asked.gate);
            let refused = library.cancel_answer(&asked);
            waited?;
            refused
        }
    };
    if refused.is_empty() {
        return Ok(());
    }
    Err(PyValueError::new_err(refused))
}

/// Whether the call that asks was cancelled.
pub(crate) fn is_cancelled(py: Python<'_>, library: &Library) -> bool {
    context::current(py).is_some_and(|running| library.cancelled_by((running.from, running.task)).is_some())
}
