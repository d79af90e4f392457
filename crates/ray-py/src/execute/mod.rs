//! Running calls: from bytes to the user's function and back. The loop is native, so that no frame of the runtime stands in a user's traceback.

pub(crate) mod cancel;
mod gifts;
pub(crate) mod pending_call;
mod produce;

use crate::context::{self, Running, ThisActor};
use crate::core::Core;
use crate::execute::cancel::{cancelled_by, finish_cancelled, interruptible, is_unwanted};
use crate::execute::gifts::Gifts;
use crate::execute::pending_call::{take_all, PendingCall};
use crate::execute::produce::{drive, Producer};
use crate::values;
use pyo3::exceptions::{PySystemExit, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_proto::groups::Within;
use ray_proto::msg::{Outcome, ToNode};
use ray_proto::value::FLAG_RAISED;
use ray_proto::{Payload, ProcId, Resources, TemplateId, Value, UNIT};
use ray_worker::{ActorWork, CallWork, Library, Work, WorkTemplate};
use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::sync::Arc;

/// The callables behind the templates of this process's callers, and how often each ran. One per executor thread.
#[derive(Default)]
pub(crate) struct Resolver {
    known: HashMap<(ProcId, TemplateId), Resolved>,
}

struct Resolved {
    function: Py<PyAny>,
    name: Arc<str>,
    /// Its runs are to be left out of the timeline.
    left_out: bool,
    runs: u32,
}

thread_local! {
    static RESOLVER: RefCell<Resolver> = RefCell::default();
}

fn hooks(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "ray._core.worker.main"))
}

impl Resolver {
    /// The callable of a call's template, and whether the process has to leave after it (max_calls).
    fn resolve(&mut self, py: Python<'_>, work: &CallWork) -> PyResult<(Py<PyAny>, Arc<str>, bool)> {
        let key = (work.from, work.call.template);
        let resolved = match self.known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let payload = PyBytes::new(py, &work.template.payload);
                let (function, left_out): (Py<PyAny>, bool) = hooks(py)?.call_method1(intern!(py, "resolve"), (payload,))?.extract()?;
                place.insert(Resolved { function, name: Arc::from(work.template.name.as_str()), left_out, runs: 0 })
            }
        };
        if resolved.left_out {
            work.marks.leave_out();
        }
        resolved.runs += 1;
        let leaving = work.template.max_calls > 0 && resolved.runs >= work.template.max_calls;
        Ok((resolved.function.clone_ref(py), resolved.name.clone(), leaving))
    }

    /// A call for the event loop; one that can't be resolved fails here.
    pub(crate) fn pending(&mut self, py: Python<'_>, library: &Arc<Library>, work: CallWork) -> PyResult<Option<PendingCall>> {
        match self.resolve(py, &work) {
            Ok((function, name, _)) => {
                let running = running(&work, name);
                Ok(Some(PendingCall::new(library, work, running, function)))
            }
            Err(error) => finish_with_error(py, library, work, error).map(|()| None),
        }
    }
}

fn running(work: &CallWork, name: Arc<str>) -> Running {
    Running { from: work.from, task: work.call.task, name, attempt: work.call.attempt, gpu_ids: work.call.gpu_ids.clone(), template: work.template.clone() }
}

/// What `run_calls` returns after a constructor ran: the caller then decides how the actor's calls are run.
const CONSTRUCTED: &str = "constructed";

/// Run calls of one concurrency group in this thread until the process is to end. Returns the reason.
#[pyfunction]
#[pyo3(signature = (core, group=0))]
pub(crate) fn run_calls(py: Python<'_>, core: &Core, group: usize) -> PyResult<String> {
    let library = core.library();
    loop {
        let seen = library.work_seen(group);
        match library.try_work(group) {
            Some(Work::Call(work)) => {
                if let Some(reason) = execute(py, library, work)? {
                    return Ok(reason);
                }
            }
            Some(Work::Construct(work)) => {
                construct(py, library, &work)?;
                return Ok(CONSTRUCTED.into());
            }
            Some(Work::Exit { reason }) => return Ok(reason),
            None => {
                if library.check().is_err() {
                    return Ok("the session is over".into());
                }
                py.detach(|| library.wait_for_work(group, seen));
                py.check_signals()?;
            }
        }
    }
}

