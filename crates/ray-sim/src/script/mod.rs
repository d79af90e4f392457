//! What a random program does, one step at a time.

pub mod groups;

use crate::env::Env;
use crate::frame::{Frame, Handle};
use crate::oracle::{precedes, token, CallInfo, Made, Path};
use crate::process::Process;
use ray_logic::owner::{ActorOptions, CallArgs, CallKind, SubmitError, Template};
use ray_proto::msg::ToNode;
use ray_proto::report::Subject;
use ray_proto::value::FLAG_PICKLE;
use ray_proto::{ActorId, ObjectId, Payload, Resources, Strategy, Value};
use std::sync::Arc;

/// Concurrency groups of every actor, the default one included.
pub const GROUPS: u32 = 3;

pub fn inline_value(token: u64) -> Value {
    let mut bytes = vec![FLAG_PICKLE];
    bytes.extend_from_slice(&token.to_le_bytes());
    Value::inline(bytes)
}

/// Where something may go, in a cluster.
fn some_strategy(env: &mut Env) -> Strategy {
    let (index, node_id) = env.rng.pick(&env.node_ids.clone()).expect("a node");
    match env.rng.below(10) {
        0..=4 => Strategy::DEFAULT,
        5..=6 => Strategy::Spread {},
        7 => Strategy::Near { node: index },
        8 => Strategy::Node { node_id, soft: true },
        _ => Strategy::Node { node_id, soft: false },
    }
}

/// What a call gets: arguments to wait for, references to pass on.
struct Mentions {
    deps: Vec<ObjectId>,
    nested: Vec<ObjectId>,
}

impl Process {
    pub fn act(&mut self, env: &mut Env, frame: &mut Frame) {
        if env.options.streams > 0 && env.rng.permille(400) && self.use_streams(env, frame) {
            return;
        }
        if env.makes_groups() && env.rng.permille(120) {
            return self.use_groups(env, frame);
        }
        if env.options.cancels > 0 && env.rng.permille(env.options.cancels) {
            return self.cancel_some(env, frame);
        }
        let roll = env.rng.below(100);
        match roll {
            0..=11 => self.put(env, frame),
            12..=44 => self.submit_task(env, frame),
            45..=56 => self.wait_for_some(env, frame),
            57..=62 => self.drop_some(env, frame),
            63..=70 => self.create_actor(env, frame),
            71..=91 => self.call_actor(env, frame),
            92..=94 => self.kill_actor(env, frame),
            95..=96 => self.use_state(env, frame),
            _ => self.out_of_band(env, frame),
        }
    }

    fn some_refs(&self, env: &mut Env, frame: &Frame, most: u64) -> Vec<ObjectId> {
        let refs = frame.refs();
        let count = env.rng.below(most + 1);
        (0..count).filter_map(|_| env.rng.pick(&refs)).collect()
    }

    /// References that a container made at `path` may hold without ever holding itself: cycles leak by design, as in Ray.
    pub fn containable(&self, env: &mut Env, frame: &Frame, path: &Path, most: u64) -> Vec<ObjectId> {
        let mut refs = self.some_refs(env, frame, most);
        refs.retain(|id| env.oracle.made.get(id).is_some_and(|made| precedes(&made.path, path) || made.ready && made.path == *path));
        refs
    }

    fn put(&mut self, env: &mut Env, frame: &mut Frame) {
        let refs = self.containable(env, frame, &frame.path, 2);
        let shm = env.rng.permille(env.options.shm) && !frame.no_shm;
        let len = env.rng.range(1, 30_000);
        let value = match shm {
            // The id is not known yet: written below.
            true => match self.allocate(env, frame, len, 0) {
                Some(range) => Value::shm(range),
                None => return frame.steps_left += 1,
            },
            false => inline_value(0),
        };
        self.put_value(env, frame, value, refs);
    }

