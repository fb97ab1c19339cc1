//! Fields of the kernel's TCP socket that the hooks read (`proxy-ebpf/src/fields.rs`): where each is
//! on this kernel, found by its BTF. Each read is tried with a program of a few instructions, so that
//! a field that the verifier does not let be read is not known, and no program fails to load for it.

use std::{io, sync::OnceLock};

use super::{
    btf::{self, Place, Structures},
    trial::{self, Instruction},
};

/// A structure and a member of it.
type Member = (&'static str, &'static str);

/// A field: the constant of the programs, and the member that it is.
#[derive(Clone, Copy)]
struct Field {
    constant: &'static str,
    member: Member,
    /// The member of the structure that `member` is, by name.
    within: Option<Member>,
    /// Bytes from there: of an element of an array.
    further: i16,
    /// Bytes that are read.
    size: u8,
    /// Of a bit field: the constant that says how far up it is in what is read.
    shift: Option<&'static str>,
    /// The fields, by their constants, that are followed from the socket to the structure.
    through: &'static [&'static str],
}

const fn field(
    constant: &'static str,
    structure: &'static str,
    member: &'static str,
    size: u8,
) -> Field {
    let member = (structure, member);
    Field { constant, member, within: None, further: 0, size, shift: None, through: &[] }
}

const fn bits(
    constant: &'static str,
    structure: &'static str,
    member: &'static str,
    shift: &'static str,
    size: u8,
) -> Field {
    Field { shift: Some(shift), ..field(constant, structure, member, size) }
}

const fn behind(through: &'static [&'static str], field: Field) -> Field {
    Field { through, ..field }
}

const fn within(field: Field, member: Member, further: i16) -> Field {
    Field { within: Some(member), further, ..field }
}

/// `CGROUP_INET_EGRESS` (`enum cgroup_bpf_attach_type` in include/linux/bpf-cgroup-defs.h) in an array of
/// pointers.
const EGRESS: i16 = 8;

/// `tcp_sock` begins with an `inet_connection_sock`, that with an `inet_sock`, that with a `sock` and
/// that with a `sock_common`: the kernel casts one to the other (include/linux/tcp.h). So the offset in
/// any of them is one in `tcp_sock`.
const FIELDS: [Field; 29] = [
    field("BYTES_SENT", "tcp_sock", "bytes_sent", 8),
    field("BYTES_RETRANS", "tcp_sock", "bytes_retrans", 8),
    field("SOCKET_ERROR", "sock", "sk_err", 4),
    field("SOCKET_FLAGS", "sock_common", "skc_flags", 8),
    bits("LOCKS", "sock", "sk_userlocks", "LOCKS_SHIFT", 1),
    field("OWNER", "sock", "sk_uid", 4),
    field("PRIORITY", "sock", "sk_priority", 4),
    field("PACING", "sock", "sk_max_pacing_rate", 8),
    field("RECEIVE_BUFFER", "sock", "sk_rcvbuf", 4),
    field("SEND_BUFFER", "sock", "sk_sndbuf", 4),
    field("TOS", "inet_sock", "tos", 1),
    field("TTL", "inet_sock", "uc_ttl", 2),
    field("PINET6", "inet_sock", "pinet6", 8),
    behind(&["PINET6"], field("TCLASS6", "ipv6_pinfo", "tclass", 1)),
    behind(&["PINET6"], bits("HOP_LIMIT6", "ipv6_pinfo", "hop_limit", "HOP_LIMIT6_SHIFT", 2)),
    field("USER_TIMEOUT", "inet_connection_sock", "icsk_user_timeout", 4),
    bits("CA_SET", "inet_connection_sock", "icsk_ca_setsockopt", "CA_SET_SHIFT", 1),
    field("CA_OPS", "inet_connection_sock", "icsk_ca_ops", 8),
    behind(&["CA_OPS"], field("CA_NAME", "tcp_congestion_ops", "name", 16)),
    field("KEEPALIVE_TIME", "tcp_sock", "keepalive_time", 4),
    field("KEEPALIVE_INTERVAL", "tcp_sock", "keepalive_intvl", 4),
    field("KEEPALIVE_PROBES", "tcp_sock", "keepalive_probes", 1),
    field("IS_MPTCP", "tcp_sock", "is_mptcp", 1),
    within(field("CGROUP", "sock", "sk_cgrp_data", 8), ("sock_cgroup_data", "cgroup"), 0),
    behind(
        &["CGROUP"],
        within(field("EGRESS", "cgroup", "bpf", 8), ("cgroup_bpf", "effective"), EGRESS),
    ),
    behind(
        &["CGROUP", "EGRESS"],
        within(
            field("FIRST_PROGRAM", "bpf_prog_array", "items", 8),
            ("bpf_prog_array_item", "prog"),
            0,
        ),
    ),
    field("MD5_INFO", "tcp_sock", "md5sig_info", 8),
    field("AO_INFO", "tcp_sock", "ao_info", 8),
    field("COPIED_SEQ", "tcp_sock", "copied_seq", 4),
];

/// Members of buffers, which the tap reads and no program for sockets can try: it is loaded, or not.
const OF_BUFFERS: [(&str, Member); 3] =
    [("SKB_SK", ("sk_buff", "sk")), ("SKB_LEN", ("sk_buff", "len")), ("SKB_CB", ("sk_buff", "cb"))];

