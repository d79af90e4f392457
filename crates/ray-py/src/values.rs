//! Between Python values and the engine's bytes (layout in docs/design/001, "Values").

use crate::buffer::{Pin, PinnedBuffer};
use crate::object_ref::{Home, ObjectRef};
use crate::{errors, room, storage};
use pyo3::buffer::PyBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use ray_proto::value::{system_error_fields, FLAG_BUFFERS, FLAG_PICKLE, FLAG_RAISED, INLINE_MAX};
use ray_proto::{Blob, ObjectId, Payload, ShmRange, Value};
use ray_worker::{Failure, Library, View};
use std::cell::RefCell;
use std::sync::Arc;

const BUFFER_ALIGN: usize = 64;
/// Large buffers start on a page. A copy whose destination lies a little behind its source, modulo the page, runs at a fifth of the speed (2.5 against
/// 12 GB/s measured: the loads seem to depend on the stores just made), and arrays start near the beginning of one.
const LARGE_ALIGN: usize = 4096;
const LARGE: usize = 64 * 1024;
/// Elements looked at before a container counts as too large to be checked for plainness.
const PLAIN_BUDGET: usize = 64;

thread_local! {
    /// References met while a value is pickled; one list per nesting of picklings.
    static COLLECTING: RefCell<Vec<Vec<ObjectId>>> = const { RefCell::new(Vec::new()) };
    /// Whose value is being unpickled in this thread.
    static INSIDE: RefCell<Option<Home>> = const { RefCell::new(None) };
}

/// Note a reference as part of the value being pickled. False: no value is being pickled.
pub(crate) fn collect(id: ObjectId) -> bool {
    COLLECTING.with_borrow_mut(|stack| stack.last_mut().map(|refs| refs.push(id)).is_some())
}

/// Where the value that is being unpickled in this thread lives, if any is.
pub(crate) fn inside_value() -> Option<Home> {
    INSIDE.with_borrow(Option::clone)
}

/// The place of a top-level reference argument.
#[pyclass(frozen, module = "ray._native")]
pub(crate) struct ArgSlot(usize);

#[pymethods]
impl ArgSlot {
    #[new]
    fn new(index: usize) -> Self {
        ArgSlot(index)
    }

    fn __reduce__<'py>(slf: Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (usize,))> {
        Ok((slf.get_type().into_any(), (slf.get().0,)))
    }
}

fn dumps(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CELL.import(py, "pickle", "dumps")
}

fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CELL.import(py, "pickle", "loads")
}

fn serialize(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CELL.import(py, "ray._core.serialization", "serialize")
}

fn plain(value: &Bound<'_, PyAny>, budget: &mut usize) -> bool {
    if *budget == 0 {
        return false;
    }
    *budget -= 1;
    if value.is_none() || value.is_exact_instance_of::<PyInt>() || value.is_exact_instance_of::<PyString>() || value.is_exact_instance_of::<PyFloat>() {
        return true;
    }
    if value.is_exact_instance_of::<PyBytes>() || value.is_exact_instance_of::<PyBool>() {
        return true;
    }
    if let Ok(items) = value.cast_exact::<PyTuple>() {
        return items.iter_borrowed().all(|item| plain(&item, budget));
    }
    if let Ok(items) = value.cast_exact::<PyList>() {
        return items.iter().all(|item| plain(&item, budget));
    }
    value.cast_exact::<PyDict>().is_ok_and(|items| items.iter().all(|(key, item)| plain(&key, budget) && plain(&item, budget)))
}

#[pyfunction]
pub(crate) fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    plain(value, &mut PLAIN_BUDGET.clone())
}

/// A pickled value before it has a place.
pub(crate) struct Pickled<'py> {
    pickle: Bound<'py, PyBytes>,
    buffers: Vec<PyBuffer<u8>>,
    pub(crate) refs: Vec<ObjectId>,
    /// Keeps the references of `refs` counted until the value has a holder.
    _alive: Option<Bound<'py, PyAny>>,
}

pub(crate) fn pickle<'py>(value: &Bound<'py, PyAny>) -> PyResult<Pickled<'py>> {
    let py = value.py();
    if is_plain(value) {
        let pickle = dumps(py)?.call1((value, 5))?.cast_into::<PyBytes>()?;
        return Ok(Pickled { pickle, buffers: vec![], refs: vec![], _alive: None });
    }
    COLLECTING.with_borrow_mut(|stack| stack.push(Vec::new()));
    let result = serialize(py).and_then(|serialize| serialize.call1((value,)));
    let mut refs = COLLECTING.with_borrow_mut(|stack| stack.pop()).unwrap_or_default();
    refs.sort_unstable();
    refs.dedup();
    let (pickle, buffers): (Bound<'py, PyBytes>, Vec<Bound<'py, PyAny>>) = result?.extract()?;
    let raw = |buffer: Bound<'py, PyAny>| PyBuffer::get(&buffer.call_method0(intern!(py, "raw"))?);
    let buffers = buffers.into_iter().map(raw).collect::<PyResult<Vec<_>>>()?;
    Ok(Pickled { pickle, buffers, refs, _alive: Some(value.clone()) })
}

