//! What the guest says on its second serial port: lines that begin with a mark, one fact each.

use serde::{Deserialize, Serialize};

/// Before each line that is meant for us.
const MARK: &str = "##weir ";

/// A test by the program that it is in and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(super) struct Test {
    /// The file in `tests/tests`.
    pub(super) target: String,
    /// The name that the test harness gives it.
    pub(super) name: String,
}

/// How a test ended in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not end in time.
    Hung,
    /// The program has no such test.
    Missing,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// The first process runs, on this release.
    Alive(&'a str),
    /// The guest cannot go on; why.
    Fatal(&'a str),
    /// Something that may explain a failure.
    Note(&'a str),
    /// What `weir check -o json` wrote.
    Check(&'a str),
    /// Its exit code and stderr.
    Checked(&'a str),
    /// A test begins.
    Begin(Test),
    /// A line of a failed test's output.
    Said(Test, &'a str),
    /// A test has ended; milliseconds.
    End(Test, Outcome, u64),
    /// All tests have been run.
    Done,
    /// Anything else; a firmware or a shell may say it.
    Other(&'a str),
}

// === impl Heard ===

impl<'a> Heard<'a> {
    /// Reads a line without its end.
    pub(super) fn parse(line: &'a str) -> Self {
        line.strip_prefix(MARK).and_then(Self::marked).unwrap_or(Self::Other(line))
    }

    fn marked(line: &'a str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "alive" => Self::Alive(rest),
            "fatal" => Self::Fatal(rest),
            "note" => Self::Note(rest),
            "check" => Self::Check(rest),
            "checked" => Self::Checked(rest),
            "begin" => Self::Begin(Test::parse(rest)?.0),
            "said" => {
                let (test, said) = Test::parse(rest)?;
                Self::Said(test, said.strip_prefix('|')?)
            }
            "end" => {
                let (test, rest) = Test::parse(rest)?;
                let (outcome, milliseconds) = rest.split_once(' ')?;
                let outcome = match outcome {
                    "ok" => Outcome::Passed,
                    "failed" => Outcome::Failed,
                    "hung" => Outcome::Hung,
                    "missing" => Outcome::Missing,
                    _ => return None,
                };
                Self::End(test, outcome, milliseconds.parse().ok()?)
            }
            "done" => Self::Done,
            _ => return None,
        })
    }
}

// === impl Test ===

impl Test {
    /// Target and name, and what follows.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let (target, rest) = text.split_once(' ')?;
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((Self { target: target.into(), name: name.into() }, rest))
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.target, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test() -> Test {
        Test { target: "engines".into(), name: "raw::a_b".into() }
    }

    #[test]
    fn lines_of_the_guest_are_understood() {
        let cases = [
            ("##weir alive 6.1.0-56-cloud-amd64", Heard::Alive("6.1.0-56-cloud-amd64")),
            ("##weir check {\"ready\": true}", Heard::Check("{\"ready\": true}")),
            ("##weir begin engines raw::a_b", Heard::Begin(test())),
            ("##weir said engines raw::a_b |  at |x|", Heard::Said(test(), "  at |x|")),
            ("##weir said engines raw::a_b |", Heard::Said(test(), "")),
            ("##weir end engines raw::a_b ok 1234", Heard::End(test(), Outcome::Passed, 1234)),
            ("##weir end engines raw::a_b hung 1", Heard::End(test(), Outcome::Hung, 1)),
            ("##weir done", Heard::Done),
            (
                "##weir end engines raw::a_b fine 1",
                Heard::Other("##weir end engines raw::a_b fine 1"),
            ),
            ("SeaBIOS", Heard::Other("SeaBIOS")),
        ];
        for (line, heard) in cases {
            assert_eq!(Heard::parse(line), heard);
        }
    }
}
