//! The chains and rules of nftables in this thread's network namespace, as far as they decide where
//! a connection goes. Reads by netlink (`include/uapi/linux/netfilter/nf_tables.h`); as with `nft
//! list`, the kernel may load its nf_tables module to answer.

use std::io;

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator,
};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

/// A base chain: one that packets enter from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) name: String,
    /// "filter", "nat", "route".
    pub(super) kind: String,
    pub(super) hook: Hook,
    pub(super) drops_by_default: bool,
}

/// Where a packet is when it enters a chain: `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Output,
    Other,
}

/// A statement that sends a connection elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// `dnat`, `redirect`, and the iptables targets of that name: chains of type nat only.
    Nat,
    /// `tproxy`: in prerouting only.
    Tproxy,
}

/// A rule that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) turn: Turn,
}

/// Everything of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    pub(super) rules: Vec<Rule>,
}

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
/// A dump comes in pieces of at most 32 KiB (`net/netlink/af_netlink.c`, `netlink_dump`).
const PIECE: usize = 64 * 1024;

/// Reads the rule set. A kernel without nftables has an empty one.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN in the namespace.
pub(super) fn read() -> io::Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    let read = dump(GETCHAIN, |family, message| ruleset.chains.extend(chain(family, message)))
        .and_then(|()| {
            dump(GETRULE, |family, message| ruleset.rules.extend(rule(family, message)))
        });
    match read {
        Err(error) if is_absent(&error) => Ok(Ruleset::default()),
        read => read.map(|()| ruleset),
    }
}

/// Tables and chains by name, base chains or not; none on a kernel without nftables.
///
/// # Errors
/// As [`read`].
pub(super) fn names() -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let read = dump(GETCHAIN, |family, message| {
        let names = || {
            family_name(family)?;
            Some((text(attribute(message, 1)?), text(attribute(message, 3)?)))
        };
        found.extend(names());
    });
    match read {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        read => read.map(|()| found),
    }
}

// === impl Hook ===

impl Hook {
    fn of(number: u32) -> Self {
        match number {
            0 => Self::Prerouting,
            1 => Self::Input,
            3 => Self::Output,
            _ => Self::Other,
        }
    }
}

// === impl Turn ===

impl Turn {
    /// By the name of an iptables target.
    pub(super) fn of_target(name: &str) -> Option<Self> {
        match name {
            "REDIRECT" | "DNAT" => Some(Self::Nat),
            "TPROXY" => Some(Self::Tproxy),
            _ => None,
        }
    }
}

// === impl Ruleset ===

impl Ruleset {
    /// Whether a base chain may come to a rule that turns connections: one of its own, or of a
    /// chain of the same table that is no base chain, to which it may jump.
    pub(super) fn turns(&self, chain: &Chain, turn: Turn) -> bool {
        let is_base = |name: &str| {
            self.chains.iter().any(|base| {
                base.family == chain.family && base.table == chain.table && base.name == name
            })
        };
        self.rules.iter().any(|rule| {
            rule.turn == turn
                && rule.family == chain.family
                && rule.table == chain.table
                && (rule.chain == chain.name || !is_base(&rule.chain))
        })
    }
}

// === helpers ===

/// Asks for everything of a kind, in all families.
fn dump(command: u16, mut each: impl FnMut(u8, &[u8])) -> io::Result<()> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    let mut request = [0_u8; 20];
    let mut header = NetlinkBuffer::new(&mut request[..]);
    header.set_length(20);
    header.set_message_type(NFNL_SUBSYS_NFTABLES << 8 | command);
    header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    socket.send(&request, 0)?;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        socket.recv(&mut piece, 0)?;
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let payload = message.payload();
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(refusal(payload)),
                _ if payload.len() >= HEADER => each(payload[0], &payload[HEADER..]),
                _ => {}
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// The negative errno of `struct nlmsgerr`.
fn refusal(payload: &[u8]) -> io::Error {
    match payload.first_chunk() {
        Some(code) => io::Error::from_raw_os_error(i32::from_ne_bytes(*code).wrapping_neg()),
        None => io::Error::from(io::ErrorKind::UnexpectedEof),
    }
}

/// No netfilter netlink, or no nf_tables behind it (`net/netfilter/nfnetlink.c`,
/// `nfnetlink_rcv_msg`).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP))
}

/// `NFT_MSG_NEWCHAIN`; nothing for a chain without a hook, or of a family without connections.
fn chain(family: u8, message: &[u8]) -> Option<Chain> {
    let hook = attribute(message, 4)?;
    Some(Chain {
        family: family_name(family)?,
        table: text(attribute(message, 1)?),
        name: text(attribute(message, 3)?),
        kind: attribute(message, 7).map(text).unwrap_or_default(),
        hook: Hook::of(number(attribute(hook, 1)?)?),
        drops_by_default: attribute(message, 5).and_then(number) == Some(0),
    })
}

