//! Generators in random programs: who yields, who reads, who drops the rest.

use crate::env::Env;
use crate::frame::{Frame, Handle, Role, Waiting};
use crate::oracle::{token, Made, Path};
use crate::process::Process;
use crate::script::inline_value;
use ray_logic::exec::Permit;
use ray_logic::owner::{Next, StreamOptions};
use ray_proto::ids::END_INDEX;
use ray_proto::msg::{StreamOpen, ToNode};
use ray_proto::{ObjectId, Payload, ProcId};

/// A generator's handle.
#[derive(Clone, Debug)]
pub struct Reader {
    pub call: u64,
    /// Items read.
    read: u64,
    path: Path,
    pure: bool,
}

/// A generator that runs.
#[derive(Clone, Debug)]
pub struct Producing {
    made: u64,
    have: u64,
    /// What of these is made once more.
    again: Vec<(u64, u64)>,
    pub gather: bool,
    closed: bool,
}

impl Producing {
    pub fn new(open: &StreamOpen) -> Self {
        Producing { made: 0, have: open.have, again: open.again.clone(), gather: open.gather, closed: false }
    }

    /// The caller has more than was made so far.
    pub fn is_behind(&self) -> bool {
        self.made < self.have && !self.closed
    }
}

impl Process {
    /// How a new call site gives its results. A method, and what keeps a GPU, gets no window: its reader could wait for something behind it.
    pub fn stream_options(&self, env: &mut Env, name: &str) -> Option<StreamOptions> {
        if env.options.streams == 0 || !env.rng.permille(env.options.streams) {
            return None;
        }
        let window = env.rng.pick(&[None, None, Some(1), Some(3)]).expect("a window").filter(|_| name == "f");
        Some(StreamOptions { window, gather: env.rng.permille(250) })
    }

    pub fn stream_submitted(&mut self, env: &mut Env, frame: &mut Frame, call: u64, options: StreamOptions, made: Made) {
        let end = ObjectId::new(self.id, call, END_INDEX);
        if !options.gather {
            frame.readers.push(Reader { call, read: 0, path: made.path.clone(), pure: made.pure });
        }
        // Who waits for the end of a call with a window waits for its reader: nobody shall get it.
        let has_end = options.gather || options.window.is_none() && env.rng.permille(300);
        if has_end {
            if !options.gather {
                assert_eq!(self.owner.stream_end(call), end);
            }
            env.oracle.made.insert(end, made);
            env.oracle.handle_made(self.id, end);
            frame.handles.push(Handle { id: end, view: None });
        }
    }

    /// One step with a generator. False: the frame has none to do anything with.
    pub fn use_streams(&mut self, env: &mut Env, frame: &mut Frame) -> bool {
        if frame.producing.is_some() && env.rng.permille(600) {
            self.yield_one(env, frame);
            return true;
        }
        if frame.readers.is_empty() {
            return false;
        }
        let at = env.rng.below(frame.readers.len() as u64) as usize;
        match env.rng.permille(100) {
            true => {
                let reader = frame.readers.swap_remove(at);
                self.drop_reader(env, reader);
            }
            false => _ = self.read_one(env, frame, at),
        }
        true
    }

    /// Before it ends a script reads what it began to read, mostly. False: nothing is left that it may read.
    pub fn reads_on(&mut self, env: &mut Env, frame: &mut Frame) -> bool {
        if frame.readers.is_empty() {
            return false;
        }
        if env.rng.permille(50) || !self.read_one(env, frame, 0) {
            let reader = frame.readers.swap_remove(0);
            self.drop_reader(env, reader);
        }
        true
    }

    pub fn drop_reader(&mut self, env: &mut Env, reader: Reader) {
        self.dropped_readers.push(reader.call);
        self.post_soon(env);
    }

    /// False: the next item has not come, and it may not wait for it.
    fn read_one(&mut self, env: &mut Env, frame: &mut Frame, at: usize) -> bool {
        let reader = frame.readers[at].clone();
        match self.owner.stream_next(reader.call) {
            Next::Item(id) => {
                assert_eq!(id.index(), reader.read + 1, "items of call {} come in order", reader.call);
                frame.readers[at].read += 1;
                env.note(self.id, || format!("reads {id:?}"));
                let value = self.owner.value(id).cloned();
                env.oracle.made.insert(id, Made { path: reader.path, pure: true, ready: value.is_some() });
                env.oracle.handle_made(self.id, id);
                frame.handles.push(Handle { id, view: None });
                match value {
                    Some(value) => self.read(env, frame, id, &value),
                    None => assert!(!env.oracle.lost_nodes.is_empty(), "an item that was not lost with a node is ready"),
                }
            }
            Next::Over => {
                let reader = frame.readers.swap_remove(at);
                self.drop_reader(env, reader);
            }
            Next::Pending => return self.await_item(env, frame, &reader),
        }
        true
    }

