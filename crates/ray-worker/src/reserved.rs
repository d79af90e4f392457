//! What the engine needs of the host, taken before the daemon hears of this process: one that has said hello can work.

use crate::library::Failure;
use ray_shm::host::{explain, explain_io};
use ray_shm::poll::{Poll, Timer, Waker};
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::Arc;

type Body = Box<dyn FnOnce() + Send>;

pub struct Reserved {
    pub(crate) poll: Poll,
    /// Sends the background thread to the reader's place.
    pub(crate) relief: Arc<Timer>,
    /// Output or dropped references wait: come soon.
    pub(crate) soon: Timer,
    /// Come now.
    pub(crate) now: Waker,
    pub(crate) thread: ReservedThread,
}

/// A thread that waits for what it is to run, and ends if that never comes.
pub(crate) struct ReservedThread(SyncSender<Body>);

impl Reserved {
    /// Err: the host gives no thread or no descriptors, and why.
    pub fn take() -> Result<Self, Failure> {
        let no_fd = |error| Failure::System(explain("the engine could not be set up", error));
        Ok(Reserved {
            poll: Poll::new().map_err(no_fd)?,
            relief: Arc::new(Timer::blocking().map_err(no_fd)?),
            soon: Timer::new().map_err(no_fd)?,
            now: Waker::new().map_err(no_fd)?,
            thread: ReservedThread::start().map_err(|error| Failure::System(explain_io("the engine could not start its thread", &error)))?,
        })
    }
}

impl ReservedThread {
    fn start() -> Result<Self, std::io::Error> {
        let (sender, receiver) = sync_channel::<Body>(1);
        let wait_and_run = move || {
            ray_shm::signals::block_all();
            if let Ok(body) = receiver.recv() {
                body();
            }
        };
        // The engine's stack holds no user data: a small one is enough.
        std::thread::Builder::new().name("ray-engine".into()).stack_size(256 * 1024).spawn(wait_and_run)?;
        Ok(ReservedThread(sender))
    }

    pub(crate) fn run(self, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
        self.0.send(Box::new(body)).map_err(|_| "the engine's thread ended before it began".to_owned())
    }
}