/// `NFT_MSG_NEWRULE`; nothing for a rule that turns no connection.
fn rule(family: u8, message: &[u8]) -> Option<Rule> {
    let turn = attributes(attribute(message, 4)?).find_map(|(_, expression)| turn(expression))?;
    Some(Rule {
        family: family_name(family)?,
        table: text(attribute(message, 1)?),
        chain: text(attribute(message, 2)?),
        turn,
    })
}

/// One expression: its name, and where that is not enough its data.
fn turn(expression: &[u8]) -> Option<Turn> {
    let data = || attribute(expression, 2);
    match text(attribute(expression, 1)?).as_str() {
        "redir" => Some(Turn::Nat),
        "tproxy" => Some(Turn::Tproxy),
        // NFTA_NAT_TYPE: 0 changes the source, 1 the destination.
        "nat" => (number(attribute(data()?, 1)?)? == 1).then_some(Turn::Nat),
        // An iptables target behind nftables' back end (NFTA_TARGET_NAME).
        "target" => Turn::of_target(&text(attribute(data()?, 1)?)),
        _ => None,
    }
}

fn family_name(family: u8) -> Option<&'static str> {
    match family {
        1 => Some("inet"),
        2 => Some("ip"),
        10 => Some("ip6"),
        _ => None,
    }
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| {
        // `NlaBuffer::value` would borrow from the buffer, not from `bytes`.
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        (kind, nla.into_inner().get(NLA_HEADER_SIZE..length).unwrap_or_default())
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A number in network byte order, as nf_tables has them.
fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[u8]) -> Vec<u8> {
        let list = [nla(1, format!("{name}\0").as_bytes()), nla(0x8000 | 2, data)].concat();
        nla(0x8000 | 1, &list)
    }

    fn rule_of(expressions: &[u8]) -> Option<Turn> {
        let head = [nla(1, b"t\0"), nla(2, b"c\0")].concat();
        rule(2, &[head, nla(0x8000 | 4, expressions)].concat()).map(|rule| rule.turn)
    }

    #[test]
    fn only_rules_that_turn_connections_count() {
        let word = |number: u32| nla(1, &number.to_be_bytes());
        let lookup = expression("payload", &[]);
        for (expressions, turn) in [
            (vec![], None),
            (expression("masq", &[]), None),
            (expression("nat", &word(0)), None),
            (expression("nat", &word(1)), Some(Turn::Nat)),
            ([lookup.clone(), expression("redir", &[])].concat(), Some(Turn::Nat)),
            (expression("tproxy", &word(7)), Some(Turn::Tproxy)),
            (expression("target", &nla(1, b"REDIRECT\0")), Some(Turn::Nat)),
            (expression("target", &nla(1, b"LOG\0")), None),
        ] {
            assert_eq!(rule_of(&expressions), turn, "{expressions:x?}");
        }
    }

    #[test]
    fn base_chains_are_told_by_their_hook() {
        let hook = [nla(1, &3_u32.to_be_bytes()), nla(2, &(-100_i32).to_be_bytes())].concat();
        let names = [nla(1, b"t\0"), nla(3, b"c\0"), nla(7, b"nat\0")].concat();
        let base = [names.clone(), nla(0x8000 | 4, &hook)].concat();
        let found = chain(1, &base).unwrap();
        assert_eq!((found.hook, found.kind.as_str(), found.family), (Hook::Output, "nat", "inet"));
        assert_eq!(chain(1, &names), None, "a chain that is only jumped to");
        assert_eq!(chain(7, &base), None, "bridges carry no connections");
        assert_eq!(chain(2, &base[..9]), None, "a message cut short");
    }

    #[test]
    fn a_rule_counts_for_the_base_chains_that_may_reach_it() {
        let chain = |name: &str| Chain {
            family: "ip",
            table: "t".into(),
            name: name.into(),
            kind: "nat".into(),
            hook: Hook::Output,
            drops_by_default: false,
        };
        let rule = |chain: &str| Rule {
            family: "ip",
            table: "t".into(),
            chain: chain.into(),
            turn: Turn::Nat,
        };
        let mut ruleset = Ruleset { chains: vec![chain("a"), chain("b")], rules: vec![rule("a")] };
        let turns = |ruleset: &Ruleset, name| ruleset.turns(&chain(name), Turn::Nat);
        assert!(turns(&ruleset, "a") && !turns(&ruleset, "b"));
        ruleset.rules.push(rule("jumped-to"));
        assert!(turns(&ruleset, "b"));
        assert!(!ruleset.turns(&chain("a"), Turn::Tproxy));
    }
}
