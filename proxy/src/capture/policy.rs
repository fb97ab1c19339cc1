//! Writes the port policy and the skipped prefixes into the maps that the connect hook reads.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weir_common::{DestinationKey, Direction, PortKey, PortRule, PortState, PrefixKey, Source};

use super::{
    CaptureError, Kernel,
    original::{now_ns, to_words},
};

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
            return self.ports.remove(&key);
        }
        let rule = PortRule {
            state: state as u8,
            source: source as u8,
            included: u8::from(included),
            _pad: 0,
        };
        self.ports.insert(&key, &rule)
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
        let rule =
            self.ports.get(&PortKey::new(self.workload, direction, port))?.unwrap_or_default();
        Ok((
            PortState::from_u8(rule.state).unwrap_or(PortState::Detect),
            Source::from_u8(rule.source).unwrap_or(Source::Default),
            rule.included != 0,
        ))
    }

    /// Never captures destinations in this prefix; `bits` counts in the address's own family.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn skip_prefix(&self, addr: IpAddr, bits: u8) -> Result<(), CaptureError> {
        let offset = if addr.is_ipv4() { 96 } else { 0 };
        self.skip_cidrs.insert(self.prefix(addr), offset + u32::from(bits), 1)
    }

    /// True where the address is in a skipped prefix.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn is_skipped_prefix(&self, addr: IpAddr) -> Result<bool, CaptureError> {
        Ok(self.skip_cidrs.longest(self.prefix(addr))?.is_some())
    }

    /// Lets connections to a destination go direct for a while, after the proxy could not reach it:
    /// the application's retry then gets the kernel's own error.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn let_fail(&self, destination: SocketAddr, time: Duration) -> Result<(), CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.failed.insert(&self.destination(destination), &until)
    }

    /// How long connections to a destination still go direct because it could not be reached.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn let_fail_for(&self, destination: SocketAddr) -> Result<Option<Duration>, CaptureError> {
        let now = now_ns().map_err(CaptureError::clock)?;
        let until = self.failed.get(&self.destination(destination))?;
        Ok(until.filter(|until| *until > now).map(|until| Duration::from_nanos(until - now)))
    }

    fn destination(&self, destination: SocketAddr) -> DestinationKey {
        DestinationKey::new(self.workload, to_words(destination.ip()), destination.port())
    }

    pub(super) fn prefix(&self, addr: IpAddr) -> PrefixKey {
        PrefixKey::new(self.workload, to_words(addr))
    }
}