    fn await_item(&mut self, env: &mut Env, frame: &mut Frame, reader: &Reader) -> bool {
        let in_actor = !matches!(frame.role, Role::Driver) && self.home.is_some();
        if frame.greedy || (frame.pure || in_actor) && !reader.pure {
            return false;
        }
        let id = self.owner.stream_peek(reader.call);
        env.oracle.handle_made(self.id, id);
        frame.peeked = Some(Handle { id, view: None });
        self.wait(env, frame, vec![id], 1, false);
        true
    }

    // ---- the producer

    pub fn yield_and_keep(&mut self, env: &mut Env, mut frame: Frame) {
        self.yield_one(env, &mut frame);
        self.keep(env, frame);
    }

    fn yield_one(&mut self, env: &mut Env, frame: &mut Frame) {
        let Role::Call { from, task } = frame.role else { unreachable!("only calls yield") };
        let producing = frame.producing.clone().expect("it yields");
        if producing.closed {
            return;
        }
        let index = producing.made + 1;
        if index > producing.have || producing.again.iter().any(|(first, last)| (*first..=*last).contains(&index)) {
            let id = ObjectId::new(from, task, index);
            let Some(payload) = self.make_result(env, frame, id) else { return frame.steps_left += 1 };
            self.publish(env, from, &payload);
            env.note(self.id, || format!("yields {id:?}: {payload:?}"));
            self.owner.yield_item(env.now, from, task, index, payload);
            self.post_soon(env);
        }
        frame.producing.as_mut().expect("it yields").made = index;
        match self.exec.permit(from, task, index + 1) {
            Permit::Go => {}
            Permit::Closed => self.close(env, frame),
            Permit::Wait => {
                self.owner.send_all_items();
                frame.waiting = Some(Waiting::Credit);
                if let Some(back) = self.exec.block() {
                    self.to_node(env, ToNode::Blocked {});
                    let answer = self.exec.callers().next().unwrap_or(ProcId::NODE);
                    self.owner.give_back(back, true, answer);
                }
            }
        }
    }

    /// Nobody reads any more: the script ends here.
    fn close(&mut self, env: &mut Env, frame: &mut Frame) {
        env.note(self.id, || format!("stops {:?}: nobody reads", frame.role));
        frame.producing.as_mut().expect("it yields").closed = true;
        frame.steps_left = 0;
    }

    /// Producers whose credit came, or whose caller is gone, go on.
    pub fn feed_all(&mut self, env: &mut Env) {
        for at in 0..self.frames.len() {
            let frame = &self.frames[at];
            let (Role::Call { from, task }, Some(Waiting::Credit), Some(producing)) = (&frame.role, &frame.waiting, &frame.producing) else { continue };
            let permit = self.exec.permit(*from, *task, producing.made + 1);
            if permit == Permit::Wait {
                continue;
            }
            let mut frame = self.frames[at].clone();
            frame.waiting = None;
            if permit == Permit::Closed {
                self.close(env, &mut frame);
            }
            self.frames[at] = frame;
            if self.exec.unblock() {
                self.to_node(env, ToNode::Unblocked {});
            }
            self.post_step(env);
        }
    }

    /// The value of the end object: it mentions all items if the call gathers.
    pub fn stream_result(&mut self, env: &mut Env, frame: &Frame, from: ProcId, task: u64) -> Payload {
        let id = ObjectId::new(from, task, END_INDEX);
        let producing = frame.producing.as_ref().expect("it yields");
        let refs: Vec<ObjectId> = match producing.gather {
            true => (1..=producing.made).map(|index| ObjectId::new(from, task, index)).collect(),
            false => vec![],
        };
        for item in &refs {
            // The list of references is a Python object for a while.
            self.owner.add_local(*item);
            self.drops.push((*item, false));
            env.oracle.made.insert(*item, Made { path: frame.path.clone(), pure: true, ready: true });
        }
        self.post_soon(env);
        env.oracle.contents.insert(id, refs.clone());
        Payload { value: inline_value(token(id)), refs }
    }
}
