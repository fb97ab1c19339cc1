//! The commands in the documentation are those of the program: each line that is shown is accepted, and
//! each verb is shown.

use std::{collections::BTreeSet, fs, path::Path};

use crate::cli::command;

/// Every page, with its name.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = vec![root.join("README.md")];
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|it| it == "md")));
    let named = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// The commands of the shell in a page's blocks, each as its words.
fn shown(page: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for block in page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for line in block.replace("\\\n", " ").lines() {
            commands.extend(words(line.strip_prefix("$ ").unwrap_or(line)));
        }
    }
    commands
}

/// A line of a shell as commands, without comments and redirections.
fn words(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut command) = (Vec::new(), Vec::new());
    let (mut word, mut quote) = (None::<String>, None);
    for c in line.chars().chain([' ', ';']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';' | '&') => {
                command.extend(word.take());
                if c != ' ' {
                    commands.push(std::mem::take(&mut command));
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    commands.push(command);
    for command in &mut commands {
        if let Some(redirection) = command.iter().position(|word| word.starts_with(['>', '<'])) {
            command.truncate(redirection);
        }
        if command.first().is_some_and(|word| word == "sudo") {
            command.remove(0);
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

#[test]
fn lines_of_a_shell_are_read_as_it_reads_them() {
    let read = |line: &str| -> Vec<String> {
        words(line).iter().map(|command| command.join("|")).collect()
    };
    assert_eq!(read("a 'b c' \"d # e\"  # f"), ["a|b c|d # e"]);
    assert_eq!(read("sudo a b > c; d & e | f"), ["a|b", "d", "e", "f"]);
    assert_eq!(read("# a"), [""; 0]);
    assert_eq!(read("a '' b"), ["a||b"]);
}

#[test]
fn each_command_in_the_documentation_is_accepted() {
    let mut seen = 0;
    for (name, page) in pages() {
        for line in shown(&page).iter().filter(|line| line[0] == "weir") {
            seen += 1;
            let Err(error) = command().try_get_matches_from(line) else { continue };
            assert!(!error.use_stderr(), "{name}: {}: {error}", line.join(" "));
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn each_verb_is_in_the_documentation() {
    let pages = pages();
    let shown: BTreeSet<String> = pages
        .iter()
        .flat_map(|(_, page)| shown(page))
        .filter(|line| line[0] == "weir")
        .filter_map(|line| line.get(1).cloned())
        .collect();
    for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        let span = format!("`weir {name}");
        let named = pages.iter().any(|(_, page)| page.contains(&span));
        assert!(named || shown.contains(name), "no page shows `weir {name}`");
    }
}
