//! The sending half of a session: one stream of frames to one node, over as many connections as it takes.
//!
//! Invariants
//! 1. A byte stays in the backlog until the receiver says that it has handled it. A new connection goes on where the receiver says.
//! 2. `base <= written <= end` in the backlog's positions. A receiver that names another position is not the one that was spoken to: the session is over.
//! 3. No connection is made before there is something to say; from then on there is one, or an attempt at one.

use super::backlog::Backlog;
use super::handshake::{nonce, Connector, Failure, Kind};
use super::line::{Line, Outbox};
use super::{Identity, NetEvent};
use ray_proto::cluster::NodeMessage;
use ray_proto::NodeIndex;
use ray_shm::poll::{Poll, Ready};
use ray_shm::tcp::{self, Health};
use rustix::io::Errno;
use std::net::SocketAddr;

/// As in `ray_shm::link`.
const FRAME_MAX: usize = 1 << 30;
/// Queued bytes that don't wait for the end of the daemon's turn.
const EAGER: u64 = 64 * 1024;
/// The kernel repeats its first packet after a second: a fresh attempt at the latest then.
const CONNECT_US: u64 = 1_000_000;
/// Where the way is known to be short that is too rarely for a network which comes and goes. It may have become long: after so many attempts they take twice as long.
const CONNECT_MIN_US: u64 = 200_000;
const PATIENT_AFTER: u32 = 8;
/// The kernel repeats a lost packet after 0.2, 0.6 and 1.4 s, and then not before 3 s: a fresh start is earlier, and a node fences itself after four seconds.
const HANDSHAKE_US: u64 = 1_500_000;
/// From attempt to attempt. The first after a break is made at once.
const BACK_OFF_US: u64 = 20_000;
const BACK_OFF_MAX_US: u64 = 200_000;
/// A connection on which packets were repeated and nothing has come back for this is given up: the kernel would repeat itself ever more rarely, and miss the
/// moment when the network is back.
const SILENT_US: u64 = 1_000_000;
/// Less will do while the node itself is heard: the way is open now, and may not be for long.
const STALLED_US: u64 = 300_000;
/// A receiver that is full and answers probes is stopped. Probes become rare, and a node fences itself after four seconds.
const STOPPED_SILENT_US: u64 = 3_500_000;

enum State {
    /// Nothing to say yet, or nobody known to say it to.
    Idle,
    Waiting {
        until: u64,
    },
    Connecting {
        line: Line,
        deadline: u64,
    },
    Shaking {
        line: Line,
        shake: Box<(Connector, Outbox)>,
        deadline: u64,
    },
    /// Both are proven; the receiver's position is due.
    Opening {
        line: Line,
        deadline: u64,
    },
    Live {
        line: Line,
        written: u64,
    },
    /// It can't go on.
    Over,
}

/// Why a connection ended.
enum Break {
    Refused,
    Lost,
    Failed(Failure),
    Garbled(String),
}

impl From<Errno> for Break {
    fn from(error: Errno) -> Self {
        if error == Errno::CONNREFUSED {
            Break::Refused
        } else {
            Break::Lost
        }
    }
}

/// Packets are repeated, and nothing has come back for so long.
fn is_silent(health: Health, for_us: u64) -> bool {
    health.repeats && health.silent_us >= for_us
}

pub(super) struct Outbound {
    to: NodeIndex,
    number: u32,
    address: Option<SocketAddr>,
    backlog: Backlog,
    state: State,
    /// Attempts since the receiver last handled something, and when the last began.
    failures: u32,
    tried_at: u64,
    /// Of the last connection, as its end found it.
    round_trip_us: u64,
    /// Of a position that has come in only in part.
    word: Vec<u8>,
    /// When the receiver last handled something, or when there was last nothing to handle.
    progress_at: u64,
    /// A stream as long as this is written before the daemon's turn ends.
    eager_at: u64,
    pub dirty: bool,
}

impl Outbound {
    pub(super) fn new(to: NodeIndex, number: u32) -> Self {
        Outbound {
            to,
            number,
            address: None,
            backlog: Backlog::default(),
            state: State::Idle,
            failures: 0,
            tried_at: 0,
            round_trip_us: CONNECT_US,
            word: Vec::new(),
            progress_at: 0,
            eager_at: EAGER,
            dirty: false,
        }
    }

    pub(super) fn know(&mut self, address: SocketAddr) {
        self.address = Some(address);
    }

    /// Err: why it can't be sent.
    pub(super) fn queue(&mut self, message: &NodeMessage) -> Result<(), String> {
        if matches!(self.state, State::Over) {
            return Ok(());
        }
        if self.backlog.base() == self.backlog.end() {
            self.progress_at = 0;
        }
        self.backlog.queue(message, FRAME_MAX).map_err(|size| format!("a message of {size} bytes is more than a link carries"))?;
        if self.backlog.end() >= self.eager_at {
            self.eager_at = self.backlog.end() + EAGER;
            self.write_some();
        }
        Ok(())
    }

