//! Keeps the hooks' copy of the workload's routing current: which prefixes are reachable and with
//! which source address, which addresses are its own, and whether its loopback interface works.
//!
//! The prefixes come from rtnetlink; what the kernel would do with each is not computed here but
//! asked of the kernel, by connecting a UDP socket (which sends nothing) to an address of the
//! prefix. Metrics, preferred sources, RFC 6724 and unreachable routes are thus the kernel's own.
//!
//! A route that comes or goes is looked at with what it concerns; everything is looked at after
//! other changes, and some time after each, since the kernel does not tell of every route that goes.
//! That takes a tenth of the time at most.

mod loopback;
mod netlink;
mod prefixes;
mod table;

use std::{
    collections::HashSet,
    io,
    mem::take,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use rtnetlink::packet_route::route::RouteMessage;
use tokio::{sync::watch, time::Instant};
use weir_common::{ListenerKind, flags};

pub(super) use self::table::Routes;
use self::{
    netlink::{Changed, Changes, has_stock_rules, routes},
    prefixes::{Answers, Prefix, Prefixes, own_address, prefix_of},
};
use super::{CaptureError, Netns, WorkloadMaps};

/// Beyond this many prefixes (a router with a full table) the map is not kept, and a miss in it
/// says nothing.
const MAX_PREFIXES: usize = 8192;
/// An interface coming up changes a dozen routes within a few milliseconds.
const SETTLE: Duration = Duration::from_millis(20);
/// After a refresh that failed: descriptors may be back by then.
const RETRY: Duration = Duration::from_secs(1);
/// A look at everything is followed by a pause of so many times its length.
const PACE: u32 = 10;
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A route map that follows the kernel's.
pub struct RouteWatch {
    maps: Arc<WorkloadMaps>,
    netns: Netns,
    changes: Changes,
    /// What is in the map, or may be.
    installed: HashSet<Prefix>,
    prefixes: Prefixes,
    answers: Answers,
    inside: HashSet<IpAddr>,
    frontends: Frontends,
    /// The map is complete: changes of single routes are worth following.
    complete: bool,
    /// When everything may be looked at again.
    next: Instant,
}

/// Addresses that weir connects to something else, and their changes.
type Frontends = watch::Receiver<Arc<HashSet<IpAddr>>>;

// === impl RouteWatch ===

impl RouteWatch {
    /// Subscribes to the changes of a namespace's routes and fills the map. `frontends` are reachable
    /// without a route too.
    ///
    /// # Errors
    /// Where netlink or the map fails.
    pub async fn start(
        maps: Arc<WorkloadMaps>,
        netns: Netns,
        frontends: Frontends,
    ) -> Result<Self, CaptureError> {
        let changes = Changes::of(&netns).await?;
        let installed = maps.routes.installed();
        let inside = maps.local_addresses.installed();
        let mut watch = Self {
            maps,
            netns,
            changes,
            installed,
            prefixes: Prefixes::default(),
            answers: Answers::new(),
            inside,
            frontends,
            complete: false,
            next: Instant::now(),
        };
        watch.refresh().await?;
        Ok(watch)
    }

    /// Follows the changes until netlink fails.
    pub async fn run(mut self) {
        let mut stale = false;
        loop {
            let mut changed = tokio::select! {
                changed = self.changes.next() => match changed {
                    Ok(changed) => changed,
                    Err(error) => {
                        tracing::error!(%error, "no longer following route changes");
                        return self.give_up();
                    }
                },
                () = tokio::time::sleep_until(self.next), if stale => {
                    Changed { all: true, ..Changed::default() }
                }
                Ok(()) = self.frontends.changed() => Changed { all: true, ..Changed::default() },
            };
            tokio::time::sleep(SETTLE).await;
            self.changes.more(&mut changed);
            if !changed.all && self.complete {
                stale = true;
                match self.update(changed.prefixes).await {
                    Ok(()) => continue,
                    Err(error) => tracing::debug!(%error, "reading all routes again"),
                }
            }
            if Instant::now() < self.next {
                stale = true;
                continue;
            }
            stale = false;
            while let Err(error) = self.refresh().await {
                tracing::warn!(%error, "cannot refresh routes: unreachable destinations are \
                                        captured");
                self.give_up();
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn give_up(&mut self) {
        self.complete = false;
        let _ = self.maps.flags.set(flags::ROUTES_COMPLETE, false);
    }

    /// Looks at everything.
    async fn refresh(&mut self) -> Result<(), CaptureError> {
        let began = Instant::now();
        self.refresh_loopback().await?;
        let routes = routes(&self.netns).await?;
        self.refresh_inside(&routes)?;
        let frontends = Arc::clone(&self.frontends.borrow_and_update());
        let prefixes =
            Prefixes::new(routes.iter().filter_map(prefix_of)).with_frontends(&frontends);
        drop(routes);
        let count = prefixes.len();
        let done = if count > MAX_PREFIXES || !has_stock_rules(&self.netns).await? {
            tracing::info!(prefixes = count, "routing rules cannot be mirrored");
            self.clear()
        } else {
            let asked = self.netns.run(move || (prefixes.resolve(), prefixes)).await?;
            self.prefixes = asked.1;
            asked.0.map_err(no_answer).and_then(|answers| self.install(answers))
        };
        self.next = Instant::now() + (began.elapsed() * PACE).min(LONGEST_PAUSE);
        done
    }

    /// Looks at what routes to these prefixes concern.
    async fn update(&mut self, changed: Vec<Prefix>) -> Result<(), CaptureError> {
        let (mut prefixes, known) = (take(&mut self.prefixes), take(&mut self.answers));
        let work = move || {
            changed.iter().for_each(|prefix| prefixes.insert(*prefix));
            (prefixes.resolve_around(&changed, &known), prefixes, known)
        };
        let answers;
        (answers, self.prefixes, self.answers) = self.netns.run(work).await?;
        if self.prefixes.len() > MAX_PREFIXES || !self.reserve(self.prefixes.len()) {
            return self.clear();
        }
        self.write(answers.map_err(no_answer)?)
    }

    /// Writes what differs, and removes what is not there any more.
    fn install(&mut self, answers: Answers) -> Result<(), CaptureError> {
        if !self.reserve(answers.len()) {
            return self.clear();
        }
        let gone: Vec<Prefix> = self
            .installed
            .iter()
            .filter(|prefix| !answers.contains_key(*prefix))
            .copied()
            .collect();
        self.write(answers)?;
        for prefix in gone {
            self.maps.routes.remove(prefix)?;
            self.installed.remove(&prefix);
            self.answers.remove(&prefix);
        }
        self.complete = true;
        self.maps.flags.set(flags::ROUTES_COMPLETE, true)
    }

    fn write(&mut self, answers: Answers) -> Result<(), CaptureError> {
        for (prefix, answer) in answers {
            if self.answers.get(&prefix).is_none_or(|known| known.route != answer.route) {
                self.installed.insert(prefix);
                // What fails may have been written.
                self.answers.remove(&prefix);
                self.maps.routes.insert(prefix, answer.route)?;
            }
            self.answers.insert(prefix, answer);
        }
        Ok(())
    }

    /// Whether there is room for so many routes.
    fn reserve(&self, routes: usize) -> bool {
        let reserved = self.maps.routes.reserve(routes);
        reserved.inspect_err(|error| tracing::info!(%error, "cannot mirror routes")).is_ok()
    }

    /// Mirrors nothing: a miss says nothing from here on, and the room is others'.
    fn clear(&mut self) -> Result<(), CaptureError> {
        self.complete = false;
        self.maps.flags.set(flags::ROUTES_COMPLETE, false)?;
        self.answers.clear();
        for prefix in take(&mut self.installed) {
            self.maps.routes.remove(prefix)?;
        }
        self.maps.routes.reserve(0)
    }

    /// Keeps the list of the namespace's own addresses: what comes from one of them comes from
    /// inside. Without a complete list weir's own connections to the workload would come back.
    fn refresh_inside(&mut self, routes: &[RouteMessage]) -> Result<(), CaptureError> {
        if self.maps.flags.is_inbound_off() {
            return Ok(());
        }
        let now: HashSet<IpAddr> = routes.iter().filter_map(own_address).collect();
        match self.maps.local_addresses.replace(&self.inside, &now) {
            Err(error @ CaptureError::Share { .. }) => {
                self.maps.switch_inbound_off(&error);
                return Ok(());
            }
            replaced => replaced?,
        }
        self.inside = now;
        Ok(())
    }

    /// Redirected connections go through the loopback interface: a family is captured only while
    /// that works.
    async fn refresh_loopback(&self) -> Result<(), CaptureError> {
        for (kind, address) in [
            (ListenerKind::V4, Ipv4Addr::LOCALHOST.into()),
            (ListenerKind::V6, Ipv6Addr::LOCALHOST.into()),
        ] {
            let works = self.netns.run(move || loopback::works(address)).await?;
            self.maps.loopback.set(kind, works.map_err(no_answer)?)?;
        }
        let spreads = self.netns.run(loopback::spreads).await?.map_err(no_answer)?;
        self.maps.flags.set(flags::SPREAD, spreads)
    }
}

// === helpers ===

fn no_answer(error: io::Error) -> CaptureError {
    CaptureError::Routes(error.to_string())
}

#[cfg(test)]
mod tests;