    /// The id of a put is given by the owner, and its value must be `token(id)`.
    fn put_value(&mut self, env: &mut Env, frame: &mut Frame, value: Value, refs: Vec<ObjectId>) -> ObjectId {
        let next = self.owner.next_put_id();
        let value = match value {
            Value::Shm(range) => {
                env.oracle.write(self.id, *range, token(next));
                Value::Shm(range)
            }
            Value::Inline(_) => inline_value(token(next)),
        };
        let id = self.owner.put(Payload { value, refs: refs.clone() });
        assert_eq!(id, next);
        env.oracle.made.insert(id, Made { path: frame.path.clone(), pure: true, ready: true });
        env.oracle.contents.insert(id, refs);
        env.oracle.handle_made(self.id, id);
        frame.handles.push(Handle { id, view: None });
        env.note(self.id, || format!("puts {id:?}"));
        id
    }

    /// Whether `path` may wait for `id` without any chance of a deadlock of the program's own making.
    pub fn may_wait(&self, env: &Env, path: &Path, pure: bool, id: ObjectId) -> bool {
        let Some(made) = env.oracle.made.get(&id) else { return false };
        !id.is_actor() && (made.ready || precedes(&made.path, path) && (made.pure || !pure))
    }

    fn mentions(&mut self, env: &mut Env, frame: &Frame, path: &Path, pure: bool) -> Mentions {
        let candidates = self.some_refs(env, frame, 2);
        let deps = candidates.into_iter().filter(|id| self.may_wait(env, path, pure, *id)).collect();
        Mentions { deps, nested: self.some_refs(env, frame, 2) }
    }

    /// Arguments, sometimes with a body in shared memory.
    fn args(&mut self, env: &mut Env, frame: &mut Frame, mentions: Mentions) -> CallArgs {
        let Mentions { deps, nested } = mentions;
        if env.rng.permille(env.options.shm / 3) {
            if let Some(allocation) = self.extents.allocate(5_000) {
                let id = self.put_value(env, frame, Value::shm(allocation.range), vec![]);
                return CallArgs { body: Value::shm(allocation.range), body_id: id, deps, nested };
            }
        }
        CallArgs { body: inline_value(0), body_id: ObjectId::NIL, deps, nested }
    }

    fn submit_task(&mut self, env: &mut Env, frame: &mut Frame) {
        if env.options.calls == 0 || frame.depth >= 5 {
            return;
        }
        let pure = frame.pure || env.rng.permille(400);
        let template = self.task_site(env);
        let path = env.oracle.child(&frame.path);
        let mentions = self.mentions(env, frame, &path, pure);
        let args = self.args(env, frame, mentions);
        let (max_retries, greedy) = (template.max_retries, template.name == "gpu");
        let simple = args.deps.is_empty() && args.nested.is_empty() && args.body_id.is_nil();
        let info = CallInfo { path, pure, depth: frame.depth + 1, actor: None, ordered_in: None, max_retries, greedy, simple };
        self.submit(env, frame, &template, args, info);
    }

    fn submit(&mut self, env: &mut Env, frame: &mut Frame, template: &Arc<Template>, args: CallArgs, info: CallInfo) {
        // The deps of a pure call are pure, so its results are.
        let made = Made { path: info.path.clone(), pure: info.pure, ready: false };
        let text = format!("{args:?}");
        let task = match self.owner.submit(env.now, template, args) {
            Ok(task) => task,
            Err(SubmitError::TooManyPending { .. }) => return,
        };
        env.options.calls = env.options.calls.saturating_sub(1);
        env.note(self.id, || format!("submits {task} ({}) at {:?} with {text}", template.name, info.path));
        env.oracle.calls.insert((self.id, task), info);
        self.call_born(env, frame, task);
        if let Some(options) = template.stream {
            return self.stream_submitted(env, frame, task, options, made);
        }
        for index in 1..=u64::from(template.num_returns) {
            let id = ObjectId::new(self.id, task, index);
            env.oracle.made.insert(id, made.clone());
            env.oracle.handle_made(self.id, id);
            frame.handles.push(Handle { id, view: None });
        }
    }

