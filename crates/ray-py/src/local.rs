//! Objects of a session in local mode: values and counts of one process, without engine, daemon or shared memory. What runs calls is Python
//! (python/ray/_core/local).
//!
//! Invariants
//! 1. An entry exists while something counts it: a reference, a `LocalValue`, or another entry whose value mentions it.
//! 2. The table is locked for moments only, always under the GIL, and no Python object is touched or dropped under the lock: what an entry kept of
//!    Python is dropped after it.

use crate::core::{install_home, remove_home};
use crate::object_ref::{Home, ObjectRef};
use crate::{errors, execute, values};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_proto::ids::{ACTOR_INDEX, END_INDEX};
use ray_proto::value::{system_error, FLAG_RAISED};
use ray_proto::{Blob, ObjectId, Payload, ProcId, Value};
use ray_worker::View;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The driver of job 1: the one process of the session.
const ME: ProcId = ProcId((1 << 40) | 1);

#[derive(Default)]
struct Entry {
    count: usize,
    payload: Option<Payload>,
    /// Traceback of the user's exception that the value stands for.
    frames: Option<Py<PyAny>>,
}

pub(crate) struct Table {
    over: AtomicBool,
    objects: Mutex<FxHashMap<ObjectId, Entry>>,
    /// Called with an actor's number when nobody refers to the actor any more.
    actor_unneeded: Py<PyAny>,
    /// Called with the number of a wait that is given up.
    unwatched: Py<PyAny>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<ObjectId, Entry>> {
        self.objects.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, id: ObjectId) {
        self.lock().entry(id).or_default().count += 1;
    }

    fn add_all(&self, ids: &[ObjectId]) {
        ids.iter().for_each(|id| self.add(*id));
    }

    pub(crate) fn drop_ref(&self, id: ObjectId) {
        let mut gone = Vec::new();
        let mut ids = vec![id];
        let mut objects = self.lock();
        while let Some(id) = ids.pop() {
            let Some(entry) = objects.get_mut(&id) else { continue };
            entry.count -= 1;
            if entry.count > 0 {
                continue;
            }
            let entry = objects.remove(&id).unwrap_or_default();
            ids.extend(entry.payload.iter().flat_map(|payload| payload.refs.iter().copied()));
            gone.push((id, entry));
        }
        drop(objects);
        for (id, entry) in gone {
            drop(entry);
            if id.is_actor() {
                self.tell_unneeded(id);
            }
        }
    }

    fn tell_unneeded(&self, id: ObjectId) {
        tell(&self.actor_unneeded, id.call());
    }

    pub(crate) fn unwatch(&self, wait: u64) {
        tell(&self.unwatched, wait);
    }

    fn reference(self: &Arc<Self>, id: ObjectId) -> ObjectRef {
        self.add(id);
        ObjectRef::counted_locally(self, id)
    }
}

fn tell(whom: &Py<PyAny>, number: u64) {
    Python::attach(|py| {
        if let Err(error) = whom.bind(py).call1((number,)) {
            error.write_unraisable(py, None);
        }
    });
}

/// The objects of a session in local mode.
#[pyclass(frozen, module = "ray._native")]
pub(crate) struct LocalObjects {
    table: Arc<Table>,
}

/// A pickled value with counts on the references inside it.
#[pyclass(frozen, module = "ray._native")]
pub(crate) struct LocalValue {
    table: Arc<Table>,
    payload: Payload,
}

impl Drop for LocalValue {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.payload.refs) {
            self.table.drop_ref(id);
        }
    }
}

impl LocalValue {
    fn new(table: &Arc<Table>, payload: Payload) -> Self {
        table.add_all(&payload.refs);
        LocalValue { table: table.clone(), payload }
    }
}

impl LocalObjects {
    fn pickled(&self, value: &Bound<'_, PyAny>) -> PyResult<LocalValue> {
        let pickled = values::pickle(value)?;
        Ok(LocalValue::new(&self.table, Payload { value: pickled.in_process(), refs: pickled.refs.clone() }))
    }

