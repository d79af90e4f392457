//! `PendingCall`: a call that Python runs at its own pace (coroutines of async actors).

use crate::context::Running;
use crate::core::Core;
use crate::execute::{finish_with_error, finish_with_value, Resolver};
use crate::values;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ray_worker::{CallWork, Library};
use std::sync::{Arc, Mutex};

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct PendingCall {
    library: Arc<Library>,
    /// Taken by whoever finishes it.
    work: Mutex<Option<CallWork>>,
    running: Running,
    function: Py<PyAny>,
}

impl PendingCall {
    pub(crate) fn new(library: &Arc<Library>, work: CallWork, running: Running, function: Py<PyAny>) -> Self {
        PendingCall { library: library.clone(), work: Mutex::new(Some(work)), running, function }
    }

    pub(crate) fn running(&self) -> Running {
        self.running.clone()
    }

    fn take(&self) -> Option<CallWork> {
        self.work.lock().ok().and_then(|mut work| work.take())
    }
}

/// (function, args, kwargs).
type Prepared<'py> = (Py<PyAny>, Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

#[pymethods]
impl PendingCall {
    /// (function, args, kwargs). Raises what an argument that failed raises.
    fn prepare<'py>(&self, py: Python<'py>) -> PyResult<Prepared<'py>> {
        let args = match self.work.lock() {
            Ok(work) => work.as_ref().map(|work| work.call.args.clone()),
            Err(_) => None,
        };
        let args = args.ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the call is finished"))?;
        let (args, kwargs) = values::decode_args(py, &self.library, &args)?;
        Ok((self.function.clone_ref(py), args, kwargs))
    }

    fn finish(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.take() {
            Some(work) => finish_with_value(&self.library, work, value),
            None => Ok(()),
        }
    }

    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        match self.take() {
            Some(work) => finish_with_error(py, &self.library, work, PyErr::from_value(error)),
            None => Ok(()),
        }
    }

    #[getter]
    fn name(&self) -> &str {
        &self.running.name
    }
}

/// Everything queued, for an asyncio loop.
pub(crate) fn take_all(py: Python<'_>, core: &Core, resolver: &mut Resolver) -> PyResult<(Vec<PendingCall>, Option<String>)> {
    let library = core.library();
    library.clear_work_fd();
    let mut calls = Vec::new();
    loop {
        match library.try_work() {
            Some(ray_worker::Work::Call(work)) => calls.extend(resolver.pending(py, library, work)?),
            Some(ray_worker::Work::Exit { reason }) => return Ok((calls, Some(reason))),
            Some(ray_worker::Work::Construct(_)) => {}
            None => return Ok((calls, library.check().err().map(|_| "the session is over".to_owned()))),
        }
    }
}
