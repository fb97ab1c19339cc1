//! Whether what comes to a listener are connections, or attempts that are over before a process can
//! accept them: a client that connects and resets as fast as it can.

use std::time::Duration;

use tokio::time::Instant;

/// Accepted connections that are looked at together.
const WINDOW: u32 = 256;
/// They are a flood if they came within this time and most of them were dead. Clients that give up
/// are rarely half of all, and never at such a rate.
const TIME: Duration = Duration::from_secs(1);

/// Counts the dead among the accepted.
#[derive(Debug)]
pub(crate) struct Flood {
    began: Instant,
    seen: u32,
    dead: u32,
}

// === impl Flood ===

impl Default for Flood {
    fn default() -> Self {
        Self { began: Instant::now(), seen: 0, dead: 0 }
    }
}

impl Flood {
    /// Takes notice of a connection; true where it is the last of a window that is a flood.
    pub(crate) fn saw(&mut self, dead: bool) -> bool {
        self.seen += 1;
        self.dead += u32::from(dead);
        if self.seen < WINDOW {
            return false;
        }
        let flood = self.dead > WINDOW / 2 && self.began.elapsed() < TIME;
        *self = Self::default();
        flood
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many connections, one in so many dead, at this distance are taken for.
    async fn is_flood(count: u32, is_dead: impl Fn(u32) -> bool, distance: Duration) -> bool {
        let mut flood = Flood::default();
        let mut any = false;
        for number in 0..count {
            tokio::time::advance(distance).await;
            any |= flood.saw(is_dead(number));
        }
        any
    }

    #[tokio::test(start_paused = true)]
    async fn only_many_dead_connections_within_a_second_are_a_flood() {
        let (fast, slow) = (Duration::from_micros(100), Duration::from_millis(5));
        assert!(is_flood(WINDOW, |_| true, fast).await);
        assert!(is_flood(WINDOW, |number| number % 8 != 0, fast).await);
        assert!(!is_flood(WINDOW - 1, |_| true, fast).await, "too few");
        assert!(!is_flood(10 * WINDOW, |_| true, slow).await, "too slow");
        assert!(!is_flood(10 * WINDOW, |number| number % 2 == 0, fast).await, "half of them live");
        assert!(!is_flood(10 * WINDOW, |_| false, fast).await);
    }
}
