//! Lists in the code that documents repeat.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use syn::{
    Expr, ImplItem, Item, ItemFn, Lit, Meta,
    visit::{self, Visit},
};

use crate::tidy::Source;

/// The attributes by which aya makes an entry of a function.
const ENTRIES: [&str; 8] = [
    "btf_tracepoint",
    "cgroup_skb",
    "cgroup_sock_addr",
    "cgroup_sockopt",
    "sk_lookup",
    "sk_msg",
    "sock_ops",
    "socket_filter",
];

/// The strings in the lists that a field of structure literals has.
pub(super) fn lists(source: &Source, field: &str) -> BTreeSet<String> {
    struct Lists<'a>(&'a str, BTreeSet<String>);
    impl<'ast> Visit<'ast> for Lists<'_> {
        fn visit_field_value(&mut self, value: &'ast syn::FieldValue) {
            if matches!(&value.member, syn::Member::Named(name) if name == self.0)
                && let Expr::Reference(list) = &value.expr
                && let Expr::Array(list) = &*list.expr
            {
                self.1.extend(list.elems.iter().filter_map(|element| match element {
                    Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                    _ => None,
                }));
            }
            visit::visit_field_value(self, value);
        }
    }
    let mut lists = Lists(field, BTreeSet::new());
    lists.visit_file(&source.syntax);
    lists.1
}

/// The numbers that a method of the file returns, arm by arm.
pub(super) fn numbers(source: &Source, method: &str) -> Result<BTreeSet<String>> {
    struct Numbers(BTreeSet<String>);
    impl<'ast> Visit<'ast> for Numbers {
        fn visit_arm(&mut self, arm: &'ast syn::Arm) {
            if let Expr::Lit(literal) = &*arm.body
                && let Lit::Int(number) = &literal.lit
            {
                self.0.insert(number.base10_digits().to_owned());
            }
        }
    }
    let impls = source.syntax.items.iter().filter_map(|item| match item {
        Item::Impl(item) => Some(&item.items),
        _ => None,
    });
    let method = impls.flatten().find_map(|item| match item {
        ImplItem::Fn(function) if function.sig.ident == method => Some(function),
        _ => None,
    });
    let mut numbers = Numbers(BTreeSet::new());
    numbers.visit_impl_item_fn(method.with_context(|| format!("{} has no `code`", source.path))?);
    Ok(numbers.0)
}

/// The entries of the BPF programs: `NAME HOOK FILE`.
pub(super) fn programs<'a>(sources: impl Iterator<Item = &'a Source>) -> BTreeSet<String> {
    struct Programs<'a>(&'a str, BTreeSet<String>);
    impl<'ast> Visit<'ast> for Programs<'_> {
        fn visit_item_fn(&mut self, function: &'ast ItemFn) {
            for attribute in &function.attrs {
                let Some(kind) = attribute.path().get_ident().map(ToString::to_string) else {
                    continue;
                };
                if ENTRIES.contains(&kind.as_str()) {
                    let hook = match &attribute.meta {
                        Meta::List(list) => list.tokens.to_string(),
                        _ => kind,
                    };
                    self.1.insert(format!("{} {hook} {}", function.sig.ident, self.0));
                }
            }
            visit::visit_item_fn(self, function);
        }
    }
    let mut all = BTreeSet::new();
    for source in sources {
        let mut programs = Programs(&source.path, BTreeSet::new());
        programs.visit_file(&source.syntax);
        all.extend(programs.1);
    }
    all
}
