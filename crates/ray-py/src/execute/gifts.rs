//! What a detached actor was given for its constructor: the objects behind the references in the arguments become its process's own, so that they outlive who
//! created it (docs/design/014).

use crate::values;
use pyo3::prelude::*;
use ray_proto::ids::rename_in;
use ray_proto::msg::{ActorSpec, Args};
use ray_proto::{ObjectId, Payload, Value};
use ray_worker::Library;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Arguments that mention objects of this process in the place of others. The objects stay until this is dropped, and as long as somebody refers to them.
pub(crate) struct Gifts {
    pub args: Args,
    library: Arc<Library>,
    own: Vec<ObjectId>,
}

impl Drop for Gifts {
    fn drop(&mut self) {
        self.own.iter().for_each(|id| self.library.drop_ref(*id));
    }
}

impl Gifts {
    pub(crate) fn take_over(py: Python<'_>, library: &Arc<Library>, spec: &ActorSpec) -> PyResult<Self> {
        let mut found = Vec::with_capacity(spec.given.len());
        for (id, payload) in &spec.given {
            // What is gone keeps its name: reading it says who has died.
            if let Some(bytes) = values::bytes_of(py, library, *id, &payload.value)? {
                found.push((*id, bytes, &payload.refs));
            }
        }
        let own = library.new_put_ids(found.len());
        let names: BTreeMap<ObjectId, ObjectId> = found.iter().map(|(id, ..)| *id).zip(own.iter().copied()).collect();
        let mut puts = Vec::with_capacity(found.len());
        for ((_, mut bytes, refs), id) in found.into_iter().zip(&own) {
            rename_in(&mut bytes, &names);
            puts.push((*id, Payload { value: values::place_bytes(py, library, bytes)?, refs: renamed(refs, &names) }));
        }
        library.put_all(puts);
        let args = Args {
            body: rename(py, library, spec.args.body_id, &spec.args.body, &spec.args.nested, &names)?,
            body_id: spec.args.body_id,
            deps: spec.args.deps.iter().map(|(id, payload)| Ok((*id, rename_dep(py, library, *id, payload, &names)?))).collect::<PyResult<_>>()?,
            nested: renamed(&spec.args.nested, &names),
        };
        Ok(Gifts { args, library: library.clone(), own })
    }
}

fn renamed(ids: &[ObjectId], names: &BTreeMap<ObjectId, ObjectId>) -> Vec<ObjectId> {
    ids.iter().map(|id| names.get(id).copied().unwrap_or(*id)).collect()
}

fn rename_dep(py: Python<'_>, library: &Arc<Library>, id: ObjectId, payload: &Payload, names: &BTreeMap<ObjectId, ObjectId>) -> PyResult<Payload> {
    Ok(Payload { value: rename(py, library, id, &payload.value, &payload.refs, names)?, refs: renamed(&payload.refs, names) })
}

/// A value that mentions `refs`, with their new names, in memory of this process.
fn rename(py: Python<'_>, library: &Arc<Library>, id: ObjectId, value: &Value, refs: &[ObjectId], names: &BTreeMap<ObjectId, ObjectId>) -> PyResult<Value> {
    if !refs.iter().any(|id| names.contains_key(id)) {
        return Ok(value.clone());
    }
    let Some(mut bytes) = values::bytes_of(py, library, id, value)? else { return Ok(value.clone()) };
    rename_in(&mut bytes, names);
    Ok(Value::inline(bytes))
}
