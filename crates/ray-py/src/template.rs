//! `CallTemplate`: everything constant about a call site, and the hot path of a call.

use crate::cluster::Where;
use crate::core::Core;
use crate::object_ref::ObjectRef;
use crate::result_stream::ResultStream;
use crate::{context, errors, groups, room, values};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple};
use ray_logic::owner::{CallArgs, CallKind, StreamOptions, SubmitError, Template};
use ray_proto::ids::END_INDEX;
use ray_proto::{Blob, GroupId, ObjectId, Resources, Strategy, Value};
use ray_worker::Library;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct CallTemplate {
    library: Arc<Library>,
    template: Arc<Template>,
    arity: Arity,
    /// Of a task whose place follows from its caller's: what it needs, and the call sites for the placement groups of callers, the latest last.
    follows: Option<(Resources, String)>,
    captured: Mutex<Vec<(GroupId, Arc<Template>)>>,
    /// The actor's handle object: a call site of a method keeps it.
    _actor: Option<Py<ObjectRef>>,
}

/// Call sites that one function keeps for placement groups.
const CAPTURED_MAX: usize = 16;

struct Arity {
    min: usize,
    max: Option<usize>,
    binder: Option<Py<PyAny>>,
}

/// What `num_returns` says.
enum Returns {
    Count(u32),
    /// The results come one after another.
    Streaming,
    /// They are counted when the call ends.
    Dynamic,
}

impl FromPyObject<'_, '_> for Returns {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(count) = value.extract::<u32>() {
            return Ok(Returns::Count(count));
        }
        match value.extract::<&str>() {
            Ok("streaming") => Ok(Returns::Streaming),
            Ok("dynamic") => Ok(Returns::Dynamic),
            _ => Err(PyValueError::new_err(format!("num_returns is a number of results, \"streaming\" or \"dynamic\", got {}", value.repr()?))),
        }
    }
}

impl Returns {
    fn count(&self) -> u32 {
        match self {
            Returns::Count(count) => *count,
            _ => 0,
        }
    }

    /// `backpressure`: items made and not read at most, without limit below 1.
    fn stream(&self, backpressure: i64) -> Option<StreamOptions> {
        let window = u64::try_from(backpressure).ok().filter(|window| *window > 0);
        match self {
            Returns::Count(_) => None,
            Returns::Streaming => Some(StreamOptions { window, gather: false }),
            Returns::Dynamic => Some(StreamOptions { window: None, gather: true }),
        }
    }
}

fn generator_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CELL.import(py, "ray._core.generators", "ObjectRefGenerator")
}

/// The body of a call without arguments; shared, since it is the most frequent one.
fn empty_body() -> Value {
    Value::Inline(Blob::EMPTY)
}

/// Arguments in the engine's form. What was put into shared memory for them carries one local reference, to be dropped after the submission.
pub(crate) fn encode_args(library: &Arc<Library>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<CallArgs> {
    let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
    if args.is_empty() && kwargs.is_none() {
        return Ok(CallArgs { body: empty_body(), body_id: ObjectId::NIL, deps: vec![], nested: vec![] });
    }
    let py = args.py();
    let (pair, deps) = match values::extract_deps(|object| object.check_is_of(library), args, kwargs)? {
        Some((pair, deps)) => (pair.into_pyobject(py)?, deps),
        None => ((args, kwargs).into_pyobject(py)?, vec![]),
    };
    let (payload, _alive) = values::encode_own(pair.as_any(), library)?;
    let nested = payload.refs.clone();
    let body_id = match payload.value {
        Value::Inline(_) => ObjectId::NIL,
        Value::Shm(_) => library.put(payload.clone()),
    };
    Ok(CallArgs { body: payload.value, body_id, deps, nested })
}

impl CallTemplate {
    fn new(core: &Core, template: Template, arity: Arity, actor: Option<Py<ObjectRef>>) -> Self {
        let library = core.library().clone();
        let template = library.template(template);
        CallTemplate { library, template, arity, follows: None, captured: Mutex::default(), _actor: actor }
    }

    /// The call site as this caller uses it: in its placement group, if that captures what it starts.
    fn site(&self, py: Python<'_>) -> PyResult<Option<Arc<Template>>> {
        let Some((shape, env)) = &self.follows else { return Ok(None) };
        let Some(group) = context::capturing_group() else { return Ok(None) };
        let known = self.captured.lock().expect("no panic while held").iter().find(|(known, _)| *known == group).map(|(_, template)| template.clone());
        if known.is_some() {
            return Ok(known);
        }
        groups::check_fits(py, &self.library, group, &[shape], &self.template.name)?;
        let class = self.library.class_for(shape, env, &Strategy::Group { group, bundle: -1, capture: true });
        let own = &self.template;
        let (name, payload) = (own.name.clone(), own.payload.clone());
        let (num_returns, stream) = (own.num_returns, own.stream);
        let (max_retries, retry_raised, max_calls) = (own.max_retries, own.retry_raised, own.max_calls);
        let kind = CallKind::Task { class };
        let template =
            self.library.template(Template { id: Default::default(), kind, name, payload, num_returns, stream, max_retries, retry_raised, max_calls });
        let mut captured = self.captured.lock().expect("no panic while held");
        if captured.len() >= CAPTURED_MAX {
            captured.remove(0);
        }
        captured.push((group, template.clone()));
        Ok(Some(template))
    }

    fn check_arity(&self, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let plain = kwargs.is_none_or(|kwargs| kwargs.is_empty());
        if plain && args.len() >= self.arity.min && self.arity.max.is_none_or(|max| args.len() <= max) {
            return Ok(());
        }
        match &self.arity.binder {
            Some(binder) => binder.bind(args.py()).call(args, kwargs).map(|_| ()),
            None => Ok(()),
        }
    }

    fn submit_call<'py>(&self, py: Python<'py>, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        self.check_arity(args, kwargs)?;
        let library = &self.library;
        library.check().map_err(|failure| errors::failure(py, failure))?;
        if library.is_crowded() {
            room::wait_for_room(py, library, &self.template.name)?;
        }
        let site = self.site(py)?;
        let call_args = encode_args(library, args, kwargs)?;
        let body_id = call_args.body_id;
        let submitted = library.submit(site.as_ref().unwrap_or(&self.template), call_args, context::caller(py, library));
        if !body_id.is_nil() {
            library.drop_ref(body_id);
        }
        let call = submitted.map_err(|SubmitError::TooManyPending { limit }| {
            let name = &self.template.name;
            errors::with_code(py, "pending_calls", &format!("{name}: {limit} calls of this process are pending, which is the actor's max_pending_calls.\nhint: wait for some of them, or raise max_pending_calls"))
        })?;
        let make = |index: u64| Bound::new(py, ObjectRef::counted(library, ObjectId::new(library.me, call, index)));
        match self.template.stream {
            Some(StreamOptions { gather: true, .. }) => return Ok(make(END_INDEX)?.into_any()),
            Some(_) => return generator_class(py)?.call1((ResultStream::new(library, call), py.None())),
            None => {}
        }
        match self.template.num_returns {
            0 => Ok(py.None().into_bound(py)),
            1 => Ok(make(1)?.into_any()),
            n => Ok(PyList::new(py, (1..=u64::from(n)).map(make).collect::<PyResult<Vec<_>>>()?)?.into_any()),
        }
    }
}

