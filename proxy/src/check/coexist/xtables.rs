//! The tables of old iptables (`iptables-legacy`, not that of nftables) in this thread's network
//! namespace, as far as they tell what redirects connections. Reads by socket options
//! (`include/uapi/linux/netfilter_ipv4/ip_tables.h`, `netfilter_ipv6/ip6_tables.h`), and only tables
//! that are there: to ask for another would make it.

use std::{collections::BTreeSet, fs, io, ops::Range, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

use super::nftables::Turn;

/// A table: "nat", "mangle".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// "ip" or "ip6".
    pub(super) family: &'static str,
    pub(super) name: String,
    /// Chains that users have made.
    pub(super) chains: Vec<String>,
    /// Targets of its rules, by name; jumps and verdicts have none.
    pub(super) targets: BTreeSet<String>,
}

/// How a family asks, and how its entries are laid out.
struct Family {
    name: &'static str,
    domain: Domain,
    level: libc::c_int,
    /// Where `target_offset` is in `struct ipt_entry` and `struct ip6t_entry`; `next_offset` is
    /// behind it.
    offsets: usize,
}

const V4: Family = Family { name: "ip", domain: Domain::IPV4, level: libc::SOL_IP, offsets: 88 };
const V6: Family =
    Family { name: "ip6", domain: Domain::IPV6, level: libc::SOL_IPV6, offsets: 140 };

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`: `struct ipt_getinfo`, whose last member is the size of
/// the entries.
const GET_INFO: libc::c_int = 64;
const INFO: usize = 84;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`: name, size and padding, then the entries.
const GET_ENTRIES: libc::c_int = 65;
const HEADER: usize = 40;
/// `XT_TABLE_MAXNAMELEN`, with its end.
const NAME: usize = 32;

/// The table may change between the two requests (`EAGAIN`).
const ATTEMPTS: usize = 5;

/// `struct xt_entry_target`: where its name is, and where its data begins.
const TARGET_NAME: Range<usize> = 2..31;
const TARGET_DATA: usize = 32;
/// The target at the head of a chain that a user has made; its data is the chain's name
/// (`struct xt_error_target`). So ends the table too, with this as the name.
const ERROR: &str = "ERROR";
/// `XT_FUNCTION_MAXNAMELEN`, with its end.
const CHAIN_NAME: usize = 30;

/// All tables of both families; none on a kernel without old iptables.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN in the namespace.
pub(super) fn tables() -> io::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for family in [V4, V6] {
        // Of this thread's namespace; absent without the module, and readable by root only.
        let path = format!("/proc/thread-self/net/{}_tables_names", family.name);
        let names = fs::read_to_string(path).unwrap_or_default();
        if !names.is_empty() {
            // Any socket of the family will do (`net/netfilter/nf_sockopt.c`).
            let socket = Socket::new(family.domain, Type::DGRAM, None)?;
            for name in names.lines() {
                tables.push(family.table(&socket, name)?);
            }
        }
    }
    Ok(tables)
}

// === impl Table ===

impl Table {
    /// Targets that send a connection elsewhere. They are valid in `nat`, and `TPROXY` in `mangle`.
    pub(super) fn turns(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(String::as_str).filter(|name| Turn::of_target(name).is_some())
    }
}

// === impl Family ===

impl Family {
    fn table(&self, socket: &Socket, name: &str) -> io::Result<Table> {
        let mut table = Table { family: self.name, name: name.to_owned(), ..Table::default() };
        let mut attempts = ATTEMPTS;
        let entries = loop {
            attempts -= 1;
            match self.entries(socket, name) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts > 0 => {}
                entries => break entries?,
            }
        };
        (table.chains, table.targets) = read(&entries, self.offsets);
        Ok(table)
    }

    fn entries(&self, socket: &Socket, name: &str) -> io::Result<Vec<u8>> {
        let named = |length: usize| {
            let mut buffer = vec![0; length];
            // With at least one zero behind it.
            let name = &name.as_bytes()[..name.len().min(NAME - 1)];
            buffer[..name.len()].copy_from_slice(name);
            buffer
        };
        let mut info = named(INFO);
        self.ask(socket, GET_INFO, &mut info)?;
        let size = &info[INFO - 4..];
        let length = number(size).map_or(0, |size| u32::from_ne_bytes(size) as usize);
        let mut entries = named(HEADER + length);
        entries[NAME..NAME + 4].copy_from_slice(size);
        self.ask(socket, GET_ENTRIES, &mut entries)?;
        Ok(entries.split_off(HEADER))
    }

    fn ask(&self, socket: &Socket, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the buffer is live and as long as is said; the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                self.level,
                option,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

// === helpers ===

/// Chains and targets of a table's entries; what is cut short ends them.
fn read(mut entries: &[u8], offsets: usize) -> (Vec<String>, BTreeSet<String>) {
    let (mut chains, mut targets) = (Vec::new(), BTreeSet::new());
    while let Some((target, next)) = parts(entries, offsets) {
        let name = target.get(TARGET_NAME).map(text).unwrap_or_default();
        match target.get(TARGET_DATA..TARGET_DATA + CHAIN_NAME).map(text) {
            Some(chain) if name == ERROR => chains.extend((chain != ERROR).then_some(chain)),
            _ if !name.is_empty() => drop(targets.insert(name)),
            _ => {}
        }
        entries = next;
    }
    (chains, targets)
}

/// An entry's target with all behind it, and the next entry.
fn parts(entry: &[u8], offsets: usize) -> Option<(&[u8], &[u8])> {
    let offset = |at: usize| Some(usize::from(u16::from_ne_bytes(number(entry.get(at..)?)?)));
    let (target, next) = (offset(offsets)?, offset(offsets + 2)?);
    (next > target).then(|| Some((entry.get(target..next)?, entry.get(next..)?)))?
}

fn number<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with a match before its target.
    fn entry(offsets: usize, target: &str, data: &[u8]) -> Vec<u8> {
        let start = offsets + 64;
        let mut entry = vec![0; start + TARGET_DATA];
        entry[start + 2..start + 2 + target.len()].copy_from_slice(target.as_bytes());
        entry.extend(data);
        let next = u16::try_from(entry.len()).unwrap();
        entry[offsets..offsets + 2].copy_from_slice(&u16::try_from(start).unwrap().to_ne_bytes());
        entry[offsets + 2..offsets + 4].copy_from_slice(&next.to_ne_bytes());
        entry
    }

    fn chain(name: &str) -> Vec<u8> {
        let mut data = name.as_bytes().to_vec();
        data.resize(CHAIN_NAME, 0);
        data
    }

    #[test]
    fn chains_and_targets_are_read() {
        for Family { offsets, .. } in [V4, V6] {
            let table = [
                entry(offsets, "", &[0; 8]),
                entry(offsets, ERROR, &chain("PROXY_INIT_OUTPUT")),
                entry(offsets, "REDIRECT", &[0; 16]),
                entry(offsets, ERROR, &chain(ERROR)),
            ]
            .concat();
            let (chains, targets) = read(&table, offsets);
            assert_eq!(chains, ["PROXY_INIT_OUTPUT"]);
            assert_eq!(targets.into_iter().collect::<Vec<_>>(), ["REDIRECT"]);
            for end in 0..table.len() {
                read(&table[..end], offsets);
            }
        }
        // An entry that leads nowhere.
        assert_eq!(read(&[0; 200], V4.offsets), Default::default());
    }
}
