//! This is the main loop of the daemon: one thread, one epoll set. On descriptor 0 is who started it: the one driver it is for, or, of a node that stands by itself, somebody
//! who only waits until it is up.

use crate::conn::{Conn, Pipe, Token};
use crate::extent_files::ExtentFiles;
use crate::host::{self, fd_limit};
use crate::memory::MemoryReader;
use crate::oom;
use crate::strays::Strays;
use crate::template::{Report, Template};
use ray_logic::node::{Node, NodeCommand};
use ray_proto::msg::{Boot, Evidence, FromNode, ToNode};
use ray_proto::wire::{decode, PROTOCOL};
use ray_proto::ProcId;
use ray_shm::board::{Board, SLOTS};
use ray_shm::door;
use ray_shm::host::explain;
use ray_shm::link::{pair, Filled, Flushed};
use ray_shm::poll::{Poll, Ready};
use ray_shm::processes::{self, Process};
use ray_shm::signals;
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{waitpid, Pid, WaitOptions};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

/// A process whose link closed gets this long to end by itself.
const CLOSING_US: u64 = 2_000_000;
/// A stopped worker is reported after this (law 7).
const STOPPED_US: u64 = 5_000_000;
const LOOK_US: u64 = 1_000_000;
/// How often an orphan whose link closed is looked for among the dead.
const REAP_US: u64 = 1_000;
/// A driver that does not read its last log lines within this does not get them.
const LAST_WORDS_US: u64 = 1_000_000;

/// Of the board: processes that run no calls have none.
const NO_SLOT: u32 = u32::MAX;
mod boot;
mod cluster;
mod ends;
mod extents;
mod farewell;
mod output;
mod records;
mod visitors;

pub use boot::run;

struct Daemon {
    poll: Poll,
    node: Node,
    /// The one driver that this daemon is for; `ProcId::NODE` on a node that stands by itself.
    driver: ProcId,
    boot: Boot,
    conns: BTreeMap<ProcId, Conn>,
    by_pid: BTreeMap<u32, ProcId>,
    template: Option<Template>,
    /// Readable when a child of ours ended.
    child_ends: OwnedFd,
    strays: Strays,
    memory: MemoryReader,
    /// The node was told of memory since its last tick.
    looked: bool,
    board_fd: OwnedFd,
    board: Board,
    free_slots: Vec<u32>,
    /// No slot from this one on was ever given away.
    slots_used: u32,
    /// Forks asked for and not reported, with what they need: a new template gets them again.
    forking: BTreeMap<ProcId, Forking>,
    files: ExtentFiles,
    oom_kills: Option<u64>,
    commands: VecDeque<NodeCommand>,
    paused: Vec<Token>,
    output: output::Output,
    next_look: u64,
    over: bool,
    /// Others may have taken over what runs here: it ends without a good-bye.
    fenced: bool,
    door: Option<OwnedFd>,
    /// None: nothing listens.
    network: Option<cluster::Network>,
}

struct Forking {
    env: String,
    link: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
}

impl Daemon {
    fn serve(&mut self, starter: Conn) -> Result<(), String> {
        let text = |error: rustix::io::Errno| format!("epoll: {error}");
        self.poll.add(self.child_ends.as_fd(), Token::Children.pack()).map_err(text)?;
        match self.network.is_some() {
            true => self.stand_up(starter)?,
            false => self.serve_driver(starter)?,
        }
        let mut ready = Vec::with_capacity(64);
        let mut timeout = self.after_events();
        while !self.over {
            self.poll.wait(timeout, &mut ready).map_err(text)?;
            for event in std::mem::take(&mut ready) {
                self.handle(event);
            }
            timeout = self.after_events();
        }
        Ok(())
    }

    fn serve_driver(&mut self, driver: Conn) -> Result<(), String> {
        self.driver = self.node.driver_connected(door::peer_pid(driver.reader.fd()), self.boot.max_links);
        self.poll.add(driver.reader.fd(), Token::Link(self.driver).pack()).map_err(|error| format!("epoll: {error}"))?;
        self.conns.insert(self.driver, driver);
        self.open_door();
        // Before the welcome: a host that refuses even this process gets no session.
        self.start_template()?;
        self.welcome(self.driver);
        self.carry_out();
        self.read_link(self.driver);
        Ok(())
    }

