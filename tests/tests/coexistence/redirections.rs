//! Packet filters of the network namespace that turn connections elsewhere: nftables, and iptables of
//! before.

use super::*;

/// A weir that has a connection before a redirection to `other` has it.
fn weir_before(place: &Place, other: &Peer) -> Result<Weir> {
    let weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    assert_eq!(other.seen().len(), 1, "weir's own connection was redirected");
    Ok(weir)
}

/// A proxy of another kind behind a rule for its port: weir comes first, then the other one.
#[test]
fn a_redirection_of_one_port_comes_after_weir() -> Result<()> {
    let place = Place::new("nftport")?;
    let _peer = server(&place)?;
    let other = Peer::whoami(&place.lab.client, 9100)?;
    place.nft(
        &place.lab.client,
        &format!(
            "table ip other {{\n chain out {{\n type nat hook output priority -100;\n \
         tcp dport {PORT} redirect to :9100\n }}\n}}\n"
        ),
    )?;
    let _weir = weir_before(&place, &other)?;
    let found = place.check(&place.own(), "chain out (nat, output)")?;
    assert_says(&found, "warn", &["table ip other", "weir captures before that"]);
    Ok(())
}

#[test]
fn a_redirection_of_everything_takes_captured_connections_unless_it_spares_loopback() -> Result<()>
{
    let place = Place::new("nftall")?;
    let _peer = server(&place)?;
    let other = Peer::whoami(&place.lab.client, 9100)?;
    let table = |exemption: &str| {
        format!(
            "table ip other\ndelete table ip other\n\
             table ip other {{\n chain out {{\n type nat hook output priority -100;\n {exemption}\n \
             meta l4proto tcp redirect to :9100\n }}\n}}\n"
        )
    };
    place.nft(&place.lab.client, &table(""))?;
    let weir = place.weir(&place.own(), &[])?;
    // weir has tried loopback out.
    let before = other.seen().len();
    ensure!(!matches!(place.visit(SERVER_V4)?, Visit::Failed(_)), "no answer");
    assert_eq!((other.seen().len(), weir.served(&place.lab)?), (before + 1, 0), "past weir");
    let found = place.check(&place.own(), "chain out (nat, output)")?;
    assert_says(&found, "warn", &["take captured connections away"]);
    // It takes what the self-test connects, too, which must not hang for it.
    let found = place.check(&place.own(), "loopback connection")?;
    assert_says(&found, "warn", &["arrived at another socket"]);
    place.nft(&place.lab.client, &table("oif lo return"))?;
    let before = other.seen().len();
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied, "as the hint says");
    assert_eq!((other.seen().len(), weir.served(&place.lab)?), (before + 1, 1), "through weir");
    Ok(())
}

/// Captured connections go to other addresses of 127.0.0.0/8, unless they would be lost there.
#[test]
fn a_packet_filter_that_knows_one_loopback_address_does_no_harm() -> Result<()> {
    let place = Place::new("nftstrict")?;
    let _peer = server(&place)?;
    let rules = "table ip strict {\n chain in {\n type filter hook input priority 0;\n \
                 iif lo ip daddr != 127.0.0.1 drop\n }\n}\n";
    place.nft(&place.lab.client, rules)?;
    let weir = place.weir(&place.own(), &[])?;
    assert_eq!(place.visit(SERVER_V4)?, Visit::Proxied);
    assert_eq!(weir.served(&place.lab)?, 1);
    Ok(())
}

#[test]
fn rule_sets_that_redirect_nothing_are_no_news() -> Result<()> {
    let place = Place::new("nftnone")?;
    place.nft(
        &place.lab.client,
        "table inet quiet {\n chain out {\n type nat hook output priority -100;\n accept\n }\n \
         chain post {\n type nat hook postrouting priority 100;\n masquerade\n }\n}\n",
    )?;
    assert_eq!(place.check(&place.own(), "table inet quiet")?, []);
    Ok(())
}

#[test]
fn a_redirection_by_old_iptables_is_named_and_a_table_without_one_is_no_news() -> Result<()> {
    let place = Place::new("oldport")?;
    let _peer = server(&place)?;
    let other = Peer::whoami(&place.lab.client, 9100)?;
    place.iptables("iptables", &["-A", "POSTROUTING", "-j", "ACCEPT"])?;
    assert_eq!(place.check(&place.own(), "table ip nat")?, []);
    let rule = ["-p", "tcp", "--dport", "9000", "-j", "REDIRECT", "--to-port", "9100"];
    place.iptables("iptables", &[&["-A", "OUTPUT"][..], &rule].concat())?;
    let _weir = weir_before(&place, &other)?;
    let found = place.check(&place.own(), "table ip nat")?;
    assert_says(&found, "warn", &["rules of REDIRECT in table", "weir's own"]);
    Ok(())
}
