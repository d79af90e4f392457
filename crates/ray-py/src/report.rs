//! Questions about what waits for what, for Python: facts become dicts whose "fact" says which they are (ray._core.why reads them).

use crate::core::Core;
use crate::{errors, values};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use ray_proto::report::{CallRecord, Fact, RecordKind, Subject};
use ray_proto::{ClassId, GroupId, NodeIndex, ObjectId, ProcId, Resources, Value};

/// `("object", id)`, `("actor", id)`, `("process", number)`, `("class", owner, number)`, `("everything",)` or `("records", node, slot)`.
fn subject_of(subject: &Bound<'_, PyTuple>) -> PyResult<Subject> {
    let kind: String = subject.get_item(0)?.extract()?;
    let number = |at: usize| -> PyResult<u64> { subject.get_item(at)?.extract() };
    let id = || -> PyResult<ObjectId> {
        let bytes: [u8; 28] = subject.get_item(1)?.extract()?;
        Ok(ObjectId::from_bytes(&bytes))
    };
    Ok(match kind.as_str() {
        "object" => Subject::Object { id: id()? },
        "actor" => Subject::Actor { actor: id()? },
        "process" => Subject::Process { proc_id: ProcId(number(1)?) },
        "class" => Subject::Class { owner: ProcId(number(1)?), class: ClassId(number(2)? as u32) },
        "everything" => Subject::Everything {},
        "group" => Subject::Group { group: GroupId::from_bytes(&subject.get_item(1)?.extract::<[u8; 18]>()?) },
        "records" => Subject::Records { node: NodeIndex(number(1)? as u16), slot: number(2)? as u32 },
        other => return Err(PyValueError::new_err(format!("no questions are asked about {other:?}"))),
    })
}

/// Ask `whom` (a process number, 0 for the node). None: no answer in a second.
#[pyfunction]
pub(crate) fn ask_about<'py>(py: Python<'py>, core: &Core, whom: u64, subject: &Bound<'py, PyTuple>) -> PyResult<Option<Vec<Bound<'py, PyDict>>>> {
    let (library, subject) = (core.library(), subject_of(subject)?);
    let facts = py.detach(|| library.ask_about(ProcId(whom), subject)).map_err(|failure| errors::failure(py, failure))?;
    facts.map(|facts| facts.into_iter().map(|fact| to_dict(py, fact)).collect()).transpose()
}

/// A dict in the making.
struct Entry<'py>(Bound<'py, PyDict>);

impl<'py> Entry<'py> {
    fn new(py: Python<'py>, fact: &str) -> PyResult<Self> {
        Entry(PyDict::new(py)).with("fact", fact)
    }

    fn with(self, key: &str, value: impl IntoPyObject<'py>) -> PyResult<Self> {
        self.0.set_item(key, value)?;
        Ok(self)
    }

    fn ids(self, key: &str, ids: &[ObjectId]) -> PyResult<Self> {
        let ids: Vec<_> = ids.iter().map(|id| PyBytes::new(self.0.py(), &id.bytes())).collect();
        self.with(key, ids)
    }

    fn id(self, key: &str, id: ObjectId) -> PyResult<Self> {
        let bytes = PyBytes::new(self.0.py(), &id.bytes());
        self.with(key, bytes)
    }

    fn amounts(self, key: &str, amounts: &Resources) -> PyResult<Self> {
        self.with(key, amounts.to_string())
    }

    /// The exception of an error value; None without one, or for one that is too large to be inline.
    fn error(self, key: &str, value: Option<Value>) -> PyResult<Self> {
        let py = self.0.py();
        let exception = match value {
            Some(Value::Inline(bytes)) => Some(values::decode_error(py, &bytes)?.into_value(py)),
            _ => None,
        };
        self.with(key, exception)
    }
}