    fn handle(&mut self, event: Ready) {
        match Token::unpack(event.token) {
            Token::Net(number) => self.network_ready(number, event),
            Token::Copied => self.copies_arrived(),
            Token::Template => self.read_template(),
            Token::Door => self.admit(),
            Token::Children => self.children_ended(),
            Token::Link(id) => {
                if event.readable {
                    self.read_link(id);
                }
            }
            token @ (Token::Out(id) | Token::Err(id)) => self.read_pipe(id, token),
        }
    }

    /// Timers, commands, output. Returns how long nothing is due.
    fn after_events(&mut self) -> Option<u64> {
        let now = ray_shm::now_us();
        let mut due = self.node.tick(now);
        self.carry_out();
        if std::mem::take(&mut self.looked) {
            // What was seen may have changed what is due.
            due = self.node.tick(now);
            self.carry_out();
        }
        let network = self.network_tick(now);
        self.board.set_lease(self.node.lease().unwrap_or(0));
        self.flush();
        let look = self.look_around(now);
        let sweep = self.sweep_if_due(now);
        [due, network, look, sweep].into_iter().flatten().min().map(|at| at.saturating_sub(now).max(1))
    }

    fn carry_out(&mut self) {
        let mut fresh = Vec::new();
        loop {
            self.node.take_commands(&mut fresh);
            self.commands.extend(fresh.drain(..));
            let Some(command) = self.commands.pop_front() else { return };
            self.execute(command);
        }
    }

