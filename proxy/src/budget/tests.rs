//! The rules in numbers: who may have how much while others have something.

use std::sync::Barrier;

use super::*;

fn budgets() -> Budgets {
    let sizes = Sizes { connections: 100, dialling: 16, memory: 1 << 20, rows: 256 };
    let budgets = Budgets::new(&sizes);
    budgets.set_descriptors(1000);
    budgets
}

/// Takes as much as there is, one by one.
fn take_all(share: &Share, resource: Resource) -> Vec<Taken> {
    std::iter::from_fn(|| share.take(resource, 1)).collect()
}

#[test]
fn everybody_gets_the_same_share_by_name_while_it_is_in_use() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    let taken = share.take(Resource::Connections, 3);
    assert_eq!(budgets.share(&"a".into()).used(Resource::Connections), 3);
    assert_eq!(budgets.share(&"b".into()).used(Resource::Connections), 0);
    drop((taken, share));
    assert_eq!(budgets.share(&"a".into()).used(Resource::Connections), 0);
    assert_eq!(budgets.used(Resource::Connections), 0);
}

#[test]
fn a_number_of_ones_own_does_not_depend_on_others() {
    let budgets = budgets();
    let (a, b) = (budgets.share(&"a".into()), budgets.share(&"b".into()));
    let all = take_all(&a, Resource::Connections);
    assert_eq!((all.len(), take_all(&b, Resource::Connections).len()), (100, 100));
}

#[test]
fn there_is_always_something_left_of_what_is_one_pot() {
    for (resource, first) in [(Resource::Descriptors, 750), (Resource::Rows, 128)] {
        let budgets = budgets();
        let shares: Vec<_> =
            (0..5).map(|number| budgets.share(&format!("w{number}").into())).collect();
        let mut held = Vec::new();
        let mut before = u64::MAX;
        for share in &shares {
            let all = take_all(share, resource);
            let got = all.len() as u64;
            assert!(got > 0 && got <= before, "{resource:?}: {got} after {before}");
            assert!(share.is_full(resource, 1));
            before = got;
            held.extend(all);
        }
        assert_eq!(shares[0].used(resource), first, "{resource:?}");
        // What the largest gives back is there for others.
        let last = &shares[4];
        let had = last.used(resource);
        held.drain(..first as usize);
        held.extend(take_all(last, resource));
        assert!(last.used(resource) > had);
        drop(held);
        assert_eq!(budgets.used(resource), 0);
    }
}

#[test]
fn a_few_rows_are_everybodys() {
    let budgets = Budgets::new(&Sizes { rows: 16, ..Sizes::default() });
    for name in ["a", "b", "c"] {
        let share = budgets.share(&name.into());
        assert_eq!(take_all(&share, Resource::Rows).len(), LEAST_ROWS as usize);
    }
}

#[test]
fn connections_go_direct_before_there_is_no_room_and_come_back_later() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    let mut taken = Vec::new();
    while !share.is_scarce() {
        assert!(share.is_plenty() || taken.len() >= 75);
        taken.push(share.occupy(Resource::Connections, 1));
    }
    assert_eq!(taken.len(), 88, "seven eighths of a hundred");
    assert!(share.has_room(), "for those that are on their way");
    taken.truncate(80);
    assert!(!share.is_scarce() && !share.is_plenty(), "neither: it does not switch to and fro");
    taken.truncate(74);
    assert!(share.is_plenty());
    // What is there already is never refused.
    let more: Vec<_> = (0..200).map(|_| share.occupy(Resource::Descriptors, 10)).collect();
    assert!(!share.has_room() && share.used(Resource::Descriptors) == 2000);
    drop(more);
    assert!(share.has_room());
}

#[test]
fn what_was_refused_is_counted() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    assert!(share.take(Resource::Memory, 1 << 19).is_some());
    assert!(share.take(Resource::Memory, (1 << 19) + 1).is_none());
    assert!(share.take_if_plenty(Resource::Memory, 1 << 20).is_none());
    let figures = share.figures();
    let memory = figures.iter().find(|figures| figures.budget == "memory").unwrap();
    let expected = Figures { budget: "memory".into(), used: 0, limit: 1 << 19, exceeded: 1 };
    assert_eq!(*memory, expected);
    assert_eq!(figures.len(), Resource::ALL.len());
}

#[test]
fn a_charge_is_coarse_and_small_connections_are_free() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    let mut charge = Charge::to(Some(share.clone()));
    assert!(charge.keep(4 << 10));
    assert_eq!(share.used(Resource::Memory), 0);
    assert!(charge.keep(5 << 10));
    assert_eq!(share.used(Resource::Memory), 16 << 10);
    assert!(charge.keep(20 << 10) && charge.keep(1) && charge.keep(20 << 10));
    assert_eq!(share.used(Resource::Memory), 16 << 10, "no to and fro");
    assert!(charge.keep(300 << 10));
    assert!(charge.keep(100 << 10));
    assert_eq!(share.used(Resource::Memory), 96 << 10, "much that is free is given back");
    assert!(!charge.keep(600 << 10));
    assert_eq!((share.used(Resource::Memory), charge.charged()), (96 << 10, 96 << 10));
    drop(charge);
    assert_eq!(budgets.used(Resource::Memory), 0);
    assert!(Charge::default().keep(usize::MAX / 2), "no share is charged");
}

#[tokio::test]
async fn who_waits_for_dials_is_woken_when_some_are_over() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    let mut dialling = take_all(&share, Resource::Dialling);
    assert_eq!(dialling.len(), 16);
    let waiting = share.dialled();
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    dialling.pop();
    assert!(futures_util::poll!(&mut waiting).is_pending(), "one at a time is too often");
    dialling.pop();
    waiting.await;
    share.dialled().await;
}

#[test]
fn counters_are_even_after_many_threads() {
    let budgets = budgets();
    let share = budgets.share(&"a".into());
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                for count in 0..5000 {
                    drop(share.take(Resource::Memory, count * 100));
                }
            });
        }
    });
    assert_eq!((share.used(Resource::Memory), budgets.used(Resource::Memory)), (0, 0));
    assert!(share.take(Resource::Memory, 1 << 19).is_some(), "nothing is left over");
}
