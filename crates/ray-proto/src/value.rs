//! Values as the engine sees them: bytes with one leading flag byte, inline or in shared memory.

use crate::ids::{ExtentId, ObjectId};
use crate::wire_struct;
use std::sync::Arc;

/// Bytes shared between tables without copying.
pub type Blob = Arc<[u8]>;

/// A plain pickle follows.
pub const FLAG_PICKLE: u8 = 0;
/// A pickle with out-of-band buffers follows (layout in docs/design/001).
pub const FLAG_BUFFERS: u8 = 1;
/// A record of an exception raised by user code follows.
pub const FLAG_RAISED: u8 = 2;
/// A record of a failure found by the engine follows: NUL-separated `key=value` texts.
pub const FLAG_SYSTEM: u8 = 3;

/// Values up to this size travel inline; larger ones go to shared memory. Source: Ray's documented limit for inlined objects.
pub const INLINE_MAX: usize = 100 * 1024;

wire_struct! {
    /// A range of an extent. Creator and access are the node's business.
    pub struct ShmRange {
        pub extent: ExtentId,
        pub offset: u64,
        pub len: u64,
    }

    /// A value and the references inside it.
    pub struct Payload {
        pub value: Value,
        pub refs: Vec<ObjectId>,
    }
}

impl Copy for ShmRange {}
impl Eq for ShmRange {}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Inline(Blob),
    Shm(ShmRange),
}

impl Value {
    /// An empty argument list and other constants need no allocation of their own.
    pub fn inline(bytes: &[u8]) -> Self {
        Value::Inline(Arc::from(bytes))
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Inline(bytes) if bytes.first().is_some_and(|flag| *flag >= FLAG_RAISED))
    }
}

impl crate::wire::Wire for Value {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::Inline(bytes) => {
                out.push(0);
                bytes.put(out);
            }
            Value::Shm(range) => {
                out.push(1);
                range.put(out);
            }
        }
    }
    fn take(r: &mut crate::wire::Reader<'_>) -> Result<Self, crate::wire::WireError> {
        match u8::take(r)? {
            0 => Ok(Value::Inline(Blob::take(r)?)),
            1 => Ok(Value::Shm(ShmRange::take(r)?)),
            _ => Err(crate::wire::WireError::Bad("value")),
        }
    }
}

/// A failure found by the engine, as a value. `fields` become the exception's text and attributes.
pub fn system_error(code: &str, fields: &[(&str, &str)]) -> Value {
    let mut bytes = vec![FLAG_SYSTEM];
    bytes.extend_from_slice(format!("code={code}").as_bytes());
    for (key, text) in fields {
        bytes.push(0);
        bytes.extend_from_slice(format!("{key}={}", text.replace('\0', " ")).as_bytes());
    }
    Value::Inline(Arc::from(bytes))
}

/// The fields of a `system_error`.
pub fn system_error_fields(body: &[u8]) -> Vec<(String, String)> {
    let pair = |part: &[u8]| {
        let text = String::from_utf8_lossy(part).into_owned();
        text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    body.split(|b| *b == 0).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_keep_their_fields() {
        let Value::Inline(bytes) = system_error("worker_crashed", &[("pid", "7"), ("message", "a=b\nc")]) else { panic!("inline") };
        assert_eq!(bytes[0], FLAG_SYSTEM);
        let fields = system_error_fields(&bytes[1..]);
        assert_eq!(fields[2], ("message".into(), "a=b\nc".into()));
        assert!(Value::Inline(bytes).is_error());
    }
}