    fn execute(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Send { to, message } => self.send(to, &message),
            NodeCommand::Fork { proc_id, env } => self.fork(proc_id, env),
            NodeCommand::Kill { proc_id, reason } => self.kill(proc_id, &reason),
            NodeCommand::Link { a, b } => self.link(a, b),
            NodeCommand::NewExtent { to, token, extent, size } => self.new_extent(to, token, extent, size),
            NodeCommand::OpenExtent { to, token, extent, size } => self.open_extent(to, token, extent, size),
            NodeCommand::NewSegment { to, token, extent, sizes } => self.new_segment(to, token, extent, &sizes),
            NodeCommand::Punch { range } => self.files.punch(range),
            NodeCommand::CloseExtent { extent } => self.files.close(extent),
            NodeCommand::LookAtMemory { processes } => {
                self.looked = true;
                self.look_at_memory(processes);
            }
            NodeCommand::Measure { proc_id } => {
                self.looked = true;
                let bytes = self.conns.get(&proc_id).and_then(|conn| processes::private_bytes(conn.pid));
                self.node.footprint_measured(ray_shm::now_us(), proc_id, bytes);
            }
            NodeCommand::ReadRecords { to, token, slot } => self.read_records(to, token, slot),
            NodeCommand::Adopt { guest, driver } => self.adopt(guest, driver),
            NodeCommand::Show { driver, from, message } => self.show_from(driver, from, message),
            NodeCommand::LinesShown { driver, bytes } => self.output.shown(driver, bytes),
            NodeCommand::Shutdown => self.over = true,
            command => self.execute_on_network(command),
        }
    }

    fn send(&mut self, to: ProcId, message: &FromNode) {
        if let Some(conn) = self.conns.get_mut(&to) {
            conn.writer.queue(message);
        }
    }

    fn send_with_fd(&mut self, to: ProcId, message: &FromNode, fd: OwnedFd) {
        if let Some(conn) = self.conns.get_mut(&to) {
            conn.writer.queue_with_fd(message, fd);
        }
    }

    fn welcome(&mut self, to: ProcId) {
        let storage = self.boot.settings.get("spill_storage").cloned().unwrap_or_default();
        let message = FromNode::Welcome { protocol: PROTOCOL, proc_id: to, node_id: self.boot.node_id.clone(), total: self.boot.total.clone(), storage };
        self.send(to, &message);
        if let Some(conn) = self.conns.get_mut(&to) {
            conn.welcomed = true;
        }
    }

    fn flush(&mut self) {
        for (id, conn) in &mut self.conns {
            let flushed = if conn.writer.pending().0 > 0 { conn.writer.flush() } else { Flushed::All };
            let watch = flushed == Flushed::Partly;
            if conn.closed_at.is_none() && std::mem::replace(&mut conn.watching_writes, watch) != watch {
                // The link is in the set: this only fails when the process is being torn down.
                let _ = self.poll.watch_writes(conn.reader.fd(), Token::Link(*id).pack(), watch);
            }
        }
        self.resume_pipes();
    }

    // ---- links

    fn read_link(&mut self, id: ProcId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let filled = conn.reader.fill();
            let mut batch = Vec::new();
            let bad = loop {
                match conn.reader.next_frame().map(|frame| frame.map(decode::<ToNode>)) {
                    Ok(Some(Ok(message))) => batch.push(message),
                    Ok(None) => break false,
                    Ok(Some(Err(_))) | Err(_) => break true,
                }
            };
            let (now, idle) = (ray_shm::now_us(), batch.is_empty());
            for message in batch {
                self.on_message(now, id, message);
            }
            if bad {
                self.kill(id, "it sent something unreadable");
            }
            if bad || filled == Filled::Closed {
                return self.link_closed(now, id);
            }
            if filled != Filled::Data || idle {
                return;
            }
        }
    }

    fn on_message(&mut self, now: u64, from: ProcId, message: ToNode) {
        if let ToNode::Hello { protocol, .. } | ToNode::HelloDriver { protocol, .. } = &message {
            if *protocol != PROTOCOL {
                return self.kill(from, &format!("it speaks protocol {protocol}, this daemon {PROTOCOL}"));
            }
        }
        match message {
            ToNode::Ask { token, subject } => {
                let stopped = self.stopped();
                self.node.asked(now, from, token, &subject, &stopped);
            }
            ToNode::LinesShown { bytes } => self.lines_shown(from, bytes),
            ToNode::Shutdown {} if from != self.driver => self.driver_leaves(now, from),
            message => {
                if matches!(message, ToNode::Hello { .. }) {
                    self.welcome(from);
                }
                self.node.on_message(now, from, message);
            }
        }
        self.carry_out();
    }

    fn link_closed(&mut self, now: u64, id: ProcId) {
        if id == self.driver {
            self.over = true;
            return;
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.closed_at.replace(now).is_none() {
            self.poll.remove(conn.reader.fd());
        }
        if conn.slot == NO_SLOT {
            self.conns.remove(&id);
            self.output.forget(id);
            self.node.observer_left(now, id);
        }
    }

    fn link(&mut self, a: ProcId, b: ProcId) {
        match pair() {
            Ok((one, other)) => {
                self.send_with_fd(a, &FromNode::Link { peer: b }, one);
                self.send_with_fd(b, &FromNode::Link { peer: a }, other);
            }
            // Out of descriptors: the two go on through us.
            Err(_) => self.node.link_failed(a, b),
        }
    }

    // ---- workers

    fn start_template(&mut self) -> Result<(), String> {
        // It inherits our mask, and it needs the signal itself.
        signals::block_child_ends(false);
        let started = Template::start(&self.boot.python, &self.boot.template_config, self.board_fd.as_fd());
        signals::block_child_ends(true);
        let template = started?;
        self.poll.add(template.fd(), Token::Template.pack()).map_err(|error| explain("the template process can't be watched", error))?;
        self.template = Some(template);
        Ok(())
    }

    /// After a template that did not get ready there is none until a worker is wanted again.
    fn ensure_template(&mut self) -> Result<(), String> {
        match self.template {
            Some(_) => Ok(()),
            None => self.start_template(),
        }
    }

    fn fork(&mut self, proc_id: ProcId, env: String) {
        if let Err(why) = self.ensure_template() {
            return self.node.fork_failed(ray_shm::now_us(), proc_id, &why);
        }
        let made = pair().and_then(|(ours, theirs)| {
            let (out, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
            // Only our ends: a worker that writes faster than the driver reads waits.
            rustix::fs::fcntl_setfl(&out, rustix::fs::OFlags::NONBLOCK)?;
            rustix::fs::fcntl_setfl(&err, rustix::fs::OFlags::NONBLOCK)?;
            Ok((ours, theirs, Pipe::new(out), out_write, Pipe::new(err), err_write))
        });
        let (ours, link, out, out_write, err, err_write) = match made {
            Ok(made) => made,
            Err(error) => {
                return self.node.fork_failed(
                    ray_shm::now_us(),
                    proc_id,
                    &format!(
                        "the daemon has no descriptors left ({error}; its limit is {}).\nhint: raise the limit with ulimit -n, or use fewer actors",
                        fd_limit()
                    ),
                )
            }
        };
        let Some(slot) = self.free_slots.pop() else {
            return self.node.fork_failed(ray_shm::now_us(), proc_id, &format!("{SLOTS} workers are running already"));
        };
        self.board.clear(slot);
        self.slots_used = self.slots_used.max(slot + 1);
        let mut conn = Conn::new(ours, slot);
        (conn.out, conn.err) = (Some(out), Some(err));
        let added = self.poll.add(conn.reader.fd(), Token::Link(proc_id).pack()).and_then(|()| {
            self.poll.add(conn.out.as_ref().expect("set above").fd.as_fd(), Token::Out(proc_id).pack())?;
            self.poll.add(conn.err.as_ref().expect("set above").fd.as_fd(), Token::Err(proc_id).pack())
        });
        self.conns.insert(proc_id, conn);
        self.forking.insert(proc_id, Forking { env, link, out: out_write, err: err_write });
        match added {
            Ok(()) => self.ask_template(proc_id, slot),
            Err(error) => self.fork_failed(proc_id, &error.to_string()),
        }
    }

    fn ask_template(&mut self, proc_id: ProcId, slot: u32) {
        let (Some(template), Some(forking)) = (&self.template, self.forking.get(&proc_id)) else { return };
        let job = self.node.job_config(proc_id.job()).unwrap_or_default();
        // A template that is gone shows as a closed link, and its successor gets the request again.
        let _ = template.fork(proc_id.0, slot, &forking.env, job, &[forking.link.as_fd(), forking.out.as_fd(), forking.err.as_fd()]);
    }

    fn fork_failed(&mut self, proc_id: ProcId, why: &str) {
        self.forking.remove(&proc_id);
        if let Some(conn) = self.conns.remove(&proc_id) {
            self.free_slots.push(conn.slot);
        }
        self.node.fork_failed(ray_shm::now_us(), proc_id, why);
    }

    fn read_template(&mut self) {
        loop {
            let Some(template) = &self.template else { return };
            match template.report() {
                Ok(None) => return,
                Ok(Some(report)) => self.on_report(report),
                Err(()) => return self.template_died(),
            }
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Ready => self.template.iter_mut().for_each(|template| template.ready = true),
            Report::Forked { proc_id, pid } => {
                let id = ProcId(proc_id);
                // The child holds its own copies now: closing ours makes its end visible.
                self.forking.remove(&id);
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.pid = pid;
                    self.by_pid.insert(pid, id);
                }
            }
            Report::Failed { proc_id, why } => self.fork_failed(ProcId(proc_id), &why),
            Report::Exited { pid, status, peak_rss_kib } => self.exited(pid, status, peak_rss_kib),
        }
    }

    /// Start another one; workers live on, and we are the parent of the orphans now.
    fn template_died(&mut self) {
        let Some(mut template) = self.template.take() else { return };
        self.poll.remove(template.fd());
        let how = template.ended();
        if !template.ready {
            // Its successor would fare no better: the node decides when to try again.
            let why = host::template_failed(&how, template.stderr_start);
            let wanted: Vec<ProcId> = self.forking.keys().copied().collect();
            return wanted.into_iter().for_each(|id| self.fork_failed(id, &why));
        }
        self.conns.values_mut().for_each(|conn| conn.orphan = conn.pid != 0);
        self.reap_orphans();
        if let Err(why) = self.start_template() {
            let wanted: Vec<ProcId> = self.forking.keys().copied().collect();
            return wanted.into_iter().for_each(|id| self.fork_failed(id, &why));
        }
        let waiting: Vec<(ProcId, u32)> = self.forking.keys().filter_map(|id| Some((*id, self.conns.get(id)?.slot))).collect();
        waiting.into_iter().for_each(|(id, slot)| self.ask_template(id, slot));
    }

    /// Workers of a dead template are our children.
    fn reap_orphans(&mut self) {
        let orphans: Vec<u32> = self.conns.values().filter(|conn| conn.orphan).map(|conn| conn.pid).collect();
        for pid in orphans {
            if let Ok(Some((_, status))) = waitpid(Pid::from_raw(pid as i32), WaitOptions::NOHANG) {
                let code = status.terminating_signal().map_or_else(|| status.exit_status().unwrap_or(0), |signal| -signal);
                self.exited(pid, code, 0);
            }
        }
    }

    /// A worker ended. `status` is negative for a signal.
    fn exited(&mut self, pid: u32, status: i32, peak_rss_kib: u64) {
        let Some(id) = self.by_pid.remove(&pid) else { return };
        // What it had sent counts; what its children hold goes with them.
        self.read_link(id);
        self.strays.worker_ended(pid, id);
        self.sweep();
        self.drain_pipes(id);
        let Some(conn) = self.conns.remove(&id) else { return };
        self.paused.retain(|token| !matches!(token, Token::Out(p) | Token::Err(p) if *p == id));
        let kills = oom::kills();
        let evidence = Evidence {
            pid,
            signal: (-status).max(0),
            exit_code: status.max(0),
            oom_kill: status == -9 && conn.ended_by_us.is_empty() && kills > self.oom_kills,
            stderr_tail: conn.stderr_tail(),
            ended_by_us: conn.ended_by_us,
            peak_rss_kib,
            last_started: self.board.last_started(conn.slot).map(|(caller, task)| (ProcId(caller), task)),
            ..Evidence::default()
        };
        self.oom_kills = kills;
        self.free_slots.push(conn.slot);
        self.node.proc_exited(ray_shm::now_us(), id, evidence);
        self.carry_out();
    }

    fn kill(&mut self, id: ProcId, reason: &str) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.ended_by_us.is_empty() {
            conn.ended_by_us = reason.to_owned();
        }
        if id == self.driver {
            self.over = true;
        } else if conn.slot == NO_SLOT {
            self.link_closed(ray_shm::now_us(), id);
        } else if conn.pid != 0 {
            let pid = conn.pid;
            self.kill_worker(pid);
        }
    }

    // ---- time

    /// Once a second while there is something to look at: closed links whose process lingers, stopped workers.
    fn look_around(&mut self, now: u64) -> Option<u64> {
        if self.conns.values().any(|conn| conn.orphan && conn.closed_at.is_some()) {
            // Its link is closed, so it is a moment away from being reapable.
            self.reap_orphans();
            return Some(now + REAP_US);
        }
        let busy = self.node.busy_workers();
        let closing = self.conns.values().any(|conn| conn.closed_at.is_some());
        if busy.is_empty() && !closing {
            return None;
        }
        if now < self.next_look {
            return Some(self.next_look);
        }
        self.next_look = now + LOOK_US;
        let lingering = |c: &Conn| c.closed_at.is_some_and(|at| now > at + CLOSING_US);
        let late: Vec<ProcId> = self.conns.iter().filter(|(_, c)| lingering(c)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.kill(id, "it had closed its link and did not end"));
        for (id, pid) in busy {
            self.look_at(now, id, pid);
        }
        Some(self.next_look)
    }

    fn look_at(&mut self, now: u64, id: ProcId, pid: u32) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if Process::find(pid).is_none_or(|process| process.state != 'T') {
            conn.stopped_since = None;
            return;
        }
        let (since, said) = *conn.stopped_since.get_or_insert((now, false));
        if now < since + STOPPED_US - LOOK_US || said {
            return;
        }
        conn.stopped_since = Some((since, true));
        if self.boot.settings.get("stopped_is_dead").is_some_and(|v| v == "1") {
            return self.kill(id, "it was stopped (state T) for 5 s, and the setting stopped_is_dead is on");
        }
        let text = format!("the worker with pid {pid} has been stopped (state T) for 5 s; what it runs goes on when it gets SIGCONT.\nhint: kill -CONT {pid}");
        self.send(self.driver, &FromNode::Notice { text });
    }

    /// Processes in state T now.
    fn stopped(&self) -> Vec<ProcId> {
        let stopped = |pid| Process::find(pid).is_some_and(|process| process.state == 'T');
        self.conns.iter().filter(|(_, conn)| conn.pid != 0 && stopped(conn.pid)).map(|(id, _)| *id).collect()
    }

    /// What the workers wrote before they were ended still reaches the driver.
    fn say_last_words(&mut self) {
        let workers: Vec<ProcId> = self.conns.keys().copied().filter(|id| *id != self.driver).collect();
        workers.into_iter().for_each(|id| self.drain_pipes(id));
        let deadline = ray_shm::now_us() + LAST_WORDS_US;
        while let Some(driver) = self.conns.get_mut(&self.driver) {
            if driver.writer.flush() != Flushed::Partly || ray_shm::now_us() > deadline {
                return;
            }
            let fd = driver.reader.fd();
            let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            // Ready, late or interrupted: the loop tries again until the deadline.
            let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::OUT)], Some(&timeout));
        }
    }
}