fn align_of(len: usize) -> usize {
    if len >= LARGE {
        LARGE_ALIGN
    } else {
        BUFFER_ALIGN
    }
}

fn aligned(at: usize, len: usize) -> usize {
    at.div_ceil(align_of(len)) * align_of(len)
}

impl Pickled<'_> {
    /// Flag, table and place of each buffer; the total length. `base`: address of the first byte, modulo a page; 0 where the place itself is aligned.
    fn layout(&self, base: usize) -> (Vec<u8>, Vec<usize>, usize) {
        let pickle_len = self.pickle.as_bytes().len();
        if self.buffers.is_empty() {
            return (vec![FLAG_PICKLE], vec![], 1 + pickle_len);
        }
        let head_len = 24 + 16 * self.buffers.len();
        let mut head = vec![0u8; 8];
        head[0] = FLAG_BUFFERS;
        head.extend((self.buffers.len() as u64).to_le_bytes());
        head.extend((pickle_len as u64).to_le_bytes());
        let mut at = head_len + pickle_len;
        let mut places = Vec::with_capacity(self.buffers.len());
        for buffer in &self.buffers {
            at = aligned(base + at, buffer.len_bytes()) - base;
            places.push(at);
            head.extend((at as u64).to_le_bytes());
            head.extend((buffer.len_bytes() as u64).to_le_bytes());
            at += buffer.len_bytes();
        }
        (head, places, at)
    }

    /// The value in memory of this process, whatever its size, with aligned buffers.
    pub(crate) fn in_process(&self) -> Value {
        let (head, _, len) = self.layout(0);
        let body = self.pickle.as_bytes();
        if self.buffers.is_empty() {
            let mut bytes = Vec::with_capacity(len);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(body);
            return Value::inline(bytes);
        }
        let room = len + self.buffers.iter().map(|buffer| align_of(buffer.len_bytes())).sum::<usize>();
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, room).collect();
        let (head, places, _) = self.layout(bytes.as_ptr() as usize % LARGE_ALIGN);
        let out = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        out[..head.len()].copy_from_slice(&head);
        out[head.len()..head.len() + body.len()].copy_from_slice(body);
        for (buffer, at) in self.buffers.iter().zip(places) {
            out[at..at + buffer.len_bytes()].copy_from_slice(raw_bytes(buffer));
        }
        Value::Inline(Blob::Shared(bytes))
    }

    /// Give the value its place: inline when small, else in shared memory, copied without the GIL.
    pub(crate) fn place(&self, py: Python<'_>, library: &Library) -> PyResult<Value> {
        self.try_place(py, library).map_err(|failure| errors::failure(py, failure))
    }

    pub(crate) fn try_place(&self, py: Python<'_>, library: &Library) -> Result<Value, Failure> {
        let (head, places, len) = self.layout(0);
        let body = self.pickle.as_bytes();
        if len <= INLINE_MAX {
            let mut bytes = Vec::with_capacity(len);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(body);
            for (buffer, at) in self.buffers.iter().zip(places) {
                bytes.resize(at, 0);
                bytes.extend_from_slice(raw_bytes(buffer));
            }
            return Ok(Value::inline(bytes));
        }
        let mut parts: Vec<(u64, &[u8])> = vec![(0, &head), (head.len() as u64, body)];
        parts.extend(self.buffers.iter().zip(places).map(|(buffer, at)| (at as u64, raw_bytes(buffer))));
        py.detach(|| library.store(len as u64, &parts)).map(Value::shm)
    }
}

fn raw_bytes(buffer: &PyBuffer<u8>) -> &[u8] {
    // SAFETY: PickleBuffer.raw() is one contiguous run of bytes, and the PyBuffer keeps the exporter from moving or resizing it. A thread of the user's that
    // writes to it at the same time tears its own value, as it would with any copy.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes()) }
}

/// Pickle and place in one go. The references inside are alive until `keep` is dropped.
pub(crate) fn encode<'py>(value: &Bound<'py, PyAny>, library: &Library) -> PyResult<(Payload, Pickled<'py>)> {
    let pickled = pickle(value)?;
    let placed = pickled.place(value.py(), library)?;
    Ok((Payload { value: placed, refs: pickled.refs.clone() }, pickled))
}

