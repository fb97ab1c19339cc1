//! Writes the port policy and the skipped prefixes into the maps that the connect hook reads.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weir_common::{DestinationKey, Direction, PortKey, PortRule, PortState, PrefixKey, Source};

use super::{
    CaptureError, Kernel,
    original::{now_ns, to_words},
    quota::List,
};
use crate::ports::PortPolicy;

impl Kernel {
    /// Sets what one port's new connections get; takes effect with the next connect.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_port(
        &self,
        direction: Direction,
        port: u16,
        state: PortState,
        source: Source,
        included: bool,
    ) -> Result<(), CaptureError> {
        let key = PortKey::new(self.workload, direction, port);
        if state == PortState::Detect && source == Source::Default && !included {
            return self.instance.ports.remove(&key);
        }
        let rule = PortRule {
            state: state as u8,
            source: source as u8,
            included: u8::from(included),
            _pad: 0,
        };
        self.instance.ports.insert(&key, &rule)
    }

    /// Lets one port's new connections get what they get without a rule.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget_port(&self, direction: Direction, port: u16) -> Result<(), CaptureError> {
        self.instance.ports.remove(&PortKey::new(self.workload, direction, port))
    }

    /// Makes sure that there is room for so many rules of the workload.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there is not.
    pub fn reserve_ports(&self, rules: usize) -> Result<(), CaptureError> {
        self.instance.quotas.set(List::Ports, self.workload, rules)
    }

    /// Writes the states of all ports, and removes those that an earlier weir had written.
    ///
    /// # Errors
    /// Where there is no room for them, or the map cannot be written.
    pub fn set_policy(&self, policy: &PortPolicy) -> Result<(), CaptureError> {
        self.reserve_ports(policy.len())?;
        let mut wanted = HashSet::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for (port, status) in policy.rules(direction) {
                wanted.insert(PortKey::new(self.workload, direction, port));
                self.set_port(direction, port, status.state, status.source, status.included)?;
            }
        }
        let left = self.left(|left| &mut left.ports);
        left.iter()
            .filter(|key| !wanted.contains(*key))
            .try_for_each(|key| self.instance.ports.remove(key))
    }

    /// What the connect hook would find for a port.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn port(
        &self,
        direction: Direction,
        port: u16,
    ) -> Result<(PortState, Source, bool), CaptureError> {
        let rule = self
            .instance
            .ports
            .get(&PortKey::new(self.workload, direction, port))?
            .unwrap_or_default();
        Ok((
            PortState::from_u8(rule.state).unwrap_or(PortState::Detect),
            Source::from_u8(rule.source).unwrap_or(Source::Default),
            rule.included != 0,
        ))
    }

    /// Makes sure that there is room for so many skipped prefixes of the workload.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there is not.
    pub fn reserve_prefixes(&self, prefixes: usize) -> Result<(), CaptureError> {
        self.instance.quotas.set(List::Prefixes, self.workload, prefixes)
    }

    /// Never captures destinations in these prefixes, nor keeps any other from being captured;
    /// lengths count in the address's own family.
    ///
    /// # Errors
    /// Where there is no room for them, or the map cannot be written.
    pub fn skip_prefixes(&self, prefixes: &HashSet<(IpAddr, u8)>) -> Result<(), CaptureError> {
        self.reserve_prefixes(prefixes.len())?;
        let map = &self.instance.skip_cidrs;
        let wanted: HashSet<_> = prefixes.iter().map(|it| self.prefix_entry(*it)).collect();
        for (key, bits) in &wanted {
            map.insert(*key, *bits, 1)?;
        }
        let left = self.left(|left| &mut left.skip_cidrs);
        left.iter()
            .filter(|prefix| !wanted.contains(*prefix))
            .try_for_each(|(key, bits)| map.remove(*key, *bits))
    }

    /// Skips other prefixes than before.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn change_prefixes(
        &self,
        before: &HashSet<(IpAddr, u8)>,
        after: &HashSet<(IpAddr, u8)>,
    ) -> Result<(), CaptureError> {
        let map = &self.instance.skip_cidrs;
        for prefix in after.difference(before) {
            let (key, bits) = self.prefix_entry(*prefix);
            map.insert(key, bits, 1)?;
        }
        for prefix in before.difference(after) {
            let (key, bits) = self.prefix_entry(*prefix);
            map.remove(key, bits)?;
        }
        Ok(())
    }

    /// True where the address is in a skipped prefix.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn is_skipped_prefix(&self, addr: IpAddr) -> Result<bool, CaptureError> {
        Ok(self.instance.skip_cidrs.longest(self.prefix(addr))?.is_some())
    }

    /// Lets connections to a destination go direct for a while, after the proxy could not reach it:
    /// the application's retry then gets the kernel's own error.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn let_fail(&self, destination: SocketAddr, time: Duration) -> Result<(), CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.instance.failed.insert(&self.outbound_key(destination), until)
    }

    /// How long connections to a destination still go direct because it could not be reached.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn let_fail_for(&self, destination: SocketAddr) -> Result<Option<Duration>, CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = self.instance.failed.get(&self.outbound_key(destination))?;
        Ok(until.filter(|until| *until > now).map(|until| Duration::from_nanos(until - now)))
    }

    /// Lets connections to a destination that was learned to be raw TCP go direct, for a while.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn bypass(
        &self,
        direction: Direction,
        destination: SocketAddr,
        time: Duration,
    ) -> Result<(), CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.instance.learned.insert(&self.key(direction, destination), until)
    }

    /// Takes back [`Self::bypass`].
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn no_bypass(
        &self,
        direction: Direction,
        destination: SocketAddr,
    ) -> Result<(), CaptureError> {
        self.instance.learned.remove(&self.key(direction, destination))
    }

    /// Takes back every [`Self::bypass`] that an earlier weir has left.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn no_bypasses(&self) -> Result<(), CaptureError> {
        let left = self.left(|left| &mut left.learned);
        left.iter().try_for_each(|key| self.instance.learned.remove(key))
    }

    /// How long connections to a destination still go direct because it was learned.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn bypass_for(
        &self,
        direction: Direction,
        destination: SocketAddr,
    ) -> Result<Option<Duration>, CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = self.instance.learned.get(&self.key(direction, destination))?;
        Ok(until.filter(|until| *until > now).map(|until| Duration::from_nanos(until - now)))
    }

    fn outbound_key(&self, destination: SocketAddr) -> DestinationKey {
        self.key(Direction::Outbound, destination)
    }

    pub(super) fn key(&self, direction: Direction, address: SocketAddr) -> DestinationKey {
        DestinationKey::new(self.workload, direction, to_words(address.ip()), address.port())
    }

    fn prefix_entry(&self, (addr, bits): (IpAddr, u8)) -> (PrefixKey, u32) {
        let offset = if addr.is_ipv4() { 96 } else { 0 };
        (self.prefix(addr), offset + u32::from(bits))
    }

    pub(super) fn prefix(&self, addr: IpAddr) -> PrefixKey {
        PrefixKey::new(self.workload, to_words(addr))
    }
}
