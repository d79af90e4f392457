//! The thread's loop: orders, sockets, time.

use super::puller::Puller;
use super::server::{Pumped, Server};
use super::stream::prepare;
use super::{Order, SharedFiles};
use ray_shm::poll::{Poll, Ready, Waker};
use ray_shm::signals;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::sync::Arc;

/// Of the waker; connections are numbered from 1.
const WAKER: u64 = 0;

pub(super) struct Worker {
    poll: Poll,
    orders: Receiver<Order>,
    waker: Arc<Waker>,
    files: SharedFiles,
    servers: BTreeMap<u64, Server>,
    puller: Puller,
    last_token: u64,
}

impl Worker {
    pub(super) fn new(orders: Receiver<Order>, waker: Arc<Waker>, files: SharedFiles, puller: Puller) -> Result<Self, Errno> {
        let poll = Poll::new()?;
        poll.add(waker.fd(), WAKER)?;
        Ok(Worker { poll, orders, waker, files, servers: BTreeMap::new(), puller, last_token: WAKER })
    }

    pub(super) fn run(mut self) {
        // SIGPIPE too: sendfile has no flag against it, and a client may go away at any time.
        signals::block_all();
        let mut ready = Vec::with_capacity(64);
        let mut timeout = None;
        loop {
            if self.poll.wait(timeout, &mut ready).is_err() {
                // An epoll set of our own fails only when the process is being torn down.
                return;
            }
            let now = ray_shm::now_us();
            for event in std::mem::take(&mut ready) {
                if event.token != WAKER {
                    self.handle(now, event);
                } else if !self.take_orders(now) {
                    return;
                }
            }
            let now = ray_shm::now_us();
            let due = [self.puller.tick(now, &self.poll), self.close_idle(now)];
            timeout = due.into_iter().flatten().min().map(|at| at.saturating_sub(now).max(1));
        }
    }

    /// False: it is over.
    fn take_orders(&mut self, now: u64) -> bool {
        self.waker.clear();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Serve(stream) => self.serve(now, stream),
                Order::Pull(pull) => {
                    let token = self.next_token();
                    self.puller.pull(now, token, pull);
                }
                Order::Cancel(ticket) => self.puller.cancel(ticket),
                Order::Connected { link, result } => self.puller.connected(now, &self.poll, link, result),
                Order::End => return false,
            }
        }
        true
    }

    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    fn serve(&mut self, now: u64, stream: OwnedFd) {
        let token = self.next_token();
        // A connection that can't be watched is closed: the other side tries again.
        if prepare(&stream).and_then(|()| self.poll.add(stream.as_fd(), token)).is_ok() {
            self.servers.insert(token, Server::new(stream, self.files.clone(), now));
        }
    }

    fn handle(&mut self, now: u64, event: Ready) {
        if self.puller.has_link(event.token) {
            return self.puller.read(now, &self.poll, event.token);
        }
        let Some(server) = self.servers.get_mut(&event.token) else { return };
        let open = !event.readable || server.read(now);
        let pumped = if open { server.pump(now) } else { Pumped::Closed };
        if pumped == Pumped::Closed {
            return self.close(event.token);
        }
        let watch = pumped == Pumped::More;
        if std::mem::replace(&mut server.watching_writes, watch) != watch && self.poll.watch_writes(server.stream.as_fd(), event.token, watch).is_err() {
            self.close(event.token);
        }
    }

    fn close(&mut self, token: u64) {
        if let Some(server) = self.servers.remove(&token) {
            self.poll.remove(server.stream.as_fd());
        }
    }

    fn close_idle(&mut self, now: u64) -> Option<u64> {
        let late: Vec<u64> = self.servers.iter().filter(|(_, server)| now >= server.due()).map(|(token, _)| *token).collect();
        late.into_iter().for_each(|token| self.close(token));
        self.servers.values().map(Server::due).min()
    }
}