    /// What the socket takes now. Whether it is full or broken is for `flush` to find.
    fn write_some(&mut self) {
        let State::Live { line, written } = &mut self.state else { return };
        while *written < self.backlog.end() {
            let Ok(n) = tcp::send(line.fd(), self.backlog.after(*written)) else { return };
            *written += n as u64;
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.backlog.base() < self.backlog.end()
    }

    /// Since when something written waits to be handled. What was queued in this turn of the loop is not written yet.
    fn waits_since(&self) -> Option<u64> {
        (self.has_work() && self.progress_at > 0).then_some(self.progress_at)
    }

    /// Write what is queued, connecting first if need be. When to `tick`.
    pub(super) fn flush(&mut self, me: &Identity<'_>, events: &mut Vec<NetEvent>) -> u64 {
        if matches!(self.state, State::Idle) && self.has_work() {
            self.connect(me, events);
        }
        if let Err(why) = self.write(me.poll) {
            self.broke(me.now, why, events);
        }
        self.eager_at = self.backlog.end() + EAGER;
        if self.progress_at == 0 {
            self.progress_at = me.now;
        }
        self.due()
    }

    fn write(&mut self, poll: &Poll) -> Result<(), Break> {
        let State::Live { line, written } = &mut self.state else { return Ok(()) };
        while *written < self.backlog.end() {
            match tcp::send(line.fd(), self.backlog.after(*written)) {
                Ok(n) => *written += n as u64,
                Err(Errno::AGAIN) => {
                    line.watch(poll, true);
                    return Ok(());
                }
                Err(_) => return Err(Break::Lost),
            }
        }
        line.watch(poll, false);
        Ok(())
    }

    pub(super) fn ready(&mut self, me: &Identity<'_>, event: Ready, events: &mut Vec<NetEvent>) -> u64 {
        let done = match &mut self.state {
            State::Connecting { .. } => self.go_on_connecting(me),
            State::Shaking { .. } => self.shake(me),
            State::Opening { .. } | State::Live { .. } if event.readable => self.read_positions(me),
            _ => Ok(()),
        };
        if let Err(why) = done.and_then(|()| self.write(me.poll)) {
            self.broke(me.now, why, events);
        }
        self.due()
    }

    fn connect(&mut self, me: &Identity<'_>, events: &mut Vec<NetEvent>) {
        let (Some(address), Some(_)) = (self.address, me.index) else { return };
        self.tried_at = me.now;
        let started = tcp::connect(address).and_then(|fd| Line::new(me.poll, fd, self.number));
        match started {
            Ok(mut line) => {
                line.watch(me.poll, true);
                self.word.clear();
                self.state = State::Connecting { line, deadline: me.now + self.patience() };
            }
            Err(error) => self.broke(me.now, error.into(), events),
        }
    }

    fn go_on_connecting(&mut self, me: &Identity<'_>) -> Result<(), Break> {
        let State::Connecting { line, .. } = &self.state else { return Ok(()) };
        if !tcp::connected(line.fd())? {
            return Ok(());
        }
        let State::Connecting { line, .. } = std::mem::replace(&mut self.state, State::Idle) else { return Ok(()) };
        let kind = Kind::Session { from: me.index.unwrap_or(NodeIndex::HEAD), to: self.to };
        let (connector, hello) = Connector::new(me.secret, kind, me.cluster, &nonce());
        self.state = State::Shaking { line, shake: Box::new((connector, Outbox::with(hello))), deadline: me.now + HANDSHAKE_US };
        self.shake(me)
    }

    fn shake(&mut self, me: &Identity<'_>) -> Result<(), Break> {
        let State::Shaking { line, shake, .. } = &mut self.state else { return Ok(()) };
        let (connector, outbox) = &mut **shake;
        let mut room = [0; 128];
        loop {
            outbox.flush(me.poll, line)?;
            let want = connector.wants();
            let n = match tcp::receive(line.fd(), &mut room[..want]) {
                Ok(0) => return Err(Break::Lost),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Break::Lost),
            };
            if connector.feed(&room[..n], &mut outbox.bytes).map_err(Break::Failed)?.is_some() {
                break;
            }
        }
        let State::Shaking { line, deadline, .. } = std::mem::replace(&mut self.state, State::Idle) else { return Ok(()) };
        self.state = State::Opening { line, deadline };
        self.read_positions(me)
    }

