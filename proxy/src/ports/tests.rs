//! The grammar of port and prefix lists, and its errors.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

#[test]
fn lists_parse_as_written() {
    for (list, append, printed) in [
        ("", false, ""),
        ("   ", false, ""),
        ("25", false, "25"),
        ("25,3306,9000-9100", false, "25,3306,9000-9100"),
        (" 80 , 443 ", false, "80,443"),
        ("9000 - 9100", false, "9000-9100"),
        ("3,1,2", false, "1-3"),
        ("1-5,3-9,10", false, "1-10"),
        ("0,65535", false, "0,65535"),
        ("0-65535", false, "0-65535"),
        ("+4406", true, "+4406"),
        (" + 4406,1", true, "+1,4406"),
    ] {
        let parsed = PortList::parse(list).unwrap_or_else(|e| panic!("{list:?}: {e}"));
        assert_eq!((parsed.append, parsed.to_string().as_str()), (append, printed), "{list:?}");
    }
}

#[test]
fn errors_name_the_column() {
    use PortListProblem as P;
    for (list, column, problem) in [
        ("25,[4222]", 4, P::Unexpected('[')),
        ("70000", 1, P::TooLarge("70000".into())),
        ("1, 99999999999", 4, P::TooLarge("99999999999".into())),
        ("9-1", 1, P::Backwards(9, 1)),
        ("80,,443", 4, P::Empty),
        (",80", 1, P::Empty),
        ("80,", 4, P::Empty),
        ("80,+443", 4, P::Plus),
        ("++80", 2, P::Plus),
        ("+", 1, P::NothingToAppend),
        ("8-", 2, P::HalfRange),
        ("-8", 1, P::HalfRange),
        ("1-2-3", 4, P::HalfRange),
        ("80 443", 3, P::Unexpected(' ')),
        ("é,1", 1, P::Unexpected('é')),
        ("1,é", 3, P::Unexpected('é')),
        ("80;443", 3, P::Unexpected(';')),
        ("http", 1, P::Unexpected('h')),
    ] {
        let error = PortList::parse(list).expect_err(list);
        assert_eq!((error.column, &error.problem), (column, &problem), "{list:?}");
    }
}

#[test]
fn the_error_text_says_what_to_write_instead() {
    let text = |list| PortList::parse(list).unwrap_err().to_string();
    insta::assert_snapshot!(
        [text("25,[4222]"), text("70000"), text("9-1"), text("80,,1"), text("1,+2")].join("\n"),
        @r#"
    bad port list "25,[4222]": column 4: unexpected '['; write ports and ranges separated by commas, such as 25,9000-9100
    bad port list "70000": column 1: 70000 is not a port; ports go from 0 to 65535
    bad port list "9-1": column 1: range 9-1 is reversed; write 1-9
    bad port list "80,,1": column 4: empty item; remove the extra comma
    bad port list "1,+2": column 3: '+' is allowed only at the start, where it adds the whole list
    "#
    );
}

#[test]
fn appending_keeps_what_was_there() {
    let defaults: PortSet = DEFAULT_OPAQUE_PORTS.into_iter().collect();
    let appended = PortList::parse("+4406").unwrap().resolve(&defaults);
    assert!(appended.contains(4406) && appended.contains(3306));
    let replaced = PortList::parse("4406").unwrap().resolve(&defaults);
    assert!(replaced.contains(4406) && !replaced.contains(3306));
}

#[test]
fn cidr_lists() {
    let list = CidrList::parse("10.0.0.0/8, fd00::/8,192.0.2.1,0.0.0.0/0").unwrap();
    assert_eq!(list.to_string(), "10.0.0.0/8,fd00::/8,192.0.2.1/32,0.0.0.0/0");
    assert!(list.0[0].contains("10.255.0.1".parse().unwrap()));
    assert!(list.0[0].contains("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!list.0[0].contains("11.0.0.1".parse().unwrap()));
    assert!(list.0[1].contains("fdff::1".parse().unwrap()));
    assert!(list.find("fe80::1".parse().unwrap()).is_none());

    let text = |list| CidrList::parse(list).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            text("10.0.0.1/8"), text("10.0.0.0/33"), text("10.0.0.0/8,,::1"), text("::1, host"),
            text("::1/+8")
        ]
        .join("\n"),
        @r#"
    column 1: 10.0.0.1/8 has bits set after its prefix; did you mean 10.0.0.0/8
    column 1: prefix length "33" is not a number from 0 to 32
    column 12: empty item; remove the extra comma
    column 6: "host" is not an address; write 10.0.0.0/8, fd00::/8 or 10.1.2.3
    column 1: prefix length "+8" is not a number from 0 to 128
    "#
    );
}

proptest! {
    #[test]
    fn any_input_is_parsed_or_refused_within_its_bounds(list in ".{0,40}") {
        if let Err(error) = PortList::parse(&list) {
            prop_assert!(error.column >= 1 && error.column <= list.chars().count() + 1);
        }
        let _ = CidrList::parse(&list);
    }

    #[test]
    fn display_round_trips(
        ranges in prop::collection::vec((any::<u16>(), any::<u16>()), 0..20),
        append: bool,
    ) {
        let ranges = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b)));
        let set = PortSet::from_ranges(ranges);
        let list = PortList { append: append && !set.is_empty(), set };
        prop_assert_eq!(&PortList::parse(&list.to_string()).unwrap(), &list);
        let json = serde_json::to_string(&list).unwrap();
        prop_assert_eq!(serde_json::from_str::<PortList>(&json).unwrap(), list);
    }

    #[test]
    fn sets_agree_with_the_plain_meaning(
        a in prop::collection::btree_set(any::<u16>(), 0..50),
        b in prop::collection::btree_set(any::<u16>(), 0..50),
        probe: u16,
    ) {
        let (left, right): (PortSet, PortSet) =
            (a.iter().copied().collect(), b.iter().copied().collect());
        prop_assert_eq!(left.iter().collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(left.len(), a.len());
        prop_assert_eq!(left.contains(probe), a.contains(&probe));
        let union: Vec<u16> = a.union(&b).copied().collect();
        prop_assert_eq!(left.union(&right).iter().collect::<Vec<_>>(), union);
    }

    #[test]
    fn a_truncated_prefix_contains_its_address(address: u128, length in 0u8..=128) {
        let address: IpAddr = std::net::Ipv6Addr::from_bits(address).into();
        let cidr = Cidr::truncate(address, length);
        prop_assume!(address.to_canonical() == address);
        prop_assert!(cidr.contains(address));
        prop_assert_eq!(CidrList::parse(&cidr.to_string()).unwrap().0, vec![cidr]);
    }
}