    /// A call site: an old one or a new one.
    fn task_site(&mut self, env: &mut Env) -> Arc<Template> {
        let tasks: Vec<_> = self.sites.iter().filter(|t| matches!(t.kind, CallKind::Task { .. })).cloned().collect();
        if let Some(site) = env.rng.pick(&tasks).filter(|_| env.rng.permille(700)) {
            return site;
        }
        let cpu = env.rng.pick(&[1.0, 1.0, 1.0, 0.5, 0.0, f64::from(env.options.widest)]).expect("a shape");
        let odd = if env.rng.permille(100) { "other" } else { "" };
        let gpu = env.rng.pick(&[0.0, 0.0, 0.5, 0.3, 1.0]).filter(|_| env.options.gpus > 0).unwrap_or(0.0);
        let mut shape = Resources::from_f64([("CPU", cpu), ("GPU", gpu)]);
        let mut strategy = Strategy::DEFAULT;
        let mut greedy = gpu > 0.0;
        if env.node_ids.len() > 1 {
            strategy = some_strategy(env);
            let is_bound = matches!(strategy, Strategy::Node { .. });
            if is_bound {
                shape = Resources::from_f64([("CPU", cpu)]);
                greedy = false;
            } else if env.rng.permille(100) {
                shape.add(&Resources::from_f64([("gold", 1.0)]));
                greedy = true;
            }
        }
        if env.makes_groups() && env.rng.permille(400) {
            if let Some((place, room)) = groups::some_place(env) {
                greedy = room != Resources::default();
                (strategy, shape) = (place, room);
            }
        }
        let class = self.owner.class_for(&shape, odd, &strategy);
        let max_calls = if env.rng.permille(env.options.max_calls) { env.rng.range(1, 3) as u32 } else { 0 };
        let site = self.site(env, if greedy { "gpu" } else { "f" }, CallKind::Task { class }, max_calls);
        self.sites.push(site.clone());
        site
    }

    fn site(&mut self, env: &mut Env, name: &str, kind: CallKind, max_calls: u32) -> Arc<Template> {
        let stream = self.stream_options(env, name);
        self.owner.template(Template {
            id: Default::default(),
            kind,
            name: name.into(),
            payload: b"code"[..].into(),
            stream,
            num_returns: env.rng.pick(&[1, 1, 1, 2, 3, 0]).expect("a number"),
            max_retries: env.rng.pick(&[3, 3, 0, 1, -1]).expect("a number"),
            retry_raised: env.rng.permille(300),
            max_calls,
        })
    }

