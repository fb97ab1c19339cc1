//! Upstream connections that no client uses at the moment, and their end.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::super::requests::{Connect, Requests};
use super::member::Member;
use crate::budget::{Resource, Share};
use crate::stop::Stop;
use crate::sync::lock;

/// How long a connection may be idle: less than the keep-alive time of common servers, so that they are
/// not those who close it.
const MOST_IDLE: Duration = Duration::from_secs(5);
/// So many idle connections to one endpoint are kept.
const MOST_KEPT: usize = 128;
/// How often is looked at which have been idle for too long, and which endpoints are still used.
const TICK: Duration = Duration::from_secs(1);

/// The upstream connections of one worker for clients whose own connections would be the same.
pub(crate) struct Pool {
    requests: Arc<dyn Requests>,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) drain: Stop,
    share: Option<Share>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Those used last at the end.
    members: HashMap<SocketAddr, Vec<Member>>,
    /// Of the task that watches them; `None` before it has been polled.
    waker: Option<Waker>,
    watched: bool,
    /// From then on none is kept.
    closed: bool,
}

// === impl Pool ===

impl Pool {
    /// An empty one, of a workload with this share. None is kept once `drain` is cancelled.
    pub(crate) fn new(
        requests: Arc<dyn Requests>,
        connect: Arc<dyn Connect>,
        share: Option<Share>,
        drain: Stop,
    ) -> Self {
        Self { requests, connect, drain, share, idle: Mutex::default() }
    }

    /// A connection to this endpoint that was used last and is still good.
    pub(super) fn take(&self, address: SocketAddr) -> Option<Member> {
        loop {
            let member = lock(&self.idle).members.get_mut(&address)?.pop()?;
            if member.is_quiet() {
                return Some(member);
            }
            member.close();
        }
    }

    /// Keeps a connection on which nothing is under way, if it is worth that.
    pub(super) fn give(self: &Arc<Self>, mut member: Member) {
        let is_scarce = |share: &Share| share.is_scarce_of(Resource::Descriptors);
        if self.share.as_ref().is_some_and(is_scarce) {
            return member.close();
        }
        member.rest();
        let mut idle = lock(&self.idle);
        let quiet = match &idle.waker {
            Some(waker) => member.poll_quiet(&mut Context::from_waker(waker)),
            None => member.is_quiet(),
        };
        let Idle { members, closed, watched, .. } = &mut *idle;
        let kept = members.entry(member.address).or_default();
        if *closed || !quiet || kept.len() >= MOST_KEPT {
            return member.close();
        }
        kept.push(member);
        if !std::mem::replace(watched, true) {
            drop(idle);
            tokio::spawn(unconstrained(watch(Arc::clone(self))));
        }
    }

    /// Closes what is idle, for the sake of its descriptors; whether there was any.
    pub(super) fn shrink(&self) -> bool {
        let members = std::mem::take(&mut lock(&self.idle).members);
        let mut any = false;
        for member in members.into_values().flatten() {
            member.close();
            any = true;
        }
        any
    }

    fn close(&self) {
        lock(&self.idle).closed = true;
        self.shrink();
    }

    /// Closes those that have ended or been idle for too long, and watches the others. False if there are
    /// none: then none is watched.
    fn sweep(&self, cx: &mut Context<'_>, ticked: bool) -> bool {
        let mut idle = lock(&self.idle);
        let mut over = Vec::new();
        idle.members.retain(|address, members| {
            if ticked && !self.requests.is_used(*address) {
                over.append(members);
            }
            let is_over = |member: &mut Member| {
                ticked && member.idle_since.elapsed() >= MOST_IDLE || !member.poll_quiet(cx)
            };
            over.extend(members.extract_if(.., is_over));
            !members.is_empty()
        });
        idle.watched = !idle.members.is_empty();
        idle.waker = idle.watched.then(|| cx.waker().clone());
        let watched = idle.watched;
        drop(idle);
        over.into_iter().for_each(Member::close);
        watched
    }

    /// Idle connections.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.idle).members.values().map(Vec::len).sum()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("requests", &self.requests).finish_non_exhaustive()
    }
}

// === helpers ===

/// Closes idle connections in time; ends when there are none. The pool lasts as long, so that clients that
/// come one after the other share connections.
async fn watch(pool: Arc<Pool>) {
    let mut drain = pool.drain.cancelled();
    let mut tick = pin!(sleep(TICK));
    poll_fn(|cx| {
        if Pin::new(&mut drain).poll(cx).is_ready() {
            pool.close();
            return Poll::Ready(());
        }
        let ticked = tick.as_mut().poll(cx).is_ready();
        if ticked {
            tick.set(sleep(TICK));
            let _ = tick.as_mut().poll(cx);
        }
        match pool.sweep(cx, ticked) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
}
