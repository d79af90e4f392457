//! Nodes that stand by themselves: starting them, connecting to them, and what a cluster is asked.

use crate::core::{get_config, Core};
use crate::daemon::{read_answer, DaemonProcess};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_proto::cluster::{JobInfo, KvStep, LabelTerm, NodeInfo, NodeView};
use ray_proto::msg::{Boot, FromNode, NetworkBoot, ToNode};
use ray_proto::wire::PROTOCOL;
use ray_proto::{Blob, GroupId, Resources, Strategy, UNIT};
use ray_shm::link::Writer;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Longer than a daemon tries to join its cluster.
const UP_WITHIN_US: u64 = 30_000_000;
/// A daemon that has not greeted by then is stopped or stuck.
const HEARD_WITHIN_US: u64 = 2_000_000;

pub(crate) fn as_f64(amounts: &Resources) -> HashMap<String, f64> {
    amounts.0.iter().map(|(name, amount)| (name.clone(), *amount as f64 / UNIT as f64)).collect()
}

/// Where a call or an actor may go, as Python says it: ("default",), ("spread",), ("node", id, soft), ("labels", any) or
/// ("group", id, bundle, capture).
pub(crate) struct Where(pub Strategy);

pub(crate) type Terms = Vec<(String, Vec<String>, bool)>;

pub(crate) fn terms_of(terms: Terms) -> Vec<LabelTerm> {
    terms.into_iter().map(|(key, values, absent)| LabelTerm { key, values, absent }).collect()
}

impl FromPyObject<'_, '_> for Where {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let parts = value.cast::<PyTuple>()?;
        let kind: String = parts.get_item(0)?.extract()?;
        Ok(Where(match kind.as_str() {
            "default" => Strategy::DEFAULT,
            "spread" => Strategy::Spread {},
            "node" => Strategy::Node { node_id: parts.get_item(1)?.extract::<Vec<u8>>()?.into(), soft: parts.get_item(2)?.extract()? },
            "labels" => Strategy::Labels { any: parts.get_item(1)?.extract::<Vec<Terms>>()?.into_iter().map(terms_of).collect() },
            "group" => Strategy::Group {
                group: GroupId::from_bytes(&parts.get_item(1)?.extract::<[u8; 18]>()?),
                bundle: parts.get_item(2)?.extract()?,
                capture: parts.get_item(3)?.extract()?,
            },
            other => return Err(PyValueError::new_err(format!("{other:?} is no scheduling strategy"))),
        }))
    }
}

/// Start a daemon that outlives its caller, in a session of its own. Returns when the node is a part of its cluster.
#[pyfunction]
pub(crate) fn start_node<'py>(py: Python<'py>, config: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    let python: OsString = get_config(config, "python")?;
    let native_path: OsString = get_config(config, "native_path")?;
    let resources: HashMap<String, f64> = get_config(config, "resources")?;
    let log: PathBuf = get_config(config, "log")?;
    let node_id: Vec<u8> = py.import("os")?.call_method1("urandom", (28,))?.extract()?;
    let network = NetworkBoot {
        ip: get_config(config, "ip")?,
        port: get_config(config, "port")?,
        head: get_config(config, "head")?,
        token: get_config::<Vec<u8>>(config, "token")?.into(),
        cluster: get_config::<Vec<u8>>(config, "cluster")?.into(),
        host: get_config(config, "host")?,
        python: get_config(config, "python_version")?,
        release: get_config(config, "release")?,
    };
    let boot = Boot {
        node_id: node_id.clone().into(),
        total: Resources::from_f64(resources.iter().map(|(name, amount)| (name.as_str(), *amount))),
        store_bytes: get_config(config, "object_store_memory")?,
        python: python.as_bytes().into(),
        template_config: crate::core::template_config(config)?,
        settings: get_config(config, "settings")?,
        job_env: String::new(),
        max_links: 0,
        door: get_config(config, "door")?,
        labels: get_config(config, "labels")?,
        namespace: String::new(),
        network: Some(network),
    };
    let started = py.detach(|| -> Result<_, String> {
        let (mut daemon, link) = DaemonProcess::start_standing(&python, &native_path, &log)?;
        let link = Arc::new(link);
        let mut writer = Writer::new(link.clone());
        writer.queue(&ToNode::Boot { boot: Box::new(boot) });
        writer.flush();
        match read_answer(&link, UP_WITHIN_US) {
            Ok((_, FromNode::Up { info, cluster, head })) => Ok((daemon.pid(), info, cluster, head)),
            answer => {
                daemon.reap(0);
                Err(match answer {
                    Ok((_, FromNode::Down { reason })) => reason,
                    Ok(_) => "the daemon answered with something else than what it was asked".into(),
                    Err(why) => format!("{why}; what it said is in {}", log.display()),
                })
            }
        }
    });
    let (pid, info, cluster, head) = started.map_err(PyRuntimeError::new_err)?;
    let out = PyDict::new(py);
    out.set_item("pid", pid)?;
    out.set_item("node_id", PyBytes::new(py, &info.node_id))?;
    out.set_item("index", info.index.0)?;
    out.set_item("address", info.address)?;
    out.set_item("head", head)?;
    out.set_item("cluster", PyBytes::new(py, &cluster))?;
    Ok(out)
}

