//! Objects in storage beyond the node: Python's fsspec writes and reads them (python/ray/_core/config/storage.py).

use crate::buffer::PinnedBuffer;
use crate::errors;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ray_proto::{Blob, ShmRange};
use ray_worker::{Library, Storage, View};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

const MODULE: &str = "ray._core.config.storage";

struct PythonStorage {
    place: String,
    owner: u64,
    told: AtomicBool,
}

/// Spill to where the node says, if it says so.
pub(crate) fn install(library: &Arc<Library>) {
    if !library.storage_place.is_empty() {
        let place = library.storage_place.clone();
        library.set_storage(Box::new(PythonStorage { place, owner: library.me.0, told: AtomicBool::new(false) }));
    }
}

impl PythonStorage {
    fn try_write(&self, py: Python<'_>, number: u64, value: View) -> PyResult<()> {
        let len = value.bytes().len();
        let buffer = Bound::new(py, PinnedBuffer::new(value, 0, len, None))?;
        py.import(MODULE)?.call_method1("write", (&self.place, self.owner, number, buffer))?;
        Ok(())
    }

    /// Once: the next ones fail for the same reason.
    fn tell(&self, py: Python<'_>, error: &PyErr) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let told = py.import(MODULE).and_then(|module| module.call_method1("tell_of_failure", (&self.place, error.value(py))));
            if let Err(error) = told {
                error.write_unraisable(py, None);
            }
        }
    }
}

impl Storage for PythonStorage {
    fn write(&self, number: u64, value: View) -> bool {
        let written = Python::try_attach(|py| self.try_write(py, number, value).inspect_err(|error| self.tell(py, error)).is_ok());
        written.unwrap_or(false)
    }

    fn remove(&self, number: u64) {
        // While the interpreter ends, the whole folder is about to go.
        Python::try_attach(|py| {
            let removed = py.import(MODULE).and_then(|module| module.call_method1("remove", (&self.place, self.owner, number)));
            if let Err(error) = removed {
                self.tell(py, &error);
            }
        });
    }
}

/// The bytes of a value that is stored away.
pub(crate) fn read(py: Python<'_>, library: &Library, range: ShmRange) -> PyResult<View> {
    let owner = range.extent.stored_by();
    let here = owner.node() == library.me.node();
    let place = here.then_some(library.storage_place.as_str());
    let found = py.import(MODULE)?.call_method1("read_for", (place, owner.0, range.offset));
    let found = found.map_err(|error| {
        let lost = errors::with_code(py, "object_lost", &format!("a spilled object could not be read from storage: {}", error.value(py)));
        lost.set_cause(py, Some(error));
        lost
    })?;
    let bytes = found.cast::<PyBytes>()?.as_bytes();
    if bytes.len() as u64 != range.len {
        return Err(errors::with_code(py, "object_lost", &format!("a spilled object has {} bytes in storage and not {}", bytes.len(), range.len)));
    }
    Ok(View::Inline(Blob::Shared(bytes.into())))
}
