//! What befalls nodes and processes, and when.

use crate::env::{daemon, name, Event, Fault};
use crate::sabotage::Bug;
use crate::world::World;
use ray_logic::head::LEASE;
use ray_logic::Time;
use ray_proto::{NodeIndex, ProcId};

/// A daemon or link that is silent for so long is not found dead for that alone: the head's patience less what a heartbeat may be old, and be late.
const SHORT: Time = LEASE - 1_500_000;

/// Who was refused tries again after this.
const AGAIN: Time = 250_000;

type Maker = fn(&mut World) -> Fault;

impl World {
    pub fn plan_faults(&mut self) {
        let env = &mut self.env;
        for _ in 0..env.options.kills {
            let at = env.rng.below(env.options.horizon_us);
            env.post(at, Event::KillSomeone);
        }
        for _ in 0..env.options.stalls {
            let at = env.rng.below(env.options.horizon_us);
            env.post(at, Event::StallSomeone);
        }
        if self.is_cluster() {
            self.plan_node_faults();
        }
    }

    fn plan_node_faults(&mut self) {
        let o = self.env.options.clone();
        let kinds: [(u32, Maker); 7] = [
            (o.driver_ends, |_| Fault::DriverEnds),
            (o.node_kills, |_| Fault::Kill(None)),
            (o.node_leaves, |_| Fault::Leave),
            (o.cuts, |world| Fault::Cut { with_head: world.env.rng.permille(500), time: world.some_time(SHORT) }),
            (o.long_cuts, |world| Fault::Cut { with_head: true, time: if world.env.rng.permille(500) { 0 } else { world.env.rng.range(LEASE, 2 * LEASE) } }),
            (o.stops, |world| Fault::Stop { whole: false, time: world.some_time(SHORT) }),
            (o.freezes, |world| Fault::Stop { whole: world.env.rng.permille(500), time: world.some_time(2 * LEASE) }),
        ];
        for (count, make) in kinds {
            for _ in 0..count {
                let fault = make(self);
                let at = self.env.rng.below(o.horizon_us * 2);
                self.env.post(at, Event::Fault(fault));
            }
        }
    }

    /// Short times are as likely as long ones.
    fn some_time(&mut self, most: Time) -> Time {
        let scale = self.env.rng.range(0, 10);
        self.env.rng.range(100, (most >> scale).max(200))
    }

    pub fn strike(&mut self, fault: Fault) {
        self.env.busy_at = self.env.now;
        match fault {
            Fault::Join(at) => self.unless_stopped(NodeIndex::HEAD, Event::Fault(fault), |world| world.join(at)),
            Fault::Knock(index) => self.unless_stopped(index, Event::Fault(fault), |world| world.knock(index)),
            Fault::Kill(index) => {
                if let Some(index) = index.or_else(|| self.some_mortal()) {
                    let tells = self.env.rng.permille(700);
                    self.end_machine(index, true, tells);
                }
            }
            Fault::Leave => self.leave(),
            Fault::DriverEnds => {
                if let Some(driver) = self.drivers.get(1).copied() {
                    self.end(driver, 9, "", true);
                }
            }
            Fault::Stop { whole, time } => self.stop(whole, time),
            Fault::LeaseOver(index) => self.end_without_lease(index),
            Fault::Resumed(index) => {
                self.end_without_lease(index);
                self.unless_stopped(index, Event::Fault(fault), |_| ());
            }
            Fault::Cut { with_head, time } => self.cut(with_head, time),
            Fault::Heal(a, b) => {
                self.env.heal_link(a, b);
                for index in [a, b].into_iter().filter(|index| self.machines.contains_key(index)).collect::<Vec<_>>() {
                    self.unless_stopped(index, Event::NodeTick(index), |_| ());
                }
            }
            Fault::Refused(index) => self.unless_stopped(NodeIndex::HEAD, Event::Fault(fault), |world| world.refused_by(index)),
        }
    }

