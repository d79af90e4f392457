//! `Core`: the engine of this process.

use crate::cluster::{self, as_f64, Where};
use crate::daemon::{read_answer, DaemonProcess};
use crate::execute::cancel;
use crate::fork::watch_forks;
use crate::object_ref::{Home, ObjectRef};
use crate::waits::{block, deadline, wait_at};
use crate::{context, errors, groups, template, values};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use ray_logic::owner::{ActorOptions, Holding, Limits};
use ray_proto::cluster::{JobSpec, KvStep};
use ray_proto::groups::GroupSpec;
use ray_proto::msg::{Boot, FromNode, ToNode};
use ray_proto::wire::PROTOCOL;
use ray_proto::{GroupId, ObjectId, Resources, Strategy};
use ray_shm::board::Board;
use ray_shm::events::{Ring, DRIVER_RECORDS};
use ray_shm::host;
use ray_shm::link::{Reader, Writer};
use ray_shm::processes;
use ray_worker::{Config, Failure, Library, Reserved};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, RwLock};

/// Where this process's session keeps its objects. References find it here when they are unpickled.
pub(crate) static CURRENT: RwLock<Option<Home>> = RwLock::new(None);

/// A daemon that has not answered by then is not going to.
const HANDSHAKE_US: u64 = 20_000_000;
const SHUTDOWN_US: u64 = 5_000_000;
/// A driver that leaves its cluster waits so long at most for detached actors that have to copy what it gave them.
const BIRTH_US: u64 = 10_000_000;
/// Up to so many are deleted one by one from a copy of the list.
const FEW_READY: usize = 64;

pub(crate) fn current(py: Python<'_>) -> PyResult<Home> {
    let home = CURRENT.read().map(|current| current.clone()).unwrap_or_default();
    home.ok_or_else(|| errors::with_code(py, "system", "ray is not running in this process.\nhint: call ray.init() first"))
}

/// A session has begun.
pub(crate) fn install_home(home: Home) {
    if let Ok(mut current) = CURRENT.write() {
        *current = Some(home);
    }
}

/// A session has ended; another one may have begun meanwhile.
pub(crate) fn remove_home(home: &Home) {
    if let Ok(mut current) = CURRENT.write() {
        if current.as_ref().is_some_and(|current| current.is(home)) {
            *current = None;
        }
    }
}

#[pyclass(frozen, module = "ray._native")]
pub(crate) struct Core {
    library: Arc<Library>,
    daemon: Mutex<Option<DaemonProcess>>,
    daemon_pid: u32,
    job: Job,
}

/// What all calls of a job share.
#[derive(Default)]
struct Job {
    namespace: String,
    /// Canonical JSON of the runtime environment of this process, "" for none.
    env: String,
    /// Of actors that say nothing of theirs: "detached" or "non_detached".
    actor_lifetime: String,
}

/// The lifetime of actors as the settings of a job have it.
fn actor_lifetime(settings: &BTreeMap<String, String>) -> String {
    settings.get("default_actor_lifetime").cloned().unwrap_or_else(|| "non_detached".into())
}

impl Core {
    pub(crate) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    fn install(library: Arc<Library>, daemon: Option<DaemonProcess>, job: Job) -> Result<Self, String> {
        watch_forks()?;
        crate::storage::install(&library);
        install_home(Home::Engine(library.clone()));
        let daemon_pid = daemon.as_ref().map_or(0, DaemonProcess::pid);
        Ok(Core { library, daemon: Mutex::new(daemon), daemon_pid, job })
    }

    /// The exception for a failure; the daemon's last words are added when it died.
    pub(crate) fn failure(&self, py: Python<'_>, failure: Failure) -> PyErr {
        let Failure::SessionOver(text) = failure else { return errors::failure(py, failure) };
        let words = self.daemon.lock().ok().and_then(|mut daemon| daemon.as_mut().map(DaemonProcess::last_words)).unwrap_or_default();
        let text = if words.is_empty() { text } else { format!("{text}\nthe daemon's stderr:\n{words}") };
        errors::failure(py, Failure::SessionOver(text))
    }