#[pymethods]
impl CallTemplate {
    #[staticmethod]
    #[pyo3(signature = (core, *, payload, name, num_returns, backpressure, max_retries, retry_exceptions, max_calls, resources, strategy=Where(Strategy::DEFAULT), follows=false, env, min_args, max_args, binder))]
    #[allow(clippy::too_many_arguments)] // The call site's constants, by keyword.
    fn task(
        core: &Core,
        payload: &[u8],
        name: String,
        num_returns: Returns,
        backpressure: i64,
        max_retries: i32,
        retry_exceptions: bool,
        max_calls: u32,
        resources: HashMap<String, f64>,
        strategy: Where,
        follows: bool,
        env: &str,
        min_args: usize,
        max_args: Option<usize>,
        binder: Option<Py<PyAny>>,
    ) -> Self {
        let shape = Resources::from_f64(resources.iter().map(|(name, amount)| (name.as_str(), *amount)));
        let class = core.library().class_for(&shape, env, &strategy.0);
        let kind = CallKind::Task { class };
        let template = Template {
            id: Default::default(),
            kind,
            name,
            payload: payload.into(),
            num_returns: num_returns.count(),
            stream: num_returns.stream(backpressure),
            max_retries,
            retry_raised: retry_exceptions,
            max_calls,
        };
        let follows = follows.then(|| (shape, env.to_owned()));
        CallTemplate { follows, ..Self::new(core, template, Arity { min: min_args, max: max_args, binder }, None) }
    }

    #[staticmethod]
    #[pyo3(signature = (core, actor, *, payload, name, num_returns, backpressure, max_task_retries, retry_exceptions, max_pending_calls, group, unordered, min_args, max_args, binder))]
    #[allow(clippy::too_many_arguments)] // The call site's constants, by keyword.
    fn method(
        core: &Core,
        actor: Py<ObjectRef>,
        payload: &[u8],
        name: String,
        num_returns: Returns,
        backpressure: i64,
        max_task_retries: i32,
        retry_exceptions: bool,
        max_pending_calls: i64,
        group: u32,
        unordered: bool,
        min_args: usize,
        max_args: Option<usize>,
        binder: Option<Py<PyAny>>,
    ) -> Self {
        let kind = CallKind::Method { actor: actor.get().id, max_pending: max_pending_calls, group, unordered };
        let template = Template {
            id: Default::default(),
            kind,
            name,
            payload: payload.into(),
            num_returns: num_returns.count(),
            stream: num_returns.stream(backpressure),
            max_retries: max_task_retries,
            retry_raised: retry_exceptions,
            max_calls: 0,
        };
        Self::new(core, template, Arity { min: min_args, max: max_args, binder }, Some(actor))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        self.submit_call(args.py(), args, kwargs)
    }

    fn submit<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        self.submit_call(args.py(), args, Some(kwargs))
    }
}