/// Ask a node, through its door, to end.
#[pyfunction]
pub(crate) fn stop_node(py: Python<'_>, door: &str, reason: String) -> PyResult<()> {
    let stopped = py.detach(|| -> Result<(), String> {
        let link = Arc::new(ray_shm::door::enter(door).map_err(|error| error.to_string())?);
        let mut writer = Writer::new(link.clone());
        writer.queue(&ToNode::Hello { protocol: PROTOCOL, pid: std::process::id(), max_links: 0 });
        writer.flush();
        read_answer(&link, HEARD_WITHIN_US)?;
        writer.queue(&ToNode::Stop { reason });
        writer.flush();
        Ok(())
    });
    stopped.map_err(|why| PyRuntimeError::new_err(format!("could not ask the node at {door} to stop: {why}")))
}

fn node_dict<'py>(py: Python<'py>, info: &NodeInfo, view: Option<&NodeView>) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("index", info.index.0)?;
    out.set_item("node_id", PyBytes::new(py, &info.node_id))?;
    out.set_item("address", &info.address)?;
    out.set_item("host", &info.host)?;
    out.set_item("pid", info.pid)?;
    out.set_item("total", as_f64(&info.total))?;
    out.set_item("available", view.map(|view| as_f64(&view.available)).unwrap_or_default())?;
    out.set_item("labels", &info.labels)?;
    out.set_item("python", &info.python)?;
    out.set_item("started_ms", info.started_ms)?;
    out.set_item("death", &info.death)?;
    out.set_item("waiting", view.map_or(0, |view| view.waiting))?;
    out.set_item("store_used", view.map_or(0, |view| view.store_used))?;
    Ok(out)
}

/// Every node that is or was, by index.
pub(crate) fn nodes<'py>(py: Python<'py>, core: &Core) -> PyResult<Vec<Bound<'py, PyDict>>> {
    core.library().return_idle();
    let FromNode::NodesAre { nodes, views, .. } = core.ask(py, |token| ToNode::NodesQuery { token })? else { return Ok(vec![]) };
    nodes.iter().map(|info| node_dict(py, info, views.iter().find(|view| view.index == info.index))).collect()
}

/// Every job that is or was.
pub(crate) fn jobs<'py>(py: Python<'py>, core: &Core) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let FromNode::JobsAre { jobs, .. } = core.ask(py, |token| ToNode::JobsQuery { token })? else { return Ok(vec![]) };
    let dict = |info: JobInfo| -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        out.set_item("job", info.job)?;
        out.set_item("driver_proc", info.driver.0)?;
        out.set_item("entrypoint", info.spec.entrypoint)?;
        out.set_item("namespace", info.spec.namespace)?;
        out.set_item("started_ms", info.started_ms)?;
        out.set_item("ended_ms", info.ended_ms)?;
        Ok(out)
    };
    jobs.into_iter().map(dict).collect()
}

/// What a step on the head's key-value pairs came to.
#[derive(Default)]
pub(crate) struct Kv {
    pub existed: bool,
    pub value: Option<Blob>,
    pub keys: Vec<Blob>,
    pub count: u64,
}

pub(crate) fn kv(py: Python<'_>, core: &Core, step: KvStep) -> PyResult<Kv> {
    Ok(match core.ask(py, |token| ToNode::Kv { token, step })? {
        FromNode::KvIs { existed, value, keys, count, .. } => Kv { existed, value, keys, count },
        _ => Kv::default(),
    })
}