    /// Wait for an answer of the node; signals are handled meanwhile.
    pub(crate) fn ask(&self, py: Python<'_>, question: impl FnOnce(u64) -> ToNode) -> PyResult<FromNode> {
        let (token, gate) = self.library.ask(question).map_err(|failure| self.failure(py, failure))?;
        wait_at(py, &self.library, &gate)?;
        self.library.answer(token).map(|(message, _)| message).map_err(|failure| self.failure(py, failure))
    }

    /// Block until `need` of `ids` are ready. False: the time is over.
    fn block(&self, py: Python<'_>, ids: &[ObjectId], need: usize, until: Option<u64>) -> PyResult<bool> {
        let start = |call| self.library.wait_start(ids, need, call).map_err(|failure| self.failure(py, failure));
        block(py, &self.library, ids, until, start)
    }
}

/// The ids of references of this session.
fn ids_of(library: &Arc<Library>, refs: &Bound<'_, PyAny>) -> PyResult<Vec<ObjectId>> {
    let one = |item: Bound<'_, PyAny>| -> PyResult<ObjectId> {
        let object = item.cast::<ObjectRef>()?.get();
        object.check_is_of(library).map(|()| object.id)
    };
    match refs.cast::<PyList>() {
        Ok(list) => list.iter().map(one).collect(),
        Err(_) => refs.try_iter()?.map(|item| one(item?)).collect(),
    }
}

/// The items that are not at `places`, which rise.
fn others<'py>(items: &Bound<'py, PyList>, places: &[usize]) -> PyResult<Bound<'py, PyList>> {
    // A list copies itself faster than we could, and each deletion moves what is behind it: right for the few that are mostly ready.
    if places.len() <= FEW_READY {
        let rest = items.get_slice(0, items.len());
        places.iter().rev().try_for_each(|at| rest.del_item(*at))?;
        return Ok(rest);
    }
    let rest = PyList::empty(items.py());
    let mut from = 0;
    for &at in places.iter().chain(&[items.len()]) {
        for other in from..at {
            rest.append(items.get_item(other)?)?;
        }
        from = at + 1;
    }
    Ok(rest)
}

pub(crate) fn get_config<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
    for<'a> <T as FromPyObject<'a, 'py>>::Error: Into<PyErr>,
{
    let value = config.get_item(key)?.ok_or_else(|| PyValueError::new_err(format!("start: the configuration lacks {key:?}")))?;
    value.extract().map_err(Into::into)
}

/// A quarter of the soft file limit: the rest is the user's.
fn max_links() -> u32 {
    soft_fd_limit().map_or(u32::MAX, |limit| (limit / 4) as u32)
}

/// None: unlimited.
fn soft_fd_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// What of the settings concerns the library. `pending_bytes` stays 0 if it is not set: it then follows from the node's memory.
fn limits(settings: &BTreeMap<String, String>) -> Result<Limits, String> {
    let whole = |name: &str| match settings.get(name) {
        Some(text) => text.parse().map(Some).map_err(|_| format!("the setting {name} must be a whole number, got {text:?}")),
        None => Ok(None),
    };
    let default = Limits::default();
    let pending_patience = whole("pending_calls_patience_s")?.map_or(default.pending_patience, |s: u64| s.saturating_mul(1_000_000));
    Ok(Limits { pending_bytes: whole("pending_calls_bytes")?.unwrap_or(0), pending_patience, ..default })
}

/// Whether calls are recorded for the timeline.
fn records_calls(settings: &BTreeMap<String, String>) -> bool {
    ["enable_timeline", "task_events_report_interval_ms"].iter().all(|name| settings.get(*name).is_none_or(|value| value != "0"))
}

/// A driver's own records. A host that has no memory for them has no timeline, and no less else.
fn own_ring(settings: &BTreeMap<String, String>) -> Option<Ring> {
    records_calls(settings).then(|| Ring::private(DRIVER_RECORDS).ok()).flatten()
}