    /// The head's node can't connect, and tries again until the head has given the other one up.
    fn refused_by(&mut self, index: NodeIndex) {
        let now = self.env.now;
        self.env.note(daemon(NodeIndex::HEAD), || format!("is refused by {}", name(daemon(index))));
        let node = self.node(NodeIndex::HEAD);
        node.node_refused(now, index);
        if node.head().is_some_and(|head| head.members().contains_key(&index)) {
            self.env.post(AGAIN, Event::Fault(Fault::Refused(index)));
        }
    }

    fn some_mortal(&mut self) -> Option<NodeIndex> {
        let mortals: Vec<NodeIndex> = self.machines.iter().filter(|(_, machine)| machine.mortal).map(|(index, _)| *index).collect();
        self.env.rng.pick(&mortals)
    }

    /// A node ends in good order: its processes first, then its membership.
    fn leave(&mut self) {
        let Some(index) = self.some_mortal().filter(|index| self.machines[index].stopped_until <= self.env.now) else { return };
        self.env.note(daemon(index), || "leaves".into());
        let there: Vec<ProcId> = self.procs.keys().copied().filter(|id| id.node() == index).collect();
        for id in there {
            self.end(id, 9, "", true);
        }
        self.node(index).leave_cluster("ray stop");
        self.after_node(index);
        if self.machines.contains_key(&index) {
            self.end_machine(index, false, true);
        }
    }

    fn stop(&mut self, whole: bool, time: Time) {
        let all: Vec<NodeIndex> = self.machines.keys().copied().collect();
        let index = match whole || time > SHORT {
            true => self.some_mortal(),
            false => self.env.rng.pick(&all),
        };
        let Some(index) = index else { return };
        let until = self.env.now + time;
        self.env.note(daemon(index), || format!("stops until {until}, with its machine: {whole}"));
        let machine = self.machines.get_mut(&index).expect("picked");
        machine.stopped_until = machine.stopped_until.max(until);
        if whole {
            self.procs.values_mut().filter(|process| process.id.node() == index).for_each(|process| process.stalled_until = process.stalled_until.max(until));
        } else if let Some(lease) = machine.lease {
            self.env.post(lease.saturating_sub(self.env.now) + 1, Event::Fault(Fault::LeaseOver(index)));
        }
        // Nobody ends a driver whose daemon is stopped.
        let has_driver = self.drivers.iter().any(|driver| driver.node() == index);
        if time > SHORT {
            self.env.oracle.killed_any = true;
            if whole || has_driver {
                self.env.oracle.frozen.insert(index);
            }
        }
        self.env.post(time, Event::Fault(Fault::Resumed(index)));
    }

    /// The daemon does nothing, and its workers see that it can't be sure any more to be a part of its cluster.
    fn end_without_lease(&mut self, index: NodeIndex) {
        let Some(machine) = self.machines.get(&index).filter(|machine| machine.lease.is_some_and(|lease| self.env.now >= lease)) else { return };
        if machine.stopped_until < self.env.now {
            return;
        }
        self.env.note(daemon(index), || "has no lease, and its workers end".into());
        let there: Vec<ProcId> = self.procs.keys().copied().filter(|id| id.node() == index && !self.drivers.contains(id)).collect();
        there.into_iter().for_each(|id| self.end(id, 9, "", true));
    }

    fn cut(&mut self, with_head: bool, time: Time) {
        let others: Vec<NodeIndex> = self.machines.iter().filter(|(_, m)| m.mortal || time > 0 && time < LEASE).map(|(index, _)| *index).collect();
        let all: Vec<NodeIndex> = self.machines.keys().copied().collect();
        let Some(a) = self.env.rng.pick(&others) else { return };
        let b = if with_head { NodeIndex::HEAD } else { self.env.rng.pick(&all).expect("one") };
        if a == b || self.env.net.is_cut(a, b) {
            return;
        }
        self.env.cut_link(a, b);
        if time > 0 {
            self.env.post(time, Event::Fault(Fault::Heal(a, b)));
        }
        if b == NodeIndex::HEAD && self.env.strikes(Bug::NoFence) {
            self.env.oracle.killed_any = true;
            self.env.post(20_000, Event::Fault(Fault::Refused(a)));
        }
    }
}
