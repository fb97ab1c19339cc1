//! What is deployed: the image, run as a runtime does for the DaemonSet, and the dashboard's
//! expressions against a running weir's metrics.
//!
//! The image is the archive that `cargo xtask image` makes; `cargo xtask test` makes one before.

mod container;
mod dashboard;
mod flags;
mod image;
mod promtool;
mod rules;