/// What the template needs, as JSON.
pub(crate) fn template_config(config: &Bound<'_, PyDict>) -> PyResult<String> {
    let part = PyDict::new(config.py());
    for key in ["sys_path", "namespace", "settings"] {
        if let Some(value) = config.get_item(key)? {
            part.set_item(key, value)?;
        }
    }
    // The daemon raises its own limit; workers keep the user's.
    part.set_item("soft_fd_limit", soft_fd_limit())?;
    config.py().import("json")?.call_method1("dumps", (part,))?.extract()
}

/// Say hello and wait for the welcome.
fn handshake(link: OwnedFd, first: ToNode) -> Result<(Reader, FromNode), String> {
    let link = Arc::new(link);
    let mut writer = Writer::new(link.clone());
    writer.queue(&first);
    writer.flush();
    let (reader, welcome) = read_answer(&link, HANDSHAKE_US)?;
    match &welcome {
        FromNode::Welcome { protocol, .. } if *protocol == PROTOCOL => {}
        FromNode::Welcome { protocol, .. } => return Err(format!("the daemon speaks protocol {protocol}, this library {PROTOCOL}")),
        _ => return Err("the daemon did not say welcome first".into()),
    }
    // The reader goes on to the engine: it may hold frames that came right behind the welcome.
    Ok((reader, welcome))
}

#[pymethods]
impl Core {
    #[staticmethod]
    fn start(py: Python<'_>, config: &Bound<'_, PyDict>) -> PyResult<Core> {
        let python: OsString = get_config(config, "python")?;
        let native_path: OsString = get_config(config, "native_path")?;
        let resources: HashMap<String, f64> = get_config(config, "resources")?;
        let mut settings: BTreeMap<String, String> = get_config(config, "settings")?;
        settings.insert("log_to_driver".into(), if get_config(config, "log_to_driver")? { "1" } else { "0" }.into());
        let node_id: Vec<u8> = py.import("os")?.call_method1("urandom", (28,))?.extract()?;
        let job = Job { namespace: get_config(config, "namespace")?, env: get_config(config, "job_env")?, actor_lifetime: actor_lifetime(&settings) };
        let (limits, ring) = (limits(&settings).map_err(PyValueError::new_err)?, own_ring(&settings));
        let boot = Boot {
            node_id: node_id.into(),
            total: Resources::from_f64(resources.iter().map(|(name, amount)| (name.as_str(), *amount))),
            store_bytes: get_config(config, "object_store_memory")?,
            python: python.as_bytes().into(),
            template_config: template_config(config)?,
            settings,
            job_env: job.env.clone(),
            max_links: max_links(),
            door: get_config(config, "door")?,
            labels: get_config(config, "labels")?,
            namespace: job.namespace.clone(),
            network: None,
        };
        let started = py.detach(|| -> Result<Core, String> {
            host::occupy_standard_descriptors().map_err(|error| host::explain("no descriptors for the engine", error))?;
            let reserved = Reserved::take().map_err(Failure::into_text)?;
            let (mut daemon, link) = DaemonProcess::start(&python, &native_path)?;
            let result = handshake(link, ToNode::Boot { boot: Box::new(boot) }).and_then(|(reader, welcome)| {
                let config = Config { limits, slot: None, ring };
                Library::start(reserved, reader, welcome, config).map_err(Failure::into_text)
            });
            match result {
                Ok(library) => Core::install(library, Some(daemon), job),
                Err(why) => {
                    // It may be about to say why.
                    daemon.reap(SHUTDOWN_US);
                    // What it said itself is the cause; that it ended is only the symptom.
                    let words = daemon.last_words();
                    Err(if words.is_empty() { why } else { words })
                }
            }
        });
        started.map_err(|why| PyRuntimeError::new_err(format!("could not start ray: {}", why.trim())))
    }

