//! Memory pressure: requests for memory that wait for room, who was asked to spill, and the ledger of the disk (docs/design/010).
//!
//! A request that finds no room is parked. Everybody who holds memory is then asked for its share of what is missing: to move objects to disk and to give
//! back empty extents. Parked requests are granted in order as room appears. When nobody has anything left to move, the first of them gets room on the disk
//! instead; when the disk refuses as well, it waits a little if others are at work that may let go of something, and fails then.
//!
//! Invariants (checked by `check_pressure`)
//! 1. The first parked request does not fit, and there is somebody or a time that it waits for.
//! 2. The bytes of all segments are at most the quota.

use super::copies::CopyWant;
use super::{Node, NodeCommand};
use crate::Time;
use ray_proto::msg::FromNode;
use ray_proto::{ExtentId, ProcId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Somebody who was asked and says nothing for so long is not counted on: it is stopped, or its disk hangs.
const LATE: Time = 10_000_000;
/// With the disk full, a request waits so long for others to let go of something. Source: Ray's default grace period before it gives up.
const GRACE: Time = 2_000_000;
/// How often it looks again meanwhile.
const AGAIN: Time = 100_000;
/// Less on disk than this is not worth a message. Source: Ray's default.
const TELL_FROM: u64 = 2 << 30;

#[derive(Clone, Debug)]
pub struct SpillConfig {
    /// Where segments are made, for messages.
    pub place: String,
    pub quota: u64,
    /// The least to ask for at a time: many small moves would leave many half-empty extents.
    pub batch: u64,
}

/// A request that waits for room.
#[derive(Debug)]
struct Parked {
    from: ProcId,
    token: u64,
    sizes: Vec<u64>,
    since: Time,
    /// Asks with a higher ticket were sent when it was here already.
    ticket: u64,
    /// Who had nothing left to move when asked for it.
    dry: BTreeSet<ProcId>,
    /// The disk refused: nothing is tried before this.
    again_at: Option<Time>,
    /// It is for a copy of an object of another node.
    copy: Option<CopyWant>,
}

impl Parked {
    fn least(&self) -> u64 {
        self.sizes.last().copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Asked {
    ticket: u64,
    since: Time,
}

/// Whom a segment is made for.
#[derive(Debug)]
enum For {
    Spiller { from: ProcId, token: u64 },
    Creator(Parked),
}

/// Why the disk took nothing the last time it was asked.
#[derive(Clone, Debug)]
struct Refusal {
    text: String,
    /// The disk's own fault, not the quota's.
    broken: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pressure {
    parked: VecDeque<Parked>,
    asked: BTreeMap<ProcId, Asked>,
    placing: BTreeMap<ExtentId, For>,
    ticket: u64,
    disk_used: u64,
    /// The user is told when so much is on disk.
    tell_at: u64,
    refusal: Option<Refusal>,
}

impl Node {
    /// Memory is wanted: `sizes` from the best to the least that would do.
    pub(super) fn extent_wanted(&mut self, now: Time, from: ProcId, token: u64, sizes: Vec<u64>) {
        if !sizes.is_empty() {
            self.memory_wanted(now, from, token, sizes, None);
        }
    }

    /// The same for a copy of an object of another node.
    pub(super) fn memory_for_copy(&mut self, now: Time, from: ProcId, token: u64, copy: CopyWant, size: u64) {
        self.memory_wanted(now, from, token, vec![size], Some(copy));
    }

    fn memory_wanted(&mut self, now: Time, from: ProcId, token: u64, sizes: Vec<u64>, copy: Option<CopyWant>) {
        self.pressure.ticket += 1;
        let want = Parked { from, token, sizes, since: now, ticket: self.pressure.ticket, dry: BTreeSet::new(), again_at: None, copy };
        if self.config.spill.is_none() {
            self.evict_copies(want.least());
            return match self.fitting(&want) {
                Some(size) => self.give_memory(now, want, size),
                None => self.refuse(&want),
            };
        }
        self.pressure.parked.push_back(want);
        self.make_room(now);
    }

    pub(super) fn room(&self) -> u64 {
        self.config.store_bytes - self.store_used
    }

    fn fitting(&self, want: &Parked) -> Option<u64> {
        want.sizes.iter().copied().find(|size| *size <= self.room())
    }

    fn give_memory(&mut self, now: Time, want: Parked, size: u64) {
        match want.copy {
            None => self.grant_memory(want.from, want.token, size),
            Some(copy) => self.copy_granted(now, want.from, want.token, copy, size),
        }
    }

    /// Grant what fits, ask for what does not, give up what nobody can help.
    pub(super) fn make_room(&mut self, now: Time) {
        while let Some(first) = self.pressure.parked.front() {
            let least = first.least();
            if self.room() < least {
                self.evict_copies(least);
            }
            let first = self.pressure.parked.front().expect("looked at above");
            let fitting = self.fitting(first);
            let hopeless = first.least() > self.config.store_bytes;
            if fitting.is_none() && first.again_at.is_some_and(|at| now < at) {
                return;
            }
            if fitting.is_none() && !hopeless {
                self.ask_holders(now);
                if !self.nobody_can_help(now) {
                    return;
                }
            }
            let want = self.pressure.parked.pop_front().expect("looked at above");
            match fitting {
                Some(size) => self.give_memory(now, want, size),
                None => self.place_on_disk(now, want),
            }
        }
    }

    /// Bytes of memory that each living process may be able to set free: its own extents but for what others own there, and what it owns in others'.
    fn holders(&self) -> BTreeMap<ProcId, u64> {
        let mut held: BTreeMap<ProcId, u64> = BTreeMap::new();
        for (id, extent) in self.extents.iter().filter(|(id, _)| !id.is_on_disk()) {
            let foreign: u64 = extent.foreign_bytes().map(|(_, len)| len).sum();
            *held.entry(extent.creator()).or_insert(0) += self.extents[id].size().saturating_sub(foreign);
            extent.foreign_bytes().for_each(|(owner, len)| *held.entry(owner).or_insert(0) += len);
        }
        held.retain(|id, bytes| *bytes > 0 && self.procs.get(id).is_some_and(|proc| proc.is_connected()));
        held
    }

    fn ask_holders(&mut self, now: Time) {
        let Some(spill) = &self.config.spill else { return };
        let wanted: u64 = self.pressure.parked.iter().map(Parked::least).sum();
        let target = wanted.max(spill.batch);
        let holders = self.holders();
        let total: u64 = holders.values().sum();
        let first = self.pressure.parked.front().expect("somebody waits");
        let quiet = |id: &ProcId| !self.pressure.asked.contains_key(id) && !first.dry.contains(id);
        let asks: Vec<(ProcId, u64)> = holders.into_iter().filter(|(id, _)| quiet(id)).collect();
        for (id, held) in asks {
            let share = (u128::from(target) * u128::from(held)).div_ceil(u128::from(total)) as u64;
            self.pressure.ticket += 1;
            self.pressure.asked.insert(id, Asked { ticket: self.pressure.ticket, since: now });
            self.send(id, FromNode::Spill { bytes: share });
        }
    }

    /// Everybody who holds memory has said for the first request that nothing can be moved, or does not answer.
    fn nobody_can_help(&self, now: Time) -> bool {
        let Some(first) = self.pressure.parked.front() else { return false };
        let is_late = |id: &ProcId| self.pressure.asked.get(id).is_some_and(|asked| now >= asked.since + LATE);
        self.holders().keys().all(|id| first.dry.contains(id) || is_late(id))
    }

    /// A process did what it could. `own`: some of it in its own extents, where it can use it.
    pub(super) fn spilled(&mut self, from: ProcId, bytes: u64, own: bool) {
        let Some(asked) = self.pressure.asked.remove(&from) else { return };
        for want in &mut self.pressure.parked {
            if bytes > 0 {
                // What it moved may have been in others' extents, which they can give back now.
                want.dry.clear();
            } else if want.ticket < asked.ticket {
                want.dry.insert(from);
            }
        }
        if bytes > 0 && own {
            self.retry_wants_of(from);
        }
    }

    /// It has room in its own extents: it need not wait for another one.
    fn retry_wants_of(&mut self, from: ProcId) {
        self.grant_what_fits();
        let (own, others): (VecDeque<Parked>, VecDeque<Parked>) =
            std::mem::take(&mut self.pressure.parked).into_iter().partition(|want| want.from == from && want.copy.is_none());
        self.pressure.parked = others;
        own.into_iter().for_each(|want| self.send(from, FromNode::ExtentRetry { token: want.token }));
    }

    fn grant_what_fits(&mut self) {
        while let Some(size) = self.pressure.parked.front().and_then(|first| self.fitting(first)) {
            let want = self.pressure.parked.pop_front().expect("looked at above");
            self.give_memory(self.now, want, size);
        }
    }

    /// Its extents hold less than before: it may have something to give back after all.
    pub(super) fn may_help_again(&mut self, holder: ProcId) {
        self.pressure.parked.iter_mut().for_each(|want| {
            want.dry.remove(&holder);
        });
    }

    // ---- disk

    /// Somebody spills and needs room for it. Answered at once: who waits for memory waits for this.
    pub(super) fn segment_wanted(&mut self, now: Time, from: ProcId, token: u64, sizes: &[u64]) {
        self.make_segment(now, sizes, For::Spiller { from, token });
    }

    /// Nothing in memory can be moved: the value goes to disk as it is made.
    fn place_on_disk(&mut self, now: Time, want: Parked) {
        let sizes = want.sizes.clone();
        self.make_segment(now, &sizes, For::Creator(want));
    }

    fn make_segment(&mut self, now: Time, sizes: &[u64], whom: For) {
        let (to, token) = match &whom {
            For::Spiller { from, token } => (*from, *token),
            // The daemon's own.
            For::Creator(want) if want.copy.is_some() => (ProcId::NODE, 0),
            For::Creator(want) => (want.from, want.token),
        };
        let Some(spill) = &self.config.spill else {
            let refusal = Refusal { text: "spilling is off".into(), broken: false };
            return self.refused(now, whom, refusal);
        };
        let left = spill.quota.saturating_sub(self.pressure.disk_used);
        let sizes: Vec<u64> = sizes.iter().copied().filter(|size| *size <= left).collect();
        let Some(&size) = sizes.first() else {
            let text = format!("{} of the quota of {} are used", super::store::mib(self.pressure.disk_used), super::store::mib(spill.quota));
            return self.refused(now, whom, Refusal { text, broken: false });
        };
        let extent = self.new_extent(to, size, true);
        self.pressure.placing.insert(extent, whom);
        self.out.push(NodeCommand::NewSegment { to, token, extent, sizes });
    }

    /// Its file is asked for, and not made yet.
    pub(super) fn is_being_placed(&self, extent: ExtentId) -> bool {
        self.pressure.placing.contains_key(&extent)
    }

    /// The shell made the file, of the first of the sizes that the disk had room for, and granted it.
    pub fn segment_made(&mut self, extent: ExtentId, size: u64) {
        let whom = self.pressure.placing.remove(&extent);
        self.pressure.refusal = None;
        if let Some(record) = self.extents.get_mut(&extent) {
            self.pressure.disk_used -= record.size() - size;
            record.set_size(size);
        }
        self.tell_of_spilling();
        if let Some(For::Creator(Parked { from, token, copy: Some(copy), .. })) = whom {
            self.copy_on_disk(from, token, copy, extent);
        }
    }

    /// The user hears of it when it is much, and each time it has doubled.
    fn tell_of_spilling(&mut self) {
        let used = self.pressure.disk_used;
        if used < self.pressure.tell_at.max(TELL_FROM) {
            return;
        }
        self.pressure.tell_at = 2 * used;
        let place = self.config.spill.as_ref().map_or("", |spill| spill.place.as_str());
        let text = format!("{} of objects are on disk in {place}: they don't fit into the object store.\nhint: drop references that are not needed any more, or start with a larger ray.init(object_store_memory=...)", super::store::mib(used));
        self.notify(&text);
    }

    /// The shell could not.
    pub fn segment_failed(&mut self, now: Time, extent: ExtentId, text: String) {
        self.forget_extent(extent);
        if let Some(whom) = self.pressure.placing.remove(&extent) {
            self.refused(now, whom, Refusal { text, broken: true });
        }
        self.make_room(now);
    }

    /// A segment that was granted can't be written to.
    pub(super) fn segment_broke(&mut self, from: ProcId, extent: ExtentId, text: String) {
        if self.extents.get(&extent).is_some_and(|e| e.creator() == from) {
            self.pressure.refusal = Some(Refusal { text, broken: true });
        }
    }

    fn refused(&mut self, now: Time, whom: For, refusal: Refusal) {
        self.pressure.refusal = Some(refusal);
        match whom {
            For::Spiller { from, token } => self.send(from, FromNode::StoreFull { token, text: String::new(), disk: true }),
            For::Creator(mut want) if now < want.since + GRACE && self.others_may_let_go(want.from) => {
                want.dry.clear();
                want.again_at = Some(now + AGAIN);
                self.pressure.parked.push_front(want);
            }
            For::Creator(want) => self.refuse(&want),
        }
    }

    /// Somebody else is at work and may free memory: the driver, or a call that does not wait for memory as well.
    fn others_may_let_go(&self, asker: ProcId) -> bool {
        let waits = |id: ProcId| id == asker || self.pressure.parked.iter().any(|want| want.from == id);
        !waits(self.driver) || self.leases.values().any(|lease| !waits(lease.worker))
    }

    fn refuse(&mut self, want: &Parked) {
        let disk = self.config.spill.is_some() && self.pressure.refusal.as_ref().is_some_and(|refusal| refusal.broken);
        let text = self.explain_full(want.least(), disk);
        let answer = match want.copy {
            None => FromNode::StoreFull { token: want.token, text, disk },
            Some(_) => FromNode::PullFailed { token: want.token, lost: false, text },
        };
        self.send(want.from, answer);
    }

    /// Why nothing went to disk, and what would help.
    pub(super) fn explain_disk(&self) -> (String, &'static str) {
        let Some(spill) = &self.config.spill else {
            return (String::new(), "drop references that are not needed any more, or start with a larger ray.init(object_store_memory=...)");
        };
        let used = super::store::mib(self.pressure.disk_used);
        let place = &spill.place;
        match &self.pressure.refusal {
            Some(Refusal { text, broken: true }) => (
                format!("; {used} of disk in {place} hold spilled objects, and it takes no more: {text}"),
                "free space there, or choose another disk with ray.init(object_spilling_directory=...); drop references that are not needed any more",
            ),
            Some(Refusal { text, .. }) => (
                format!("; the disk for spilled objects ({place}) takes no more: {text}"),
                "drop references that are not needed any more, or raise _system_config={\"object_spilling_quota_bytes\": ...} or object_store_memory",
            ),
            None => (format!("; {used} of disk in {place} hold spilled objects"), "drop references that are not needed any more"),
        }
    }

    pub(super) fn disk_used(&mut self) -> &mut u64 {
        &mut self.pressure.disk_used
    }

    /// A process is gone: it waits for nothing and answers nothing.
    pub(super) fn forget_pressure_of(&mut self, proc_id: ProcId) {
        self.pressure.asked.remove(&proc_id);
        self.pressure.parked.retain(|want| want.from != proc_id);
    }

    /// Requests that wait for memory: from whom, how much, since when.
    pub fn waiting_for_memory(&self) -> impl Iterator<Item = (ProcId, u64, Time)> + '_ {
        self.pressure.parked.iter().map(|want| (want.from, want.least(), want.since))
    }

    /// Time passed. Returns when to call again.
    pub(super) fn tick_pressure(&mut self, now: Time) -> Option<Time> {
        self.make_room(now);
        let first = self.pressure.parked.front()?;
        let late = self.pressure.asked.values().map(|asked| asked.since + LATE).filter(|at| *at > now).min();
        [first.again_at.filter(|at| *at > now), late].into_iter().flatten().min()
    }

    pub(super) fn check_pressure(&self) {
        let used: u64 = self.extents.iter().filter(|(id, _)| id.is_on_disk()).map(|(_, extent)| extent.size()).sum();
        assert_eq!(used, self.pressure.disk_used, "bytes of segments");
        assert!(used <= self.config.spill.as_ref().map_or(0, |spill| spill.quota), "more on disk than the quota");
        if let Some(first) = self.pressure.parked.front() {
            assert!(self.fitting(first).is_none(), "a request for memory waits although there is room: {first:?}");
            assert!(first.again_at.is_some() || !self.pressure.asked.is_empty(), "a request for memory waits for nobody: {first:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Node, NodeCommand, NodeConfig, SpillConfig};
    use ray_proto::msg::{FromNode, ToNode};
    use ray_proto::{ExtentId, NodeIndex, ProcId, Resources, ShmRange};

    const MIB: u64 = 1 << 20;

    fn node(quota: u64) -> (Node, ProcId) {
        let config = NodeConfig {
            index: NodeIndex::HEAD,
            memory: crate::node::MemoryRules::default(),
            total: Resources::from_f64([("CPU", 1.0)]),
            store_bytes: 8 * MIB,
            job: Some(crate::node::tests::job()),
            warm_workers: 0,
            idle_worker: 1_000_000,
            infeasible_is_error: false,
            spill: Some(SpillConfig { place: "/disk".into(), quota, batch: MIB }),
        };
        let mut node = Node::alone(config);
        let driver = node.driver_connected(1, 4);
        commands(&mut node);
        (node, driver)
    }

    fn commands(node: &mut Node) -> Vec<NodeCommand> {
        let mut out = Vec::new();
        node.take_commands(&mut out);
        node.check_invariants();
        out
    }

    fn want(node: &mut Node, now: u64, from: ProcId, token: u64, size: u64) -> Vec<NodeCommand> {
        node.on_message(now, from, ToNode::ExtentWant { token, sizes: vec![size] });
        commands(node)
    }

    fn granted(commands: &[NodeCommand]) -> Vec<(u64, ExtentId)> {
        let grant = |c: &NodeCommand| match c {
            NodeCommand::NewExtent { token, extent, .. } => Some((*token, *extent)),
            _ => None,
        };
        commands.iter().filter_map(grant).collect()
    }

    fn sent(commands: &[NodeCommand]) -> Vec<FromNode> {
        let message = |c: &NodeCommand| match c {
            NodeCommand::Send { message, .. } => Some(message.clone()),
            _ => None,
        };
        commands.iter().filter_map(message).collect()
    }

    #[test]
    fn a_request_without_room_waits_until_its_holder_has_spilled() {
        let (mut node, driver) = node(u64::MAX);
        let (_, extent) = granted(&want(&mut node, 1, driver, 1, 8 * MIB))[0];
        let out = want(&mut node, 2, driver, 2, 2 * MIB);
        assert_eq!(sent(&out), [FromNode::Spill { bytes: 2 * MIB }]);
        node.on_message(3, driver, ToNode::SegmentWant { token: 9, sizes: vec![8 * MIB, 2 * MIB] });
        assert!(matches!(&commands(&mut node)[..], [NodeCommand::NewSegment { token: 9, extent, .. }] if extent.is_on_disk()));
        node.on_message(4, driver, ToNode::ExtentDrop { extent });
        assert_eq!(granted(&commands(&mut node)).iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn room_in_the_askers_own_extents_is_told_instead_of_granted() {
        let (mut node, driver) = node(u64::MAX);
        want(&mut node, 1, driver, 1, 8 * MIB);
        want(&mut node, 2, driver, 2, MIB);
        node.on_message(3, driver, ToNode::Spilled { bytes: MIB, own: true });
        assert_eq!(sent(&commands(&mut node)), [FromNode::ExtentRetry { token: 2 }]);
    }

    #[test]
    fn when_nothing_can_be_moved_the_value_goes_to_disk_and_with_a_full_disk_it_is_an_error() {
        let (mut node, driver) = node(4 * MIB);
        want(&mut node, 1, driver, 1, 8 * MIB);
        want(&mut node, 2, driver, 2, 3 * MIB);
        node.on_message(3, driver, ToNode::Spilled { bytes: 0, own: false });
        let out = commands(&mut node);
        let [NodeCommand::NewSegment { token: 2, extent, sizes, .. }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(*sizes, [3 * MIB]);
        node.segment_made(*extent, 3 * MIB);
        want(&mut node, 4, driver, 3, 2 * MIB);
        node.on_message(5, driver, ToNode::Spilled { bytes: 0, own: false });
        let out = sent(&commands(&mut node));
        let [FromNode::StoreFull { token: 3, text, disk: false }] = &out[..] else { panic!("{out:?}") };
        assert!(text.contains("the driver holds 8.0 MiB") && text.contains("3.0 MiB of the quota of 4.0 MiB"), "{text}");
    }

    #[test]
    fn a_value_larger_than_the_store_goes_to_disk_and_a_broken_disk_is_named() {
        let (mut node, driver) = node(u64::MAX);
        let out = want(&mut node, 1, driver, 1, 9 * MIB);
        let [NodeCommand::NewSegment { extent, .. }] = &out[..] else { panic!("{out:?}") };
        node.segment_failed(2, *extent, "no space left".into());
        let out = sent(&commands(&mut node));
        let [FromNode::StoreFull { token: 1, text, disk: true }] = &out[..] else { panic!("{out:?}") };
        assert!(text.contains("/disk") && text.contains("no space left"), "{text}");
    }

    #[test]
    fn a_holder_that_does_not_answer_is_not_waited_for_for_ever() {
        let (mut node, driver) = node(u64::MAX);
        want(&mut node, 1, driver, 1, 8 * MIB);
        want(&mut node, 2, driver, 2, MIB);
        let due = node.tick(3).expect("a deadline");
        node.tick(due);
        assert!(matches!(&commands(&mut node)[..], [NodeCommand::NewSegment { token: 2, .. }]));
    }

    #[test]
    fn a_freed_range_of_a_dead_creator_on_disk_is_punched() {
        let (mut node, driver) = node(u64::MAX);
        let worker = node.observer_connected(7);
        commands(&mut node);
        node.on_message(1, worker, ToNode::ExtentWant { token: 1, sizes: vec![9 * MIB] });
        let out = commands(&mut node);
        let [NodeCommand::NewSegment { extent, .. }] = &out[..] else { panic!("{out:?}") };
        node.segment_made(*extent, 9 * MIB);
        let range = |at| ShmRange { extent: *extent, offset: at, len: MIB };
        for at in [0, MIB] {
            node.on_message(2, worker, ToNode::Published { range: range(at), owner: driver });
        }
        node.creator_died(worker);
        commands(&mut node);
        node.on_message(3, driver, ToNode::FreeRange { range: range(0) });
        assert_eq!(commands(&mut node), [NodeCommand::Punch { range: range(0) }]);
        node.on_message(4, driver, ToNode::FreeRange { range: range(MIB) });
        assert!(commands(&mut node).contains(&NodeCommand::CloseExtent { extent: *extent }));
    }
}
