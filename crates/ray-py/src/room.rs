//! Back-pressure as a submitting thread feels it: a warning, then a wait that Ctrl-C ends, or an error where waiting would never end (docs/design/005).

use crate::values::Pickled;
use crate::{context, errors};
use pyo3::prelude::*;
use ray_logic::owner::Want;
use ray_proto::Value;
use ray_worker::{Failure, Library, Woken};
use std::sync::atomic::{AtomicU64, Ordering};

/// Between two looks at whether the wait still makes sense.
const LOOK_US: u64 = 1_000_000;
/// Between two warnings of a process.
const WARN_US: u64 = 60_000_000;
const HINT: &str = "hint: bound what is in flight: ray.wait(refs, num_returns=...) before you submit more; or pass large arguments once, with ray.put";

/// When this process last warned; 0: never.
static WARNED_AT: AtomicU64 = AtomicU64::new(0);

/// Called before a call is submitted while the process has too many that have not ended. Returns when there is room.
#[cold]
pub(crate) fn wait_for_room(py: Python<'_>, library: &Library, name: &str) -> PyResult<()> {
    if must_not_block(py, library)? {
        let text = format!(
            "{name}: {}. This thread runs the event loop of an actor, so it can't wait here.\nhint: await results before you submit more, for example under an asyncio.Semaphore, or raise ray.init(_system_config={{\"pending_calls_bytes\": ...}})",
            library.describe_backlog()
        );
        return Err(errors::with_code(py, "pending_calls", &text));
    }
    let mut patience = library.patience();
    loop {
        let Some(end) = wait(
            py,
            library,
            Want::Room,
            |library| library.room_is_hopeless(&mut patience),
            || format!("{}. Calling {name} waits until some of them have ended.\n{HINT}", library.describe_backlog()),
        )?
        else {
            return Ok(());
        };
        if end == End::Hopeless {
            let text = format!(
                "{name}: {}. None of them has ended for a while and none runs in a worker, so waiting would not help: they may wait for this very thread.\n{HINT}; or raise ray.init(_system_config={{\"pending_calls_bytes\": ...}})",
                library.describe_backlog()
            );
            return Err(errors::with_code(py, "pending_calls", &text));
        }
    }
}

/// Give a value its place. While the store is full, and calls that have not ended hold objects, wait for these: they free what they hold.
pub(crate) fn place(py: Python<'_>, library: &Library, pickled: &Pickled<'_>) -> PyResult<Value> {
    match pickled.try_place(py, library) {
        Err(Failure::StoreFull(_)) => place_when_there_is_room(py, library, pickled),
        placed => placed.map_err(|failure| errors::failure(py, failure)),
    }
}

#[cold]
fn place_when_there_is_room(py: Python<'_>, library: &Library, pickled: &Pickled<'_>) -> PyResult<Value> {
    let mut patience = library.patience();
    loop {
        let seen = library.standing().ended;
        let full = match pickled.try_place(py, library) {
            Err(Failure::StoreFull(text)) => text,
            placed => return placed.map_err(|failure| errors::failure(py, failure)),
        };
        let refused = || errors::failure(py, Failure::StoreFull(full.clone()));
        if library.store_is_hopeless(&mut patience) || must_not_block(py, library)? {
            return Err(refused());
        }
        let describe =
            || format!("{full}\n{} calls of this process that have not ended hold objects: waiting for them to end.\n{HINT}", library.standing().holding);
        if wait(py, library, Want::End { seen }, |library| library.store_is_hopeless(&mut patience), describe)? == Some(End::Hopeless) {
            return Err(refused());
        }
    }
}

#[derive(PartialEq)]
enum End {
    Woken,
    Hopeless,
}

/// Wait for `want` without the GIL; None: it was so already.
fn wait(py: Python<'_>, library: &Library, want: Want, mut is_hopeless: impl FnMut(&Library) -> bool, warning: impl Fn() -> String) -> PyResult<Option<End>> {
    let call = context::call_of_thread().filter(|_| library.slot().is_some());
    let failed = |failure| errors::failure(py, failure);
    let Some(ticket) = library.backlog_wait(want, call).map_err(failed)? else { return Ok(None) };
    let outcome = loop {
        if let Err(raised) = warn_now_and_then(py, &warning).and_then(|()| py.check_signals()) {
            break Err(raised);
        }
        match py.detach(|| library.wait_at(&ticket.gate, Some(LOOK_US))) {
            Woken::Open => break Ok(Some(End::Woken)),
            Woken::TimedOut if is_hopeless(library) => break Ok(Some(End::Hopeless)),
            Woken::TimedOut | Woken::Interrupted => {}
        }
    };
    library.wait_end(&ticket, &[]);
    library.check().map_err(failed)?;
    outcome
}

/// To the logger named "ray": the driver's terminal, or the output of the worker.
fn warn_now_and_then(py: Python<'_>, text: &impl Fn() -> String) -> PyResult<()> {
    let (now, before) = (ray_shm::now_us(), WARNED_AT.load(Ordering::Relaxed));
    if before != 0 && now < before + WARN_US {
        return Ok(());
    }
    WARNED_AT.store(now, Ordering::Relaxed);
    py.import("logging")?.call_method1("getLogger", ("ray",))?.call_method1("warning", ("%s", text()))?;
    Ok(())
}

/// The event loop of an async actor stands for all its calls: those that would make room may wait for it.
fn must_not_block(py: Python<'_>, library: &Library) -> PyResult<bool> {
    if library.slot().is_none() {
        return Ok(false);
    }
    Ok(!py.import("asyncio")?.call_method0("_get_running_loop")?.is_none())
}