    /// Connect, as a driver, to a running node of this user on this machine.
    #[staticmethod]
    fn connect(py: Python<'_>, config: &Bound<'_, PyDict>) -> PyResult<Core> {
        let door: String = get_config(config, "door")?;
        let settings: BTreeMap<String, String> = get_config(config, "settings")?;
        let job = Job { namespace: get_config(config, "namespace")?, env: get_config(config, "job_env")?, actor_lifetime: actor_lifetime(&settings) };
        let limits = limits(&settings).map_err(PyValueError::new_err)?;
        let spec = JobSpec {
            config: template_config(config)?,
            env: job.env.clone(),
            log_to_driver: get_config(config, "log_to_driver")?,
            entrypoint: get_config(config, "entrypoint")?,
            namespace: job.namespace.clone(),
            weight: get_config(config, "weight")?,
        };
        let ring = own_ring(&settings);
        let connect = || -> Result<Core, String> {
            host::occupy_standard_descriptors().map_err(|error| host::explain("no descriptors for the engine", error))?;
            let reserved = Reserved::take().map_err(Failure::into_text)?;
            let link = ray_shm::door::enter(&door).map_err(|error| error.to_string())?;
            let hello = ToNode::HelloDriver { protocol: PROTOCOL, pid: std::process::id(), max_links: max_links(), job: Box::new(spec) };
            let (reader, welcome) = handshake(link, hello)?;
            let library = Library::start(reserved, reader, welcome, Config { limits, slot: None, ring }).map_err(Failure::into_text)?;
            Core::install(library, None, job)
        };
        py.detach(connect).map_err(|why| PyRuntimeError::new_err(format!("could not connect to the node at {door}: {why}")))
    }

    /// Connect through a session's door, to ask questions. It is not this process's session.
    #[staticmethod]
    fn observe(py: Python<'_>, door: &str) -> PyResult<Core> {
        let observe = || -> Result<Core, String> {
            let reserved = Reserved::take().map_err(Failure::into_text)?;
            let link = ray_shm::door::enter(door).map_err(|error| error.to_string())?;
            let (reader, welcome) = handshake(link, ToNode::Hello { protocol: PROTOCOL, pid: std::process::id(), max_links: 0 })?;
            let config = Config { limits: Limits::default(), slot: None, ring: None };
            let library = Library::start(reserved, reader, welcome, config).map_err(Failure::into_text)?;
            Ok(Core { library, daemon: Mutex::new(None), daemon_pid: 0, job: Job::default() })
        };
        py.detach(observe).map_err(|why| PyRuntimeError::new_err(format!("could not connect to {door}: {why}")))
    }

    /// Connect as a worker over an inherited socket. Called after fork, never before.
    #[staticmethod]
    fn attach(py: Python<'_>, fd: i32, slot: u32, board_fd: i32, namespace: String, env: String, settings: BTreeMap<String, String>) -> PyResult<Core> {
        // SAFETY: the template passes the numbers of descriptors that it received for this worker and uses nowhere else.
        let (link, board_fd) = unsafe { (OwnedFd::from_raw_fd(fd), OwnedFd::from_raw_fd(board_fd)) };
        let attach = || -> Result<Core, String> {
            let board = Board::open(&board_fd).map_err(|error| error.to_string())?;
            let ring = records_calls(&settings).then(|| Board::ring(&board_fd, slot).map_err(|error| error.to_string())).transpose()?.flatten();
            // Shared by all workers of the template: the descriptor itself is not needed any more.
            drop(board_fd);
            let reserved = Reserved::take().map_err(Failure::into_text)?;
            let (reader, welcome) = handshake(link, ToNode::Hello { protocol: PROTOCOL, pid: std::process::id(), max_links: max_links() })?;
            let config = Config { limits: limits(&settings)?, slot: Some((slot, board)), ring };
            let library = Library::start(reserved, reader, welcome, config).map_err(Failure::into_text)?;
            Core::install(library, None, Job { namespace, env, actor_lifetime: actor_lifetime(&settings) })
        };
        let core = py.detach(attach).map_err(PyRuntimeError::new_err)?;
        if let Some(tag) = processes::take_tag(core.library.me.0) {
            // What is started with a copy of os.environ carries it too.
            py.import("os")?.getattr("environ")?.set_item(processes::TAG_VARIABLE, tag)?;
        }
        Ok(core)
    }

