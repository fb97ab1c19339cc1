//! Each rule, broken on purpose in a small tree that conforms; and the repository itself.

use tempfile::TempDir;

use super::*;
use crate::picture;

const LAYERS: &str = "\
| module | may import |
|---|---|
| `cli` | all below |
| `proxy` | `host`, `units` |
| `host` | `units` |
| `units` | |
| `config` | |
";

/// A tree in which nothing is found.
const CONFORMING: [(&str, &str); 12] = [
    ("README.md", "It is in `proxy/src/units.rs`.\n"),
    ("docs/ARCHITECTURE.md", ""),
    (
        "docs/CLI.md",
        "| code | meaning |\n|---|---|\n| 0 | success |\n| 4 | no weir |\n\n\
         | key in the file | flag | default | changes | meaning |\n|---|---|---|---|---|\n\
         | `log.level` | `--log-level` | info | in place | filter |\n",
    ),
    (
        "proxy/src/config/table.rs",
        "//! Settings.\nconst SETTINGS: [Setting; 1] = [Setting { keys: &[\"log.level\"], ..NEW }];\n",
    ),
    ("proxy/src/config/table/output.rs", "//! More of them.\n"),
    (
        "proxy/src/cli/exit.rs",
        "//! Codes.\nimpl Exit {\n    pub fn code(self) -> u8 {\n        match self {\n            \
         Self::Success => 0,\n            Self::NotRunning => 4,\n            Self::Other(code) => code,\n        \
         }\n    }\n}\n",
    ),
    ("proxy/src/lib.rs", "//! All.\npub mod cli;\npub mod host;\npub mod proxy;\npub mod units;\n"),
    ("proxy/src/cli.rs", "//! Verbs.\nmod exit;\n"),
    (
        "proxy/src/proxy.rs",
        "//! Connections.\nuse crate::{host::Host, units};\nmod inner;\npub fn go() { units::go() }\n",
    ),
    ("proxy/src/host.rs", "//! The machine.\nfn go() { crate::units::go() }\n"),
    ("proxy/src/units.rs", "//! Values.\npub fn go() {}\n"),
    (
        "proxy-ebpf/src/connect.rs",
        "//! connect(2).\n#[cgroup_sock_addr(connect4)]\npub fn weir_connect4() {\n    \
         // SAFETY: it is.\n    unsafe { go() }\n}\n",
    ),
];

struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(TempDir::new().unwrap());
        for (path, text) in CONFORMING {
            repository.write(path, text);
        }
        let programs = "| program | hook | file |\n|---|---|---|\n\
                        | `weir_connect4` | `connect4` | `proxy-ebpf/src/connect.rs` |\n";
        repository.write("docs/ARCHITECTURE.md", &format!("{LAYERS}\n{programs}"));
        repository.write(picture::FILE, &picture::draw());
        repository
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn replace(&self, path: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.0.path().join(path)).unwrap();
        assert!(text.contains(old), "{path} has no {old:?}");
        self.write(path, &text.replacen(old, new, 1));
    }

    fn findings(&self) -> Vec<String> {
        let findings = check(self.0.path(), &[]).unwrap();
        findings.iter().map(ToString::to_string).collect()
    }

    /// There is one finding, at this place and by this rule, which says this.
    #[track_caller]
    fn finds(&self, place: &str, says: &str) {
        let findings = self.findings();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(findings[0].starts_with(&format!("{place}: ")), "{place}, not {}", findings[0]);
        assert!(findings[0].contains(says), "{says:?}, not {}", findings[0]);
    }
}

