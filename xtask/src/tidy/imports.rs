//! What a file of the library takes from other top-level modules: `use`, paths in the code, and paths
//! in macros and attributes, by `crate::` and by as many `super::` as lead out of its module.

use proc_macro2::TokenStream;
use syn::{
    Attribute, ItemMod, ItemUse, Macro, Meta, UseTree,
    visit::{self, Visit},
};

use super::{Source, tokens};

/// Where the library is.
const LIBRARY: &str = "proxy/src/";

/// A name that is not of the file's own top-level module.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// The top-level module, or what else is named there; `*` for all of the crate.
    pub(super) name: String,
    pub(super) line: usize,
}

struct Visitor {
    /// The module that the code visited is in.
    module: Vec<String>,
    imports: Vec<Import>,
}

/// The top-level module of the library that a file belongs to; none for the roots of the library
/// and of the binary, and for other crates.
pub(super) fn module_of(path: &str) -> Option<Vec<String>> {
    let module = path.strip_prefix(LIBRARY)?.strip_suffix(".rs")?;
    let module: Vec<_> = module.split('/').map(str::to_owned).collect();
    (module != ["lib"] && module != ["main"]).then_some(module)
}

/// What the file takes from other top-level modules, in order.
pub(super) fn of(source: &Source) -> Vec<Import> {
    let Some(module) = module_of(&source.path) else { return Vec::new() };
    let mut visitor = Visitor { module, imports: Vec::new() };
    visitor.visit_file(&source.syntax);
    visitor.imports.sort();
    visitor.imports.dedup();
    visitor.imports
}

// === impl Visitor ===

impl Visitor {
    fn add(&mut self, path: &[String], line: usize) {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("super") if ups >= self.module.len() => path[ups..].to_vec(),
            _ => return,
        };
        if let Some(name) = absolute.into_iter().next()
            && name != self.module[0]
        {
            self.imports.push(Import { name, line });
        }
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String]) {
        let mut add = |name: String, span: proc_macro2::Span| {
            self.add(&[prefix, &[name]].concat(), span.start().line);
        };
        match tree {
            UseTree::Path(path) => {
                let prefix = [prefix, &[path.ident.to_string()]].concat();
                self.add_use(&path.tree, &prefix);
            }
            UseTree::Group(group) => group.items.iter().for_each(|it| self.add_use(it, prefix)),
            UseTree::Name(name) if name.ident == "self" => add("*".into(), name.ident.span()),
            UseTree::Name(name) => add(name.ident.to_string(), name.ident.span()),
            UseTree::Rename(name) if name.ident == "crate" => {
                self.add(&["crate".into(), "*".into()], name.ident.span().start().line);
            }
            UseTree::Rename(name) if name.ident == "self" => add("*".into(), name.ident.span()),
            UseTree::Rename(name) => add(name.ident.to_string(), name.ident.span()),
            UseTree::Glob(glob) => add("*".into(), glob.star_token.spans[0]),
        }
    }

    fn add_tokens(&mut self, stream: &TokenStream) {
        tokens::paths(stream.clone(), &mut |path, line| self.add(path, line));
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        let line = path.segments.last().map_or(0, |it| it.ident.span().start().line);
        self.add(&names, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.add_tokens(&item.tokens);
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(&list.tokens);
        }
    }
}