    fn shutdown(&self, py: Python<'_>, exiting: bool) {
        if exiting {
            errors::note_exit();
        }
        py.detach(|| {
            let daemon = self.daemon.lock().ok().and_then(|mut daemon| daemon.take());
            daemon.iter().for_each(DaemonProcess::wake);
            if daemon.is_none() {
                self.library.wait_for_births(BIRTH_US);
            }
            self.library.shutdown();
            if let Some(mut daemon) = daemon {
                daemon.reap(SHUTDOWN_US);
            }
        });
        remove_home(&Home::Engine(self.library.clone()));
    }

    fn is_alive(&self) -> bool {
        self.library.check().is_ok()
    }

    #[getter]
    fn node_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.library.node_id)
    }

    #[getter]
    fn proc_id(&self) -> u64 {
        self.library.me.0
    }

    #[getter]
    fn daemon_pid(&self) -> u32 {
        self.daemon_pid
    }

    fn put(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<ObjectRef> {
        self.library.check().map_err(|failure| self.failure(py, failure))?;
        let (payload, _alive) = values::encode_own(value, &self.library)?;
        let id = self.library.put(payload);
        Ok(ObjectRef::counted(&self.library, id))
    }

    fn get<'py>(&self, py: Python<'py>, refs: &Bound<'py, PyAny>, timeout_s: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let ids = ids_of(&self.library, refs)?;
        let mut until = None;
        let found = loop {
            if let Some(found) = self.library.values(&ids) {
                break found;
            }
            until = until.or_else(|| deadline(timeout_s));
            if !self.block(py, &ids, ids.len(), until)? {
                let ready = self.library.ready_among(&ids, ids.len()).len();
                let text = format!(
                    "get timed out after {} s: {ready} of {} objects are ready\nhint: ray.util.state.explain(ref) says what it waits for",
                    timeout_s.unwrap_or(0.0),
                    ids.len()
                );
                return Err(errors::with_code(py, "get_timeout", &text));
            }
            self.library.check().map_err(|failure| self.failure(py, failure))?;
        };
        let out = PyList::empty(py);
        for (id, value) in ids.iter().zip(&found) {
            out.append(values::decode(py, &self.library, *id, value)?)?;
        }
        Ok(out)
    }

    fn wait<'py>(
        &self,
        py: Python<'py>,
        refs: &Bound<'py, PyList>,
        num_returns: usize,
        timeout_s: Option<f64>,
        fetch_local: bool,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        // Not looked at yet: what is ready may be on another node, and is fetched when it is read.
        let _ = fetch_local;
        let ids = ids_of(&self.library, refs)?;
        if ids.iter().collect::<HashSet<_, rustc_hash::FxBuildHasher>>().len() < ids.len() {
            return Err(PyValueError::new_err("ray.wait takes different ObjectRefs, got duplicates\nhint: pass list(set(refs))"));
        }
        let mut ready = self.library.ready_among(&ids, num_returns);
        let (mut until, mut in_time) = (None, true);
        // Again, since one that was ready may be lost with its node before it is looked at.
        while ready.len() < num_returns && in_time {
            until = until.or_else(|| deadline(timeout_s));
            in_time = self.block(py, &ids, num_returns, until)?;
            self.library.check().map_err(|failure| self.failure(py, failure))?;
            ready = self.library.ready_among(&ids, num_returns);
        }
        let done = PyList::new(py, ready.iter().map(|at| refs.get_item(*at)).collect::<PyResult<Vec<_>>>()?)?;
        Ok((done, others(refs, &ready)?))
    }

    #[pyo3(signature = (*, payload, class_name, args, kwargs, resources, placement_resources, strategy=Where(Strategy::DEFAULT), follows=false, env, max_restarts, max_concurrency, is_async, name, namespace, detached, get_if_exists))]
    #[allow(clippy::too_many_arguments)] // An actor's description, by keyword.
    fn create_actor<'py>(
        &self,
        py: Python<'py>,
        payload: &[u8],
        class_name: String,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        resources: HashMap<String, f64>,
        placement_resources: HashMap<String, f64>,
        strategy: Where,
        follows: bool,
        env: String,
        max_restarts: i32,
        max_concurrency: u32,
        is_async: bool,
        name: String,
        namespace: String,
        detached: bool,
        get_if_exists: bool,
    ) -> PyResult<(ObjectRef, Option<Bound<'py, PyBytes>>)> {
        // Both are in the payload, where the worker reads them.
        let _ = (max_concurrency, is_async);
        let library = &self.library;
        library.check().map_err(|failure| self.failure(py, failure))?;
        let shape = |amounts: &HashMap<String, f64>| Resources::from_f64(amounts.iter().map(|(n, v)| (n.as_str(), *v)));
        let payload: ray_proto::Blob = payload.into();
        let (held, to_place) = (shape(&resources), shape(&placement_resources));
        let captured = context::capturing_group().filter(|_| follows);
        if let Some(group) = captured {
            groups::check_fits(py, library, group, &[&to_place, &held], &class_name)?;
        }
        let actor = library.new_actor_id();
        // Before the name is taken: arguments that can't be pickled must not take it.
        let call_args = template::encode_args(library, args, Some(kwargs))?;
        let body_id = call_args.body_id;
        let drop_body = || {
            if !body_id.is_nil() {
                library.drop_ref(body_id);
            }
        };
        if !name.is_empty() {
            let options_name = name.clone();
            let (name, namespace, payload) = (name.clone(), namespace.clone(), payload.clone());
            let answer = self.ask(py, |token| ToNode::NameTake { token, name, namespace, actor, payload })?;
            if let FromNode::NameTaken { existing: Some((existing, theirs)), .. } = answer {
                drop_body();
                if get_if_exists {
                    library.adopt(existing);
                    return Ok((ObjectRef::counted(library, existing), Some(PyBytes::new(py, &theirs))));
                }
                let text = format!(
                    "there is an actor named {:?} in this namespace already\nhint: get it with ray.get_actor, or pass get_if_exists=True",
                    options_name
                );
                let error = py.import("ray.exceptions")?.getattr("ActorAlreadyExistsError")?.call1((text,))?;
                return Err(PyErr::from_value(error));
            }
        }
        let strategy = captured.map_or(strategy.0, |group| Strategy::Group { group, bundle: -1, capture: true });
        let options = ActorOptions { class_name, payload, held, to_place, env, max_restarts, name, namespace, detached, strategy };
        library.create_actor(actor, options, call_args);
        drop_body();
        Ok((ObjectRef::counted(library, actor), None))
    }

    fn get_actor<'py>(&self, py: Python<'py>, name: String, namespace: String) -> PyResult<Option<(ObjectRef, Bound<'py, PyBytes>)>> {
        match self.ask(py, |token| ToNode::NameFind { token, name, namespace })? {
            FromNode::NameFound { existing: Some((actor, payload)), .. } => {
                self.library.adopt(actor);
                Ok(Some((ObjectRef::counted(&self.library, actor), PyBytes::new(py, &payload))))
            }
            _ => Ok(None),
        }
    }

    fn list_named_actors(&self, py: Python<'_>, all_namespaces: bool, namespace: String) -> PyResult<Vec<(String, String)>> {
        match self.ask(py, |token| ToNode::NameList { token, all: all_namespaces, namespace })? {
            FromNode::Names { names, .. } => Ok(names),
            _ => Ok(vec![]),
        }
    }

    fn kill_actor(&self, actor: &ObjectRef, no_restart: bool) {
        self.library.kill_actor(actor.id, no_restart);
    }

    /// Create a placement group. Returns its id; None: there is one of that name already.
    #[pyo3(signature = (*, bundles, selectors, strategy, domain, name, namespace, detached, soft_node))]
    #[allow(clippy::too_many_arguments)] // A group's description, by keyword.
    fn create_group<'py>(
        &self,
        py: Python<'py>,
        bundles: Vec<HashMap<String, f64>>,
        selectors: Vec<cluster::Terms>,
        strategy: &str,
        domain: String,
        name: String,
        namespace: String,
        detached: bool,
        soft_node: &[u8],
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.library.check().map_err(|failure| self.failure(py, failure))?;
        let spec = groups::spec_of(&bundles, selectors, strategy, domain, detached, soft_node)?;
        let group = groups::create(py, self, GroupSpec { name, namespace, ..spec })?;
        Ok(group.map(|group| PyBytes::new(py, &group.bytes())))
    }

    fn remove_group(&self, py: Python<'_>, group: [u8; 18]) -> PyResult<()> {
        self.library.check().map_err(|failure| self.failure(py, failure))?;
        self.library.remove_group(GroupId::from_bytes(&group));
        Ok(())
    }

    /// A reference that becomes ready with the group, as `value`; an error if the group is removed before.
    fn group_ready(&self, py: Python<'_>, group: [u8; 18], value: &Bound<'_, PyAny>) -> PyResult<ObjectRef> {
        self.library.check().map_err(|failure| self.failure(py, failure))?;
        let (payload, _alive) = values::encode_own(value, &self.library)?;
        let id = self.library.await_group(GroupId::from_bytes(&group), payload);
        Ok(ObjectRef::counted(&self.library, id))
    }

    /// The group of this id, or of this (namespace, name), or all.
    #[pyo3(signature = (group=None, name=None))]
    fn groups<'py>(&self, py: Python<'py>, group: Option<[u8; 18]>, name: Option<(String, String)>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        groups::find(py, self, group.map(|group| GroupId::from_bytes(&group)), name)
    }

    /// Cancel the call that makes an object. ValueError: it is an actor's, and `force` is asked for.
    fn cancel(&self, py: Python<'_>, reference: &ObjectRef, force: bool, recursive: bool) -> PyResult<()> {
        cancel::cancel(py, self, reference, force, recursive)
    }

    /// Whether the call that asks was cancelled.
    fn is_canceled(&self, py: Python<'_>) -> bool {
        cancel::is_cancelled(py, &self.library)
    }

    /// Keys of the running calls of a group that its event loop is to cancel.
    fn take_cancelled(&self, group: usize) -> Vec<(u64, u64)> {
        self.library.take_cancelled(group).into_iter().map(|(from, task)| (from.0, task)).collect()
    }

    /// (total, available) of the node. Cached leases are returned first, so they count as available.
    fn resources(&self, py: Python<'_>) -> PyResult<(HashMap<String, f64>, HashMap<String, f64>)> {
        self.library.return_idle();
        match self.ask(py, |token| ToNode::ResourcesQuery { token })? {
            FromNode::ResourcesAre { total, available, .. } => Ok((as_f64(&total), as_f64(&available))),
            _ => Ok((HashMap::new(), HashMap::new())),
        }
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        cluster::nodes(py, self)
    }

    fn jobs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        cluster::jobs(py, self)
    }

    /// Whether the key was there before.
    fn kv_put(&self, py: Python<'_>, key: &[u8], value: &[u8], overwrite: bool) -> PyResult<bool> {
        cluster::kv(py, self, KvStep::Put { key: key.into(), value: value.into(), overwrite }).map(|kv| kv.existed)
    }

    fn kv_get<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(cluster::kv(py, self, KvStep::Get { key: key.into() })?.value.map(|value| PyBytes::new(py, &value)))
    }

    /// How many keys went.
    fn kv_del(&self, py: Python<'_>, key: &[u8], is_prefix: bool) -> PyResult<u64> {
        cluster::kv(py, self, KvStep::Delete { key: key.into(), is_prefix }).map(|kv| kv.count)
    }

    fn kv_exists(&self, py: Python<'_>, key: &[u8]) -> PyResult<bool> {
        cluster::kv(py, self, KvStep::Exists { key: key.into() }).map(|kv| kv.existed)
    }

    fn kv_keys<'py>(&self, py: Python<'py>, prefix: &[u8]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        Ok(cluster::kv(py, self, KvStep::Keys { prefix: prefix.into() })?.keys.iter().map(|key| PyBytes::new(py, key)).collect())
    }

    fn context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = context::describe(py, &self.library)?;
        dict.set_item("namespace", &self.job.namespace)?;
        dict.set_item("env", &self.job.env)?;
        dict.set_item("actor_lifetime", &self.job.actor_lifetime)?;
        Ok(dict)
    }

    /// (handle object, payload) of the actor that this process is; None if it is none.
    fn current_actor<'py>(&self, py: Python<'py>) -> Option<(ObjectRef, Bound<'py, PyBytes>)> {
        let actor = context::actor()?;
        self.library.adopt(actor.id);
        Some((ObjectRef::counted(&self.library, actor.id), PyBytes::new(py, &actor.payload)))
    }

    /// Coroutines find their call in this contextvars.ContextVar.
    fn set_async_variable(&self, py: Python<'_>, variable: Py<PyAny>) {
        context::set_async_variable(py, variable);
    }

    /// This actor ends itself; its exit is no failure.
    fn leave_actor(&self, reason: String) {
        if let Some(actor) = context::actor() {
            self.library.tell_node(ToNode::ActorLeaving { actor: actor.id, reason });
        }
    }

    /// No further call starts here, in any group: this actor ends when those that run are done.
    fn stop_calls(&self) {
        self.library.stop_calls();
    }

    /// Wait until no other process needs an object of this one, taking no more calls.
    fn wait_until_unneeded(&self, py: Python<'_>) {
        py.detach(|| self.library.wait_until_unneeded());
    }

    /// A descriptor that is readable when calls came.
    fn work_fd(&self, group: usize) -> i32 {
        self.library.work_fd(group)
    }

    /// This actor has so many concurrency groups, the default one included.
    fn set_groups(&self, count: usize) {
        self.library.set_groups(count);
    }

    /// The name of what this thread runs; "" outside of calls.
    fn running_name(&self, py: Python<'_>) -> String {
        context::current(py).map_or_else(String::new, |running| running.name.to_string())
    }

    /// (kind, id, name, bytes) of what this process keeps of its own.
    fn holdings<'py>(&self, py: Python<'py>) -> Vec<(&'static str, Bound<'py, PyBytes>, String, u64)> {
        let told = |(id, holding, name): (ObjectId, Holding, String)| match holding {
            Holding::Object { bytes } => ("object", PyBytes::new(py, &id.bytes()), name, bytes),
            Holding::Actor => ("actor", PyBytes::new(py, &id.bytes()), name, 0),
            Holding::Call => ("call", PyBytes::new(py, &id.task_bytes()), name, 0),
        };
        self.library.holdings().into_iter().map(told).collect()
    }

    /// (objects, tasks, leases, waits) of this process's tables.
    fn table_sizes(&self) -> (usize, usize, usize, usize) {
        self.library.sizes()
    }

    #[allow(clippy::type_complexity)] // The shape that the stub documents.
    fn next_log<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<(String, u32, bool, &'static str, Bound<'py, PyBytes>)>>> {
        let records = loop {
            match py.detach(|| self.library.next_logs()) {
                Some(records) if records.is_empty() => py.check_signals()?,
                Some(records) => break records,
                None => return Ok(None),
            }
        };
        let line = |r: ray_worker::LogRecord| (r.name, r.pid, r.is_stderr, if r.notice { "notice" } else { "out" }, PyBytes::new(py, r.text.as_bytes()));
        Ok(Some(records.into_iter().map(line).collect()))
    }
}
