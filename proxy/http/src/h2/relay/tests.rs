//! The relay between peers that are written by hand: they make their frames byte by byte, and know the
//! relay by its output only. What it does inside is looked at after every step.

mod checks;
mod connections;
mod elsewhere;
mod endings;
mod floods;
mod h2_crate;
mod keep_alive;
mod limits;
mod messages;
mod model;
mod retries;
mod sizes;
mod tunnels;
mod windows;
mod wire;
mod world;

use self::wire::{Seen, frame, request, response, settings};
use self::world::World;
use super::*;
