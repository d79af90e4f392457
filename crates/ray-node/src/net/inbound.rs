//! The receiving half of a session: one stream of frames from one node, over as many connections as it takes.
//!
//! Invariants
//! 1. `handled` counts the bytes of whole frames that were given out as events. A connection begins at the frame that follows; what an older one had of it is dropped.
//! 2. The sender is told `handled` when a connection opens, and then at least once per 64 KiB and per 100 ms in which it grew.

use super::line::{Line, Outbox};
use super::{Identity, NetEvent};
use ray_proto::cluster::NodeMessage;
use ray_proto::wire::decode;
use ray_proto::NodeIndex;
use ray_shm::link::{Filled, Reader};
use ray_shm::poll::{Poll, Ready};

const ACK_BYTES: u64 = 64 * 1024;
const ACK_US: u64 = 100_000;
/// Reads per turn: other links want theirs.
const READS: usize = 8;

#[derive(Default)]
pub(super) struct Inbound {
    handled: u64,
    open: Option<Open>,
    /// It has sent what no release sends: nothing more is read from it.
    pub garbled: bool,
}

struct Open {
    line: Line,
    reader: Reader,
    outbox: Outbox,
    /// The last position that was put on the outbox.
    told: u64,
    tell_at: u64,
}

impl Inbound {
    /// A new connection: an older one is of no use to the sender any more.
    pub(super) fn open(&mut self, me: &Identity<'_>, line: Line, events: &mut Vec<NetEvent>, from: NodeIndex) -> u64 {
        let reader = Reader::new(line.shared_fd());
        let outbox = Outbox::with(self.handled.to_le_bytes().to_vec());
        self.open = Some(Open { line, reader, outbox, told: self.handled, tell_at: u64::MAX });
        self.ready(me, Ready { token: 0, readable: true, writable: true }, events, from)
    }

    /// When to `tick`.
    pub(super) fn ready(&mut self, me: &Identity<'_>, event: Ready, events: &mut Vec<NetEvent>, from: NodeIndex) -> u64 {
        let Some(open) = &mut self.open else { return u64::MAX };
        let mut alive = true;
        if event.readable {
            let before = self.handled;
            match open.read(&mut self.handled, events, from) {
                Ok(more) => alive = more,
                Err(why) => {
                    self.garbled = true;
                    alive = false;
                    events.push(NetEvent::Garbled { from, why });
                }
            }
            if self.handled > before && open.tell_at == u64::MAX {
                open.tell_at = me.now + ACK_US;
            }
        }
        self.tell(me.poll, me.now, alive)
    }

    pub(super) fn tick(&mut self, me: &Identity<'_>) -> u64 {
        self.tell(me.poll, me.now, true)
    }

    fn tell(&mut self, poll: &Poll, now: u64, alive: bool) -> u64 {
        let Some(open) = &mut self.open else { return u64::MAX };
        if !alive || open.tell(self.handled, poll, now).is_err() {
            self.open = None;
            return u64::MAX;
        }
        // A sender that does not read what it is told is told more once it does.
        if open.outbox.is_empty() {
            open.tell_at
        } else {
            u64::MAX
        }
    }
}

impl Open {
    /// False: the connection is closed. Err: these are no frames.
    fn read(&mut self, handled: &mut u64, events: &mut Vec<NetEvent>, from: NodeIndex) -> Result<bool, String> {
        for _ in 0..READS {
            let filled = self.reader.fill();
            match filled {
                Filled::Data | Filled::Last => {}
                Filled::Empty => return Ok(true),
                Filled::Closed => return Ok(false),
            }
            loop {
                let frame = self.reader.next_frame().map_err(|len| format!("it announces a frame of {len} bytes"))?;
                let Some(bytes) = frame else { break };
                let message = decode::<NodeMessage>(bytes).map_err(|error| error.to_string())?;
                *handled += 4 + bytes.len() as u64;
                events.push(NetEvent::Message { from, message });
            }
            if filled == Filled::Last {
                break;
            }
        }
        Ok(true)
    }

    fn tell(&mut self, handled: u64, poll: &Poll, now: u64) -> Result<(), rustix::io::Errno> {
        let all_out = self.outbox.flush(poll, &mut self.line)?;
        if !all_out || handled == self.told || (handled - self.told < ACK_BYTES && now < self.tell_at) {
            return Ok(());
        }
        self.outbox.bytes.extend_from_slice(&handled.to_le_bytes());
        self.told = handled;
        self.tell_at = u64::MAX;
        self.outbox.flush(poll, &mut self.line).map(|_| ())
    }
}