/// Calls of one concurrency group for its asyncio loop, no more than `room`: (calls, reason to end or None).
#[pyfunction]
pub(crate) fn take_calls(py: Python<'_>, core: &Core, group: usize, room: usize) -> PyResult<(Vec<PendingCall>, Option<String>)> {
    RESOLVER.with_borrow_mut(|resolver| take_all(py, core, resolver, group, room))
}

/// One call. Returns a reason if the process has to end after it.
fn execute(py: Python<'_>, library: &Arc<Library>, work: CallWork) -> PyResult<Option<String>> {
    if work.call.actor_seq.is_none() {
        set_thread_count(py, &work.template.held)?;
    }
    let resolved = RESOLVER.with_borrow_mut(|resolver| resolver.resolve(py, &work));
    let (function, name, leaving) = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return finish_with_error(py, library, work, error).map(|()| None),
    };
    let entered = context::enter(running(&work, name));
    if context::actor().is_none() && (!work.call.gpu_ids.is_empty() || DEVICES_SHOWN.get()) {
        show_devices(py, &work.call.gpu_ids)?;
    }
    let mut producer = Producer::new(&work);
    let called = interruptible(library, &work, || {
        let (args, kwargs) = values::decode_args(py, library, &work.call.args)?;
        work.marks.note_args();
        let called = function.bind(py).call(args, kwargs.as_ref())?;
        match &mut producer {
            None => Ok(called),
            Some(producer) => drive(library, &work, producer, &called).map(|()| called),
        }
    });
    drop(function);
    if library.is_forked() {
        return leave_forked_child(py, called.err());
    }
    work.marks.note_result();
    let left = leaving.then(|| "max_calls was reached".to_owned());
    let outcome = match called {
        Ok(_) if is_unwanted(library, &work) => {
            library.finish_cancelled(&work, vec![], leaving);
            Ok(left)
        }
        Ok(value) => match producer {
            None => finish(library, work, &value, leaving),
            Some(producer) => finish_stream(py, library, work, &producer, leaving),
        }
        .map(|()| left),
        Err(error) if error.is_instance_of::<PySystemExit>(py) => exit_in_call(py, library, work, error),
        Err(error) => match cancelled_by(py, library, &work, &error) {
            Some(by) => finish_cancelled(py, library, &work, &by, error.into_value(py).into_bound(py).into_any(), leaving),
            None => finish_failed(py, library, work, error, leaving, producer.as_mut()),
        }
        .map(|()| left),
    };
    drop(entered);
    outcome
}

/// The call forked, and this is the child at the end of it: what becomes of the call is the parent's business. The hook ends the process.
fn leave_forked_child<T: Default>(py: Python<'_>, error: Option<PyErr>) -> PyResult<T> {
    let error = error.map(|error| error.into_value(py));
    py.import(intern!(py, "ray._core.worker.forked"))?.call_method1(intern!(py, "leave_forked_child"), (error,)).map(|_| T::default())
}

/// SystemExit inside a call. A task fails with it and its worker is replaced; an actor ends, and that is no failure.
fn exit_in_call(py: Python<'_>, library: &Arc<Library>, work: CallWork, error: PyErr) -> PyResult<Option<String>> {
    match work.call.actor_seq {
        None => {
            finish_failed(py, library, work, error, true, None)?;
            Ok(Some("the task called sys.exit".into()))
        }
        Some((actor, _)) => {
            let reason = actor_exit_reason(py, &error)?;
            library.tell_node(ToNode::ActorLeaving { actor, reason: reason.clone() });
            Ok(Some(reason))
        }
    }
}

fn actor_exit_reason(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    py.import(intern!(py, "ray._core.worker.payloads"))?.call_method1(intern!(py, "exit_reason"), (error.value(py),))?.extract()
}

fn show_devices(py: Python<'_>, ids: &[u32]) -> PyResult<()> {
    hooks(py)?.call_method1(intern!(py, "show_devices"), (context::devices_by_family(py, ids)?,)).map(|_| ())?;
    DEVICES_SHOWN.set(!ids.is_empty());
    Ok(())
}