    fn decode<'py>(&self, py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
        let bytes = match value {
            Value::Inline(bytes) => bytes.clone(),
            Value::Shm(_) => Blob::EMPTY,
        };
        values::decode_view(py, &Home::Local(self.table.clone()), &View::Inline(bytes), None)
    }

    fn id_of(&self, reference: &ObjectRef) -> PyResult<ObjectId> {
        match reference.is_of_table(&self.table) {
            true => Ok(reference.id),
            false => Err(reference.of_no_session()),
        }
    }

    fn payload(&self, py: Python<'_>, id: ObjectId) -> PyResult<(Payload, Option<Py<PyAny>>)> {
        let objects = self.table.lock();
        let entry = objects.get(&id);
        let payload = entry.and_then(|entry| entry.payload.clone());
        let frames = entry.and_then(|entry| entry.frames.as_ref().map(|frames| frames.clone_ref(py)));
        drop(objects);
        let text = "no call of this session makes the object, and nobody has put it";
        payload.map(|payload| (payload, frames)).ok_or_else(|| errors::with_code(py, "object_lost", text))
    }
}

#[pymethods]
impl LocalObjects {
    #[new]
    fn new(actor_unneeded: Py<PyAny>, unwatched: Py<PyAny>) -> Self {
        LocalObjects { table: Arc::new(Table { over: AtomicBool::new(false), objects: Mutex::default(), actor_unneeded, unwatched }) }
    }

    /// References that are unpickled find their objects here from now on.
    fn install(&self) {
        install_home(Home::Local(self.table.clone()));
    }

    /// The session is over: no object is left.
    fn close(&self) {
        self.table.over.store(true, Ordering::Relaxed);
        remove_home(&Home::Local(self.table.clone()));
        let objects = std::mem::take(&mut *self.table.lock());
        drop(objects);
    }

    fn reference(&self, call: u64, index: u64) -> ObjectRef {
        self.table.reference(ObjectId::new(ME, call, index))
    }

    fn actor(&self, number: u64) -> ObjectRef {
        self.table.reference(ObjectId::new(ME, number, ACTOR_INDEX))
    }

    /// The object that is ready at the end of a call that gives its results one after another.
    fn end(&self, call: u64) -> ObjectRef {
        self.table.reference(ObjectId::new(ME, call, END_INDEX))
    }

    fn store_end(&self, call: u64, value: &LocalValue) {
        self.store(call, END_INDEX, value, None);
    }

    fn is_end_referred(&self, call: u64) -> bool {
        self.table.lock().contains_key(&ObjectId::new(ME, call, END_INDEX))
    }

    /// Whether anybody refers to an actor.
    fn is_actor_referred(&self, number: u64) -> bool {
        self.table.lock().contains_key(&ObjectId::new(ME, number, ACTOR_INDEX))
    }

    /// The number of the call that makes the object.
    fn call_of(&self, object: &ObjectRef) -> PyResult<u64> {
        self.id_of(object).map(ObjectId::call)
    }

    /// Which of the results of its call the object is; None: what is ready at the call's end.
    fn index_of(&self, object: &ObjectRef) -> PyResult<Option<u64>> {
        let id = self.id_of(object)?;
        Ok((id.index() != END_INDEX).then(|| id.index()))
    }