#[test]
fn this_repository_conforms() {
    let findings = check(&crate::root(), &EXCEPTIONS).unwrap();
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn the_tree_of_these_tests_conforms() {
    assert_eq!(Repository::new().findings(), Vec::<String>::new());
}

#[test]
fn an_import_against_the_table_is_found_in_every_form() {
    for (code, line) in [
        ("use crate::proxy;", 3),
        ("use crate::{units, proxy::{go, stop}};", 3),
        ("use crate::{\n    proxy as other,\n    units,\n};", 4),
        ("use super::proxy::go;", 3),
        ("mod tests { use super::super::proxy::go; }", 3),
        ("fn a() { crate::proxy::go(); }", 3),
        ("fn a(it: &crate::proxy::Proxy) {}", 3),
        ("impl crate::proxy::Trait for () {}", 3),
        ("fn a() { assert!(\n    true == crate::proxy::go()); }", 4),
        ("macro_rules! a { () => { $crate::proxy::go() } }", 3),
        ("macro_rules! a { () => { use crate::{units, proxy}; } }", 3),
        ("#[cfg(test)]\nmod tests {\n    use crate::proxy;\n}", 5),
        ("struct A {\n    #[serde(with = \"crate::proxy::go\")]\n    a: u8,\n}", 4),
    ] {
        let repository = Repository::new();
        let text = format!("//! Values.\npub fn go() {{}}\n{code}\n");
        repository.write("proxy/src/units.rs", &text);
        let place = format!("proxy/src/units.rs:{line}: layers");
        repository.finds(&place, "`units` may not import `proxy` (layers in docs/ARCHITECTURE.md)");
    }
}

#[test]
fn submodules_belong_to_their_top_level_module() {
    let repository = Repository::new();
    repository.write(
        "proxy/src/proxy/inner/tests.rs",
        "//! Inner.\nuse super::super::go;\nuse crate::proxy::stop;\nuse super::super::super::units;\n\
         use std::proxy::cli;\n// crate::cli\nconst A: &str = \"see crate::cli\";\n",
    );
    assert_eq!(repository.findings(), Vec::<String>::new());
    repository.write("proxy/src/proxy/inner.rs", "//! Inner.\nuse super::super::cli::Exit;\n");
    repository.finds("proxy/src/proxy/inner.rs:2: layers", "`proxy` may not import `cli`");
}

#[test]
fn the_whole_crate_is_not_imported() {
    for code in ["use crate::*;", "use crate as all;", "use crate::{self as all};"] {
        let repository = Repository::new();
        repository
            .write("proxy/src/host.rs", &format!("//! The machine.\n{code}\nuse crate::units;\n"));
        repository.finds("proxy/src/host.rs:2: layers", "name the module");
    }
}

#[test]
fn a_cycle_cannot_be_written_into_the_table() {
    let repository = Repository::new();
    repository.replace("docs/ARCHITECTURE.md", "| `units` | |", "| `units` | `host` |");
    repository.write("proxy/src/units.rs", "//! Values.\nuse crate::host;\n");
    repository.finds("docs/ARCHITECTURE.md:6: layers", "makes a cycle");
    repository.replace("docs/ARCHITECTURE.md", "| `units` | `host` |", "| `units` | `units` |");
    repository.write("proxy/src/units.rs", "//! Values.\n");
    assert!(repository.findings().iter().any(|it| it.contains("makes a cycle")));
}

#[test]
fn the_table_has_what_the_code_has() {
    let repository = Repository::new();
    repository.replace("proxy/src/proxy.rs", "host::Host, ", "");
    repository.finds("docs/ARCHITECTURE.md:4: layers", "`proxy` does not import `host`");

    let repository = Repository::new();
    repository.write("proxy/src/extra/part.rs", "//! More.\n");
    repository.finds("proxy/src/extra/part.rs:1: layers", "`extra` has no row");

    let repository = Repository::new();
    repository.replace("docs/ARCHITECTURE.md", "| `units` | |", "| `units` | |\n| `gone` | |");
    repository.finds("docs/ARCHITECTURE.md:7: layers", "there is no module `gone`");

    let repository = Repository::new();
    repository.replace("docs/ARCHITECTURE.md", "| module |", "| modules |");
    repository.finds("docs/ARCHITECTURE.md:1: layers", "write one row for each");
}

#[test]
fn a_long_file_is_found_wherever_it_is() {
    for path in ["proxy/src/host.rs", "proxy-ebpf/src/a.rs", "tests/tests/a.rs", "xtask/src/a.rs"] {
        let repository = Repository::new();
        let text = format!("//! Long.\nuse crate::units;\n{}", "// a\n".repeat(498));
        repository.write(path, &text);
        assert_eq!(repository.findings(), Vec::<String>::new());
        repository.write(path, &format!("{text}// b\n"));
        repository.finds(&format!("{path}:501: length"), "500 are the limit");
    }
}

#[test]
fn a_file_without_a_header_is_found() {
    for text in ["use std::fs;\n", "\n//! Late.\n", "// A comment.\n", ""] {
        let repository = Repository::new();
        repository.write("tests/src/a/tests.rs", text);
        repository.finds("tests/src/a/tests.rs:1: header", "say there what the file is for");
    }
}

#[test]
fn unsafe_code_without_a_comment_is_found() {
    for (code, line) in [
        ("fn a() {\n    unsafe { b() };\n}", 3),
        ("fn a() {\n    // SAFETY: the first.\n    unsafe { b() };\n    unsafe { b() };\n}", 5),
        ("unsafe impl Send for A {}", 2),
        (
            "fn a() {\n    match 1 {\n        // SAFETY: the first.\n        1 => unsafe { b() },\n        _ => unsafe { b() },\n    }\n}",
            6,
        ),
        ("macro_rules! a {\n    () => {\n        unsafe { b() }\n    };\n}", 4),
        ("fn a() {\n    // Safe enough.\n    assert!(unsafe { b() });\n}", 4),
        ("const A: u8 = unsafe { b() };", 2),
    ] {
        let repository = Repository::new();
        repository.write("proxy-ebpf/src/a.rs", &format!("//! Hooks.\n{code}\n"));
        repository.finds(&format!("proxy-ebpf/src/a.rs:{line}: safety"), "write `// SAFETY:`");
    }
}

#[test]
fn unsafe_code_with_a_comment_is_not() {
    for code in [
        "fn a() {\n    // SAFETY: one,\n    // two.\n    let a = b(\n        unsafe { c() },\n    );\n}",
        "fn a() {\n    let a = b()\n        // SAFETY: one.\n        .map(|it| unsafe { c(it) });\n}",
        "/// A.\n// SAFETY: one.\n#[cfg(a)]\nunsafe impl Send for A {}",
        "macro_rules! a {\n    () => {\n        // SAFETY: one.\n        unsafe { b() }\n    };\n}",
        "fn a() {\n    // SAFETY: one.\n    assert!(unsafe { b() });\n}",
        "unsafe fn a() {}\n#[unsafe(no_mangle)]\nstatic A: u8 = 0;",
    ] {
        let repository = Repository::new();
        repository.write("proxy-ebpf/src/a.rs", &format!("//! Hooks.\n{code}\n"));
        assert_eq!(repository.findings(), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn tables_that_differ_from_the_code_are_found() {
    let repository = Repository::new();
    repository.replace("proxy/src/config/table.rs", "log.level", "log.filter");
    let findings = repository.findings();
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings.iter().any(|it| it.contains("`log.level` is not in")), "{findings:#?}");
    assert!(findings.iter().any(|it| it.contains("`log.filter` of")), "{findings:#?}");

    let repository = Repository::new();
    repository.replace("docs/CLI.md", "| 4 |", "| 5 |");
    let findings = repository.findings();
    assert!(findings[0].contains("`4` of proxy/src/cli/exit.rs"), "{findings:#?}");
    assert!(findings[1].contains("`5` is not in proxy/src/cli/exit.rs"), "{findings:#?}");

    let repository = Repository::new();
    repository.replace("proxy-ebpf/src/connect.rs", "(connect4)", "(connect6)");
    let findings = repository.findings();
    assert!(findings[0].contains("`weir_connect4 connect4 proxy-ebpf"), "{findings:#?}");
    assert!(findings[1].contains("`weir_connect4 connect6 proxy-ebpf"), "{findings:#?}");

    let repository = Repository::new();
    repository.replace("docs/CLI.md", "| key in the file |", "| key |");
    repository.finds("docs/CLI.md:1: docs", "no table `| key in the file |");
}

#[test]
fn a_picture_that_differs_from_its_steps_is_found() {
    let repository = Repository::new();
    repository.replace(picture::FILE, "connect(2)", "connect(3)");
    repository.finds("docs/connection.svg:1: docs", "run `cargo xtask picture`");
}

#[test]
fn a_path_that_leads_nowhere_is_found() {
    let repository = Repository::new();
    repository.write("README.md", "Title\n\nIt is in `proxy/src/nothing.rs`, not `proxy/*.rs`.\n");
    repository.finds("README.md:3: docs", "there is no proxy/src/nothing.rs");
}

#[test]
fn a_file_that_is_no_rust_is_found() {
    let repository = Repository::new();
    repository.write("tests/src/a.rs", "//! A.\nfn a( {}\n");
    let findings = repository.findings();
    assert!(findings[0].starts_with("tests/src/a.rs:2: syntax"), "{findings:#?}");
}

#[test]
fn an_exception_lasts_as_long_as_it_is_needed() {
    let repository = Repository::new();
    let exceptions = [(Rule::Header, "tests/src/a.rs")];
    repository.write("tests/src/a.rs", "use std::fs;\n");
    assert_eq!(check(repository.0.path(), &exceptions).unwrap(), []);
    repository.write("tests/src/a.rs", "//! Files.\n");
    let findings = check(repository.0.path(), &exceptions).unwrap();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].to_string().contains("remove its line"), "{findings:?}");
}

#[test]
fn what_is_built_is_not_read() {
    let repository = Repository::new();
    repository.write("proxy/target/debug/a.rs", "fn a() {}\n");
    repository.write(".cache/a.rs", "fn a() {}\n");
    assert_eq!(repository.findings(), Vec::<String>::new());
}
