//! The boundary between weir's BPF programs and its userspace: every structure, map name and
//! constant that both sides use, defined once.
//!
//! Byte order: addresses are in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), so
//! that one key type serves both families; ports are host order.

#![no_std]

#[cfg(test)]
extern crate std;

mod address;
mod connection;
pub mod decision;
mod destination;
mod event;
mod listening;
pub mod maps;
mod option;
mod ports;
mod properties;
mod reason;
pub mod spread;
mod tap;
mod workload;

pub use address::{AddrWords, AddressClass, LOOPBACK4, V4_MAPPED_WORD, destination};
pub use connection::{ConnectionKey, Name, NameKey, OriginalDestination, TupleKey, hold};
pub use decision::Check;
pub use destination::{DestinationKey, PrefixKey, Route};
pub use event::{CloseEvent, HELD_BYTES, HoldEvent, tcp_state};
pub use listening::{ListenerKey, ListenerKind, Listening, OpenKey, SEED_PLACES, SeedKey, Seeds};
pub use option::{OptionEvent, ToldOptions, followed};
pub use ports::{PORT_BLOCK, PortBlock, PortBlockKey, PortKey, PortRule, PortState, Source};
pub use properties::{Properties, Set};
pub use reason::Reason;
pub use tap::{
    TAP_FIN, TAP_SHOWN, TapEnded, TapEvent, TapFigures, TapOpened, TapScan, TapSide, TapSocket,
    tap_kind, tap_lost, tap_protocol,
};
pub use workload::{Shares, Usage, WorkloadConfig, WorkloadId, flags};

/// Carried by the proxy's connections to the application with `--preserve-client-ip`: the answers
/// to it find the rule that keeps them local. Low bits are left to Kubernetes and Cilium.
pub const CLIENT_IP_MARK: u32 = 0x5745_0000;

/// The value of an enum with the number that stands in a map.
macro_rules! from_number {
    ($name:ident: $($variant:ident),+ $(,)?) => {
        impl $name {
            /// The value with this number; `None` where there is none.
            #[must_use]
            pub const fn from_u8(number: u8) -> Option<Self> {
                $(if number == Self::$variant as u8 {
                    return Some(Self::$variant);
                })+
                None
            }
        }
    };
}
use from_number;

/// Which way a connection goes, seen from the workload.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Opened by the workload.
    Outbound = 0,
    /// Accepted by the workload.
    Inbound = 1,
}

/// Key of a per-CPU counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey {
    /// The workload.
    pub workload: WorkloadId,
    /// [`Reason`] as a number.
    pub reason: u16,
    /// [`Direction`] as a number.
    pub direction: u16,
}

const _: () = {
    assert!(size_of::<WorkloadConfig>() == 40);
    assert!(size_of::<Usage>() == 16);
    assert!(size_of::<Shares>() == 8);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<PortBlockKey>() == 8);
    assert!(size_of::<PortBlock>() == 128);
    assert!(size_of::<DestinationKey>() == 24);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<Route>() == 20);
    assert!(size_of::<Listening>() == 8);
    assert!(size_of::<Seeds>() == 136);
    assert!(size_of::<SeedKey>() == 8);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<ConnectionKey>() == 48);
    assert!(size_of::<OpenKey>() == 8);
    assert!(size_of::<Properties>() == 64);
    assert!(size_of::<OriginalDestination>() == 152);
    assert!(size_of::<CounterKey>() == 8);
    assert!(size_of::<TupleKey>() == 48);
    assert!(size_of::<CloseEvent>() == 192);
    assert!(size_of::<HoldEvent>() == 168);
};

#[cfg(feature = "user")]
mod pod;
