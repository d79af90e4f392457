//! `ObjectRef`: a counted reference.

use crate::core::current;
use crate::local::Table;
use crate::values;
use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use ray_logic::owner::WaitId;
use ray_proto::ObjectId;
use ray_worker::Library;
use std::sync::Arc;

/// Where a reference's object is counted.
#[derive(Clone)]
pub(crate) enum Home {
    Engine(Arc<Library>),
    /// In local mode there is no engine.
    Local(Arc<Table>),
}

impl Home {
    pub(crate) fn is(&self, other: &Home) -> bool {
        match (self, other) {
            (Home::Engine(a), Home::Engine(b)) => Arc::ptr_eq(a, b),
            (Home::Local(a), Home::Local(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The session has ended.
    fn is_over(&self) -> bool {
        match self {
            Home::Engine(library) => library.check().is_err(),
            Home::Local(table) => table.is_over(),
        }
    }

    fn add_local(&self, id: ObjectId) {
        match self {
            Home::Engine(library) => library.add_local(id),
            Home::Local(table) => table.add(id),
        }
    }

    /// A reference that came out of band.
    fn adopt(&self, id: ObjectId) {
        match self {
            Home::Engine(library) => library.adopt(id),
            Home::Local(table) => table.add(id),
        }
    }

    fn drop_ref(&self, id: ObjectId) {
        match self {
            Home::Engine(library) => library.drop_ref(id),
            Home::Local(table) => table.drop_ref(id),
        }
    }
}

#[pyclass(frozen, weakref, generic, module = "ray")]
pub(crate) struct ObjectRef {
    pub(crate) id: ObjectId,
    /// None for the nil reference and for ids made before a session.
    home: Option<Home>,
}

impl ObjectRef {
    /// A reference whose local count was already taken.
    pub(crate) fn counted(library: &Arc<Library>, id: ObjectId) -> Self {
        ObjectRef { id, home: Some(Home::Engine(library.clone())) }
    }

    /// The same in local mode.
    pub(crate) fn counted_locally(table: &Arc<Table>, id: ObjectId) -> Self {
        ObjectRef { id, home: Some(Home::Local(table.clone())) }
    }

    /// It can't be used with `library` unless it is of it: its object went with another session, and its id may name another one in this.
    pub(crate) fn check_is_of(&self, library: &Arc<Library>) -> PyResult<()> {
        match self.is_of(library) {
            true => Ok(()),
            false => Err(self.of_no_session()),
        }
    }

    pub(crate) fn is_of(&self, library: &Arc<Library>) -> bool {
        matches!(&self.home, Some(Home::Engine(own)) if Arc::ptr_eq(own, library))
    }

    pub(crate) fn is_of_table(&self, table: &Arc<Table>) -> bool {
        matches!(&self.home, Some(Home::Local(own)) if Arc::ptr_eq(own, table))
    }

    pub(crate) fn of_no_session(&self) -> PyErr {
        PyValueError::new_err(format!("{} belongs to no session or to one that has ended; its object is gone", self.__repr__()))
    }

    /// End a wait for this object.
    pub(crate) fn unwatch(&self, wait: u64) {
        match &self.home {
            Some(Home::Engine(library)) => library.unwatch(self.id, WaitId(wait)),
            Some(Home::Local(table)) => table.unwatch(wait),
            None => {}
        }
    }

    /// A reference found inside a value: whoever holds the value keeps the object, so only a local count is needed.
    pub(crate) fn inside_value(home: Home, id: ObjectId) -> Self {
        home.add_local(id);
        ObjectRef { id, home: Some(home) }
    }
}

impl Drop for ObjectRef {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.drop_ref(self.id);
        }
    }
}

fn parse_id(bytes: &[u8]) -> PyResult<ObjectId> {
    let bytes: &[u8; 28] = bytes.try_into().map_err(|_| PyValueError::new_err(format!("an object id has 28 bytes, got {}", bytes.len())))?;
    Ok(ObjectId::from_bytes(bytes))
}

/// Rebuild a pickled reference. Outside of a value it registers with the owner on its own account.
#[pyfunction]
pub(crate) fn ref_from_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<ObjectRef> {
    let id = parse_id(bytes)?;
    if let Some(home) = values::inside_value() {
        return Ok(ObjectRef::inside_value(home, id));
    }
    let home = match current(py) {
        Ok(home) => home,
        Err(_) => {
            py.import("ray._core.session")?.call_method0("auto_init")?;
            current(py)?
        }
    };
    home.adopt(id);
    Ok(ObjectRef { id, home: Some(home) })
}

#[pymethods]
impl ObjectRef {
    #[new]
    #[pyo3(signature = (id, owner_addr="", call_site_data="", skip_adding_local_ref=false, tensor_transport=None))]
    fn new(py: Python<'_>, id: &[u8], owner_addr: &str, call_site_data: &str, skip_adding_local_ref: bool, tensor_transport: Option<&str>) -> PyResult<Self> {
        let _ = (owner_addr, call_site_data, skip_adding_local_ref, tensor_transport);
        let id = parse_id(id)?;
        let home = if id.is_nil() { None } else { current(py).ok() };
        if let Some(home) = &home {
            home.adopt(id);
        }
        Ok(ObjectRef { id, home })
    }

    #[classmethod]
    fn nil(_cls: &Bound<'_, PyType>) -> Self {
        ObjectRef { id: ObjectId::NIL, home: None }
    }

    #[classmethod]
    fn from_binary(cls: &Bound<'_, PyType>, id_bytes: &[u8]) -> PyResult<Self> {
        Self::new(cls.py(), id_bytes, "", "", false, None)
    }

    #[classmethod]
    fn from_hex(cls: &Bound<'_, PyType>, hex_id: &str) -> PyResult<Self> {
        let bytes = cls.py().get_type::<PyBytes>().call_method1("fromhex", (hex_id,))?;
        Self::new(cls.py(), bytes.cast::<PyBytes>()?.as_bytes(), "", "", false, None)
    }

    #[classmethod]
    fn from_random(cls: &Bound<'_, PyType>) -> PyResult<Self> {
        let bytes = cls.py().import("os")?.call_method1("urandom", (28,))?;
        let id = parse_id(bytes.cast::<PyBytes>()?.as_bytes())?;
        Ok(ObjectRef { id, home: None })
    }

    fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id.bytes())
    }

