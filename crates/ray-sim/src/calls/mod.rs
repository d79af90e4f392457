//! How a call or a constructor starts and ends in a worker, and how the driver's script ends.

mod cancels;

use crate::env::Env;
use crate::frame::{Ending, Frame, Handle, Role};
use crate::oracle::token;
use crate::process::Process;
use crate::script::inline_value;
use crate::streams::Producing;
use ray_logic::exec::constructor_refs;
use ray_proto::msg::{ActorSpec, Args, Call, Outcome, ToNode};
use ray_proto::value::system_error;
use ray_proto::{ActorId, ObjectId, Payload, ProcId, Value};
use std::collections::BTreeMap;

impl Process {
    /// Start the next call that came in.
    pub fn start_next(&mut self, env: &mut Env) {
        if self.leaving {
            return;
        }
        let busy: Vec<usize> = (0..self.exec.groups()).filter(|group| self.exec.can_start(*group)).collect();
        let Some(group) = (if busy.len() > 1 { env.rng.pick(&busy) } else { busy.first().copied() }) else { return };
        let Some(queued) = self.exec.pop(group, env.now) else { return };
        let (from, call) = (queued.from, queued.call);
        self.last_started = Some((from, call.task));
        env.note(self.id, || format!("starts {} of {from:?}, attempt {}, stream {:?}", call.task, call.attempt, call.stream));
        env.oracle.starts(self.id, from, call.task, call.attempt);
        assert!(self.known_templates.contains_key(&(from, call.template.0)), "a call came before its template");
        *self.template_runs.entry((from, call.template.0)).or_insert(0) += 1;
        self.check_order(from, &call);
        let info = env.oracle.calls[&(from, call.task)].clone();
        let steps = env.rng.below(7) as u32 + call.stream.as_ref().map_or(0, |_| env.rng.below(20) as u32);
        let mut frame = Frame::new(Role::Call { from, task: call.task }, info.path, info.depth, info.pure, steps);
        frame.greedy = info.greedy;
        self.unpickle(env, &mut frame, &call.args);
        self.plan_end(&mut frame, from, &call);
        self.keep(env, frame);
    }

    fn check_order(&mut self, from: ProcId, call: &Call) {
        let Some((actor, seq)) = call.actor_seq else { return };
        let home = self.home.as_mut().expect("an actor lives here");
        assert_eq!(home.actor, actor, "a call for another actor");
        let group = self.template_groups[&(from, call.template.0)];
        let next = home.next_seq.entry((from, group)).or_insert(0);
        assert!(*next <= seq, "calls of one caller to one group run in order");
        *next = seq + 1;
    }

    /// Arguments become handles and views.
    fn unpickle(&mut self, env: &mut Env, frame: &mut Frame, args: &Args) {
        if let Value::Shm(range) = &args.body {
            self.add_view(env, frame, args.body_id, **range);
        }
        for id in &args.nested {
            if env.rng.permille(800) {
                self.add_handle(env, frame, *id);
            }
        }
        for (id, payload) in &args.deps {
            env.oracle.check_value(self.id, *id, &payload.value);
            if let Value::Shm(range) = &payload.value {
                self.add_view(env, frame, *id, **range);
            }
            for id in &payload.refs {
                if env.rng.permille(700) {
                    self.add_handle(env, frame, *id);
                }
            }
        }
    }

    /// max_calls is decided at the start, as in the real worker; the rest at the end.
    fn plan_end(&self, frame: &mut Frame, from: ProcId, call: &Call) {
        let most = self.known_templates[&(from, call.template.0)];
        frame.leave_after = most > 0 && self.template_runs[&(from, call.template.0)] >= most;
        frame.num_returns = call.num_returns;
        frame.producing = call.stream.as_ref().map(Producing::new);
    }

    pub fn start_constructor(&mut self, env: &mut Env, actor: ActorId, mut spec: ActorSpec) {
        let covered = constructor_refs(&spec);
        let info = env.oracle.calls[&(actor.owner, actor.call())].clone();
        let steps = env.rng.below(4) as u32;
        let mut frame = Frame::new(Role::Constructor { actor, covered }, info.path, info.depth, false, steps);
        let own = self.take_gifts(env, &mut spec);
        self.unpickle(env, &mut frame, &spec.args);
        // Reading its arguments is over.
        own.into_iter().for_each(|id| self.drops.push((id, false)));
        self.post_soon(env);
        self.keep(env, frame);
    }