/// The same for what this process owns: while the store is full, and calls of its own may free something, it waits.
pub(crate) fn encode_own<'py>(value: &Bound<'py, PyAny>, library: &Library) -> PyResult<(Payload, Pickled<'py>)> {
    let pickled = pickle(value)?;
    let placed = room::place(value.py(), library, &pickled)?;
    Ok((Payload { value: placed, refs: pickled.refs.clone() }, pickled))
}

/// Marks the thread until dropped; values nest when a `__setstate__` reads another one.
struct Unpickling(Option<Home>);

impl Unpickling {
    fn enter(home: &Home) -> Self {
        Unpickling(INSIDE.replace(Some(home.clone())))
    }
}

impl Drop for Unpickling {
    fn drop(&mut self) {
        INSIDE.replace(self.0.take());
    }
}

/// The Python value of an object, or the exception it stands for as Err.
pub(crate) fn decode<'py>(py: Python<'py>, library: &Arc<Library>, id: ObjectId, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    let home = Home::Engine(library.clone());
    let mut value = value.clone();
    loop {
        let range = match &value {
            Value::Inline(bytes) => return decode_view(py, &home, &View::Inline(bytes.clone()), None),
            Value::Shm(range) => **range,
        };
        let pin = Pin::new(library, id, range);
        if pin.range.extent.is_stored() {
            return decode_view(py, &home, &storage::read(py, library, pin.range)?, None);
        }
        match view_of(py, library, id, pin.range)? {
            Ok(view) => return decode_view(py, &home, &view, Some(pin)),
            // Its owner makes it again, or says that nobody can: the pin keeps our place in the line.
            Err(_lost) => value = crate::waits::wait_for_value(py, library, id)?,
        }
    }
}

/// The bytes of an object, from this node or another one. The inner error: they are gone from there.
fn view_of(py: Python<'_>, library: &Library, id: ObjectId, range: ShmRange) -> PyResult<Result<View, String>> {
    let raise = |failure| errors::failure(py, failure);
    if !library.is_elsewhere(range) {
        return py.detach(|| library.view(range)).map(Ok).map_err(raise);
    }
    if let Some(view) = library.open_copy(id) {
        return Ok(Ok(view));
    }
    let (token, gate) = library.pull(id, range).map_err(raise)?;
    crate::waits::wait_at(py, library, &gate)?;
    match library.copied(token, id, range) {
        Err(Failure::Lost(text)) => Ok(Err(text)),
        other => other.map(Ok).map_err(raise),
    }
}

/// A copy of an object's bytes; None: they are gone from where they were.
pub(crate) fn bytes_of(py: Python<'_>, library: &Arc<Library>, id: ObjectId, value: &Value) -> PyResult<Option<Vec<u8>>> {
    let range = match value {
        Value::Inline(bytes) => return Ok(Some(bytes.to_vec())),
        Value::Shm(range) => **range,
    };
    let pin = Pin::new(library, id, range);
    Ok(view_of(py, library, id, pin.range)?.ok().map(|view| view.bytes().to_vec()))
}

/// Pickled bytes in their place, as `place` chooses it.
pub(crate) fn place_bytes(py: Python<'_>, library: &Library, bytes: Vec<u8>) -> PyResult<Value> {
    if bytes.len() <= INLINE_MAX {
        return Ok(Value::inline(bytes));
    }
    let stored = py.detach(|| library.store(bytes.len() as u64, &[(0, &bytes)]));
    stored.map(Value::shm).map_err(|failure| errors::failure(py, failure))
}

/// The Python value of bytes; `pin` keeps those in shared memory.
pub(crate) fn decode_view<'py>(py: Python<'py>, home: &Home, view: &View, pin: Option<Arc<Pin>>) -> PyResult<Bound<'py, PyAny>> {
    let _inside = Unpickling::enter(home);
    let bytes = view.bytes();
    match bytes.first() {
        Some(&FLAG_PICKLE) => match &view {
            View::Inline(_) => loads(py)?.call1((PyBytes::new(py, &bytes[1..]),)),
            View::Shm { .. } => {
                let len = bytes.len() - 1;
                let buffer = PinnedBuffer::new(view.clone(), 1, len, pin);
                loads(py)?.call1((Bound::new(py, buffer)?,))
            }
        },
        Some(&FLAG_BUFFERS) => decode_buffers(py, view, pin),
        Some(_) => Err(decode_error(py, bytes)?),
        None => Err(errors::with_code(py, "object_lost", "the object has no bytes")),
    }
}

