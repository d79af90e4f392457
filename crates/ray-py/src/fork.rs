//! Handlers around a user's fork. They run inside of the C library's `fork`: no Python code, and no change of the GIL's owner, comes between them,
//! so that the order of locks (GIL, then the core) holds.

use crate::buffer::{live_pins, Pin};
use crate::core::CURRENT;
use crate::object_ref::Home;
use ray_worker::{Held, Library};
use rustix::pipe::{pipe_with, PipeFlags};
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Once, PoisonError, RwLockReadGuard};

/// What the forking thread holds over the fork. Fields are dropped in this order: the locks go before what they stand in.
struct HeldOver {
    held: Held<'static>,
    library: Arc<Library>,
    views: Option<Views>,
    _current: RwLockReadGuard<'static, Option<Home>>,
}

/// The child copies the parent's views of shared memory. The parent keeps what they show until nobody holds the other end of a pipe that only the child,
/// and what it forks in turn, holds.
struct Views {
    pins: Vec<Arc<Pin>>,
    watched: OwnedFd,
    inherited: OwnedFd,
}

impl Views {
    fn take() -> Option<Views> {
        let pins = live_pins();
        if pins.is_empty() {
            return None;
        }
        match pipe_with(PipeFlags::CLOEXEC) {
            Ok((watched, inherited)) => Some(Views { pins, watched, inherited }),
            Err(_) => {
                // No descriptor is left: memory that is never used again is better than bytes that change under a reader.
                std::mem::forget(pins);
                None
            }
        }
    }
}

thread_local! {
    static HELD_OVER: RefCell<Option<HeldOver>> = const { RefCell::new(None) };
}

/// Called with each start of a library; the handlers are installed once per process and inherited by its children.
pub(crate) fn watch_forks() -> Result<(), String> {
    static INSTALLED: Once = Once::new();
    let mut outcome = Ok(());
    INSTALLED.call_once(|| outcome = ray_shm::fork::at_fork(before, in_parent, in_child).map_err(|error| format!("no handlers for forks: {error}")));
    outcome
}

extern "C" fn before() {
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
    // Local mode has neither threads nor memory that a fork could tear apart.
    let Some(Home::Engine(library)) = current.clone() else { return };
    // SAFETY: the library lives as long as `HeldOver` keeps its Arc, whose field is dropped after that of the locks.
    let pinned: &'static Library = unsafe { &*Arc::as_ptr(&library) };
    let held = pinned.hold();
    HELD_OVER.set(Some(HeldOver { held, library, views: Views::take(), _current: current }));
}

extern "C" fn in_parent() {
    let Some(HeldOver { held, library, views, _current: current }) = HELD_OVER.take() else { return };
    drop(held);
    drop(current);
    if let Some(Views { pins, watched, inherited }) = views {
        drop(inherited);
        library.keep_until_closed(watched, Box::new(pins));
    }
}

extern "C" fn in_child() {
    let Some(HeldOver { held, library, views, _current: current }) = HELD_OVER.take() else { return };
    held.part_from_parent();
    drop(current);
    // Open as long as this process lives.
    std::mem::forget(views.map(|views| views.inherited));
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = None;
    // Kept for ever: what it owns belongs to threads that exist in the parent only.
    std::mem::forget(library);
}
