//! The prefixes whose destinations are never captured, in the map that the connect hook reads.

use std::{collections::HashSet, net::IpAddr};

use weir_common::PrefixKey;

use super::{CaptureError, entries::Entries, quota::List};

/// Prefixes that are never captured.
pub struct SkippedPrefixes {
    entries: Entries,
}

// === impl SkippedPrefixes ===

impl SkippedPrefixes {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Makes sure that there is room for so many skipped prefixes of the workload.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there is not.
    pub fn reserve(&self, prefixes: usize) -> Result<(), CaptureError> {
        self.entries.instance.quotas.set(List::Prefixes, self.entries.workload, prefixes)
    }

    /// Never captures destinations in these prefixes, nor keeps any other from being captured;
    /// lengths count in the address's own family.
    ///
    /// # Errors
    /// Where there is no room for them, or the map cannot be written.
    pub fn set(&self, prefixes: &HashSet<(IpAddr, u8)>) -> Result<(), CaptureError> {
        self.reserve(prefixes.len())?;
        let map = &self.entries.instance.skip_cidrs;
        let wanted: HashSet<_> = prefixes.iter().map(|it| self.entry(*it)).collect();
        for (key, bits) in &wanted {
            map.insert(*key, *bits, 1)?;
        }
        let left = self.entries.left(|left| &mut left.skip_cidrs);
        left.iter()
            .filter(|prefix| !wanted.contains(*prefix))
            .try_for_each(|(key, bits)| map.remove(*key, *bits))
    }

    /// Skips other prefixes than before.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn change(
        &self,
        before: &HashSet<(IpAddr, u8)>,
        after: &HashSet<(IpAddr, u8)>,
    ) -> Result<(), CaptureError> {
        let map = &self.entries.instance.skip_cidrs;
        for prefix in after.difference(before) {
            let (key, bits) = self.entry(*prefix);
            map.insert(key, bits, 1)?;
        }
        for prefix in before.difference(after) {
            let (key, bits) = self.entry(*prefix);
            map.remove(key, bits)?;
        }
        Ok(())
    }

    /// True where the address is in a skipped prefix.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn contains(&self, addr: IpAddr) -> Result<bool, CaptureError> {
        Ok(self.entries.instance.skip_cidrs.longest(self.entries.prefix(addr))?.is_some())
    }

    /// Removes all prefixes. Reads the whole map.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for (key, bits, _) in instance.skip_cidrs.entries(|key| key == *workload) {
            let _ = instance.skip_cidrs.remove(key, bits);
        }
    }

    fn entry(&self, (addr, bits): (IpAddr, u8)) -> (PrefixKey, u32) {
        let offset = if addr.is_ipv4() { 96 } else { 0 };
        (self.entries.prefix(addr), offset + u32::from(bits))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::{Instance, InstanceOptions, WorkloadMaps};

    /// Needs root.
    #[test]
    fn lengths_count_in_the_family_of_the_address() {
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let [one, other] = [1, 2].map(|id| WorkloadMaps::new(Arc::clone(&instance), id, true));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let before = HashSet::from([(address("10.1.0.0"), 16), (address("fd00::"), 8)]);
        one.prefixes.set(&before).unwrap();
        let contains = |text| one.prefixes.contains(address(text)).unwrap();
        assert!(contains("10.1.2.3") && contains("fd12::1"));
        assert!(!contains("10.2.0.1") && !contains("fe80::1"));
        assert!(!other.prefixes.contains(address("10.1.2.3")).unwrap());
        let after = HashSet::from([(address("0.0.0.0"), 0)]);
        one.prefixes.change(&before, &after).unwrap();
        assert!(contains("192.0.2.1") && !contains("fd12::1"));
        one.prefixes.clear();
        assert!(!contains("192.0.2.1"));
    }
}
