//! Values as the engine sees them: bytes with one leading flag byte, inline or in shared memory.

use crate::ids::{ExtentId, ObjectId};
use crate::wire::{Reader, Wire, WireError};
use crate::wire_struct;
use std::sync::Arc;

/// The longest bytes that a `Blob` keeps in itself: pickles of numbers, None and short texts.
const SMALL_MAX: usize = 22;

/// Bytes that many tables may keep: short ones in place, longer ones shared without copying. Three words.
#[derive(Clone)]
pub enum Blob {
    Small { len: u8, bytes: [u8; SMALL_MAX] },
    Shared(Arc<[u8]>),
}

impl Blob {
    pub const EMPTY: Blob = Blob::Small { len: 0, bytes: [0; SMALL_MAX] };
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Blob::Small { len, bytes } => &bytes[..usize::from(*len)],
            Blob::Shared(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Blob {
    fn from(from: &[u8]) -> Self {
        if from.len() > SMALL_MAX {
            return Blob::Shared(Arc::from(from));
        }
        let mut bytes = [0; SMALL_MAX];
        bytes[..from.len()].copy_from_slice(from);
        Blob::Small { len: from.len() as u8, bytes }
    }
}

impl<const N: usize> From<&[u8; N]> for Blob {
    fn from(from: &[u8; N]) -> Self {
        Blob::from(&from[..])
    }
}

impl From<Vec<u8>> for Blob {
    fn from(from: Vec<u8>) -> Self {
        Blob::from(&from[..])
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", &self[..])
    }
}

impl Wire for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u32::take(r)? as usize;
        Ok(Blob::from(r.slice(len)?))
    }
}

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
    /// Boxed: tables hold many values and few of them are large.
    Shm(Box<ShmRange>),
}

impl Value {
    pub fn inline(bytes: impl Into<Blob>) -> Self {
        Value::Inline(bytes.into())
    }

    pub fn shm(range: ShmRange) -> Self {
        Value::Shm(Box::new(range))
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Inline(bytes) if bytes.first().is_some_and(|flag| *flag >= FLAG_RAISED))
    }
}

impl Wire for Value {
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
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(r)? {
            0 => Ok(Value::Inline(Blob::take(r)?)),
            1 => Ok(Value::shm(ShmRange::take(r)?)),
            _ => Err(WireError::Bad("value")),
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
    Value::inline(bytes)
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
    fn short_and_long_bytes_read_the_same() {
        assert_eq!(size_of::<Value>(), 24);
        for len in [0, 1, SMALL_MAX, SMALL_MAX + 1, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let blob = Blob::from(&bytes[..]);
            assert_eq!(&blob[..], &bytes[..]);
            let mut out = Vec::new();
            blob.put(&mut out);
            assert_eq!(crate::wire::decode::<Blob>(&out).unwrap(), blob);
        }
    }

    #[test]
    fn system_errors_keep_their_fields() {
        let Value::Inline(bytes) = system_error("worker_crashed", &[("pid", "7"), ("message", "a=b\nc")]) else { panic!("inline") };
        assert_eq!(bytes[0], FLAG_SYSTEM);
        let fields = system_error_fields(&bytes[1..]);
        assert_eq!(fields[2], ("message".into(), "a=b\nc".into()));
        assert!(Value::Inline(bytes).is_error());
    }
}
