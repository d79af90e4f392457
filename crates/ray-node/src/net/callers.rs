//! Connections that were accepted and are nothing yet: the handshake, then a session's or a transfer's beginning, or a join's question and answer.

use super::handshake::{nonce, Acceptor, Kind, Verdict, NO_NODE};
use super::line::{Line, Outbox};
use super::Identity;
use ray_proto::cluster::Joining;
use ray_proto::wire::{decode, frame};
use ray_shm::link::{Filled, Reader};
use ray_shm::tcp;
use rustix::io::Errno;

/// For the handshake, and again for the question.
const PATIENCE_US: u64 = 5_000_000;
const ANSWER_US: u64 = 30_000_000;

pub(super) struct Caller {
    pub line: Line,
    outbox: Outbox,
    stage: Stage,
    pub since: u64,
    pub deadline: u64,
}

enum Stage {
    Shaking(Box<Acceptor>),
    /// Proven, and being told so.
    Welcome(Kind),
    Asking(Reader),
    /// The answer is the daemon's to give.
    Asked,
    /// It is told one more thing, then closed.
    Leaving,
}

/// What became of a caller.
pub(super) enum Outcome {
    Stays,
    Gone,
    /// The stream stands at its first byte.
    Is(Kind),
    Asks(Box<Joining>),
}

impl Caller {
    pub(super) fn new(line: Line, me: &Identity<'_>) -> Self {
        let acceptor = Acceptor::new(me.secret, me.index.unwrap_or(NO_NODE), me.cluster, &nonce());
        let stage = Stage::Shaking(Box::new(acceptor));
        Caller { line, outbox: Outbox::default(), stage, since: me.now, deadline: me.now + PATIENCE_US }
    }

    /// It has not been told that it is welcome.
    pub(super) fn is_stranger(&self) -> bool {
        matches!(self.stage, Stage::Shaking(_) | Stage::Welcome(_)) || (matches!(self.stage, Stage::Leaving) && self.deadline <= self.since + PATIENCE_US)
    }

    pub(super) fn ready(&mut self, me: &Identity<'_>, judge: &dyn Fn(Kind) -> Verdict) -> Outcome {
        match self.go_on(me, judge) {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Gone,
        }
    }

    /// Err(AGAIN) never leaves here: it is `Stays`.
    fn go_on(&mut self, me: &Identity<'_>, judge: &dyn Fn(Kind) -> Verdict) -> Result<Outcome, Errno> {
        loop {
            if !self.outbox.flush(me.poll, &mut self.line)? {
                return Ok(Outcome::Stays);
            }
            match &mut self.stage {
                Stage::Leaving => return Ok(Outcome::Gone),
                Stage::Shaking(_) => {
                    if !self.shake(judge)? {
                        return Ok(Outcome::Stays);
                    }
                }
                Stage::Welcome(Kind::Join) => {
                    self.stage = Stage::Asking(Reader::new(self.line.shared_fd()));
                    self.deadline = me.now + PATIENCE_US;
                }
                Stage::Welcome(kind) => return Ok(Outcome::Is(*kind)),
                Stage::Asking(_) => return self.read_question(),
                Stage::Asked => return self.still_there(),
            }
        }
    }

    /// False: nothing more has come.
    fn shake(&mut self, judge: &dyn Fn(Kind) -> Verdict) -> Result<bool, Errno> {
        let Stage::Shaking(acceptor) = &mut self.stage else { return Ok(true) };
        let mut room = [0; 128];
        let want = acceptor.wants();
        let n = match tcp::receive(self.line.fd(), &mut room[..want]) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(n) => n,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error),
        };
        match acceptor.feed(&room[..n], &mut self.outbox.bytes) {
            Ok(None) => {}
            Ok(Some(kind)) => {
                let verdict = judge(kind);
                acceptor.answer(verdict, &mut self.outbox.bytes);
                self.stage = if verdict == Verdict::Welcome { Stage::Welcome(kind) } else { Stage::Leaving };
            }
            Err(_) => self.stage = Stage::Leaving,
        }
        Ok(true)
    }

    fn read_question(&mut self) -> Result<Outcome, Errno> {
        let Stage::Asking(reader) = &mut self.stage else { return Ok(Outcome::Stays) };
        let filled = reader.fill();
        match reader.next_frame().map(|frame| frame.map(decode::<Joining>)) {
            Ok(Some(Ok(question))) => {
                self.stage = Stage::Asked;
                self.deadline = u64::MAX;
                Ok(Outcome::Asks(Box::new(question)))
            }
            Ok(None) if filled != Filled::Closed => Ok(Outcome::Stays),
            _ => Ok(Outcome::Gone),
        }
    }

    /// Nobody who waits for an answer has more to say.
    fn still_there(&mut self) -> Result<Outcome, Errno> {
        match tcp::receive(self.line.fd(), &mut [0; 1]) {
            Err(Errno::AGAIN) => Ok(Outcome::Stays),
            _ => Ok(Outcome::Gone),
        }
    }

    pub(super) fn answer(&mut self, now: u64, answer: &Joining) {
        frame(answer, &mut self.outbox.bytes);
        self.stage = Stage::Leaving;
        self.deadline = now + ANSWER_US;
    }
}
