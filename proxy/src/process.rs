//! The process that makes a connection, as the connect hook sees it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process at the moment of its connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Text", from = "Text")]
pub struct Process {
    /// Its number in the PID namespace of the machine.
    pub pid: u32,
    /// The name of the thread that connects, up to its end: 15 bytes at most (`TASK_COMM_LEN`).
    command: [u8; 16],
}

/// The same as records have it.
#[derive(Serialize, Deserialize)]
struct Text {
    pid: u32,
    command: String,
}

// === impl Process ===

impl Process {
    /// `None` where the hook has noted none.
    #[must_use]
    pub fn new(pid: u32, command: [u8; 16]) -> Option<Self> {
        (pid != 0).then_some(Self { pid, command })
    }

    /// The name of the thread. A process can choose any bytes: what is not printable is replaced.
    #[must_use]
    pub fn command(&self) -> String {
        let end = self.command.iter().position(|byte| *byte == 0).unwrap_or(self.command.len());
        let text = String::from_utf8_lossy(&self.command[..end]);
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.command(), self.pid)
    }
}

impl From<Process> for Text {
    fn from(process: Process) -> Self {
        Self { pid: process.pid, command: process.command() }
    }
}

impl From<Text> for Process {
    fn from(text: Text) -> Self {
        let mut command = [0; 16];
        let length = text.command.len().min(command.len());
        command[..length].copy_from_slice(&text.command.as_bytes()[..length]);
        Self { pid: text.pid, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printable_whatever_the_process_calls_itself() {
        let named = |name: &[u8]| {
            let mut command = [0; 16];
            command[..name.len()].copy_from_slice(name);
            Process::new(7, command).unwrap()
        };
        assert_eq!(named(b"curl").to_string(), "curl[7]");
        assert_eq!(named(b"sixteen bytes ab").command(), "sixteen bytes ab");
        assert_eq!(named(b"\x1b[31mred").command(), "\u{fffd}[31mred");
        assert_eq!(named(b"b\xfccher").command(), "b\u{fffd}cher");
        assert_eq!(Process::new(0, [0; 16]), None);
        let json = serde_json::to_string(&named(b"my app")).unwrap();
        assert_eq!(json, r#"{"pid":7,"command":"my app"}"#);
        assert_eq!(serde_json::from_str::<Process>(&json).unwrap(), named(b"my app"));
    }
}
