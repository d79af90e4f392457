//! Ids, resources, values, messages and their codec: what every other crate speaks.
//! Pure: no clock, no I/O, no threads.

pub mod cluster;
pub mod devices;
pub mod groups;
pub mod ids;
pub mod msg;
pub mod report;
pub mod resources;
pub mod value;
pub mod wire;

pub use cluster::Strategy;
pub use ids::{hex, ActorId, ClassId, ExtentId, GroupId, LeaseId, NodeIndex, ObjectId, ProcId, TemplateId};
pub use resources::{Resources, UNIT};
pub use value::{Blob, Payload, ShmRange, Value};
