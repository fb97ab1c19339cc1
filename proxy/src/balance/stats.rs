//! What is known of one endpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Breaker, Moment, Standing, breaker::Failures, latency::Latency};

/// A failure is at least as slow as this.
const FAILURE: Duration = Duration::from_secs(1);
/// And at least so many times the median of the endpoint's siblings.
const FAILURE_MEDIANS: u32 = 10;
/// But no slower than this: failures raise the median themselves.
const SLOWEST_FAILURE: Duration = Duration::from_secs(30);
/// A first guess without siblings: so many times the time that connect(2) took.
const CONNECTS: u32 = 4;

/// A segment that is sent again is late by this at least (`TCP_RTO_MIN`, include/net/tcp.h).
const RESEND: Duration = Duration::from_millis(200);

/// An endpoint that asks for a pause costs more for no longer than this, however long it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What all workloads and workers know of one endpoint.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) latency: Latency,
    pub(super) failures: Failures,
    in_flight: AtomicU32,
    /// Connections that requests of several clients share.
    shared: AtomicU32,
    chosen: AtomicU64,
    requests: AtomicU64,
    failed: AtomicU64,
    /// Until when it has asked to be left alone; "never" where it has not.
    paused_until: AtomicU64,
    /// When it began to be used; "never" where it was there from the beginning.
    started: AtomicU64,
}

/// A connection, counted for as long as it lasts.
#[derive(Debug)]
pub struct InFlight(Arc<Stats>);

/// A connection that requests share, counted for as long as it lasts.
#[derive(Debug)]
pub struct SharedConnection(Arc<Stats>);

// === impl Stats ===

impl Stats {
    /// The estimated latency; `None` where nothing is known.
    #[must_use]
    pub fn estimate(&self, now: Moment) -> Option<Duration> {
        self.latency.estimate(now).map(Duration::from_secs_f64)
    }

    /// Connections that are open or being opened.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Connections that requests of several clients share.
    #[must_use]
    pub fn shared(&self) -> u32 {
        self.shared.load(Relaxed)
    }

    /// How often it was chosen.
    #[must_use]
    pub fn chosen(&self) -> u64 {
        self.chosen.load(Relaxed)
    }

    /// Requests that were seen on its connections.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// A request was seen.
    pub fn requested(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// How often it failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failed_in_a_row(&self) -> u32 {
        self.failures.in_a_row()
    }

    /// Whether it takes part.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        self.failures.standing(now)
    }

    /// Counts a connection from its choice to its end.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.chosen.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Counts a connection that requests share.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> SharedConnection {
        self.shared.fetch_add(1, Relaxed);
        SharedConnection(Arc::clone(self))
    }

    /// It has accepted a connection after this time.
    pub fn connected(&self, time: Duration, now: Moment) {
        if self.failures.connected() {
            // What it was like before says nothing.
            self.latency.reset();
        }
        if self.latency.is_cold() && self.latency.estimate(now).is_none() {
            self.latency.guess(time.saturating_mul(CONNECTS));
        } else {
            self.latency.sample(time, now);
        }
    }

    /// It has answered after this time.
    pub fn answered(&self, time: Duration, now: Moment) {
        self.failures.succeeded();
        self.latency.sample(time, now);
    }

    /// A connection without answers that can be told apart has had this round-trip time, and this part of
    /// its segments (0 to 1) was sent again.
    pub fn carried(&self, round_trip: Duration, resent: f64, now: Moment) {
        self.latency.sample(round_trip + RESEND.mul_f64(resent.clamp(0.0, 1.0)), now);
    }

    /// A connection has ended as it should.
    pub fn succeeded(&self) {
        self.failures.succeeded();
    }

    /// It works, and has asked for a pause (429, RESOURCE_EXHAUSTED): until that is over it costs the time
    /// that is left of it more. It is no failure, and no measure of its latency.
    pub fn limited(&self, pause: Duration, now: Moment) {
        self.failures.succeeded();
        let until = now.plus(pause.min(LONGEST_PAUSE));
        self.paused_until.fetch_max(until.to_bits(), Relaxed);
    }

    /// It is used from now on, and was not before.
    pub fn start(&self, now: Moment) {
        self.started.store(now.to_bits(), Relaxed);
    }

    /// How long it has been used; `None` where it was there from the beginning.
    #[must_use]
    pub fn age(&self, now: Moment) -> Option<Duration> {
        let started = Moment::from_bits(self.started.load(Relaxed));
        (started != Moment::default()).then(|| now.since(started))
    }

    /// What is left of a pause that it has asked for.
    #[must_use]
    pub fn pause(&self, now: Moment) -> Duration {
        Moment::from_bits(self.paused_until.load(Relaxed)).since(now)
    }

    /// It has failed after this time; whether the breaker asks for taking it out.
    pub(super) fn count_failure(
        &self,
        time: Duration,
        median: Duration,
        breaker: &Breaker,
        now: Moment,
    ) -> bool {
        self.failed.fetch_add(1, Relaxed);
        let slow = median.saturating_mul(FAILURE_MEDIANS).clamp(FAILURE, SLOWEST_FAILURE);
        self.latency.sample(slow.max(time), now);
        self.failures.failed(breaker)
    }
}

// === impl InFlight ===

impl InFlight {
    /// Whose connection it is.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.0.shared.fetch_sub(1, Relaxed);
    }
}