    /// Small values that a detached actor was given become its own.
    fn take_gifts(&mut self, env: &mut Env, spec: &mut ActorSpec) -> Vec<ObjectId> {
        let small = |(_, payload): &&(ObjectId, Payload)| matches!(payload.value, Value::Inline(_));
        let given: Vec<(ObjectId, Payload)> = spec.given.iter().filter(small).cloned().collect();
        let names: BTreeMap<ObjectId, ObjectId> = given.iter().map(|(id, _)| (*id, self.owner.new_put_id())).collect();
        let renamed = |ids: &[ObjectId]| ids.iter().map(|id| names.get(id).copied().unwrap_or(*id)).collect::<Vec<_>>();
        let puts = given.into_iter().map(|(id, payload)| (names[&id], Payload { refs: renamed(&payload.refs), ..payload })).collect::<Vec<_>>();
        for (id, payload) in &puts {
            env.oracle.contents.insert(*id, payload.refs.clone());
        }
        names.iter().for_each(|(id, own)| env.oracle.becomes(*id, *own));
        self.owner.put_all(puts);
        spec.args.nested = renamed(&spec.args.nested);
        spec.args.deps.iter_mut().for_each(|(_, payload)| payload.refs = renamed(&payload.refs));
        names.into_values().collect()
    }

    /// The script has no more steps.
    pub fn last_step(&mut self, env: &mut Env, mut frame: Frame) {
        if frame.ending.is_none() && self.reads_on(env, &mut frame) {
            return self.keep(env, frame);
        }
        if frame.producing.as_ref().is_some_and(Producing::is_behind) {
            // What an earlier attempt has made is made again.
            return self.yield_and_keep(env, frame);
        }
        match frame.role.clone() {
            Role::Driver => self.end_driver(env, frame),
            Role::Call { .. } => {
                let raises = env.rng.permille(env.options.raises);
                let exits = self.home.is_some() && env.rng.permille(env.options.actor_ends / 4);
                let outcome = match raises {
                    true => Outcome::Raised { retryable: env.rng.permille(600) },
                    false => Outcome::Returned {},
                };
                frame.ending = Some(Ending { outcome, results: vec![], leaving: frame.leave_after || exits });
                self.end_frame(env, frame);
            }
            Role::Constructor { actor, covered } => {
                let fails = env.rng.permille(env.options.actor_ends / 3);
                let message = match fails {
                    true => {
                        env.oracle.doomed.insert(actor);
                        ToNode::ActorFailed { actor, error: system_error("raised", &[]) }
                    }
                    false => ToNode::ActorUp { actor },
                };
                self.keep_some(env, &mut frame);
                self.owner.finish_creation(&covered, message);
                self.drop_all(env, frame);
                self.pump(env);
            }
        }
    }

    /// The driver gets everything it still has, then lets go of everything.
    fn end_driver(&mut self, env: &mut Env, mut frame: Frame) {
        let mut ids: Vec<ObjectId> = frame.refs().into_iter().filter(|id| !id.is_actor()).collect();
        ids.sort_unstable();
        ids.dedup();
        if !self.gets_all && !ids.is_empty() {
            self.gets_all = true;
            let need = ids.len();
            self.wait(env, &mut frame, ids, need, true);
            return self.keep(env, frame);
        }
        env.note(self.id, || "the driver's script is done".into());
        self.drop_all(env, frame);
        self.done = true;
    }

    /// Make the results, then reply.
    pub fn end_frame(&mut self, env: &mut Env, mut frame: Frame) {
        let Role::Call { from, task } = frame.role else { unreachable!("only calls have results") };
        let mut ending = frame.ending.take().expect("the frame ends");
        if matches!(ending.outcome, Outcome::Raised { .. }) {
            let value = env.oracle.raises(ObjectId::new(from, task, 1));
            ending.results = vec![Payload { value, refs: vec![] }];
            if frame.producing.as_ref().is_some_and(|producing| !producing.gather) {
                ending.results.push(self.stream_result(env, &frame, from, task));
            }
            return self.reply(env, frame, from, task, ending);
        }
        if frame.producing.is_some() {
            ending.results = vec![self.stream_result(env, &frame, from, task)];
            return self.reply(env, frame, from, task, ending);
        }
        while ending.results.len() < frame.num_returns as usize {
            let id = ObjectId::new(from, task, ending.results.len() as u64 + 1);
            let Some(payload) = self.make_result(env, &mut frame, id) else {
                frame.ending = Some(ending);
                return self.keep(env, frame);
            };
            ending.results.push(payload);
        }
        self.reply(env, frame, from, task, ending);
    }

    /// The value that `id` must have, somewhere. None: it needs memory, and the node was asked.
    pub fn make_result(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId) -> Option<Payload> {
        let shm = env.rng.permille(env.options.shm) && !frame.no_shm;
        let value = match shm {
            false => inline_value(token(id)),
            true => {
                let len = env.rng.range(1, 30_000);
                Value::shm(self.allocate(env, frame, len, token(id))?)
            }
        };
        let refs = self.result_refs(env, frame);
        env.oracle.contents.entry(id).or_default().extend(&refs);
        Some(Payload { value, refs })
    }

