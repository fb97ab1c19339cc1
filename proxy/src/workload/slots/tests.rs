//! When new connections go direct and when they are captured again, on a paused clock.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    budget::{Budgets, Sizes},
    telemetry::TelemetryOptions,
};

/// Counts how often it is closed and opened.
#[derive(Default)]
struct Counted {
    closed: AtomicU64,
    opened: AtomicU64,
}

impl Way for Counted {
    fn close(&self) -> Result<(), CaptureError> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn open(&self) -> Result<(), CaptureError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn slots(fails_closed: bool) -> Arc<WorkloadSlots<Counted>> {
    let budgets = Budgets::new(&Sizes { connections: 8, ..Sizes::default() });
    let telemetry = Telemetry::with(TelemetryOptions { budgets, ..TelemetryOptions::default() });
    let slots = WorkloadSlots::new(Counted::default(), &telemetry, &"shop".into(), fails_closed);
    slots.offer();
    slots
}

fn switched(slots: &WorkloadSlots<Counted>) -> (u64, u64) {
    let Counted { closed, opened } = &slots.listeners;
    (closed.load(Ordering::Relaxed), opened.load(Ordering::Relaxed))
}

fn is_captured(slots: &WorkloadSlots<Counted>) -> bool {
    !slots.withdrawn.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_nearly_used_up_lets_connections_go_direct_until_there_is_room() {
    let slots = slots(false);
    let mut taken: Vec<_> = (0..7).map(|_| slots.share.occupy(Resource::Connections, 1)).collect();
    assert!(slots.share.is_scarce());
    (0..100).for_each(|_| slots.crowded());
    assert_eq!((switched(&slots), slots.phase()), ((1, 1), "exhausted"));
    sleep(LAST_LOOK * 20).await;
    assert!(!is_captured(&slots));
    taken.pop();
    sleep(LAST_LOOK * 20).await;
    assert!(!is_captured(&slots), "one less is not enough");
    taken.truncate(5);
    sleep(LAST_LOOK).await;
    assert!(is_captured(&slots));
    let figures = &slots.share.figures()[Resource::Connections as usize];
    assert_eq!((figures.used, figures.limit, figures.exceeded), (5, 8, 1), "counted once");
}

#[tokio::test(start_paused = true)]
async fn a_flood_goes_direct_for_a_while_and_longer_each_time() {
    let slots = slots(false);
    let mut lasted = Vec::new();
    for pause in [0, 1, 1, 1, 1, 1, 1, 100] {
        sleep(Duration::from_secs(pause)).await;
        let before = Instant::now();
        (0..10).for_each(|_| slots.flooded());
        assert_eq!((is_captured(&slots), slots.phase()), (false, "flooded"));
        while !is_captured(&slots) {
            sleep(Duration::from_millis(100)).await;
        }
        lasted.push(before.elapsed().as_secs());
    }
    assert_eq!(lasted, [1, 2, 4, 8, 16, 32, 32, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_a_workload_that_fails_closed_is_not_let_pass() {
    let slots = slots(true);
    slots.flooded();
    assert!(is_captured(&slots));
    slots.fails_closed.store(false, Ordering::Relaxed);
    slots.flooded();
    assert!(!is_captured(&slots));
}

#[tokio::test(start_paused = true)]
async fn the_last_reason_to_go_offers_the_slots() {
    let slots = slots(false);
    slots.flooded();
    slots.withdraw();
    sleep(CALM * 2).await;
    assert_eq!((is_captured(&slots), slots.phase()), (false, "exhausted"));
    slots.flooded();
    slots.offer();
    assert!(!is_captured(&slots), "there is a flood");
    sleep(LONGEST_CALM).await;
    assert!(is_captured(&slots));
    // And none after the end.
    slots.flooded();
    slots.over.store(true, Ordering::Relaxed);
    sleep(LONGEST_CALM * 2).await;
    assert!(!is_captured(&slots));
    let before = switched(&slots);
    slots.crowded();
    assert_eq!(switched(&slots), before);
}
