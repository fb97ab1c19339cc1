use std::{net::SocketAddr, time::Instant};
use serde::*;
use crate::decision::Direction;
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)] #[serde(rename_all="lowercase")] pub enum Learn { Off, #[default] Opaque, Bypass }
impl Learn { pub const fn name(self) -> &'static str { "" } }
pub struct Learning;
pub enum Change { None, Learned{until: Instant}, Forgotten }
impl Learning {
 pub fn new(_m: Learn) -> Self { Self }
 pub fn bypasses(&self) -> bool { false }
 pub fn known(&self, _d: Direction, _a: SocketAddr, _n: Instant) -> bool { false }
 pub fn observe(&self, _d: Direction, _a: SocketAddr, _r: bool, _n: Instant) -> Change { Change::None }
}