/// Fields that kernels without MPTCP or signed segments (`CONFIG_MPTCP`, `CONFIG_TCP_MD5SIG`,
/// `CONFIG_TCP_AO`, since 6.7) do not have and do not need.
const OPTIONAL: [&str; 3] = ["IS_MPTCP", "MD5_INFO", "AO_INFO"];

/// The constants of the programs, by name; 0 for what is not known.
pub(super) type Constants = Vec<(&'static str, u32)>;

/// What is lost where fields are not known.
pub const WITHOUT: &str = "upstream connections lack the application's socket options, and reports \
                           of direct connections are less precise";

/// The constants for this kernel and process.
pub(super) fn constants() -> &'static Constants {
    static FOUND: OnceLock<Constants> = OnceLock::new();
    FOUND.get_or_init(|| {
        find().unwrap_or_else(|error| {
            tracing::info!(%error, "the kernel has no BTF: {WITHOUT}");
            let none = OF_BUFFERS.iter().map(|(constant, _)| (*constant, 0));
            FIELDS.iter().flat_map(|field| field.constants(None)).chain(none).collect()
        })
    })
}

/// The fields that are not known on this kernel, by structure and member.
///
/// # Errors
/// Where it has no BTF.
pub fn unknown() -> io::Result<Vec<String>> {
    let found = find()?;
    let is_unknown = |field: &&Field| {
        !OPTIONAL.contains(&field.constant) && found.contains(&(field.constant, 0))
    };
    let name = |field: &Field| format!("{}.{}", field.member.0, field.member.1);
    Ok(FIELDS.iter().filter(is_unknown).map(name).collect())
}

// === impl Field ===

impl Field {
    /// Where it is, if it can be read.
    fn find(&self, structures: &Structures<'_>) -> Option<Place> {
        let place = self.place(structures)?;
        let follow = |constant: &&'static str| {
            let field = FIELDS.iter().find(|field| field.constant == *constant)?;
            offset(field.place(structures)?)
        };
        let pointers: Vec<i16> = self.through.iter().map(follow).collect::<Option<_>>()?;
        let at = i16::try_from(self.byte(place)).ok()?;
        let read = 8 * u32::from(self.size);
        let is_in_place = match self.shift {
            // It may not go on behind what is read.
            Some(_) => place.bit - 8 * self.byte(place) + place.bits.max(1) <= read,
            None => place.bit.is_multiple_of(8),
        };
        // At most a word at a time.
        let mut words = (0..i16::from(self.size)).step_by(8);
        let is_readable = |word| {
            let program = Instruction::read_tcp(&pointers, at + word, self.size.min(8));
            trial::load(trial::SOCK_OPS, "weir_probe", &program).is_ok()
        };
        (is_in_place && words.all(is_readable)).then_some(place)
    }

    fn place(&self, structures: &Structures<'_>) -> Option<Place> {
        let mut place = structures.place(self.member.0, self.member.1)?;
        if let Some((structure, member)) = self.within {
            place.bit += structures.place(structure, member)?.bit;
        }
        place.bit += u32::from(self.further.unsigned_abs()) * 8;
        Some(place)
    }

    fn constants(&self, place: Option<Place>) -> impl Iterator<Item = (&'static str, u32)> {
        let bit = place.map_or(0, |place| place.bit);
        let byte = place.map_or(0, |place| self.byte(place));
        let shift = self.shift.map(|constant| (constant, bit - 8 * byte));
        [(self.constant, byte)].into_iter().chain(shift)
    }

    /// Where it is read: a bit field in units of what is read.
    fn byte(&self, place: Place) -> u32 {
        let unit = if self.shift.is_some() { u32::from(self.size) } else { 1 };
        place.bit / 8 / unit * unit
    }
}

// === helpers ===

fn find() -> io::Result<Constants> {
    let btf = btf::kernel()?;
    let members = FIELDS.iter().flat_map(|field| [Some(field.member), field.within]);
    let wanted = members.flatten().map(|(structure, _)| structure);
    let wanted: Vec<&str> = wanted.chain(["sk_buff"]).collect();
    let structures = Structures::of(&btf, &wanted)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot parse BTF"))?;
    let of_sockets = FIELDS.iter().flat_map(|field| field.constants(field.find(&structures)));
    let of_buffers = OF_BUFFERS.iter().map(|(constant, (structure, member))| {
        (*constant, structures.place(structure, member).map_or(0, |place| place.bit / 8))
    });
    Ok(of_sockets.chain(of_buffers).collect())
}

/// Bytes from the beginning.
fn offset(place: Place) -> Option<i16> {
    place.bit.is_multiple_of(8).then(|| i16::try_from(place.bit / 8).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, and a kernel with BTF.
    #[test]
    fn every_field_of_this_kernel_is_known() {
        assert_eq!(unknown().unwrap(), [""; 0]);
        let behind_the_structure = Instruction::read_tcp(&[], i16::MAX - 7, 8);
        assert!(trial::load(trial::SOCK_OPS, "weir_probe", &behind_the_structure).is_err());
    }
}
