//! `ResultStream`: the reader's end of a call that gives its results one after another. `ray.ObjectRefGenerator` wraps it.

use crate::errors;
use crate::object_ref::ObjectRef;
use crate::waits::{block, deadline};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use ray_worker::{Library, Next};
use std::sync::Arc;

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct ResultStream {
    library: Arc<Library>,
    call: u64,
}

impl ResultStream {
    pub(crate) fn new(library: &Arc<Library>, call: u64) -> Self {
        ResultStream { library: library.clone(), call }
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.library.check().map_err(|failure| errors::failure(py, failure))
    }
}

impl Drop for ResultStream {
    fn drop(&mut self) {
        self.library.drop_reader(self.call);
    }
}

#[pymethods]
impl ResultStream {
    /// The next item; waits for it. StopIteration: there is none. None: the time is over.
    fn next(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<Option<ObjectRef>> {
        let until = deadline(timeout_s);
        loop {
            match self.library.stream_next(self.call) {
                Next::Item(id) => return Ok(Some(ObjectRef::counted(&self.library, id))),
                Next::Over => return Err(PyStopIteration::new_err(())),
                Next::Pending => {}
            }
            let awaited = self.peek(py)?;
            let ids = [awaited.id];
            let start = |call| self.library.wait_start(&ids, 1, call).map_err(|failure| errors::failure(py, failure));
            if !block(py, &self.library, &ids, until, start)? {
                return Ok(None);
            }
            self.check(py)?;
        }
    }

    /// The next item if it is here. StopIteration: there is none. None: it has not come.
    fn take(&self) -> PyResult<Option<ObjectRef>> {
        match self.library.stream_next(self.call) {
            Next::Item(id) => Ok(Some(ObjectRef::counted(&self.library, id))),
            Next::Over => Err(PyStopIteration::new_err(())),
            Next::Pending => Ok(None),
        }
    }

    /// A reference that is ready when `take` would not give None. Its value is of no use.
    fn peek(&self, py: Python<'_>) -> PyResult<ObjectRef> {
        self.check(py)?;
        Ok(ObjectRef::counted(&self.library, self.library.stream_peek(self.call)))
    }

    /// Ready when the call has ended.
    fn completed(&self) -> ObjectRef {
        ObjectRef::counted(&self.library, self.library.stream_end(self.call))
    }

    /// Whether the next item is here, and whether all are read.
    fn state(&self) -> (bool, bool) {
        self.library.stream_state(self.call)
    }
}