fn decode_buffers<'py>(py: Python<'py>, view: &View, pin: Option<Arc<Pin>>) -> PyResult<Bound<'py, PyAny>> {
    let bytes = view.bytes();
    let malformed = || errors::with_code(py, "object_lost", "the object's bytes are malformed");
    let word = |at: usize| bytes.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")) as usize);
    let (count, pickle_len) = (word(8).ok_or_else(malformed)?, word(16).ok_or_else(malformed)?);
    let buffers = PyList::empty(py);
    for index in 0..count {
        let (at, len) = (word(24 + 16 * index).ok_or_else(malformed)?, word(32 + 16 * index).ok_or_else(malformed)?);
        buffers.append(Bound::new(py, PinnedBuffer::new(view.clone(), at, len, pin.clone()))?)?;
    }
    let start = 24 + 16 * count;
    let body = bytes.get(start..start + pickle_len).ok_or_else(malformed)?;
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "buffers"), buffers)?;
    loads(py)?.call((PyBytes::new(py, body),), Some(&keywords))
}

/// The exception that an error value stands for.
pub(crate) fn decode_error(py: Python<'_>, bytes: &[u8]) -> PyResult<PyErr> {
    let body = bytes.get(1..).unwrap_or_default();
    if bytes.first() == Some(&FLAG_RAISED) {
        let exception = py.import("ray._core.errors")?.call_method1("decode_exception", (PyBytes::new(py, body),))?;
        return Ok(PyErr::from_value(exception));
    }
    Ok(errors::system_error(py, &system_error_fields(body)))
}

/// Positional and keyword arguments of a call, references at the top level replaced by their values.
pub(crate) type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

pub(crate) fn decode_args<'py>(py: Python<'py>, library: &Arc<Library>, args: &ray_proto::msg::Args) -> PyResult<Arguments<'py>> {
    if matches!(&args.body, Value::Inline(bytes) if bytes.is_empty()) {
        return Ok((PyTuple::empty(py), None));
    }
    let pair = decode(py, library, args.body_id, &args.body)?.cast_into::<PyTuple>()?;
    fill_args(&pair, args.deps.len(), |index| {
        let (id, payload) = &args.deps[index];
        decode(py, library, *id, &payload.value)
    })
}

/// Put values in the place of the `count` slots among pickled arguments.
pub(crate) fn fill_args<'py>(
    pair: &Bound<'py, PyTuple>,
    count: usize,
    mut value_of: impl FnMut(usize) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Arguments<'py>> {
    let py = pair.py();
    let positional = pair.get_item(0)?.cast_into::<PyTuple>()?;
    let keywords = pair.get_item(1)?.cast_into::<PyDict>().ok();
    if count == 0 {
        return Ok((positional, keywords));
    }
    let mut values: Vec<Option<Bound<'py, PyAny>>> = vec![None; count];
    let mut fill = |item: Bound<'py, PyAny>| -> PyResult<Bound<'py, PyAny>> {
        let Ok(slot) = item.cast::<ArgSlot>() else { return Ok(item) };
        let index = slot.get().0;
        if values[index].is_none() {
            values[index] = Some(value_of(index)?);
        }
        Ok(values[index].clone().expect("filled above"))
    };
    let filled = positional.iter().map(&mut fill).collect::<PyResult<Vec<_>>>()?;
    if let Some(keywords) = &keywords {
        for (key, item) in keywords.iter() {
            keywords.set_item(key, fill(item)?)?;
        }
    }
    Ok((PyTuple::new(py, filled)?, keywords))
}

/// Replace top-level references by slots. None when there are none. `check` refuses those of other sessions.
pub(crate) fn extract_deps<'py>(
    check: impl Fn(&ObjectRef) -> PyResult<()>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Option<(Arguments<'py>, Vec<ObjectId>)>> {
    let is_ref = |item: &Bound<'_, PyAny>| item.is_exact_instance_of::<ObjectRef>();
    let any = args.iter_borrowed().any(|item| is_ref(&item)) || kwargs.is_some_and(|k| k.iter().any(|(_, item)| is_ref(&item)));
    if !any {
        return Ok(None);
    }
    let py = args.py();
    let mut deps = Vec::new();
    let mut slot = |item: Bound<'py, PyAny>| -> PyResult<Bound<'py, PyAny>> {
        let Ok(object) = item.cast_exact::<ObjectRef>() else { return Ok(item) };
        check(object.get())?;
        deps.push(object.get().id);
        Ok(Bound::new(py, ArgSlot(deps.len() - 1))?.into_any())
    };
    let positional = args.iter().map(&mut slot).collect::<PyResult<Vec<_>>>()?;
    let keywords = match kwargs {
        Some(kwargs) => {
            let out = PyDict::new(py);
            for (key, item) in kwargs.iter() {
                out.set_item(key, slot(item)?)?;
            }
            Some(out)
        }
        None => None,
    };
    Ok(Some(((PyTuple::new(py, positional)?, keywords), deps)))
}
