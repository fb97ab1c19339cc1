//! Serde by name for the enums shared with the kernel, which know nothing of serde themselves.
//! The names are those of [`crate::decision`].

use crate::decision::{Direction, PortState, Source, direction_name, source_name, state_name};

macro_rules! by_name {
    (
        $(#[$doc:meta])* $module:ident, $type:ty, $name:path, [$($variant:expr),+ $(,)?]
        $(, $optional:ident)?
    ) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de};

            use super::*;

            /// Every value, in the order of its number.
            pub(crate) const ALL: &[$type] = &[$($variant),+];

            /// The value with this name.
            #[must_use]
            pub(crate) fn parse(name: &str) -> Option<$type> {
                ALL.iter().copied().find(|value| $name(*value) == name)
            }

            /// Writes the name.
            pub(crate) fn serialize<S: Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($name(*value))
            }

            /// Reads the name.
            ///
            /// # Errors
            /// For an unknown name, with the known ones.
            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let name = String::deserialize(deserializer)?;
                parse(&name).ok_or_else(|| {
                    let known: Vec<_> = ALL.iter().map(|value| $name(*value)).collect();
                    de::Error::custom(format!(
                        "unknown {} {name:?}; known are {}",
                        stringify!($module),
                        known.join(", ")
                    ))
                })
            }

            $(/// The same for an optional value.
            pub(crate) mod $optional {
                use serde::{Deserialize, Deserializer, Serialize, Serializer};

                use super::*;

                /// Writes the name, or nothing.
                pub(crate) fn serialize<S: Serializer>(
                    value: &Option<$type>,
                    serializer: S,
                ) -> Result<S::Ok, S::Error> {
                    value.map($name).serialize(serializer)
                }

                /// Reads the name, or nothing.
                ///
                /// # Errors
                /// For an unknown name, with the known ones.
                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                    deserializer: D,
                ) -> Result<Option<$type>, D::Error> {
                    #[derive(Deserialize)]
                    struct Wrap(#[serde(with = "super")] $type);
                    Ok(Option::<Wrap>::deserialize(deserializer)?.map(|wrap| wrap.0))
                }
            })?
        }
    };
}

by_name!(
    /// Directions by name.
    direction,
    Direction,
    direction_name,
    [Direction::Outbound, Direction::Inbound],
    optional
);
by_name!(
    /// Port states by name.
    state,
    PortState,
    state_name,
    [PortState::Detect, PortState::Opaque, PortState::Skip],
    optional
);
by_name!(
    /// Sources by name.
    source,
    Source,
    source_name,
    [
        Source::Default,
        Source::Config,
        Source::Annotation,
        Source::Cli,
        Source::Learned,
        Source::Detected,
    ],
    optional
);