/// Before anything of the call is unpickled: libraries read the variable when they are imported.
fn set_thread_count(py: Python<'_>, held: &Resources) -> PyResult<()> {
    let threads = (held.get("CPU") / UNIT).max(1);
    if THREADS_SET.replace(threads) == threads {
        return Ok(());
    }
    hooks(py)?.call_method1(intern!(py, "set_thread_count"), (threads,)).map(|_| ())
}

thread_local! {
    static DEVICES_SHOWN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    static THREADS_SET: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// The constructor of an actor. Afterwards this process is the actor.
fn construct(py: Python<'_>, library: &Arc<Library>, work: &ActorWork) -> PyResult<()> {
    let this = ThisActor {
        id: work.actor,
        incarnation: work.incarnation,
        gpu_ids: work.gpu_ids.clone(),
        payload: work.spec.payload.clone(),
        name: work.spec.name.clone(),
        held: work.spec.held.clone(),
        within: Within::of(&work.spec.strategy),
    };
    context::set_actor(this);
    let name = format!("{}.__init__", work.spec.class_name);
    let template = WorkTemplate {
        name: name.clone(),
        payload: work.spec.payload.clone(),
        max_calls: 0,
        held: work.spec.held.clone(),
        group: 0,
        within: Within::of(&work.spec.strategy),
    };
    let template = Arc::new(template);
    let running = Running {
        from: work.actor.owner,
        task: work.actor.call(),
        name: Arc::from(name.as_str()),
        attempt: work.incarnation - 1,
        gpu_ids: work.gpu_ids.clone(),
        template,
    };
    let entered = context::enter(running);
    let (began, had_args) = (ray_shm::now_us(), std::cell::Cell::new(0));
    let construct = || -> PyResult<bool> {
        set_thread_count(py, &work.spec.held)?;
        if !work.gpu_ids.is_empty() || DEVICES_SHOWN.get() {
            show_devices(py, &work.gpu_ids)?;
        }
        let gifts = (!work.spec.given.is_empty()).then(|| Gifts::take_over(py, library, &work.spec)).transpose()?;
        let args = gifts.as_ref().map_or(&work.spec.args, |gifts| &gifts.args);
        let (args, kwargs) = values::decode_args(py, library, args)?;
        had_args.set(ray_shm::now_us());
        let payload = PyBytes::new(py, &work.spec.payload);
        let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py));
        hooks(py)?.call_method1(intern!(py, "construct"), (payload, args, kwargs))?.extract()
    };
    let result = construct();
    drop(entered);
    if library.is_forked() {
        return leave_forked_child(py, result.err());
    }
    match result {
        Ok(left_out) => {
            if !left_out {
                library.note_construction(work, &name, (began, had_args.get()), None);
            }
            library.actor_is_up(work);
        }
        Err(error) => {
            let value = encode_error(py, library, &name, work.incarnation - 1, error)?;
            library.note_construction(work, &name, (began, had_args.get()), Some(&value));
            library.tell_node(ToNode::ActorFailed { actor: work.actor, error: value });
        }
    }
    Ok(())
}

/// The value that stands for an error.
pub(crate) fn encode_error(py: Python<'_>, library: &Arc<Library>, name: &str, attempt: u32, error: PyErr) -> PyResult<Value> {
    let node = ray_proto::hex(&library.node_id);
    let exception = error.into_value(py);
    let bytes = hooks(py)?.call_method1(intern!(py, "encode_error"), (exception, name, node, attempt))?.cast_into::<PyBytes>()?;
    let mut value = vec![FLAG_RAISED];
    value.extend_from_slice(bytes.as_bytes());
    Ok(Value::inline(value))
}

/// `producer`: how far the call had come, if it gives its results one after another and its generator was started.
fn finish_failed(py: Python<'_>, library: &Arc<Library>, work: CallWork, error: PyErr, leaving: bool, producer: Option<&mut Producer>) -> PyResult<()> {
    let retry: bool = hooks(py)?.call_method1(intern!(py, "is_retryable"), (PyBytes::new(py, &work.template.payload), error.value(py)))?.extract()?;
    let value = encode_error(py, library, &work.template.name, work.call.attempt, error)?;
    let error = Payload { value, refs: vec![] };
    let mut results = vec![error.clone()];
    if let Some(producer) = producer {
        if !producer.gathers() {
            // Compat: what the generator raised is its last item, and the end itself is no failure.
            results.push(values::encode(&py.None().into_bound(py), library)?.0);
        } else if !retry {
            producer.push_payload(library, &work, error);
            return finish_stream(py, library, work, producer, leaving);
        }
    }
    library.finish_call(&work, Outcome::Raised { retryable: retry }, results, leaving);
    Ok(())
}

