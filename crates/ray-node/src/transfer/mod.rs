//! Bytes of objects between nodes: one thread that serves ranges of this node's extents and pulls ranges of others', over authenticated TCP connections of
//! their own. It decides nothing: who pulls what, and into which memory, is said by the node.
//!
//! On a connection the client sends requests of 24 bytes, `extent, offset, len` as little-endian u64, without waiting for answers; the server answers each in
//! turn with a byte (0: ok, 1: gone) and, if ok, exactly `len` bytes.
//!
//! `worker` the thread; `server` one connection that is served; `link` one connection that is pulled over; `puller` pulls, spread over
//! links; `sink` the way of bytes into a file; `stream` what is set on a socket.
//!
//! Invariants
//! 1. Only the thread writes to a destination, and never after it has given the pull's `Done` out. So no byte is written once that was taken.
//! 2. Each pull ends in exactly one `Done`, cancelled ones too.
//! 3. A byte that was received is never asked for again.
//! 4. Nobody waits for a peer: sockets don't block, and connections are made by threads of their own.
//! 5. A server sends what lies within a known extent and nothing else, whatever it is asked.

mod link;
mod puller;
mod server;
mod sink;
mod stream;
#[cfg(test)]
mod tests;
mod worker;

pub use crate::extent_files::SharedFiles;

use ray_proto::ShmRange;
use ray_shm::host::{explain, explain_io};
use ray_shm::poll::Waker;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

const OK: u8 = 0;
const GONE: u8 = 1;
const REQUEST: usize = 24;
/// Asked for at once. Fairness between pulls is by the chunk.
const CHUNK: u64 = 4 << 20;

/// Without a byte for this long, what is pulled over a connection fails.
const STALL_US: u64 = 10_000_000;

/// Make an authenticated bulk connection to an address. It may block, and is called by several threads at once.
pub type Connector = Box<dyn Fn(&str) -> Result<OwnedFd, ConnectError> + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens there. Tried again.
    Refused(String),
    /// No way to it, or no answer. Tried again.
    Unreachable(String),
    /// It is not one of ours, or of another protocol: trying again helps nobody.
    Rejected(String),
}

/// Bring `source`, a range of an extent at `address`, to the first bytes of `into`.
#[derive(Debug)]
pub struct Pull {
    /// The caller's name for it, given back in its `Done`.
    pub ticket: u64,
    pub address: String,
    pub source: ShmRange,
    /// A file of at least the size of the range, whether its pages are there or not.
    pub into: OwnedFd,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub ticket: u64,
    pub result: Result<(), PullError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullError {
    /// The other node says that it has no such range.
    Gone(String),
    /// No byte came for 10 s, or the address is not a node of this cluster.
    Unreachable(String),
    /// The destination is too small or can't be written.
    Destination(String),
    Cancelled,
}

enum Order {
    Serve(OwnedFd),
    Pull(Pull),
    Cancel(u64),
    Connected { link: u64, result: Result<OwnedFd, ConnectError> },
    End,
}

/// What may be said to the thread, from any other.
#[derive(Clone)]
struct Orders {
    sender: Sender<Order>,
    waker: Arc<Waker>,
}

impl Orders {
    fn give(&self, order: Order) {
        // It only fails when the thread has ended, with everything that waited in it.
        if self.sender.send(order).is_ok() {
            self.waker.wake();
        }
    }
}

struct DoneList {
    list: Mutex<Vec<Done>>,
    waker: Waker,
}

impl DoneList {
    fn push(&self, ticket: u64, result: Result<(), PullError>) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(Done { ticket, result });
        self.waker.wake();
    }
}

/// The thread, which ends with this value. Pulls that are not done by then have no `Done`.
pub struct Transfers {
    orders: Orders,
    done: Arc<DoneList>,
    thread: Option<JoinHandle<()>>,
}

impl Transfers {
    /// `files`: what may be served.
    pub fn start(files: SharedFiles, connect: Connector) -> Result<Transfers, String> {
        Self::start_with(files, connect, STALL_US)
    }

    fn start_with(files: SharedFiles, connect: Connector, stall_us: u64) -> Result<Transfers, String> {
        let failed = |error| explain("the transfer thread has no eventfd or epoll set", error);
        let (sender, receiver) = channel();
        let orders = Orders { sender, waker: Arc::new(Waker::new().map_err(failed)?) };
        let done = Arc::new(DoneList { list: Mutex::default(), waker: Waker::new().map_err(failed)? });
        let puller = puller::Puller::new(connect, orders.clone(), done.clone(), stall_us);
        let worker = worker::Worker::new(receiver, orders.waker.clone(), files, puller).map_err(failed)?;
        let thread = Builder::new().name("ray-transfer".into()).spawn(move || worker.run());
        let thread = thread.map_err(|error| explain_io("the transfer thread could not be started", &error))?;
        Ok(Transfers { orders, done, thread: Some(thread) })
    }

    /// Answer the requests of an authenticated connection until its peer closes it.
    pub fn serve(&self, stream: OwnedFd) {
        self.orders.give(Order::Serve(stream));
    }

    /// A ticket must not be that of a pull that has no `Done` yet.
    pub fn pull(&self, pull: Pull) {
        self.orders.give(Order::Pull(pull));
    }

    /// End a pull soon. Bytes may still be written until its `Done` is taken: `Cancelled`, or what it came to just before. Unknown tickets are ignored.
    pub fn cancel(&self, ticket: u64) {
        self.orders.give(Order::Cancel(ticket));
    }

    /// What has ended since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        // Cleared first: what is pushed after the list was taken wakes again.
        self.done.waker.clear();
        std::mem::take(&mut *self.done.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable when `take_done` has something to give.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.done.waker.fd()
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.orders.give(Order::End);
        if let Some(thread) = self.thread.take() {
            // It has panicked, which was printed: nothing of it is left to end.
            let _ = thread.join();
        }
    }
}