    fn task_id<'py>(&self, py: Python<'py>, call: u64) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &ObjectId::new(ME, call, 0).task_bytes())
    }

    fn actor_id<'py>(&self, py: Python<'py>, number: u64) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &ObjectId::new(ME, number, ACTOR_INDEX).actor_bytes())
    }

    fn job_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &ME.job().to_le_bytes())
    }

    fn pickle(&self, value: &Bound<'_, PyAny>) -> PyResult<LocalValue> {
        self.pickled(value)
    }

    /// The values of a call's results. ValueError: not as many as `num_returns`.
    fn pickle_results(&self, name: &str, num_returns: usize, value: &Bound<'_, PyAny>) -> PyResult<Vec<LocalValue>> {
        match num_returns {
            1 => Ok(vec![execute::one_result(name, value, |value| self.pickled(value))?]),
            _ => execute::results_of(name, num_returns, value)?.iter().map(|item| self.pickled(item)).collect(),
        }
    }

    /// Arguments of a call, and the references at their top level, which stand for values.
    fn pickle_args(&self, args: &Bound<'_, PyTuple>, kwargs: &Bound<'_, PyDict>) -> PyResult<(LocalValue, Vec<ObjectRef>)> {
        let py = args.py();
        match values::extract_deps(|object| self.id_of(object).map(drop), args, Some(kwargs))? {
            None => Ok((self.pickled((args, kwargs).into_pyobject(py)?.as_any())?, vec![])),
            Some((pair, ids)) => {
                let value = self.pickled(pair.into_pyobject(py)?.as_any())?;
                Ok((value, ids.into_iter().map(|id| self.table.reference(id)).collect()))
            }
        }
    }

    /// (args, kwargs) as the callee sees them. Raises what an argument that failed raises.
    fn unpickle_args<'py>(
        &self,
        py: Python<'py>,
        args: &LocalValue,
        arguments: Vec<PyRef<'py, ObjectRef>>,
    ) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
        let pair = self.decode(py, &args.payload.value)?.cast_into::<PyTuple>()?;
        values::fill_args(&pair, arguments.len(), |index| {
            let (payload, _) = self.payload(py, self.id_of(&arguments[index])?)?;
            self.decode(py, &payload.value)
        })
    }

    /// The value of an exception that a call raised; `record` is that of `encode_exception`.
    fn raised(&self, record: &[u8]) -> LocalValue {
        let mut bytes = Vec::with_capacity(record.len() + 1);
        bytes.push(FLAG_RAISED);
        bytes.extend_from_slice(record);
        LocalValue::new(&self.table, Payload { value: Value::inline(bytes), refs: vec![] })
    }

    /// The value of a failure that is not an exception of a call. `cause`: the value of the exception behind it.
    #[pyo3(signature = (code, fields, cause=None))]
    fn failed(&self, code: &str, fields: std::collections::BTreeMap<String, String>, cause: Option<&LocalValue>) -> LocalValue {
        let hex = match cause.map(|cause| &cause.payload.value) {
            Some(Value::Inline(bytes)) => ray_proto::hex(bytes),
            _ => String::new(),
        };
        let mut pairs: Vec<(&str, &str)> = fields.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        pairs.push(("cause", &hex));
        LocalValue::new(&self.table, Payload { value: system_error(code, &pairs), refs: vec![] })
    }

    /// The object has its value. Nothing is kept if nobody refers to it.
    #[pyo3(signature = (call, index, value, frames=None))]
    fn store(&self, call: u64, index: u64, value: &LocalValue, frames: Option<Py<PyAny>>) {
        let mut objects = self.table.lock();
        let Some(entry) = objects.get_mut(&ObjectId::new(ME, call, index)) else { return };
        entry.payload = Some(value.payload.clone());
        let before = std::mem::replace(&mut entry.frames, frames);
        drop(objects);
        drop(before);
        self.table.add_all(&value.payload.refs);
    }

    /// A fresh copy of the value. Raises the error that it stands for, with the frames it was raised in.
    fn value<'py>(&self, py: Python<'py>, object: &ObjectRef) -> PyResult<Bound<'py, PyAny>> {
        let (payload, frames) = self.payload(py, self.id_of(object)?)?;
        self.decode(py, &payload.value).inspect_err(|error| {
            if let Some(Ok(frames)) = frames.map(|frames| frames.into_bound(py).cast_into()) {
                error.set_traceback(py, Some(frames));
            }
        })
    }

    /// (id, bytes) of every object that is there.
    fn sizes<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, usize)> {
        let size = |payload: &Payload| match &payload.value {
            Value::Inline(bytes) => bytes.len(),
            Value::Shm(_) => 0,
        };
        let mut found: Vec<(ObjectId, usize)> =
            self.table.lock().iter().filter_map(|(id, entry)| entry.payload.as_ref().map(|payload| (*id, size(payload)))).collect();
        found.sort_unstable();
        found.into_iter().map(|(id, bytes)| (PyBytes::new(py, &id.bytes()), bytes)).collect()
    }

    fn __len__(&self) -> usize {
        self.table.lock().len()
    }
}
