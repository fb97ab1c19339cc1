//! Which tests a kernel is given, and why it is not given the others.

use super::protocol::Test;

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breadth {
    /// What fits into a run of continuous integration.
    Quick,
    /// Everything that is about the kernel.
    Wide,
}

/// Tests that no virtual machine is given: a whole program, or tests whose name begins so.
const LEFT_OUT: [(&str, &str, &str); 11] = [
    ("bulk", "", "gigabytes through an emulated processor: load, not a question to the kernel"),
    ("storm", "", "judges rates and times of a loaded machine"),
    ("exhaustion", "", "judges processor time"),
    ("node", "hundred::", "a hundred pods with traffic: load"),
    ("chaos", "", "its 25 seconds are over before everything has started on an emulated processor"),
    ("deploy", "", "about the image and the dashboard; the machine is not given an image"),
    ("protocols", "h2load_", "makes load; the protocols have other tests"),
    ("engines", "", "compares the HTTP engines with each other, above the kernel; minutes each"),
    ("http_behaviours", "", "about HTTP, above the kernel; minutes each"),
    ("hostile", "", "about HTTP, above the kernel; minutes each"),
    ("soak", "", "ten thousand connections: load"),
];

/// The only tests for a kernel on which weir does not run.
const FLOOR: &str = "floor";

/// The tests of the tap, and the one of them that is for every kernel.
const TAP: (&str, &str) = ("tapped", "without_the_tap_");

/// What [`Breadth::Quick`] has: one test at least of each thing that depends on the kernel.
const QUICK: [(&str, &str); 37] = [
    ("acceleration", "small_requests_"),
    ("coexistence", "a_filter_of_"),
    ("coexistence", "a_load_balancer_below_"),
    ("coexistence", "an_overridable_program_above_"),
    ("failopen", "connections_go_direct_after_kill_9_"),
    ("failopen", "connections_go_direct_while_"),
    ("hold", "connections_that_are_given_up_"),
    ("hold", "every_failure_"),
    ("hold", "unusual_ways_"),
    ("inbound", "a_skipped_port_"),
    ("inbound", "connections_from_inside_"),
    ("inbound", "every_family_"),
    ("inbound", "fail_closed_"),
    ("inbound", "identical_four_tuples_"),
    ("inbound", "with_preserve_client_ip_"),
    ("learning", "bypass_"),
    ("names", ""),
    ("ports", "a_port_is_skipped_"),
    ("ports", "a_skipped_port_"),
    ("properties", "what_the_application_sets_later_"),
    ("protocols", "curl_speaks_h2c_"),
    ("protocols", "mariadb_on_an_undeclared_port_"),
    ("protocols", "redis_"),
    ("restart", "a_program_that_is_missing_"),
    ("restart", "the_same_programs_"),
    ("seeding", "the_last_copy_"),
    ("seeding", "what_was_followed_"),
    ("source_ports", "source_ports_are_"),
    ("survival", "detach_without_"),
    ("survival", "workloads_added_"),
    TAP,
    ("transparency", "plain::a_bound_source_"),
    ("transparency", "plain::an_address_without_route_"),
    ("transparency", "plain::getpeername_"),
    ("transparency", "plain::udp_"),
    ("transparency", "plain::v4_mapped_"),
    ("workloads", "workloads_are_added_"),
];

/// What a kernel can.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// weir runs on it.
    pub(super) supported: bool,
    /// The tap works on it.
    pub(super) taps: bool,
}

