//! `PendingCall`: a call that Python runs at its own pace (coroutines of async actors).

use crate::context::Running;
use crate::core::Core;
use crate::execute::cancel::finish_cancelled;
use crate::execute::produce::Producer;
use crate::execute::{finish_broken_stream, finish_stream, finish_with_error, finish_with_value, Resolver};
use crate::futures::CompletionQueue;
use crate::values;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ray_worker::{CallWork, Library, Permit};
use std::sync::{Arc, Mutex};

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct PendingCall {
    library: Arc<Library>,
    /// Taken by whoever finishes it.
    work: Mutex<Option<Unfinished>>,
    running: Running,
    function: Py<PyAny>,
}

struct Unfinished {
    call: CallWork,
    /// Of a call that gives its results one after another.
    producer: Option<Producer>,
}

impl PendingCall {
    pub(crate) fn new(library: &Arc<Library>, work: CallWork, running: Running, function: Py<PyAny>) -> Self {
        let producer = Producer::new(&work);
        PendingCall { library: library.clone(), work: Mutex::new(Some(Unfinished { call: work, producer })), running, function }
    }

    pub(crate) fn running(&self) -> Running {
        self.running.clone()
    }

    fn cancelled_by(&self) -> Option<String> {
        self.library.cancelled_by((self.running.from, self.running.task))
    }

    /// Who takes it finishes it.
    fn take(&self) -> Option<Unfinished> {
        let taken = self.work.lock().ok().and_then(|mut work| work.take());
        if let Some(work) = &taken {
            work.call.marks.note_result();
        }
        taken
    }

    fn with_work<R>(&self, f: impl FnOnce(&Unfinished) -> R) -> Option<R> {
        let work = self.work.lock().ok()?;
        work.as_ref().map(f)
    }

    fn with_producer<R>(&self, f: impl FnOnce(&CallWork, &mut Producer) -> R) -> PyResult<R> {
        let mut work = self.work.lock().map_err(|_| PyRuntimeError::new_err("the call is broken"))?;
        match work.as_mut() {
            Some(Unfinished { call, producer: Some(producer) }) => Ok(f(call, producer)),
            _ => Err(PyRuntimeError::new_err("the call is finished, or gives no items")),
        }
    }
}

/// (function, args, kwargs).
type Prepared<'py> = (Py<PyAny>, Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

#[pymethods]
impl PendingCall {
    /// (function, args, kwargs). Raises what an argument that failed raises.
    fn prepare<'py>(&self, py: Python<'py>) -> PyResult<Prepared<'py>> {
        let args = match self.work.lock() {
            Ok(work) => work.as_ref().map(|work| work.call.call.args.clone()),
            Err(_) => None,
        };
        let args = args.ok_or_else(|| PyRuntimeError::new_err("the call is finished"))?;
        let (args, kwargs) = values::decode_args(py, &self.library, &args)?;
        self.with_work(|work| work.call.marks.note_args());
        Ok((self.function.clone_ref(py), args, kwargs))
    }

    fn finish(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.take() {
            Some(work) => finish_with_value(&self.library, work.call, value),
            None => Ok(()),
        }
    }

    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        match self.take() {
            Some(Unfinished { call, producer: Some(mut producer) }) => finish_broken_stream(py, &self.library, call, PyErr::from_value(error), &mut producer),
            Some(Unfinished { call, producer: None }) => finish_with_error(py, &self.library, call, PyErr::from_value(error)),
            None => Ok(()),
        }
    }

    /// The call gives its results one after another: `push` each, then `finish_stream`.
    #[getter]
    fn is_stream(&self) -> bool {
        self.work.lock().is_ok_and(|work| work.as_ref().is_some_and(|work| work.producer.is_some()))
    }

    /// One more item. True: go on. False: stop, nobody reads. None: wait for credit.
    fn push(&self, item: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
        self.with_producer(|call, producer| producer.push(&self.library, call, item))?.map(as_answer)
    }

    /// Ask again, as after `push`.
    fn permit(&self) -> PyResult<Option<bool>> {
        self.with_producer(|call, producer| producer.permit(&self.library, call)).map(as_answer)
    }

    /// Put `token` into the queue when it is worth to ask again. True: it already is, and nothing will be queued.
    fn watch_credit(&self, queue: &CompletionQueue, token: u64) -> PyResult<bool> {
        self.with_producer(|call, producer| !self.library.credit_watch(call, producer.next(), queue.inner(), token))
    }

    fn finish_stream(&self, py: Python<'_>) -> PyResult<()> {
        match self.take() {
            Some(Unfinished { call, producer: Some(producer) }) => finish_stream(py, &self.library, call, &producer, false),
            _ => Ok(()),
        }
    }

    /// What `take_cancelled` calls it.
    #[getter]
    fn key(&self) -> (u64, u64) {
        (self.running.from.0, self.running.task)
    }

    /// It ends as its caller wished. `interruption`: what its code saw; None if it had not begun.
    fn finish_cancelled(&self, py: Python<'_>, interruption: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let by = self.cancelled_by().unwrap_or_else(|| "its own code".into());
        match (self.take(), interruption) {
            (Some(work), Some(interruption)) => finish_cancelled(py, &self.library, &work.call, &by, interruption, false),
            (Some(work), None) => {
                self.library.finish_cancelled(&work.call, vec![], false);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    #[getter]
    fn name(&self) -> &str {
        &self.running.name
    }
}

fn as_answer(permit: Permit) -> Option<bool> {
    match permit {
        Permit::Go => Some(true),
        Permit::Closed => Some(false),
        Permit::Wait => None,
    }
}

/// What is queued for a group, for its asyncio loop; no more than `room`. What stays comes with the next call of this, once there is room again.
pub(crate) fn take_all(py: Python<'_>, core: &Core, resolver: &mut Resolver, group: usize, room: usize) -> PyResult<(Vec<PendingCall>, Option<String>)> {
    let library = core.library();
    library.clear_work_fd(group);
    let mut calls = Vec::new();
    while calls.len() < room {
        match library.try_work(group) {
            Some(ray_worker::Work::Call(work)) => calls.extend(resolver.pending(py, library, work)?),
            Some(ray_worker::Work::Exit { reason }) => return Ok((calls, Some(reason))),
            Some(ray_worker::Work::Construct(_)) => {}
            None => return Ok((calls, library.check().err().map(|_| "the session is over".to_owned()))),
        }
    }
    let end = library.try_end().or_else(|| library.check().err().map(|_| "the session is over".to_owned()));
    Ok((calls, end))
}
