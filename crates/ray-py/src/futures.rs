//! Completions for futures: many objects, one descriptor to poll.

use crate::core::Core;
use crate::object_ref::ObjectRef;
use pyo3::prelude::*;
use std::sync::Arc;

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct CompletionQueue {
    inner: Arc<ray_worker::CompletionQueue>,
}

impl CompletionQueue {
    pub(crate) fn inner(&self) -> &Arc<ray_worker::CompletionQueue> {
        &self.inner
    }
}

#[pymethods]
impl CompletionQueue {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let inner = ray_worker::CompletionQueue::new().map_err(|failure| crate::errors::failure(py, failure))?;
        Ok(CompletionQueue { inner: Arc::new(inner) })
    }

    /// Readable when something is done.
    fn fileno(&self) -> i32 {
        self.inner.fd()
    }

    /// Put `token` into the queue when the object is ready. Returns the number of the wait; None: it already is, and nothing will be queued.
    fn watch<'py>(slf: Bound<'py, Self>, core: &Bound<'py, PyAny>, object: &Bound<'py, ObjectRef>, token: u64) -> PyResult<Option<u64>> {
        match core.cast::<Core>() {
            Ok(core) => {
                let call = crate::context::current(slf.py()).map(|running| (running.from, running.task));
                Ok(core.get().library().watch(object.get().id, &slf.get().inner, token, call).map(|wait| wait.0))
            }
            // In local mode the engine is an object of Python.
            Err(_) => core.call_method1("watch", (slf, object, token))?.extract(),
        }
    }

    /// Give a wait up. Its token may be in the queue already.
    fn unwatch(&self, object: &ObjectRef, wait: u64) {
        object.unwatch(wait);
    }

    /// An object is ready, says local mode.
    fn complete(&self, token: u64) {
        self.inner.complete(token);
    }

    /// Make the descriptor readable although nothing is done.
    fn wake(&self) {
        self.inner.wake();
    }

    fn take(&self) -> Vec<u64> {
        self.inner.take()
    }
}
