//! Placement groups, for Python.

use crate::cluster::{as_f64, terms_of, Terms};
use crate::core::Core;
use crate::waits::wait_at;
use crate::{context, errors};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use ray_proto::groups::{GroupInfo, GroupLife, GroupSpec, Packing};
use ray_proto::msg::{FromNode, ToNode};
use ray_proto::{GroupId, Resources};
use ray_worker::Library;
use std::collections::HashMap;

/// A description without a name.
pub(crate) fn spec_of(
    bundles: &[HashMap<String, f64>],
    selectors: Vec<Terms>,
    strategy: &str,
    domain: String,
    detached: bool,
    soft_node: &[u8],
) -> PyResult<GroupSpec> {
    let packing = Packing::from_name(strategy).ok_or_else(|| PyValueError::new_err(format!("{strategy:?} is no strategy of placement groups")))?;
    let shape = |bundle: &HashMap<String, f64>| Resources::from_f64(bundle.iter().map(|(name, amount)| (name.as_str(), *amount)));
    Ok(GroupSpec {
        bundles: bundles.iter().map(shape).collect(),
        selectors: selectors.into_iter().map(terms_of).collect(),
        packing,
        domain,
        name: String::new(),
        namespace: String::new(),
        detached,
        soft_node: soft_node.into(),
        creator: context::actor().map(|actor| actor.id),
    })
}

/// None: the name is taken.
pub(crate) fn create(py: Python<'_>, core: &Core, spec: GroupSpec) -> PyResult<Option<GroupId>> {
    let library = core.library();
    if spec.name.is_empty() {
        return Ok(Some(library.create_group(Box::new(spec))));
    }
    let group = library.new_group_id();
    let (token, gate) = library.create_named_group(group, Box::new(spec)).map_err(|failure| core.failure(py, failure))?;
    wait_at(py, library, &gate)?;
    let (answer, _) = library.answer(token).map_err(|failure| core.failure(py, failure))?;
    if matches!(answer, FromNode::GroupTaken { existing: Some(_), .. }) {
        library.forget_group(group);
        return Ok(None);
    }
    Ok(Some(group))
}

pub(crate) fn find<'py>(py: Python<'py>, core: &Core, group: Option<GroupId>, name: Option<(String, String)>) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let FromNode::GroupsAre { groups, .. } = core.ask(py, |token| ToNode::GroupsQuery { token, group, name })? else { return Ok(vec![]) };
    groups.iter().map(|info| to_dict(py, info)).collect()
}

/// Something that follows its caller into a group must fit into one of its bundles.
pub(crate) fn check_fits(py: Python<'_>, library: &Library, group: GroupId, shapes: &[&Resources], name: &str) -> PyResult<()> {
    let failed = |failure| errors::failure(py, failure);
    let (token, gate) = library.ask(|token| ToNode::GroupsQuery { token, group: Some(group), name: None }).map_err(failed)?;
    wait_at(py, library, &gate)?;
    let (FromNode::GroupsAre { groups, .. }, _) = library.answer(token).map_err(failed)? else { return Ok(()) };
    let Some(info) = groups.into_iter().next() else { return Ok(()) };
    let bundles = &info.spec.bundles;
    match shapes.iter().find(|shape| !bundles.iter().any(|bundle| shape.fits_in(bundle))) {
        Some(shape) => {
            let bundles = bundles.iter().map(|bundle| format!("{{{bundle}}}")).collect::<Vec<_>>().join(", ");
            let text = format!("{name} can't run in its caller's placement group: its request for {{{shape}}} does not fit into any bundle of {bundles}\nhint: placement_group=None starts it outside of the group");
            Err(PyValueError::new_err(text))
        }
        None => Ok(()),
    }
}

/// The fields that ray._native.pyi promises.
pub(crate) fn to_dict<'py>(py: Python<'py>, info: &GroupInfo) -> PyResult<Bound<'py, PyDict>> {
    let spec = &info.spec;
    let dict = PyDict::new(py);
    dict.set_item("id", PyBytes::new(py, &info.group.bytes()))?;
    dict.set_item("name", &spec.name)?;
    dict.set_item("namespace", &spec.namespace)?;
    dict.set_item("strategy", spec.packing.name())?;
    dict.set_item("state", info.life.name())?;
    dict.set_item("detached", spec.detached)?;
    dict.set_item("bundles", spec.bundles.iter().map(as_f64).collect::<Vec<_>>())?;
    dict.set_item("nodes", info.nodes.iter().map(|node| node.map(|node| node.0)).collect::<Vec<_>>())?;
    let text = if let GroupLife::Removed { text } = &info.life { text } else { &info.why };
    dict.set_item("why", text)?;
    dict.set_item("infeasible", info.infeasible)?;
    dict.set_item("latency_us", info.latency_us)?;
    dict.set_item("attempts", info.attempts)?;
    Ok(dict)
}
