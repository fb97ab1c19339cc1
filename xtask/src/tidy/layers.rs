//! The layers of the library: which top-level module may import which, by a table in
//! `docs/ARCHITECTURE.md`. A row imports from rows below it only, so that there is no cycle.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{
    Finding, Rule, Tree, imports,
    markdown::{code_spans, table},
};

const DOCUMENT: &str = "docs/ARCHITECTURE.md";
const TITLES: [&str; 2] = ["module", "may import"];
/// In the second column: every module below.
const ALL_BELOW: &str = "all below";

/// A row of the table.
struct Layer {
    module: String,
    line: usize,
    may: BTreeSet<String>,
    /// Its list is not written out, so that it may name more than is used.
    all: bool,
}

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) -> Result<()> {
    let Some(layers) = read(&tree.text(DOCUMENT)?) else {
        let message = "no table `| module | may import |`; write one row for each top-level module";
        findings.push(Finding::new(DOCUMENT, 1, Rule::Layers, message));
        return Ok(());
    };
    let modules: BTreeMap<String, &str> = tree
        .sources
        .iter()
        .filter_map(|source| {
            Some((imports::module_of(&source.path)?.swap_remove(0), source.path.as_str()))
        })
        .rev()
        .collect();
    check_table(&layers, &modules, findings);
    let used = check_imports(tree, &layers, &modules, findings);
    for layer in layers.iter().filter(|layer| !layer.all) {
        for to in &layer.may {
            if !used.contains(&(layer.module.clone(), to.clone())) {
                let from = &layer.module;
                let message = format!("`{from}` does not import `{to}`; remove it from the row");
                findings.push(Finding::new(DOCUMENT, layer.line, Rule::Layers, message));
            }
        }
    }
    Ok(())
}

/// Rows and modules are the same, and no row names one above it.
fn check_table(layers: &[Layer], modules: &BTreeMap<String, &str>, findings: &mut Vec<Finding>) {
    let place = |name: &str| layers.iter().position(|layer| layer.module == name);
    for (module, path) in modules {
        if place(module).is_none() {
            let message = format!("`{module}` has no row in the layers of {DOCUMENT}; add one");
            findings.push(Finding::new(*path, 1, Rule::Layers, message));
        }
    }
    for (at, layer) in layers.iter().enumerate() {
        let mut add = |message| {
            findings.push(Finding::new(DOCUMENT, layer.line, Rule::Layers, message));
        };
        if !modules.contains_key(&layer.module) {
            add(format!("there is no module `{}`; remove its row", layer.module));
        }
        for to in &layer.may {
            match place(to) {
                None => add(format!("there is no row `{to}`; correct the name")),
                Some(other) if other <= at => add(format!(
                    "`{}` may not import `{to}`, which is not below it: that makes a cycle or hides \
                     one; move what is needed to a layer below both",
                    layer.module
                )),
                Some(_) => {}
            }
        }
    }
}

/// Each import is in the table; returns those that there are.
fn check_imports(
    tree: &Tree,
    layers: &[Layer],
    modules: &BTreeMap<String, &str>,
    findings: &mut Vec<Finding>,
) -> BTreeSet<(String, String)> {
    let mut used = BTreeSet::new();
    for source in &tree.sources {
        let Some(from) = imports::module_of(&source.path).map(|mut path| path.swap_remove(0))
        else {
            continue;
        };
        let may = layers.iter().find(|layer| layer.module == from).map(|layer| &layer.may);
        for import in imports::of(source) {
            let to = import.name;
            let mut add = |message| {
                findings.push(Finding::new(&source.path, import.line, Rule::Layers, message));
            };
            if to == "*" {
                add("imports the whole crate; name the module".to_owned());
            } else if modules.contains_key(&to) {
                if may.is_some_and(|may| !may.contains(&to)) {
                    add(format!(
                        "`{from}` may not import `{to}` (layers in {DOCUMENT}); move what it needs \
                         to a layer below both, or hand it in"
                    ));
                }
                used.insert((from.clone(), to));
            }
        }
    }
    used
}

fn read(text: &str) -> Option<Vec<Layer>> {
    let rows = table(text, &TITLES)?;
    let names: Vec<String> =
        rows.iter().filter_map(|row| code_spans(&row.cells[0]).next().map(str::to_owned)).collect();
    let layers = rows.iter().filter_map(|row| {
        let module = code_spans(&row.cells[0]).next()?.to_owned();
        let cell = row.cells.get(1)?;
        let all = cell == ALL_BELOW;
        let below = names.iter().skip_while(|name| **name != module).skip(1);
        let may = match all {
            true => below.cloned().collect(),
            false => code_spans(cell).map(str::to_owned).collect(),
        };
        Some(Layer { module, line: row.line, may, all })
    });
    Some(layers.collect())
}
