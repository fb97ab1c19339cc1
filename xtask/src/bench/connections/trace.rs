//! What strace(1) has written, counted.

use std::collections::BTreeMap;

/// How often each thread has called what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls(BTreeMap<String, BTreeMap<String, u64>>);

/// Calls that do several things, and which argument says what.
const TOLD_BY: [(&str, usize); 7] = [
    ("bpf", 0),
    ("epoll_ctl", 1),
    ("fcntl", 1),
    ("futex", 1),
    ("getsockopt", 2),
    ("ioctl", 1),
    ("setsockopt", 2),
];

// === impl Calls ===

impl Calls {
    /// Reads what `strace -f -o FILE` has written; `names` are the threads'.
    pub(super) fn read(text: &str, names: &BTreeMap<u32, String>) -> Self {
        let mut calls = Self::default();
        for line in text.lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            // Not the second half of a call, and not a signal.
            let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                continue;
            }
            let thread = thread.parse().ok().and_then(|thread: u32| names.get(&thread));
            // What was started meanwhile.
            let thread = thread.map_or("others", String::as_str);
            *calls.0.entry(what(name, arguments)).or_default().entry(thread.into()).or_default() +=
                1;
        }
        calls
    }

    /// The same for one of so many.
    pub(super) fn each(&self, count: u64) -> BTreeMap<String, BTreeMap<String, f64>> {
        let each =
            |(thread, calls): (&String, &u64)| (thread.clone(), *calls as f64 / count as f64);
        self.0.iter().map(|(name, all)| (name.clone(), all.iter().map(each).collect())).collect()
    }
}

// === helpers ===

/// The name of a call, with what it is to do where it can do several things.
fn what(name: &str, arguments: &str) -> String {
    let told_by = TOLD_BY.iter().find(|(called, _)| *called == name);
    let detail = told_by.and_then(|(_, at)| arguments.split(',').nth(*at));
    let Some(detail) = detail else { return name.to_owned() };
    let word = detail.trim_start();
    let end = word.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let word = &word[..end.unwrap_or(word.len())];
    let word = ["BPF_", "EPOLL_CTL_", "FUTEX_"]
        .iter()
        .fold(word, |word, prefix| word.strip_prefix(prefix).unwrap_or(word));
    format!("{name} {word}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_and_by_what_they_do() {
        let text = "\
7 epoll_ctl(4, EPOLL_CTL_ADD, 9, {events=EPOLLIN}) = 0
7 epoll_wait(4,  <unfinished ...>
8 setsockopt(9, SOL_SOCKET, SO_LINGER, {l_onoff=0, l_linger=0}, 8) = 0
7 <... epoll_wait resumed>[], 1024, 5) = 0
8 bpf(BPF_MAP_LOOKUP_ELEM, {map_fd=5}, 32) = 0
9 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
7 --- SIGINT {si_signo=SIGINT} ---
7 close(9) = 0
7 close(10 <unfinished ...>
8 fcntl(9, F_GETFL)                = 0x802 (flags O_RDWR|O_NONBLOCK)
7 fcntl(9, F_GETFL <unfinished ...>
";
        let names = [(7, "main".to_owned()), (8, "workers".to_owned())].into();
        let calls = Calls::read(text, &names).each(2);
        let of = |name: &str, thread: &str| calls.get(name).and_then(|it| it.get(thread)).copied();
        assert_eq!(of("close", "main"), Some(1.0));
        assert_eq!(of("epoll_wait", "main"), Some(0.5));
        assert_eq!(of("epoll_ctl ADD", "main"), Some(0.5));
        assert_eq!(of("setsockopt SO_LINGER", "workers"), Some(0.5));
        assert_eq!(of("bpf MAP_LOOKUP_ELEM", "workers"), Some(0.5));
        assert_eq!(of("futex WAKE_PRIVATE", "others"), Some(0.5));
        let all: f64 = calls["fcntl F_GETFL"].values().sum();
        assert_eq!((all, calls.len()), (1.0, 7));
    }
}
