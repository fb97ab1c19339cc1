//! Lets userspace read and write the structures as map keys and values.

use crate::*;

macro_rules! pod {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, integers only, and padding is spelt out in fields.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

pod!(
    WorkloadConfig,
    Usage,
    Shares,
    PortKey,
    PortBlockKey,
    PortBlock,
    DestinationKey,
    PrefixKey,
    Route,
    ListenerKey,
    ConnectionKey,
    OriginalDestination,
    CounterKey,
    TupleKey,
    CloseEvent,
    HoldEvent,
    OptionEvent,
    Listening,
    Seeds,
    SeedKey,
    OpenKey,
    TapEvent,
    TapOpened,
    TapFigures,
    TapEnded,
);