fn to_dict<'py>(py: Python<'py>, fact: Fact) -> PyResult<Bound<'py, PyDict>> {
    let entry = |name: &str| Entry::new(py, name);
    let built = match fact {
        Fact::Unknown {} => entry("unknown")?,
        Fact::Ready { error } => entry("ready")?.with("is_error", error.is_some())?.error("error", error)?,
        Fact::Stored { bytes, node, on_disk } => entry("stored")?.with("bytes", bytes)?.with("node", node.map(|node| node.0))?.with("on_disk", on_disk)?,
        Fact::Borrowed { owner } => entry("borrowed")?.with("owner", owner.0)?,
        Fact::Handle { actor } => entry("handle")?.id("actor", actor)?,
        Fact::Call { task, name, attempt, retries_left, age_us } => {
            entry("call")?.with("task", task)?.with("name", name)?.with("attempt", attempt)?.with("retries_left", retries_left)?.with("age_us", age_us)?
        }
        Fact::NeedsArguments { missing } => entry("needs_arguments")?.ids("missing", &missing)?,
        Fact::NeedsWorker { class, ahead, workers } => {
            let workers: Vec<u64> = workers.into_iter().map(|worker| worker.0).collect();
            entry("needs_worker")?.with("class", class.0)?.with("ahead", ahead)?.with("workers", workers)?
        }
        Fact::AtWorker { worker, pid, ahead } => entry("at_worker")?.with("worker", worker.0)?.with("pid", pid)?.with("ahead", ahead)?,
        Fact::AtActor { actor, at, sent, ahead } => {
            entry("at_actor")?.id("actor", actor)?.with("at", at.map(|at| at.0))?.with("sent", sent)?.with("ahead", ahead)?
        }
        Fact::CancelAsked { by, force, age_us } => entry("cancel_asked")?.with("by", by)?.with("force", force)?.with("age_us", age_us)?,
        Fact::Runs { caller, task, name, age_us } => entry("runs")?.with("caller", caller.0)?.with("task", task)?.with("name", name)?.with("age_us", age_us)?,
        Fact::Waits { ids, missing, age_us, blocks, call } => entry("waits")?
            .ids("ids", &ids)?
            .with("missing", missing)?
            .with("age_us", age_us)?
            .with("blocks", blocks)?
            .with("call", call.map(|(caller, task)| (caller.0, task)))?,
        Fact::AwaitsGroup { group } => entry("awaits_group")?.with("group", PyBytes::new(py, &group.bytes()))?,
        Fact::InGroup { group, bundle } => entry("in_group")?.with("group", PyBytes::new(py, &group.bytes()))?.with("bundle", bundle)?,
        Fact::Group { info } => entry("group")?.with("info", crate::groups::to_dict(py, &info)?)?,
        Fact::Queued { calls } => entry("queued")?.with("calls", calls)?,
        Fact::Wants { shape, infeasible } => entry("wants")?.amounts("shape", &shape)?.with("infeasible", infeasible)?,
        fact => return node_fact(py, fact),
    };
    Ok(built.0)
}

fn node_fact(py: Python<'_>, fact: Fact) -> PyResult<Bound<'_, PyDict>> {
    let entry = |name: &str| Entry::new(py, name);
    let built = match fact {
        Fact::Process { proc_id, pid, role, held, blocked, stopped } => entry("process")?
            .with("proc", proc_id.0)?
            .with("pid", pid)?
            .with("role", role)?
            .amounts("held", &held)?
            .with("blocked", blocked)?
            .with("stopped", stopped)?,
        Fact::Died { proc_id, how } => entry("died")?.with("proc", proc_id.0)?.with("how", how)?,
        Fact::Actor { class_name, life, process, held, to_place, deaths, cause } => entry("actor")?
            .with("class_name", class_name)?
            .with("life", life)?
            .with("process", process.map(|id| id.0))?
            .amounts("held", &held)?
            .amounts("to_place", &to_place)?
            .with("deaths", deaths)?
            .error("cause", cause)?,
        Fact::Room { fits, total, available, idle_workers, starting_workers, trouble } => entry("room")?
            .with("fits", fits)?
            .amounts("total", &total)?
            .amounts("available", &available)?
            .with("idle_workers", idle_workers)?
            .with("starting_workers", starting_workers)?
            .with("trouble", trouble)?,
        Fact::Records { records, next, epoch_offset_us } => {
            let records = records.iter().map(|record| record_dict(py, record)).collect::<PyResult<Vec<_>>>()?;
            entry("records")?.with("records", records)?.with("next", next)?.with("epoch_offset_us", epoch_offset_us)?
        }
        _ => entry("unknown")?,
    };
    Ok(built.0)
}

fn record_dict<'py>(py: Python<'py>, record: &CallRecord) -> PyResult<Bound<'py, PyDict>> {
    let task_id = PyBytes::new(py, &ObjectId::new(record.caller, record.task, 0).task_bytes());
    let (kind, times, failed) = match record.kind {
        RecordKind::Sent { submitted, sent } => ("sent", vec![submitted, sent], false),
        RecordKind::Ran { began, had_args, had_result, ended, failed, construction } => {
            (if construction { "constructed" } else { "ran" }, vec![began, had_args, had_result, ended], failed)
        }
    };
    let entry = Entry::new(py, kind)?.with("task_id", task_id)?.with("by", record.by.0)?.with("pid", record.pid)?.with("thread", record.thread)?;
    let entry = entry.with("caller", record.caller.0)?.with("attempt", record.attempt)?.with("name", &record.name)?;
    Ok(entry.with("times", times)?.with("failed", failed)?.0)
}
