//! The library inside each driver and worker. It knows nothing of Python: values are bytes, and whoever blocks in it has let go of the GIL before.
//!
//! Locks: `Library::core` is the only one held while anything else is done; `Gate`s are opened after it is released.
//! Threads: any number of callers, a background thread, and one that moves objects to disk (spill.rs) once it is needed. The one that has the role of the
//! reader (role.rs) runs the engine (event_loop.rs).

mod cancel;
mod event_loop;
mod exec;
mod fork;
mod gate;
mod groups;
mod library;
mod records;
mod report;
mod reserved;
mod role;
mod room;
mod spill;
mod stations;
mod store;
mod streams;
mod waits;

pub use cancel::{Asked, Step};
pub use exec::{ActorWork, CallWork, Work, WorkTemplate};
pub use fork::Held;
pub use gate::{Gate, Woken};
pub use library::{Config, Failure, Library, LogRecord};
pub use ray_logic::exec::Permit;
pub use ray_logic::owner::Next;
pub use records::Marks;
pub use reserved::Reserved;
pub use spill::Storage;
pub use store::View;
pub use waits::{CompletionQueue, Ticket};
