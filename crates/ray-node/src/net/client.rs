//! Connections that a thread makes and waits for: a transfer's, and that of a node that joins.

use super::handshake::{nonce, Connector, Failure, Kind, Secret, ANY_CLUSTER, CLUSTER};
use ray_proto::cluster::Joining;
use ray_proto::wire::{decode, frame};
use ray_shm::link::{Filled, Reader};
use ray_shm::now_us;
use ray_shm::tcp;
use rustix::io::Errno;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Each with a text for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The machine answers, and the node is not there.
    Refused(String),
    /// Nobody knows.
    Unreachable(String),
    /// It is there and wants no connection of this kind with us: trying again is of no use.
    Rejected(String),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ConnectError::Refused(text) | ConnectError::Unreachable(text) | ConnectError::Rejected(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ConnectError {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinError {
    Connect(ConnectError),
    /// The question was asked, and no answer of this release came: the head may count us as joined.
    NoAnswer(String),
}

impl std::fmt::Display for JoinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JoinError::Connect(error) => error.fmt(f),
            JoinError::NoAnswer(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for JoinError {}

/// Connect, and come through the handshake: a socket that blocks, at the first byte of its stream, and the cluster that it belongs to.
pub fn connect_blocking(
    address: &str,
    kind: Kind,
    secret: &Secret,
    cluster: &[u8; CLUSTER],
    timeout: Duration,
) -> Result<(OwnedFd, [u8; CLUSTER]), ConnectError> {
    let deadline = now_us() + timeout.as_micros() as u64;
    let (line, theirs) = connect(address, kind, secret, cluster, deadline)?;
    tcp::set_blocking(&line, true).map_err(|error| lost(address, error))?;
    Ok((line, theirs))
}

fn connect(address: &str, kind: Kind, secret: &Secret, cluster: &[u8; CLUSTER], deadline: u64) -> Result<(OwnedFd, [u8; CLUSTER]), ConnectError> {
    if secret.is_empty() {
        return Err(ConnectError::Rejected("there is no token, and no cluster is without one".into()));
    }
    let line = dial(address, deadline)?;
    let (mut connector, hello) = Connector::new(secret, kind, cluster, &nonce());
    let mut out = hello;
    let mut room = [0; 128];
    loop {
        send_all(&line, &out, deadline).map_err(|error| lost(address, error))?;
        out.clear();
        let n = receive_some(&line, &mut room[..connector.wants()], deadline).map_err(|error| lost(address, error))?;
        match connector.feed(&room[..n], &mut out) {
            Ok(Some(theirs)) => return Ok((line, theirs)),
            Ok(None) => {}
            Err(failure) => return Err(failed(address, &failure)),
        }
    }
}

/// A TCP connection with the first of the addresses that takes one.
fn dial(address: &str, deadline: u64) -> Result<OwnedFd, ConnectError> {
    let unknown = |why: String| {
        ConnectError::Unreachable(format!("{address} is no address that can be connected to: {why}.\nhint: it is host:port, as in 10.0.0.1:6379"))
    };
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(|error| unknown(error.to_string()))?.collect();
    let mut last = unknown("the name has no address".into());
    for candidate in addresses {
        match dial_one(candidate, deadline) {
            Ok(line) => return Ok(line),
            Err(Errno::CONNREFUSED) => last = ConnectError::Refused(format!("nobody listens at {address}: the connection was refused")),
            Err(error) => last = lost(address, error),
        }
    }
    Err(last)
}

fn dial_one(address: SocketAddr, deadline: u64) -> Result<OwnedFd, Errno> {
    let line = tcp::connect(address)?;
    while !tcp::connected(&line)? {
        wait(&line, true, deadline)?;
    }
    Ok(line)
}

fn wait(line: &OwnedFd, for_writing: bool, deadline: u64) -> Result<(), Errno> {
    match deadline.saturating_sub(now_us()) {
        0 => Err(Errno::TIMEDOUT),
        left => tcp::wait(line, for_writing, left).map(|_| ()),
    }
}

fn send_all(line: &OwnedFd, mut bytes: &[u8], deadline: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match tcp::send(line, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => wait(line, true, deadline)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive_some(line: &OwnedFd, room: &mut [u8], deadline: u64) -> Result<usize, Errno> {
    loop {
        match tcp::receive(line, room) {
            Ok(0) => return Err(Errno::CONNRESET),
            Err(Errno::AGAIN) => wait(line, false, deadline)?,
            other => return other,
        }
    }
}

fn lost(address: &str, error: Errno) -> ConnectError {
    ConnectError::Unreachable(match error {
        Errno::TIMEDOUT => format!("{address} did not answer in time.\nhint: check the address, that the node runs, and that no firewall is between"),
        Errno::CONNRESET | Errno::PIPE => {
            format!("{address} closed the connection during the handshake.\nhint: check that a node of a cluster listens there, and that it is not ending")
        }
        error => ray_shm::host::explain(&format!("{address} can't be reached"), error),
    })
}

fn failed(address: &str, failure: &Failure) -> ConnectError {
    let text = failure.explain(address);
    match failure {
        Failure::OtherNode => ConnectError::Refused(text),
        Failure::NotYet => ConnectError::Unreachable(text),
        _ => ConnectError::Rejected(text),
    }
}

/// Ask the head to be let in. The answer, and the cluster that it speaks for.
pub fn join(head: &str, secret: &Secret, cluster: Option<[u8; CLUSTER]>, question: &Joining, timeout: Duration) -> Result<(Joining, [u8; CLUSTER]), JoinError> {
    let deadline = now_us() + timeout.as_micros() as u64;
    let asked = cluster.unwrap_or(ANY_CLUSTER);
    let (line, theirs) = connect(head, Kind::Join, secret, &asked, deadline).map_err(JoinError::Connect)?;
    let mut bytes = Vec::new();
    frame(question, &mut bytes);
    let answer = send_all(&line, &bytes, deadline).and_then(|()| read_answer(line, deadline));
    let name = ray_proto::hex(&theirs);
    match answer {
        Ok(Ok(answer)) => Ok((answer, theirs)),
        Ok(Err(why)) => Err(JoinError::NoAnswer(format!("the head at {head} of cluster {name} gave an answer that is none: {why}"))),
        Err(error) => Err(JoinError::NoAnswer(format!("the head at {head} of cluster {name} gave no answer: {error}"))),
    }
}

fn read_answer(line: OwnedFd, deadline: u64) -> Result<Result<Joining, String>, Errno> {
    let line = Arc::new(line);
    let mut reader = Reader::new(line.clone());
    loop {
        match reader.next_frame() {
            Ok(Some(bytes)) => return Ok(decode(bytes).map_err(|error| error.to_string())),
            Ok(None) => {}
            Err(len) => return Ok(Err(format!("a frame of {len} bytes"))),
        }
        match reader.fill() {
            Filled::Data | Filled::Last => {}
            Filled::Empty => wait(&line, false, deadline)?,
            Filled::Closed => return Err(Errno::CONNRESET),
        }
    }
}
