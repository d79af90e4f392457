//! Accelerators: resources whose units are devices with numbers. What a family's devices are called elsewhere, and how they are found, is in
//! ray._core.cluster.accelerators; only the names of the resources are needed here.

/// Resources of which each whole unit is one device. The place in this list is part of a device's number on the wire.
pub const FAMILIES: [&str; 9] = ["GPU", "TPU", "neuron_cores", "NPU", "HPU", "RBLN", "FURIOSA", "TTNPU", "MBLT"];

const FAMILY_SHIFT: u32 = 24;

/// The number of a device on its node, among those of all families.
pub fn device(family: usize, index: u32) -> u32 {
    (family as u32) << FAMILY_SHIFT | index
}

/// The resource that a device is a unit of, and which one it is. None: no such device is ever given.
pub fn family_and_index(device: u32) -> Option<(&'static str, u32)> {
    let family = FAMILIES.get((device >> FAMILY_SHIFT) as usize)?;
    Some((family, device & ((1 << FAMILY_SHIFT) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_knows_its_family_and_index() {
        for (place, name) in FAMILIES.iter().enumerate() {
            assert_eq!(family_and_index(device(place, 3)), Some((*name, 3)));
        }
        assert_eq!(family_and_index(u32::MAX), None);
    }
}