    fn hex(&self) -> String {
        ray_proto::hex(&self.id.bytes())
    }

    fn is_nil(&self) -> bool {
        self.id.is_nil()
    }

    #[classmethod]
    fn size(_cls: &Bound<'_, PyType>) -> usize {
        28
    }

    fn redis_shard_hash(&self) -> u64 {
        self.__hash__()
    }

    fn call_site(&self) -> &'static str {
        ""
    }

    fn tensor_transport(&self) -> Option<String> {
        None
    }

    fn owner_address<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id.owner.0.to_be_bytes())
    }

    fn owner_proc(&self) -> u64 {
        self.id.owner.0
    }

    fn task_id_binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id.task_bytes())
    }

    fn job_id_binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id.owner.job().to_le_bytes())
    }

    fn actor_id_binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id.actor_bytes())
    }

    fn task_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("ray._core.ids")?.getattr("TaskID")?.call1((self.task_id_binary(py),))
    }

    fn job_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("ray._core.ids")?.getattr("JobID")?.call1((self.job_id_binary(py),))
    }

    fn future<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("ray._core.futures")?.call_method1("concurrent_future", (slf,))
    }

    #[pyo3(signature = (_internal=false))]
    fn as_future<'py>(slf: Bound<'py, Self>, _internal: bool) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("ray._core.futures")?.call_method1("asyncio_future", (slf,))
    }

    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::as_future(slf, false)?.call_method0("__await__")
    }

    fn __hash__(&self) -> u64 {
        // Both halves are counters: spread them.
        (self.id.seq ^ self.id.owner.0.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 2
    }

    fn __richcmp__(&self, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<bool> {
        let same = other.cast::<ObjectRef>().is_ok_and(|other| other.get().id == self.id);
        match op {
            CompareOp::Eq => Ok(same),
            CompareOp::Ne => Ok(!same),
            _ => Err(PyTypeError::new_err("object references have no order")),
        }
    }

    pub(crate) fn __repr__(&self) -> String {
        format!("ObjectRef({})", self.hex())
    }

    fn __reduce__<'py>(slf: Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let this = slf.get();
        if values::collect(this.id) {
            // Part of a value or of arguments: of this session then.
            this.home.as_ref().filter(|home| home.is_over()).map_or(Ok(()), |_| Err(this.of_no_session()))?;
        } else {
            // Out of band: nobody can know who will read the bytes, so the object is kept for good.
            if let Some(home) = &this.home {
                home.add_local(this.id);
            }
        }
        let rebuild = py.import("ray._native")?.getattr("ref_from_bytes")?;
        Ok((rebuild, PyTuple::new(py, [this.binary(py)])?))
    }
}
