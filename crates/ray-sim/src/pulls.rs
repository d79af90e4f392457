//! Values whose bytes are on another node: pulled before they are read, given back when nobody reads them any more.

use crate::env::Env;
use crate::frame::{Frame, Waiting};
use crate::process::Process;
use crate::sabotage::Bug;
use ray_proto::msg::ToNode;
use ray_proto::{ExtentId, ObjectId, ShmRange};

/// What a process does with a value of another node.
#[derive(Debug, Default)]
pub struct Remote {
    /// Views and pulls that are not answered.
    users: u32,
    copy: Option<ShmRange>,
}

impl Process {
    pub fn is_remote(&self, range: ShmRange) -> bool {
        range.extent.node() != self.id.node() && !range.extent.is_stored()
    }

    pub fn remote_used(&mut self, id: ObjectId, range: ShmRange) {
        if self.is_remote(range) {
            self.remotes.entry(id).or_default().users += 1;
        }
    }

    pub fn remote_unused(&mut self, env: &mut Env, id: ObjectId, range: ShmRange) {
        if !self.is_remote(range) {
            return;
        }
        let Some(remote) = self.remotes.get_mut(&id) else { return };
        remote.users = remote.users.saturating_sub(1);
        if remote.users > 0 && remote.copy.is_some() && env.strikes(Bug::CopyDoneEarly) {
            self.to_node(env, ToNode::CopyDone { id });
            self.to_node(env, ToNode::Freed { ids: vec![(id, range.extent.node())] });
        }
    }

    /// The owner's table has nothing of it any more, so nothing here reads it.
    pub fn copy_done(&mut self, env: &mut Env, id: ObjectId) {
        if let Some(copy) = self.remotes.remove(&id).and_then(|remote| remote.copy) {
            env.oracle.view_dropped(self.id, copy);
        }
    }

    /// The next value to read is on another node.
    pub fn read_remote(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId, range: ShmRange) {
        if let Some(copy) = self.remotes.get(&id).and_then(|remote| remote.copy) {
            env.oracle.check_range(self.id, id, copy);
            frame.unread.pop_front();
            return;
        }
        self.remote_used(id, range);
        let token = self.ask_node(frame);
        self.to_node(env, ToNode::Pull { token, id, range });
    }

    /// The answer to a pull; `Err`: it failed, `true`: since nothing answers for the bytes. False: it was no pull.
    pub fn pulled(&mut self, env: &mut Env, token: u64, found: Result<ExtentId, bool>) -> bool {
        let asked = |f: &Frame| matches!(f.waiting, Some(Waiting::Node { token: t }) if t == token);
        let Some(at) = self.frames.iter().position(asked) else { return false };
        let Some((id, range)) = self.frames[at].unread.front().copied().filter(|(_, range)| self.is_remote(*range)) else { return false };
        let mut frame = self.frames.swap_remove(at);
        frame.waiting = None;
        match found {
            Ok(extent) => self.copy_opened(env, id, ShmRange { extent, offset: 0, len: range.len }),
            Err(false) => _ = frame.unread.pop_front(),
            Err(true) => {
                frame.unread.pop_front();
                self.ask_again(env, &mut frame, id, range);
            }
        }
        self.frames.push(frame);
        self.remote_unused(env, id, range);
        self.post_step(env);
        true
    }

    fn copy_opened(&mut self, env: &mut Env, id: ObjectId, copy: ShmRange) {
        let remote = self.remotes.entry(id).or_default();
        match remote.copy {
            None => {
                env.oracle.view_made(self.id, copy);
                remote.copy = Some(copy);
                self.owner.note_copied(id);
            }
            Some(other) => assert_eq!(other, copy, "{id:?} has two copies on one node"),
        }
    }

    /// The bytes are gone: the owner may know better. The view becomes a reference again, which is waited for.
    fn ask_again(&mut self, env: &mut Env, frame: &mut Frame, id: ObjectId, range: ShmRange) {
        env.oracle.check_lost(self.id, id, range);
        env.note(self.id, || format!("asks for {id:?} again"));
        let at = frame.handles.iter().position(|h| h.id == id && h.view == Some(range)).expect("it was to be read");
        let view = frame.handles.swap_remove(at);
        self.add_handle(env, frame, id);
        self.drop_handle(env, view);
        self.owner.value_lost(env.now, id, range);
        if !frame.greedy {
            self.wait(env, frame, vec![id], 1, true);
        }
    }
}
