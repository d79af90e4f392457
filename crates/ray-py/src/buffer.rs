//! Read-only buffers over values. One over shared memory counts as a reference to its object, so the memory stays while anybody can see it.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use ray_proto::{ObjectId, ShmRange};
use ray_worker::{Library, View};
use std::os::raw::c_int;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A counted view of an object: it is neither freed nor moved meanwhile.
pub(crate) struct Pin {
    library: Arc<Library>,
    id: ObjectId,
    /// Where the value is.
    pub(crate) range: ShmRange,
}

/// Every pin of the process, dead ones among them: a fork copies the views.
static PINS: Mutex<Vec<Weak<Pin>>> = Mutex::new(Vec::new());
/// Dead pins are swept when so many have come since the last time, or as many as were alive then.
const SWEEP_EVERY: usize = 64;

impl Pin {
    /// `seen`: where the value was a moment ago.
    pub(crate) fn new(library: &Arc<Library>, id: ObjectId, seen: ShmRange) -> Arc<Pin> {
        let range = library.add_view(id, seen);
        let pin = Arc::new(Pin { library: library.clone(), id, range });
        let mut pins = PINS.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() == pins.capacity() {
            pins.retain(|pin| pin.strong_count() > 0);
            let room = pins.len().max(SWEEP_EVERY);
            pins.reserve(room);
        }
        pins.push(Arc::downgrade(&pin));
        pin
    }
}

/// The pins that have views now. For the handlers around a fork: whoever forks holds the GIL, and so did whoever made a pin.
pub(crate) fn live_pins() -> Vec<Arc<Pin>> {
    PINS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.library.drop_view(self.id);
    }
}

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct PinnedBuffer {
    view: View,
    offset: usize,
    len: usize,
    /// None for inline bytes, which count themselves.
    _pin: Option<Arc<Pin>>,
}

impl PinnedBuffer {
    pub(crate) fn new(view: View, offset: usize, len: usize, pin: Option<Arc<Pin>>) -> Self {
        PinnedBuffer { view, offset, len, _pin: pin }
    }
}

#[pymethods]
impl PinnedBuffer {
    /// # Safety
    /// Called by the interpreter with a valid `view` pointer.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let bytes = this.view.bytes().get(this.offset..this.offset + this.len).ok_or_else(|| PyBufferError::new_err("the value is shorter than it says"))?;
        // SAFETY: `bytes` stays in place while `slf` lives, and the buffer holds a reference to `slf`. Read-only is enforced by the flag (1).
        let result = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), bytes.as_ptr().cast_mut().cast(), this.len as ffi::Py_ssize_t, 1, flags) };
        if result == -1 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.len
    }
}
