//! The codec: little-endian, fixed layout, no self-description. Both ends are the same release; the handshake checks that.
//!
//! Every decoder here reads bytes of another process: it must refuse what is malformed and never panic or allocate by a length it has not seen the bytes for.

use std::collections::BTreeMap;

/// Bumped with every change of a message's layout.
pub const PROTOCOL: u32 = 5;

#[derive(Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame ended inside a value.
    Short,
    /// A tag or a string that no release writes.
    Bad(&'static str),
    /// Bytes were left after the message.
    Trailing(usize),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::Short => write!(f, "frame ends inside a value"),
            WireError::Bad(what) => write!(f, "frame holds an unknown {what}"),
            WireError::Trailing(n) => write!(f, "frame has {n} bytes too many"),
        }
    }
}

impl std::error::Error for WireError {}

pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        if len > self.bytes.len() {
            return Err(WireError::Short);
        }
        let (head, tail) = self.bytes.split_at(len);
        self.bytes = tail;
        Ok(head)
    }

    pub fn left(&self) -> usize {
        self.bytes.len()
    }
}

pub trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Decode one message that fills `bytes`.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    let mut reader = Reader::new(bytes);
    let value = T::take(&mut reader)?;
    match reader.left() {
        0 => Ok(value),
        n => Err(WireError::Trailing(n)),
    }
}

/// Append one frame (u32 length, message) to `out`.
pub fn frame<T: Wire>(message: &T, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    message.put(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()) }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
                let bytes = r.slice(size_of::<$t>())?;
                Ok(<$t>::from_le_bytes(bytes.try_into().map_err(|_| WireError::Short)?))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Bad("bool")),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u32::take(r)? as usize;
        std::str::from_utf8(r.slice(len)?).map(str::to_owned).map_err(|_| WireError::Bad("string"))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::take(r)?.then(|| T::take(r)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for item in self {
            item.put(out);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u32::take(r)? as usize;
        // A lying length must not reserve memory: every item takes at least one byte.
        let mut items = Vec::with_capacity(len.min(r.left()));
        for _ in 0..len {
            items.push(T::take(r)?);
        }
        Ok(items)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u32::take(r)?;
        (0..len).map(|_| Ok((K::take(r)?, V::take(r)?))).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::take(r)?, B::take(r)?))
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        T::take(r).map(Box::new)
    }
}

/// Define structs and their codec together: the fields on the wire are the fields of the type, in order.
#[macro_export]
macro_rules! wire_struct {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { $(self.$field.put(out);)* }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                Ok(Self { $($field: <$ty as $crate::wire::Wire>::take(r)?,)* })
            }
        }
    )*};
}

/// Define a message enum and its codec together: one byte of tag, then the fields.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $tag:literal = $variant:ident { $($field:ident: $ty:ty),* $(,)? },)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $($(#[$vdoc])* $variant { $($field: $ty),* },)* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $(Self::$variant { $($field),* } => { out.push($tag); $($field.put(out);)* })* }
            }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                match <u8 as $crate::wire::Wire>::take(r)? {
                    $($tag => Ok(Self::$variant { $($field: <$ty as $crate::wire::Wire>::take(r)?),* }),)*
                    _ => Err($crate::wire::WireError::Bad(stringify!($name))),
                }
            }
        }
    };
}