    fn wait_for_some(&mut self, env: &mut Env, frame: &mut Frame) {
        if frame.greedy {
            return;
        }
        let pure = frame.pure || !matches!(frame.role, crate::frame::Role::Driver) && self.home.is_some();
        let mut ids: Vec<ObjectId> = self.some_refs(env, frame, 4).into_iter().filter(|id| self.may_wait(env, &frame.path, pure, *id)).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return;
        }
        let get = env.rng.permille(700);
        let need = if get { ids.len() } else { env.rng.range(1, ids.len() as u64) as usize };
        self.wait(env, frame, ids, need, get);
    }

    fn drop_some(&mut self, env: &mut Env, frame: &mut Frame) {
        for _ in 0..env.rng.range(1, 3) {
            if frame.handles.is_empty() {
                return;
            }
            let at = env.rng.below(frame.handles.len() as u64) as usize;
            let handle = frame.handles.swap_remove(at);
            frame.unread.retain(|(id, _)| *id != handle.id || handle.view.is_none());
            self.drop_handle(env, handle);
        }
    }

    fn create_actor(&mut self, env: &mut Env, frame: &mut Frame) {
        if env.options.actors == 0 || frame.pure {
            return;
        }
        env.options.actors -= 1;
        let heavy = env.options.heavy_actors > 0;
        env.options.heavy_actors -= u32::from(heavy);
        let one = Resources::from_f64([("CPU", 1.0)]);
        let held = if heavy { one.clone() } else { Resources::default() };
        let to_place = if env.rng.permille(500) { one } else { held.clone() };
        let place = if !heavy && env.makes_groups() && env.rng.permille(300) { groups::some_place(env) } else { None };
        let (held, to_place) = place.as_ref().map_or((held, to_place), |(_, room)| (room.clone(), room.clone()));
        let path = env.oracle.child(&frame.path);
        let detached = env.rng.permille(env.options.detached);
        let mut mentions = self.mentions(env, frame, &path, true);
        mentions.nested = self.containable(env, frame, &path, 2);
        let args = self.args(env, frame, mentions);
        let actor = self.owner.new_actor_id();
        env.note(self.id, || format!("creates {actor:?} with {args:?}"));
        if env.node_ids.len() > 1 {
            env.oracle.contents.insert(actor, args.deps.iter().chain(&args.nested).copied().collect());
        }
        if !args.deps.is_empty() {
            env.oracle.needy.insert(actor);
        }
        let name = if detached { self.name_actor(env, actor) } else { String::new() };
        let options = ActorOptions {
            class_name: "A".into(),
            payload: b"class"[..].into(),
            held,
            to_place,
            env: String::new(),
            max_restarts: env.rng.pick(&[0, 0, 1, 2, -1]).expect("a number"),
            name,
            namespace: String::new(),
            detached,
            strategy: match place {
                Some((place, _)) => place,
                None if env.node_ids.len() > 1 => some_strategy(env),
                None => Strategy::DEFAULT,
            },
        };
        env.oracle.calls.insert(
            (self.id, actor.call()),
            CallInfo { path: path.clone(), pure: false, depth: frame.depth + 1, actor: None, ordered_in: None, max_retries: -1, greedy: false, simple: false },
        );
        env.oracle.made.insert(actor, Made { path, pure: false, ready: false });
        self.owner.create_actor(env.now, actor, options, args);
        env.oracle.handle_made(self.id, actor);
        frame.handles.push(Handle { id: actor, view: None });
    }

    /// It outlives its creator, and others find it by its name.
    fn name_actor(&mut self, env: &mut Env, actor: ActorId) -> String {
        let name = format!("a{}", env.named.len());
        env.named.push(actor);
        self.detached.push(actor);
        let payload = b"class"[..].into();
        self.to_node(env, ToNode::NameTake { token: 0, name: name.clone(), namespace: String::new(), actor, payload });
        name
    }

    fn look_for_actor(&mut self, env: &mut Env) {
        if !env.named.is_empty() {
            let name = format!("a{}", env.rng.below(env.named.len() as u64));
            self.to_node(env, ToNode::NameFind { token: 0, name, namespace: String::new() });
        }
    }

    /// An actor was found by its name: kept until the program's end.
    pub fn actor_found(&mut self, env: &mut Env, actor: ActorId) {
        env.note(self.id, || format!("has found {actor:?}"));
        self.owner.add_local(actor);
        env.oracle.handle_made(self.id, actor);
        self.pins.push(Handle { id: actor, view: None });
        self.owner.register_borrow(actor);
    }

    fn use_pin(&mut self, env: &mut Env, frame: &mut Frame) {
        let actors: Vec<ActorId> = self.pins.iter().map(|pin| pin.id).filter(|id| id.is_actor()).collect();
        if let Some(actor) = env.rng.pick(&actors).filter(|_| !frame.pure) {
            self.add_handle(env, frame, actor);
        }
    }

    fn some_actor(&self, env: &mut Env, frame: &Frame) -> Option<ActorId> {
        let actors: Vec<ActorId> = frame.refs().into_iter().filter(|id| id.is_actor()).collect();
        env.rng.pick(&actors).filter(|_| !frame.pure)
    }

    fn call_actor(&mut self, env: &mut Env, frame: &mut Frame) {
        let Some(actor) = self.some_actor(env, frame).filter(|_| env.options.calls > 0) else { return };
        let is_it = |t: &&Arc<Template>| matches!(t.kind, CallKind::Method { actor: a, .. } if a == actor);
        let site = match self.sites.iter().find(is_it).cloned().filter(|_| env.rng.permille(700)) {
            Some(site) => site,
            None => {
                let max_pending = if env.rng.permille(100) { 2 } else { -1 };
                let (group, unordered) = (env.rng.below(u64::from(GROUPS)) as u32, env.rng.permille(300));
                let site = self.site(env, "m", CallKind::Method { actor, max_pending, group, unordered }, 0);
                self.sites.push(site.clone());
                site
            }
        };
        let path = env.oracle.child(&frame.path);
        // A process has one queue per actor: what a call at its head waits for must not wait for an actor itself.
        let mentions = self.mentions(env, frame, &path, true);
        let args = self.args(env, frame, mentions);
        let ordered_in = match site.kind {
            CallKind::Method { group, unordered: false, .. } => Some(group),
            _ => None,
        };
        let info =
            CallInfo { path, pure: false, depth: frame.depth + 1, actor: Some(actor), ordered_in, max_retries: site.max_retries, greedy: false, simple: false };
        self.submit(env, frame, &site, args, info);
    }

    fn kill_actor(&mut self, env: &mut Env, frame: &mut Frame) {
        self.ask_for_records(env);
        if let Some(actor) = self.some_actor(env, frame).filter(|_| env.rng.permille(env.options.actor_ends)) {
            env.oracle.doomed.insert(actor);
            let no_restart = env.rng.permille(600);
            self.to_node(env, ToNode::ActorKill { actor, no_restart });
        }
    }

    /// An actor keeps a reference, or uses one it kept.
    fn use_state(&mut self, env: &mut Env, frame: &mut Frame) {
        let Some(home) = self.home.as_mut() else { return };
        if let Some(kept) = env.rng.pick(&home.state).filter(|_| env.rng.permille(500)) {
            if kept.view.is_none() {
                self.add_handle(env, frame, kept.id);
            }
        } else if !frame.handles.is_empty() && home.state.len() < 10 {
            let at = env.rng.below(frame.handles.len() as u64) as usize;
            home.state.push(frame.handles.swap_remove(at));
        }
    }

    /// A reference travels outside of every call: the sender keeps it for good, the receiver registers by itself.
    fn out_of_band(&mut self, env: &mut Env, frame: &mut Frame) {
        if env.options.detached > 0 && env.rng.permille(500) {
            return if env.rng.permille(500) { self.look_for_actor(env) } else { self.use_pin(env, frame) };
        }
        if env.rng.permille(500) {
            if let Some(id) = self.some_refs(env, frame, 1).pop() {
                self.owner.add_local(id);
                env.oracle.handle_made(self.id, id);
                self.pins.push(Handle { id, view: None });
                env.mailbox.push((self.id, id));
            }
            return;
        }
        let Some((sender, id)) = env.rng.pick(&env.mailbox.clone()) else { return };
        if !env.oracle.dead.contains(&sender) && !frame.pure {
            env.note(self.id, || format!("takes {id:?} out of band"));
            self.add_handle(env, frame, id);
            self.owner.register_borrow(id);
        }
    }
}

impl Process {
    /// Which node is asked follows from how many were asked, so that no other choice of the run depends on it.
    pub fn ask_for_records(&mut self, env: &mut Env) {
        let token = self.next_token;
        self.next_token += 1;
        let node = env.node_ids.get(token as usize % env.node_ids.len().max(1)).map_or(ray_proto::NodeIndex::HEAD, |(node, _)| *node);
        env.oracle.questions.insert((self.id, token), node);
        env.note(self.id, || format!("asks {node:?} for its records"));
        self.to_node(env, ToNode::Ask { token, subject: Subject::Records { node, slot: 0 } });
    }
}
