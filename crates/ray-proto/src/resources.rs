//! Amounts of resources, in fixed point of 1/10,000 as Ray counts them, so that 0.1 + 0.2 is 0.3.

use crate::wire::{Reader, Wire, WireError};
use std::collections::BTreeMap;

/// One whole CPU, GPU or byte of memory.
pub const UNIT: i64 = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources(pub BTreeMap<String, i64>);

impl Resources {
    pub fn from_f64<'a>(amounts: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let fixed = |value: f64| (value * UNIT as f64).round() as i64;
        Resources(amounts.into_iter().map(|(name, value)| (name.to_owned(), fixed(value))).filter(|(_, v)| *v != 0).collect())
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub fn fits_in(&self, room: &Resources) -> bool {
        self.0.iter().all(|(name, need)| *need <= room.get(name))
    }

    pub fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_insert(0) += amount;
        }
    }

    pub fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_insert(0) -= amount;
        }
    }

    /// Only the part that a blocked worker gives back.
    pub fn cpu_only(&self) -> Resources {
        Resources(self.0.iter().filter(|(name, _)| *name == "CPU").map(|(n, v)| (n.clone(), *v)).collect())
    }

    /// How many of these fit in `total` at once; unbounded needs count as `ceiling`.
    pub fn slots_in(&self, total: &Resources, ceiling: u32) -> u32 {
        let fit = self.0.iter().filter(|(_, need)| **need > 0).map(|(name, need)| total.get(name) / need).min();
        fit.map_or(ceiling, |n| n.clamp(0, i64::from(ceiling)) as u32)
    }
}

impl std::fmt::Display for Resources {
    /// `CPU: 2, GPU: 0.5`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return write!(f, "nothing");
        }
        let parts: Vec<String> = self.0.iter().map(|(name, v)| format!("{name}: {}", *v as f64 / UNIT as f64)).collect();
        write!(f, "{}", parts.join(", "))
    }
}

impl Wire for Resources {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Resources(BTreeMap::take(r)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_add_up_without_drift() {
        let tenth = Resources::from_f64([("CPU", 0.1)]);
        let mut sum = Resources::default();
        (0..10).for_each(|_| sum.add(&tenth));
        assert_eq!(sum, Resources::from_f64([("CPU", 1.0)]));
    }

    #[test]
    fn slots_are_bound_by_the_scarcest() {
        let total = Resources::from_f64([("CPU", 4.0), ("GPU", 1.0)]);
        assert_eq!(Resources::from_f64([("CPU", 1.0), ("GPU", 0.5)]).slots_in(&total, 64), 2);
        assert_eq!(Resources::default().slots_in(&total, 64), 64);
        assert_eq!(Resources::from_f64([("TPU", 1.0)]).slots_in(&total, 64), 0);
    }
}
