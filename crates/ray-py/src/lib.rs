//! The extension module `ray._native`: the only crate that knows Python. One file per exported class.
//!
//! Invariants
//! 1. Order of locks: GIL, then the core. The GIL is let go of before anything blocks.
//! 2. Nothing under the core lock touches a Python object; `ObjectRef`'s destructor only appends to a lock-free list.

use pyo3::prelude::*;

mod buffer;
mod cluster;
mod context;
mod core;
mod daemon;
mod errors;
mod execute;
mod fork;
mod futures;
mod groups;
mod local;
mod object_ref;
mod report;
mod result_stream;
mod room;
mod storage;
mod template;
mod values;
mod waits;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::buffer::PinnedBuffer;
    #[pymodule_export]
    use crate::cluster::{start_node, stop_node};
    #[pymodule_export]
    use crate::core::Core;
    #[pymodule_export]
    use crate::daemon::{daemon_main, set_process_name};
    #[pymodule_export]
    use crate::errors::stay_if_interpreter_exits;
    #[pymodule_export]
    use crate::execute::cancel::{interrupt_if_cancelled, interrupt_signal};
    #[pymodule_export]
    use crate::execute::pending_call::PendingCall;
    #[pymodule_export]
    use crate::execute::{run_calls, take_calls};
    #[pymodule_export]
    use crate::futures::CompletionQueue;
    #[pymodule_export]
    use crate::local::{LocalObjects, LocalValue};
    #[pymodule_export]
    use crate::object_ref::{ref_from_bytes, ObjectRef};
    #[pymodule_export]
    use crate::report::ask_about;
    #[pymodule_export]
    use crate::result_stream::ResultStream;
    #[pymodule_export]
    use crate::template::CallTemplate;
    #[pymodule_export]
    use crate::values::{is_plain, ArgSlot};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