pub(crate) fn finish_with_error(py: Python<'_>, library: &Arc<Library>, work: CallWork, error: PyErr) -> PyResult<()> {
    finish_failed(py, library, work, error, false, None)
}

/// A generator has raised.
pub(crate) fn finish_broken_stream(py: Python<'_>, library: &Arc<Library>, work: CallWork, error: PyErr, producer: &mut Producer) -> PyResult<()> {
    finish_failed(py, library, work, error, false, Some(producer))
}

/// A generator has ended, or nobody reads it any more.
pub(crate) fn finish_stream(py: Python<'_>, library: &Arc<Library>, work: CallWork, producer: &Producer, leaving: bool) -> PyResult<()> {
    let (results, _alive) = producer.results(py, library, &work)?;
    library.finish_call(&work, Outcome::Returned {}, results, leaving);
    Ok(())
}

pub(crate) fn finish_with_value(library: &Arc<Library>, work: CallWork, value: &Bound<'_, PyAny>) -> PyResult<()> {
    finish(library, work, value, false)
}

/// The call returned: its value or values go back. One that can't be pickled fails the call instead.
fn finish(library: &Arc<Library>, work: CallWork, value: &Bound<'_, PyAny>, leaving: bool) -> PyResult<()> {
    let py = value.py();
    match encode_results(library, &work, value) {
        Ok((results, _alive)) => {
            library.finish_call(&work, Outcome::Returned {}, results, leaving);
            Ok(())
        }
        Err(error) => finish_failed(py, library, work, error, leaving, None),
    }
}

fn py_generator(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CELL.import(py, "types", "GeneratorType")
}

type Results<'py> = (Vec<Payload>, Vec<values::Pickled<'py>>);

fn encode_results<'py>(library: &Library, work: &CallWork, value: &Bound<'py, PyAny>) -> PyResult<Results<'py>> {
    let (name, count) = (&work.template.name, work.call.num_returns as usize);
    if count == 1 {
        let (payload, alive) = one_result(name, value, |value| values::encode(value, library))?;
        return Ok((vec![payload], vec![alive]));
    }
    let items = results_of(name, count, value)?;
    let mut results = Vec::with_capacity(items.len());
    let mut alive = Vec::with_capacity(items.len());
    for item in &items {
        let (payload, keep) = values::encode(item, library)?;
        results.push(payload);
        alive.push(keep);
    }
    Ok((results, alive))
}

/// The one result of a call. Compat: of a generator the first item is the result.
pub(crate) fn one_result<'py, T>(name: &str, value: &Bound<'py, PyAny>, encode: impl Fn(&Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<T> {
    match encode(value) {
        Err(_) if value.is_instance(py_generator(value.py())?)? => match value.try_iter()?.next() {
            Some(item) => encode(&item?),
            None => Err(PyValueError::new_err(format!("{name} has num_returns=1 and is a generator that yielded nothing"))),
        },
        encoded => encoded,
    }
}

/// The results, other than one, in what a call returned. ValueError: not as many as asked for.
pub(crate) fn results_of<'py>(name: &str, count: usize, value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if count == 0 {
        return Ok(vec![]);
    }
    let items: Vec<Bound<'py, PyAny>> = match value.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().collect(),
        Err(_) => {
            let what = value.get_type().name()?;
            let iterator = value
                .try_iter()
                .map_err(|_| PyValueError::new_err(format!("{name} has num_returns={count} and returned one value of type {what}, which is not a sequence")))?;
            // Compat: what a generator would yield after these is not asked for.
            let most = if value.is_instance(py_generator(value.py())?)? { count } else { usize::MAX };
            iterator.take(most).collect::<PyResult<_>>()?
        }
    };
    if items.len() != count {
        return Err(PyValueError::new_err(format!(
            "{name} has num_returns={count} and returned {} values.\nhint: return a tuple of {count}, or change num_returns",
            items.len()
        )));
    }
    Ok(items)
}
