//! Failures of the engine as Python exceptions. The classes live in Python (ray/_core/errors.py).

use pyo3::prelude::*;
use pyo3::types::PyDict;
use ray_worker::Failure;
use std::sync::OnceLock;
use std::thread::ThreadId;

fn build(py: Python<'_>, fields: &Bound<'_, PyDict>, cause: Option<Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let module = py.import("ray._core.errors")?;
    let exception = module.call_method1("system_error", (fields, cause))?;
    Ok(PyErr::from_value(exception))
}

/// The exception for an engine record.
pub(crate) fn system_error(py: Python<'_>, fields: &[(String, String)]) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let dict = PyDict::new(py);
        let mut cause = None;
        for (key, text) in fields {
            if key == "cause" {
                cause = decode_cause(py, text)?;
            } else {
                dict.set_item(key, text)?;
            }
        }
        build(py, &dict, cause)
    };
    make().unwrap_or_else(|error| error)
}

/// For Python code that finds the session gone.
#[pyfunction]
pub(crate) fn stay_if_interpreter_exits(py: Python<'_>) {
    stay_if_exiting(py);
}

/// A record may carry another value as its cause: hex of its bytes.
fn decode_cause<'py>(py: Python<'py>, hex: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let bytes: Vec<u8> = (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect();
    if bytes.is_empty() {
        return Ok(None);
    }
    let error = crate::values::decode_error(py, &bytes)?;
    Ok(Some(error.into_value(py).into_bound(py).into_any()))
}

pub(crate) fn with_code(py: Python<'_>, code: &str, message: &str) -> PyErr {
    system_error(py, &[("code".into(), code.into()), ("message".into(), message.into())])
}

/// The thread that ends the interpreter, once one does.
static EXITING: OnceLock<ThreadId> = OnceLock::new();

/// The interpreter is exiting, by this thread. Other threads left are daemon threads, which are to go with the process without a word, as Python has it:
/// instead of learning that the session is over, they stay where they are.
pub(crate) fn note_exit() {
    EXITING.get_or_init(|| std::thread::current().id());
}

fn stay_if_exiting(py: Python<'_>) {
    if EXITING.get().is_some_and(|thread| *thread != std::thread::current().id()) {
        py.detach(|| loop {
            std::thread::park();
        });
    }
}

pub(crate) fn failure(py: Python<'_>, failure: Failure) -> PyErr {
    if matches!(failure, Failure::SessionOver(_)) {
        stay_if_exiting(py);
    }
    match failure {
        Failure::SessionOver(text) => with_code(py, "daemon_died", &text),
        Failure::StoreFull(text) => with_code(py, "store_full", &text),
        Failure::DiskFull(text) => with_code(py, "disk_full", &text),
        Failure::Lost(text) => with_code(py, "object_lost", &text),
        Failure::System(text) => with_code(py, "system", &text),
    }
}
