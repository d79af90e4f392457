//! What the current thread runs, for `get_runtime_context` and for names in logs.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};
use ray_proto::devices::family_and_index;
use ray_proto::groups::Within;
use ray_proto::{ActorId, Blob, GroupId, ObjectId, ProcId, Resources, UNIT};
use ray_worker::WorkTemplate;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub from: ProcId,
    pub task: u64,
    pub name: Arc<str>,
    pub attempt: u32,
    pub gpu_ids: Vec<u32>,
    pub template: Arc<WorkTemplate>,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// The actor this process is, once it is one.
static ACTOR: std::sync::OnceLock<ThisActor> = std::sync::OnceLock::new();
/// A contextvars.ContextVar with a PendingCall, where coroutines run.
static ASYNC_CALL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

pub(crate) struct ThisActor {
    pub id: ActorId,
    pub incarnation: u32,
    pub gpu_ids: Vec<u32>,
    pub payload: Blob,
    pub name: String,
    pub held: Resources,
    pub within: Option<Within>,
}

pub(crate) fn set_actor(actor: ThisActor) {
    // Set once per process: a worker becomes one actor at most.
    let _ = ACTOR.set(actor);
}

pub(crate) fn actor() -> Option<&'static ThisActor> {
    ACTOR.get()
}

pub(crate) fn set_async_variable(py: Python<'_>, variable: Py<PyAny>) {
    let _ = ASYNC_CALL.set(py, variable);
}

thread_local! {
    /// The call whose code runs in this thread and may be interrupted.
    static OPEN: Cell<Option<(ProcId, u64)>> = const { Cell::new(None) };
}

/// The call that an interruption of this thread would hit.
pub(crate) fn interruptible() -> Option<(ProcId, u64)> {
    OPEN.get()
}

/// Until the guard goes, `call` may be interrupted in this thread.
pub(crate) struct Window;

impl Window {
    pub(crate) fn open(call: (ProcId, u64)) -> Self {
        OPEN.set(Some(call));
        Window
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        OPEN.set(None);
    }
}

pub(crate) struct Entered(Option<Running>);

/// Mark what this thread runs until the guard goes.
pub(crate) fn enter(running: Running) -> Entered {
    Entered(RUNNING.replace(Some(running)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        RUNNING.replace(self.0.take());
    }
}

/// The call of a worker that this thread runs: when it waits, its CPU is given back.
pub(crate) fn call_of_thread() -> Option<(ProcId, u64)> {
    RUNNING.with_borrow(|running| running.as_ref().map(|running| (running.from, running.task)))
}

/// The placement group that this thread's call, or the actor that this process is, lives in.
pub(crate) fn within() -> Option<Within> {
    match actor() {
        Some(actor) => actor.within.clone(),
        None => RUNNING.with_borrow(|running| running.as_ref().and_then(|running| running.template.within.clone())),
    }
}

/// The group that what this thread starts goes to.
pub(crate) fn capturing_group() -> Option<GroupId> {
    within().filter(|within| within.capture).map(|within| within.group)
}

pub(crate) fn current(py: Python<'_>) -> Option<Running> {
    if let Some(running) = RUNNING.with_borrow(Clone::clone) {
        return Some(running);
    }
    let call = ASYNC_CALL.get(py)?.bind(py).call_method1("get", (py.None(),)).ok()?;
    let call = call.cast::<crate::execute::pending_call::PendingCall>().ok()?;
    Some(call.get().running())
}

/// Indices of devices by the name of their resource.
pub(crate) fn devices_by_family<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (family, index) in ids.iter().filter_map(|id| family_and_index(*id)) {
        match dict.get_item(family)? {
            Some(known) => known.cast::<PyList>()?.append(index)?,
            None => dict.set_item(family, PyList::new(py, [index])?)?,
        }
    }
    Ok(dict)
}

/// The call of another process that submits calls here: they may be cancelled together with it. None in a driver.
pub(crate) fn caller(py: Python<'_>, library: &ray_worker::Library) -> Option<(ProcId, u64)> {
    library.slot()?;
    call_of_thread().or_else(|| current(py).map(|running| (running.from, running.task)))
}

/// The fields that ray._native.pyi promises.
pub(crate) fn describe<'py>(py: Python<'py>, library: &ray_worker::Library) -> PyResult<Bound<'py, PyDict>> {
    let running = current(py);
    let dict = PyDict::new(py);
    let task_id = match &running {
        Some(running) => ObjectId::new(running.from, running.task, 0).task_bytes(),
        None => ObjectId::new(library.me, 0, 0).task_bytes(),
    };
    let actor = actor();
    let gpu_ids = running.as_ref().map(|r| r.gpu_ids.clone()).filter(|ids| !ids.is_empty()).or_else(|| actor.map(|actor| actor.gpu_ids.clone()));
    let mut worker_id = [0u8; 28];
    worker_id[..8].copy_from_slice(&library.me.0.to_be_bytes());
    worker_id[8..].copy_from_slice(&library.node_id[..20]);
    dict.set_item("task_id", PyBytes::new(py, &task_id))?;
    dict.set_item("in_task", running.is_some())?;
    dict.set_item("actor_id", actor.map_or_else(|| PyBytes::new(py, b""), |actor| PyBytes::new(py, &actor.id.actor_bytes())))?;
    dict.set_item("task_name", running.as_ref().map_or("", |r| &*r.name))?;
    let held = actor.map(|actor| &actor.held).or(running.as_ref().map(|r| &r.template.held));
    let amounts = PyDict::new(py);
    for (name, amount) in held.iter().flat_map(|held| &held.0) {
        amounts.set_item(name, *amount as f64 / UNIT as f64)?;
    }
    dict.set_item("resources", amounts)?;
    dict.set_item("actor_name", actor.map_or("", |actor| &actor.name))?;
    dict.set_item("attempt", running.as_ref().map_or(0, |r| r.attempt))?;
    dict.set_item("devices", devices_by_family(py, &gpu_ids.unwrap_or_default())?)?;
    dict.set_item("payload", PyBytes::new(py, running.as_ref().map_or(&[][..], |r| &r.template.payload[..])))?;
    dict.set_item("worker_id", PyBytes::new(py, &worker_id))?;
    dict.set_item("node_id", PyBytes::new(py, &library.node_id))?;
    dict.set_item("job_id", PyBytes::new(py, &library.me.job().to_le_bytes()))?;
    let within = within();
    let group = within.as_ref().map_or_else(Vec::new, |within| within.group.bytes().to_vec());
    dict.set_item("placement_group", PyBytes::new(py, &group))?;
    dict.set_item("captures_children", within.is_some_and(|within| within.capture))?;
    dict.set_item("was_restarted", actor.is_some_and(|actor| actor.incarnation > 1))?;
    Ok(dict)
}
