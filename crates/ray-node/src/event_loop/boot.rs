//! The start of a daemon: its first message, and what it makes of it.

use super::cluster::{Joined, Network};
use super::{Daemon, NO_SLOT};
use crate::conn::Conn;
use crate::extent_files::{spill_config, ExtentFiles};
use crate::host;
use crate::memory::{memory_rules, MemoryReader};
use crate::oom;
use crate::strays::Strays;
use ray_logic::head::{Head, HeadConfig, MemoryLog};
use ray_logic::node::{Node, NodeConfig};
use ray_proto::cluster::{JobSpec, NodeInfo};
use ray_proto::msg::{Boot, FromNode, ToNode};
use ray_proto::wire::decode;
use ray_proto::{NodeIndex, ProcId, UNIT};
use ray_shm::board::{Board, SLOTS};
use ray_shm::host::{explain, explain_memfd};
use ray_shm::link::Filled;
use ray_shm::poll::Poll;
use ray_shm::signals;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

/// Serve whoever started this process on `link`, then leave nothing behind.
pub fn run(link: OwnedFd) -> Result<(), String> {
    let text = |error: rustix::io::Errno| error.to_string();
    // Orphans of the template become our children, so that their ends stay known.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(text)?;
    host::raise_fd_limit();
    signals::block_child_ends(true);
    let mut starter = Conn::new(link, NO_SLOT);
    let boot = first_message(&mut starter)?;
    let mut daemon = match make(boot) {
        Ok(daemon) => daemon,
        Err(reason) => {
            starter.writer.queue(&FromNode::Down { reason: reason.clone() });
            starter.writer.flush();
            return Err(reason);
        }
    };
    let result = daemon.serve(starter);
    daemon.say_goodbye_to_cluster();
    if !daemon.fenced {
        daemon.say_farewell();
    }
    daemon.end_everything();
    result
}

fn first_message(starter: &mut Conn) -> Result<Boot, String> {
    loop {
        let fd = starter.reader.fd();
        // Interrupted is as good as ready: the read below tells.
        let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)], None);
        if starter.reader.fill() == Filled::Closed {
            return Err("who started it went away before he said anything".into());
        }
        match starter.reader.next_frame() {
            Ok(Some(bytes)) => match decode::<ToNode>(bytes) {
                Ok(ToNode::Boot { boot }) => return Ok(*boot),
                _ => return Err("the first message is not a boot message of this release".into()),
            },
            Ok(None) => {}
            Err(len) => return Err(format!("a frame of {len} bytes")),
        }
    }
}

fn make(boot: Boot) -> Result<Daemon, String> {
    let (board_fd, board) = Board::create().map_err(|error| explain_memfd("no shared memory for the status board", error))?;
    host::check(&board_fd)?;
    let poll = Poll::new().map_err(|error| explain("the daemon has no epoll set", error))?;
    let (network, joined) = match &boot.network {
        Some(wanted) => {
            let (network, joined) = Network::enter(&poll, wanted, &boot)?;
            (Some(network), joined)
        }
        None => (None, None),
    };
    let address = network.as_ref().map(Network::address).unwrap_or_default();
    let node = make_node(&boot, address, joined);
    Ok(Daemon {
        poll,
        node,
        driver: ProcId::NODE,
        conns: BTreeMap::new(),
        by_pid: BTreeMap::new(),
        template: None,
        child_ends: signals::child_ends_fd().map_err(|error| error.to_string())?,
        strays: Strays::new(boot.settings.get("kill_child_processes_on_worker_exit").is_none_or(|v| v != "0")),
        memory: MemoryReader::new(&boot.settings),
        looked: false,
        board_fd,
        board,
        free_slots: (0..SLOTS).rev().collect(),
        slots_used: 0,
        forking: BTreeMap::new(),
        files: ExtentFiles::new(&boot),
        oom_kills: oom::kills(),
        commands: VecDeque::new(),
        paused: Vec::new(),
        output: Default::default(),
        next_look: 0,
        over: false,
        fenced: false,
        door: None,
        network,
        boot,
    })
}

fn make_node(boot: &Boot, address: String, joined: Option<Joined>) -> Node {
    let now = ray_shm::now_us();
    let config = node_config(boot);
    match joined {
        None => {
            let head = Head::new(HeadConfig { epoch_ms: host::epoch_ms(), infeasible_is_error: config.infeasible_is_error }, Box::new(MemoryLog::default()));
            Node::with_head(config, head, now, node_info(boot, address))
        }
        Some(Joined { index, infos, jobs }) => {
            let mut node = Node::new(NodeConfig { index, ..config });
            node.joined(now, infos, jobs);
            node
        }
    }
}

/// What this node is to others, before it has a number.
pub(super) fn node_info(boot: &Boot, address: String) -> NodeInfo {
    let network = boot.network.as_ref();
    NodeInfo {
        index: NodeIndex::HEAD,
        node_id: boot.node_id.clone(),
        address,
        host: network.map(|network| network.host.clone()).unwrap_or_default(),
        pid: std::process::id(),
        total: boot.total.clone(),
        labels: boot.labels.clone(),
        python: network.map(|network| network.python.clone()).unwrap_or_default(),
        started_ms: host::epoch_ms() + ray_shm::now_us() / 1000,
        death: String::new(),
    }
}

fn node_config(boot: &Boot) -> NodeConfig {
    let setting = |name: &str| boot.settings.get(name).map(String::as_str);
    let cpus = (boot.total.get("CPU") / UNIT).max(0) as u32;
    NodeConfig {
        index: NodeIndex::HEAD,
        total: boot.total.clone(),
        store_bytes: boot.store_bytes,
        job: boot.network.is_none().then(|| own_job(boot)),
        warm_workers: setting("warm_workers").and_then(|v| v.parse().ok()).unwrap_or(cpus.clamp(1, 2)),
        idle_worker: setting("idle_worker_s").and_then(|v| v.parse::<f64>().ok()).map_or(1_000_000, |s| (s * 1e6) as u64),
        infeasible_is_error: setting("infeasible_is_error") == Some("1"),
        spill: spill_config(boot),
        memory: memory_rules(&boot.settings),
    }
}

/// The job of the one driver of a daemon of its own.
fn own_job(boot: &Boot) -> JobSpec {
    JobSpec {
        config: boot.template_config.clone(),
        env: boot.job_env.clone(),
        log_to_driver: boot.settings.get("log_to_driver").is_none_or(|v| v != "0"),
        namespace: boot.namespace.clone(),
        ..JobSpec::default()
    }
}