    fn result_refs(&self, env: &mut Env, frame: &Frame) -> Vec<ObjectId> {
        self.containable(env, frame, &frame.path, 3)
    }

    pub fn reply(&mut self, env: &mut Env, mut frame: Frame, from: ProcId, task: u64, ending: Ending) {
        let running = self.exec.finish(from, task).expect("the call runs");
        for payload in &ending.results {
            self.publish(env, from, payload);
        }
        self.keep_some(env, &mut frame);
        let leaving = ending.leaving;
        if let (true, Some(home)) = (leaving, &self.home) {
            let actor = home.actor;
            env.oracle.doomed.insert(actor);
            self.to_node(env, ToNode::ActorLeaving { actor, reason: "exit_actor was called".into() });
        }
        if env.rng.permille(300) {
            // Some handles are gone before the reply is made, others after it.
            self.drop_half(env, &mut frame, &ending);
            self.flush_drops(env);
        }
        env.note(self.id, || format!("ends {task} of {from:?}: {ending:?}"));
        self.owner.finish_call(from, task, &running.covered, ending.outcome, ending.results, leaving);
        self.drop_all(env, frame);
        if leaving {
            self.leaving = true;
            let unstarted = self.exec.drain();
            self.owner.give_back(unstarted, false, ProcId::NODE);
            self.finishing |= self.home.is_some();
        }
        self.pump(env);
    }

    /// The node learns of a range made for another owner.
    pub fn publish(&self, env: &mut Env, to: ProcId, payload: &Payload) {
        if let (Value::Shm(range), true) = (&payload.value, to != self.id) {
            self.to_node(env, ToNode::Published { range: **range, owner: to });
        }
    }

    /// References inside the results stay until these are sent.
    fn drop_half(&mut self, env: &mut Env, frame: &mut Frame, ending: &Ending) {
        let kept: Vec<ObjectId> = ending.results.iter().flat_map(|p| p.refs.iter().copied()).collect();
        let (stay, go): (Vec<Handle>, Vec<Handle>) = std::mem::take(&mut frame.handles).into_iter().partition(|h| kept.contains(&h.id));
        frame.handles = stay;
        go.into_iter().for_each(|handle| self.drop_handle(env, handle));
    }

    /// An actor keeps some of what it got.
    fn keep_some(&mut self, env: &mut Env, frame: &mut Frame) {
        let Some(home) = self.home.as_mut() else { return };
        let mut remote = vec![];
        for mut handle in std::mem::take(&mut frame.handles) {
            match home.state.len() < 10 && env.rng.permille(200) {
                true => {
                    // One more count of the same object: what is in the frame goes with the frame.
                    frame.handles.push(handle.clone());
                    match handle.view {
                        Some(range) => {
                            let now = self.owner.add_view(handle.id, range);
                            // What was lost with its node was made anew: the old view is of a copy.
                            let is_lost = env.oracle.lost_nodes.contains(&range.extent.node());
                            assert!(now == range || is_lost, "{:?} moved under a view, from {range:?} to {now:?}", handle.id);
                            handle.view = Some(now);
                            env.oracle.view_made(self.id, now);
                            remote.push((handle.id, now));
                        }
                        None => self.owner.add_local(handle.id),
                    }
                    env.oracle.handle_made(self.id, handle.id);
                    home.state.push(handle);
                }
                false => frame.handles.push(handle),
            }
        }
        remote.into_iter().for_each(|(id, range)| self.remote_used(id, range));
    }

    pub fn drop_all(&mut self, env: &mut Env, frame: Frame) {
        frame.handles.into_iter().for_each(|handle| self.drop_handle(env, handle));
        frame.readers.into_iter().for_each(|reader| self.drop_reader(env, reader));
    }

    /// The run is over: what is kept for good goes too.
    pub fn let_go(&mut self, env: &mut Env) {
        std::mem::take(&mut self.detached).into_iter().for_each(|actor| self.owner.release_local(actor));
        let mut kept = std::mem::take(&mut self.pins);
        if let Some(home) = self.home.as_mut() {
            kept.append(&mut home.state);
        }
        kept.into_iter().for_each(|handle| self.drop_handle(env, handle));
    }

    /// The driver's script.
    pub fn start_driver(&mut self, env: &mut Env) {
        let root: crate::oracle::Path = std::rc::Rc::from(&[][..]);
        let frame = Frame::new(Role::Driver, root, 0, false, env.options.driver_steps);
        self.keep(env, frame);
    }
}
