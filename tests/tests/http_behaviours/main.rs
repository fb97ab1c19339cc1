//! What a proxy must not change about HTTP, and about TCP beneath it: a table of behaviours, each run
//! on every way that a connection can take, over IPv4 and IPv6. The direct way has no weir: it shows
//! that the table asks for nothing that a plain connection does not do.

mod faults;
mod http1;
mod http2;
mod messages;
mod tunnels;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow, ensure};
use weir_tests::engine::Engine;
use weir_tests::way::{Kind, Way};

/// What it is called, and what must hold.
type Behaviour = (&'static str, fn(&Way) -> Result<()>);

const TABLES: [&[Behaviour]; 5] =
    [http1::TABLE, messages::TABLE, tunnels::TABLE, http2::TABLE, faults::TABLE];

/// Runs every behaviour, also after one has failed, and then lists those that did.
fn all_hold(kind: Kind, engine: Engine) -> Result<()> {
    let mut way = Way::new(kind, engine)?;
    let (mut failed, mut held) = (Vec::new(), 0);
    for (number, family) in ["IPv4", "IPv6"].iter().enumerate() {
        way.use_family(number);
        for (name, behaviour) in TABLES.concat() {
            let outcome = catch_unwind(AssertUnwindSafe(|| behaviour(&way)));
            match outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above"))) {
                Ok(()) => held += 1,
                Err(error) => failed.push(format!("{family}, {name}: {error:#}")),
            }
        }
    }
    let left = way.close();
    let list = failed.join("\n");
    ensure!(
        failed.is_empty(),
        "{kind:?}, {engine}: {} of {} failed\n{list}",
        failed.len(),
        failed.len() + held
    );
    left
}

#[test]
fn they_hold_on_a_direct_connection() -> Result<()> {
    all_hold(Kind::Direct, Engine::Passthrough)
}

#[test]
fn they_hold_for_outbound_connections() -> Result<()> {
    all_hold(Kind::Outbound, Engine::Passthrough)
}

#[test]
fn they_hold_for_inbound_connections() -> Result<()> {
    all_hold(Kind::Inbound, Engine::Passthrough)
}

#[test]
fn they_hold_through_two_weirs_in_a_row() -> Result<()> {
    all_hold(Kind::Both, Engine::Passthrough)
}

#[test]
fn they_hold_through_two_weirs_that_end_the_connections_themselves() -> Result<()> {
    all_hold(Kind::Both, Engine::Terminate)
}
