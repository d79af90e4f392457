//! Names of actors, and key-value pairs.

use super::{Change, Head};
use ray_proto::cluster::KvStep;
use ray_proto::msg::FromNode;
use ray_proto::{ActorId, Blob, ProcId};

impl Head {
    pub(super) fn name_take(&mut self, from: ProcId, token: u64, key: (String, String), (actor, payload): (ActorId, Blob)) {
        let existing = self.state.names.get(&key).cloned();
        if existing.is_none() {
            let (namespace, name) = key;
            self.commit(Change::NameTaken { namespace, name, actor, payload });
        }
        self.tell(from, FromNode::NameTaken { token, existing });
    }

    /// The actor is at its end, or will never live: others may have its name.
    pub(super) fn free_name(&mut self, actor: ActorId) {
        if self.state.names.values().any(|(other, _)| *other == actor) {
            self.commit(Change::ActorEnded { actor });
        }
    }

    /// `owner` is gone, and with it the actors that it had names for and had not created.
    pub(super) fn free_names_of_unborn(&mut self, owner: ProcId) {
        let is_unborn = |actor: &ActorId| actor.owner == owner && self.actors.get(actor).is_none_or(|known| known.spec.is_none());
        let unborn: Vec<ActorId> = self.state.names.values().map(|(actor, _)| *actor).filter(is_unborn).collect();
        unborn.into_iter().for_each(|actor| self.free_name(actor));
    }

    pub(super) fn name_find(&mut self, from: ProcId, token: u64, key: &(String, String)) {
        let existing = self.state.names.get(key).cloned();
        self.tell(from, FromNode::NameFound { token, existing });
    }

    pub(super) fn name_list(&mut self, from: ProcId, token: u64, all: bool, namespace: &str) {
        let names = self.state.names.keys().filter(|(ns, _)| all || ns == namespace).cloned().collect();
        self.tell(from, FromNode::Names { token, names });
    }

    pub(super) fn kv(&mut self, from: ProcId, token: u64, step: KvStep) {
        let (mut existed, mut value, mut keys, mut count) = (false, None, vec![], 0);
        match step {
            KvStep::Put { key, value: new, overwrite } => {
                existed = self.state.keys.contains_key(&key[..]);
                if !existed || overwrite {
                    self.commit(Change::KeySet { key: key.to_vec(), value: Some(new) });
                }
            }
            KvStep::Get { key } => {
                value = self.state.keys.get(&key[..]).cloned();
                existed = value.is_some();
            }
            KvStep::Exists { key } => existed = self.state.keys.contains_key(&key[..]),
            KvStep::Keys { prefix } => keys = self.keys_from(&prefix).map(|key| Blob::from(&key[..])).collect(),
            KvStep::Delete { key, is_prefix } => {
                let doomed: Vec<Vec<u8>> = match is_prefix {
                    true => self.keys_from(&key).cloned().collect(),
                    false => self.state.keys.get_key_value(&key[..]).map(|(key, _)| key.clone()).into_iter().collect(),
                };
                count = doomed.len() as u64;
                doomed.into_iter().for_each(|key| self.commit(Change::KeySet { key, value: None }));
            }
        }
        self.tell(from, FromNode::KvIs { token, existed, value, keys, count });
    }

    fn keys_from<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Vec<u8>> {
        self.state.keys.range(prefix.to_vec()..).map(|(key, _)| key).take_while(move |key| key.starts_with(prefix))
    }
}
