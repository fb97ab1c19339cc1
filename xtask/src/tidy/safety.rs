//! `SAFETY` comments. Clippy's `undocumented_unsafe_blocks` sees the workspace; this sees each file:
//! the BPF programs and the fuzz targets, which are not in it, code for other configurations, and
//! what macros are given.

use proc_macro2::Span;
use syn::{
    Arm, ExprUnsafe, FieldValue, ImplItem, Item, ItemImpl, Macro, Stmt, TraitItem,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::{Finding, Rule, Tree, tokens};

struct Visitor<'a> {
    lines: Vec<&'a str>,
    /// Where the statements, items and arms that are open begin.
    starts: Vec<usize>,
    undocumented: Vec<usize>,
}

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for source in &tree.sources {
        let lines = source.text.lines().collect();
        let mut visitor = Visitor { lines, starts: Vec::new(), undocumented: Vec::new() };
        visitor.visit_file(&source.syntax);
        for line in visitor.undocumented {
            let message = "`unsafe` without a comment; write `// SAFETY:` and why it is sound \
                           above the statement";
            findings.push(Finding::new(&source.path, line, Rule::Safety, message));
        }
    }
}

// === impl Visitor ===

impl Visitor<'_> {
    fn within(&mut self, span: Span, visit: impl FnOnce(&mut Self)) {
        self.starts.push(span.start().line);
        visit(self);
        self.starts.pop();
    }

    fn look(&mut self, start: usize, line: usize) {
        // In the statement, before the keyword.
        let inside = self.lines[start - 1..line].iter().any(|line| is_safety_comment(line));
        // In the comments and attributes above it.
        let above = self.lines[..start - 1].iter().rev();
        let mut above = above.take_while(|line| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[")
        });
        if !inside && !above.any(|line| is_safety_comment(line)) {
            self.undocumented.push(line);
        }
    }

    fn look_here(&mut self, keyword: Span) {
        let line = keyword.start().line;
        self.look(self.starts.last().copied().unwrap_or(line), line);
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.look_here(block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.look_here(token.span);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        let first = item.tokens.clone().into_iter().next().map(|it| it.span().start().line);
        let outer = self.starts.last().copied();
        tokens::unsafe_code(item.tokens.clone(), &mut |start, line| {
            // What begins with the macro's arguments may be commented above the whole.
            let start = if Some(start) == first { outer.unwrap_or(start) } else { start };
            self.look(start, line);
        });
        visit::visit_macro(self, item);
    }

    fn visit_stmt(&mut self, it: &'ast Stmt) {
        self.within(it.span(), |this| visit::visit_stmt(this, it));
    }

    fn visit_arm(&mut self, it: &'ast Arm) {
        self.within(it.span(), |this| visit::visit_arm(this, it));
    }

    fn visit_field_value(&mut self, it: &'ast FieldValue) {
        self.within(it.span(), |this| visit::visit_field_value(this, it));
    }

    fn visit_item(&mut self, it: &'ast Item) {
        self.within(it.span(), |this| visit::visit_item(this, it));
    }

    fn visit_impl_item(&mut self, it: &'ast ImplItem) {
        self.within(it.span(), |this| visit::visit_impl_item(this, it));
    }

    fn visit_trait_item(&mut self, it: &'ast TraitItem) {
        self.within(it.span(), |this| visit::visit_trait_item(this, it));
    }
}

fn is_safety_comment(line: &str) -> bool {
    line.split_once("//").is_some_and(|(_, comment)| comment.contains("SAFETY:"))
}