    /// The receiver's word on how far it is: the first opens the stream, the others acknowledge.
    fn read_positions(&mut self, me: &Identity<'_>) -> Result<(), Break> {
        let mut room = [0; 512];
        loop {
            let (State::Opening { line, .. } | State::Live { line, .. }) = &self.state else { return Ok(()) };
            let n = match tcp::receive(line.fd(), &mut room) {
                Ok(0) => return Err(Break::Lost),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Break::Lost),
            };
            self.word.extend_from_slice(&room[..n]);
            let whole = self.word.len() / 8 * 8;
            for at in (0..whole).step_by(8) {
                let position = u64::from_le_bytes(self.word[at..at + 8].try_into().expect("eight bytes"));
                self.handled(me.now, position)?;
            }
            self.word.drain(..whole);
        }
    }

    fn handled(&mut self, now: u64, position: u64) -> Result<(), Break> {
        let last = match &self.state {
            State::Live { written, .. } => *written,
            _ => self.backlog.end(),
        };
        if position < self.backlog.base() || position > last {
            return Err(Break::Garbled(format!("it names the position {position} of a stream that is between {} and {last}", self.backlog.base())));
        }
        if position > self.backlog.base() {
            self.failures = 0;
        }
        self.progress_at = now;
        self.backlog.trim(position);
        if matches!(self.state, State::Opening { .. }) {
            let State::Opening { line, .. } = std::mem::replace(&mut self.state, State::Idle) else { return Ok(()) };
            self.state = State::Live { line, written: position };
        }
        Ok(())
    }

    fn patience(&self) -> u64 {
        let known_us = (4 * self.round_trip_us).clamp(CONNECT_MIN_US, CONNECT_US);
        (known_us << (self.failures / PATIENT_AFTER).min(4)).min(CONNECT_US)
    }

    fn broke(&mut self, now: u64, why: Break, events: &mut Vec<NetEvent>) {
        let to = self.to;
        if let State::Live { line, .. } = &self.state {
            self.round_trip_us = tcp::health(line.fd()).map_or(CONNECT_US, |health| health.round_trip_us);
        }
        self.state = State::Waiting { until: now.max(self.tried_at + self.next_delay()) };
        match why {
            // Whoever has the port now, it is not the node any more.
            Break::Refused | Break::Failed(Failure::NotOurs | Failure::Protocol(_) | Failure::Cluster { .. } | Failure::Token | Failure::OtherNode) => {
                events.push(NetEvent::Refused { to });
            }
            Break::Failed(Failure::Disowned) => events.push(NetEvent::Disowned { by: to }),
            Break::Failed(Failure::NotYet) | Break::Lost => {}
            Break::Garbled(why) => {
                self.state = State::Over;
                self.backlog = Backlog::default();
                events.push(NetEvent::Garbled { from: to, why });
            }
        }
    }

    fn next_delay(&mut self) -> u64 {
        self.failures += 1;
        match self.failures {
            1 => 0,
            n => (BACK_OFF_US << (n - 2).min(10)).min(BACK_OFF_MAX_US),
        }
    }

    /// The node itself was heard just now. What waits for the network to come back is tried again while it is there. When to `tick`.
    pub(super) fn heard(&mut self, me: &Identity<'_>, events: &mut Vec<NetEvent>) -> u64 {
        let tried_lately = me.now < self.tried_at + self.patience() / 2;
        match &self.state {
            State::Waiting { .. } if !tried_lately => self.connect(me, events),
            State::Connecting { .. } if !tried_lately => {
                self.failures += 1;
                self.connect(me, events);
            }
            State::Live { line, .. } if self.waits_since().is_some_and(|since| me.now >= since + STALLED_US) => {
                let stalled = |health: Health| is_silent(health, STALLED_US.max(4 * health.round_trip_us));
                if tcp::health(line.fd()).is_ok_and(stalled) {
                    self.broke(me.now, Break::Lost, events);
                }
            }
            _ => {}
        }
        self.due()
    }

    pub(super) fn tick(&mut self, me: &Identity<'_>, events: &mut Vec<NetEvent>) -> u64 {
        let due = self.due();
        if me.now < due {
            return due;
        }
        match &self.state {
            State::Waiting { .. } => self.connect(me, events),
            State::Live { line, .. } => match tcp::health(line.fd()) {
                // Looked at again when it would be.
                Ok(health) if !is_silent(health, SILENT_US) => self.progress_at = me.now - if health.repeats { health.silent_us } else { 0 },
                _ => self.broke(me.now, Break::Lost, events),
            },
            _ => self.broke(me.now, Break::Lost, events),
        }
        self.due()
    }

    /// When something is to be done that no event of the poll set brings.
    fn due(&self) -> u64 {
        match &self.state {
            State::Waiting { until } => *until,
            State::Connecting { deadline, .. } | State::Shaking { deadline, .. } | State::Opening { deadline, .. } => *deadline,
            State::Live { .. } => self.waits_since().map_or(u64::MAX, |since| since + SILENT_US),
            State::Idle | State::Over => u64::MAX,
        }
    }

    /// Whether bytes of ours don't reach the node's machine. What is under way for less than a second is no sign of that: a packet may be lost, or just be written.
    pub(super) fn is_cut_off(&self) -> bool {
        let State::Live { line, .. } = &self.state else { return true };
        match tcp::health(line.fd()) {
            Ok(health) => is_silent(health, SILENT_US) || (health.queued > 0 && health.silent_us >= STOPPED_SILENT_US),
            Err(_) => true,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        !self.has_work()
    }

    #[cfg(test)]
    pub(super) fn socket(&self) -> Option<&std::os::fd::OwnedFd> {
        match &self.state {
            State::Connecting { line, .. } | State::Shaking { line, .. } | State::Opening { line, .. } | State::Live { line, .. } => Some(line.fd()),
            _ => None,
        }
    }
}