/// The tests to be run, and for each of the others why not.
pub(super) struct Selection {
    pub(super) run: Vec<Test>,
    pub(super) not_run: Vec<(Test, &'static str)>,
}

/// Divides the tests for a kernel. What a filter leaves out is in neither list.
pub(super) fn select(
    tests: &[Test],
    abilities: Abilities,
    breadth: Breadth,
    filter: Option<&str>,
) -> Selection {
    let mut selection = Selection { run: Vec::new(), not_run: Vec::new() };
    let asked = |test: &&Test| filter.is_none_or(|filter| test.to_string().contains(filter));
    for test in tests.iter().filter(asked) {
        match reason(test, abilities, breadth, filter.is_some()) {
            None => selection.run.push(test.clone()),
            Some(reason) => selection.not_run.push((test.clone(), reason)),
        }
    }
    selection
}

/// Entries of the lists above that no test fits any more: what was renamed would drop out silently.
pub(super) fn stale(tests: &[Test]) -> Vec<String> {
    let left_out = LEFT_OUT.iter().map(|(target, begin, _)| (*target, *begin));
    let entries = left_out.chain(QUICK).chain([(FLOOR, "")]);
    let fits = |test: &Test, (target, begin): (&str, &str)| {
        test.target == target && test.name.starts_with(begin)
    };
    let stale = entries.filter(|entry| !tests.iter().any(|test| fits(test, *entry)));
    stale.map(|(target, begin)| format!("{target}::{begin}")).collect()
}

fn reason(
    test: &Test,
    Abilities { supported, taps }: Abilities,
    breadth: Breadth,
    named: bool,
) -> Option<&'static str> {
    let is = |target: &str, begin: &str| test.target == target && test.name.starts_with(begin);
    match (test.target == FLOOR, supported) {
        (true, false) => return None,
        (true, true) => return Some("is about kernels that are too old for weir"),
        (false, false) => return Some("weir needs Linux 5.15"),
        (false, true) => {}
    }
    if let Some((_, _, reason)) = LEFT_OUT.iter().find(|(target, begin, _)| is(target, begin)) {
        return Some(reason);
    }
    if !taps && is(TAP.0, "") && !is(TAP.0, TAP.1) {
        return Some("the tap needs Linux 6.12");
    }
    // Who names a test gets it.
    let quick = named || QUICK.iter().any(|(target, begin)| is(target, begin));
    (breadth == Breadth::Quick && !quick).then_some("left to the wide selection, to save time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests() -> Vec<Test> {
        let names = [
            ("bulk", "http1_carries"),
            ("protocols", "h2load_over_http1"),
            ("badinput", "a_config"),
            ("failopen", "connections_go_direct_after_kill_9_and"),
            ("floor", "weir_refuses"),
            ("tapped", "a_service"),
            ("tapped", "without_the_tap_connections"),
        ];
        names.map(|(target, name)| Test { target: target.into(), name: name.into() }).into()
    }

    fn run(supported: bool, breadth: Breadth, filter: Option<&str>) -> Vec<String> {
        run_on(Abilities { supported, taps: false }, breadth, filter)
    }

    fn run_on(abilities: Abilities, breadth: Breadth, filter: Option<&str>) -> Vec<String> {
        let selection = select(&tests(), abilities, breadth, filter);
        if filter.is_none() {
            // Nothing is skipped silently.
            assert_eq!(selection.run.len() + selection.not_run.len(), tests().len());
        }
        selection.run.iter().map(Test::to_string).collect()
    }

    #[test]
    fn load_is_left_out_and_so_is_what_another_kernel_answers() {
        assert_eq!(
            run(true, Breadth::Wide, None),
            [
                "badinput::a_config",
                "failopen::connections_go_direct_after_kill_9_and",
                "tapped::without_the_tap_connections",
            ]
        );
        assert_eq!(run(false, Breadth::Wide, None), ["floor::weir_refuses"]);
        assert_eq!(
            run(true, Breadth::Quick, None),
            [
                "failopen::connections_go_direct_after_kill_9_and",
                "tapped::without_the_tap_connections",
            ]
        );
        let abilities = Abilities { supported: true, taps: true };
        let tapped = run_on(abilities, Breadth::Wide, Some("tapped"));
        assert_eq!(tapped, ["tapped::a_service", "tapped::without_the_tap_connections"]);
    }

    #[test]
    fn entries_without_a_test_are_told() {
        let stale = stale(&tests());
        assert!(stale.contains(&"storm::".to_owned()), "{stale:?}");
        assert!(!stale.contains(&"bulk::".to_owned()), "{stale:?}");
    }

    #[test]
    fn a_filter_narrows() {
        assert_eq!(run(true, Breadth::Wide, Some("config")), ["badinput::a_config"]);
        assert_eq!(run(true, Breadth::Quick, Some("config")), ["badinput::a_config"]);
        assert_eq!(run(true, Breadth::Wide, Some("bulk")), [""; 0]);
    }
}
