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

use std::{
    collections::HashSet,
    io,
    mem::take,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rtnetlink::packet_route::route::RouteMessage;
use tokio::time::Instant;
use weir_common::{DestinationKey, Direction, ListenerKind, flags};

use self::{
    netlink::{Changed, Changes, has_stock_rules, routes},
    prefixes::{Answers, Prefix, Prefixes, own_address, prefix_of},
};
use super::{CaptureError, Kernel, Netns, original::to_ip, quota::List};

/// Beyond this many prefixes (a router with a full table) the map is not kept, and a miss in it
/// says nothing.
const MAX_PREFIXES: usize = 8192;
/// Beyond this many addresses of its own, inbound connections of a workload are not captured.
const MAX_OWN_ADDRESSES: usize = 4096;
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
    kernel: Arc<Kernel>,
    netns: Netns,
    changes: Changes,
    /// What is in the map, or may be.
    installed: HashSet<Prefix>,
    prefixes: Prefixes,
    answers: Answers,
    inside: HashSet<IpAddr>,
    /// The map is complete: changes of single routes are worth following.
    complete: bool,
    /// When everything may be looked at again.
    next: Instant,
}

// === impl RouteWatch ===

impl RouteWatch {
    /// Subscribes to the changes of a namespace's routes and fills the map.
    ///
    /// # Errors
    /// Where netlink or the map fails.
    pub async fn start(kernel: Arc<Kernel>, netns: Netns) -> Result<Self, CaptureError> {
        let changes = Changes::of(&netns).await?;
        let installed = kernel.installed_routes();
        let inside = kernel.installed_inside();
        // As many as an earlier weir had: they are there.
        let _ = kernel.instance.quotas.set(List::Inside, kernel.workload, inside.len());
        let mut watch = Self {
            kernel,
            netns,
            changes,
            installed,
            prefixes: Prefixes::default(),
            answers: Answers::new(),
            inside,
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
        let _ = self.kernel.set_flag(flags::ROUTES_COMPLETE, false);
    }

    /// Looks at everything.
    async fn refresh(&mut self) -> Result<(), CaptureError> {
        let began = Instant::now();
        self.refresh_loopback().await?;
        let routes = routes(&self.netns).await?;
        self.refresh_inside(&routes)?;
        let prefixes = Prefixes::new(routes.iter().filter_map(prefix_of));
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
            let key = self.kernel.prefix(prefix.0.into());
            self.kernel.instance.routes.remove(key, prefix.1)?;
            self.installed.remove(&prefix);
            self.answers.remove(&prefix);
        }
        self.complete = true;
        self.kernel.set_flag(flags::ROUTES_COMPLETE, true)
    }

    fn write(&mut self, answers: Answers) -> Result<(), CaptureError> {
        for (prefix, answer) in answers {
            if self.answers.get(&prefix).is_none_or(|known| known.route != answer.route) {
                self.installed.insert(prefix);
                // What fails may have been written.
                self.answers.remove(&prefix);
                let key = self.kernel.prefix(prefix.0.into());
                self.kernel.instance.routes.insert(key, prefix.1, answer.route)?;
            }
            self.answers.insert(prefix, answer);
        }
        Ok(())
    }

    /// Whether there is room for so many routes.
    fn reserve(&self, routes: usize) -> bool {
        let Kernel { instance, workload, .. } = &*self.kernel;
        let reserved = instance.quotas.set(List::Routes, *workload, routes);
        reserved.inspect_err(|error| tracing::info!(%error, "cannot mirror routes")).is_ok()
    }

    /// Mirrors nothing: a miss says nothing from here on, and the room is others'.
    fn clear(&mut self) -> Result<(), CaptureError> {
        self.complete = false;
        self.kernel.set_flag(flags::ROUTES_COMPLETE, false)?;
        self.answers.clear();
        let Kernel { instance, workload, .. } = &*self.kernel;
        for prefix in take(&mut self.installed) {
            instance.routes.remove(self.kernel.prefix(prefix.0.into()), prefix.1)?;
        }
        instance.quotas.set(List::Routes, *workload, 0)
    }

    /// Keeps the list of the namespace's own addresses: what comes from one of them comes from
    /// inside. Without a complete list weir's own connections to the workload would come back.
    fn refresh_inside(&mut self, routes: &[RouteMessage]) -> Result<(), CaptureError> {
        if self.kernel.is_inbound_off() {
            return Ok(());
        }
        let now: HashSet<IpAddr> = routes.iter().filter_map(own_address).collect();
        let Kernel { instance, workload, .. } = &*self.kernel;
        let more = now.len().saturating_sub(self.inside.len());
        let room = if now.len() > MAX_OWN_ADDRESSES {
            Err(CaptureError::Share {
                entries: "own addresses",
                count: now.len(),
                limit: MAX_OWN_ADDRESSES,
                advice: "remove some from its network namespace",
            })
        } else {
            instance.quotas.add(List::Inside, *workload, more)
        };
        if let Err(error) = room {
            self.kernel.switch_inbound_off(&error);
            return Ok(());
        }
        for added in now.difference(&self.inside) {
            instance.inside.insert(&self.kernel.inside_key(*added), &1)?;
        }
        for gone in self.inside.difference(&now) {
            instance.inside.remove(&self.kernel.inside_key(*gone))?;
        }
        let fewer = self.inside.len().saturating_sub(now.len());
        instance.quotas.give_back(List::Inside, *workload, fewer);
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
            self.kernel.set_loopback(kind, works.map_err(no_answer)?)?;
        }
        let spreads = self.netns.run(loopback::spreads).await?.map_err(no_answer)?;
        self.kernel.set_flag(flags::SPREAD, spreads)
    }
}

impl Kernel {
    fn inside_key(&self, address: IpAddr) -> DestinationKey {
        self.key(Direction::Inbound, SocketAddr::new(address, 0))
    }

    /// The addresses that an earlier weir has put into the list.
    fn installed_inside(&self) -> HashSet<IpAddr> {
        let left = self.left(|left| &mut left.inside);
        left.iter().filter(|key| key.port == 0).map(|key| to_ip(key.addr)).collect()
    }

    /// Whether the connect hook takes an address for reachable, and the source address it would
    /// name; `None` while the route map is not complete.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn route(&self, addr: IpAddr) -> Result<Option<(bool, Option<IpAddr>)>, CaptureError> {
        let config = self.instance.workloads.get(&self.workload)?.unwrap_or_default();
        if config.flags & flags::ROUTES_COMPLETE == 0 {
            return Ok(None);
        }
        let route = self.instance.routes.longest(self.prefix(addr))?.unwrap_or_default();
        let source = (route.source != [0; 4]).then(|| to_ip(route.source));
        Ok(Some((route.reachable != 0, source)))
    }

    /// The prefixes that an earlier weir has put into the map.
    fn installed_routes(&self) -> HashSet<Prefix> {
        self.left(|left| &mut left.routes)
            .into_iter()
            .map(|(key, bits, _)| match to_ip(key.addr) {
                IpAddr::V4(v4) => (v4.to_ipv6_mapped(), bits),
                IpAddr::V6(v6) => (v6, bits),
            })
            .collect()
    }
}

// === helpers ===

fn no_answer(error: io::Error) -> CaptureError {
    CaptureError::Routes(error.to_string())
}

#[cfg(test)]
mod tests;
