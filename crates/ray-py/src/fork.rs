//! Handlers around a user's fork. They run inside of the C library's `fork`: no Python code, and no change of the GIL's owner, comes between them,
//! so that the order of locks (GIL, then the core) holds.

use crate::core::CURRENT;
use ray_worker::{Held, Library};
use std::cell::RefCell;
use std::sync::{Arc, Once, PoisonError, RwLockReadGuard};

/// What the forking thread holds over the fork. Fields are dropped in this order: the locks go before what they stand in.
struct HeldOver {
    held: Held<'static>,
    library: Arc<Library>,
    _current: RwLockReadGuard<'static, Option<Arc<Library>>>,
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
    let Some(library) = current.clone() else { return };
    // SAFETY: the library lives as long as `HeldOver` keeps its Arc, whose field is dropped after that of the locks.
    let pinned: &'static Library = unsafe { &*Arc::as_ptr(&library) };
    let held = pinned.hold();
    HELD_OVER.set(Some(HeldOver { held, library, _current: current }));
}

extern "C" fn in_parent() {
    HELD_OVER.take();
}

extern "C" fn in_child() {
    let Some(HeldOver { held, library, _current: current }) = HELD_OVER.take() else { return };
    held.part_from_parent();
    drop(current);
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = None;
    // Kept for ever: what it owns belongs to threads that exist in the parent only.
    std::mem::forget(library);
}
