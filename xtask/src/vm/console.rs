//! What a kernel in trouble writes to its console, and what a verifier that refuses a program says.

/// Trouble of the kernel's own; a line that contains one of these is never good news.
const TROUBLE: [(&str, &str); 13] = [
    ("Kernel panic - not syncing", "panic"),
    ("soft lockup", "soft lockup"),
    ("hard LOCKUP", "hard lockup"),
    ("rcu_sched self-detected stall", "RCU stall"),
    ("rcu_preempt self-detected stall", "RCU stall"),
    ("rcu: INFO: rcu", "RCU stall"),
    ("blocked for more than", "hung task"),
    ("Oops: ", "oops"),
    ("general protection fault", "oops"),
    ("BUG: ", "bug"),
    ("WARNING: ", "warning"),
    ("Out of memory: Killed process", "out of memory"),
    ("unregister_netdevice: waiting for", "leaked network device"),
];

/// In the output of a test whose BPF program was refused (aya's words around the verifier's).
const REFUSED: [&str; 2] = ["Verifier output:", "cannot load BPF program"];

/// Lines in which the kernel complains, each with its kind; a line is of the first kind that fits.
pub(super) fn troubles(log: &str) -> Vec<(&'static str, &str)> {
    let kind = |line: &str| TROUBLE.iter().find(|(text, _)| line.contains(text)).map(|(_, k)| *k);
    log.lines().filter_map(|line| Some((kind(line)?, line.trim()))).collect()
}

/// Whether a line of a test's output tells of a program that the verifier refused.
pub(super) fn is_verifiers(line: &str) -> bool {
    REFUSED.iter().any(|text| line.contains(text))
}

/// The last lines, for a guest that ended without a word.
pub(super) fn tail(log: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_trouble_is_heard() {
        let log = "[    1.2] Run /init as init process\n\
            [   33.1] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [weir:321]\n\
            [   34.0] rcu: INFO: rcu_sched self-detected stall on CPU\n\
            [   35.0] BUG: kernel NULL pointer dereference, address: 0000000000000010\n\
            [   35.0] Oops: 0000 [#1] PREEMPT SMP NOPTI\n\
            [   36.0] WARNING: CPU: 0 PID: 1 at net/core/stream.c:208 sk_stream_kill_queues\n\
            [   37.0] Kernel panic - not syncing: Fatal exception\n\
            [   38.0] debug: nothing\n";
        let kinds: Vec<_> = troubles(log).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["soft lockup", "RCU stall", "bug", "oops", "warning", "panic"]);
    }

    #[test]
    fn a_refused_program_is_told_from_other_failures() {
        assert!(is_verifiers("error: cannot load BPF program weir_connect4: …"));
        assert!(!is_verifiers("assertion failed: left == right"));
    }

    #[test]
    fn the_tail_has_no_empty_lines() {
        assert_eq!(tail("a\n\nb\nc\n\n", 2), ["b", "c"]);
        assert_eq!(tail("", 2), [""; 0]);
    }
}
