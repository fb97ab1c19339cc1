//! Walks over token streams: what macros are given and attributes say, which `syn` does not parse.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Calls `found` with each path (`a::b::c`, also in string literals: serde's `with = "crate::…"`)
/// and the line of its last segment.
pub(super) fn paths(tokens: TokenStream, found: &mut dyn FnMut(&[String], usize)) {
    let mut path: Vec<String> = Vec::new();
    let mut line = 0;
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    found(&std::mem::take(&mut path), line);
                }
                line = ident.span().start().line;
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Group(group) => {
                if colons == 2 && group.delimiter() == Delimiter::Brace {
                    // `crate::{a, b::c}`
                    let prefix = path.clone();
                    paths(group.stream(), &mut |inner, line| {
                        found(&[&prefix[..], inner].concat(), line);
                    });
                } else {
                    paths(group.stream(), found);
                }
                found(&std::mem::take(&mut path), line);
                colons = 0;
            }
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if let Some(text) = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'))
                    && ["crate::", "super::", "self::"].iter().any(|it| text.starts_with(it))
                {
                    let named: Vec<_> = text.split("::").map(str::to_owned).collect();
                    found(&named, literal.span().start().line);
                }
                found(&std::mem::take(&mut path), line);
                colons = 0;
            }
            TokenTree::Punct(_) => {
                found(&std::mem::take(&mut path), line);
                colons = 0;
            }
        }
    }
    found(&path, line);
}

/// Calls `found` with each `unsafe {` and `unsafe impl`: the line of the statement that it is in,
/// and its own.
pub(super) fn unsafe_code(tokens: TokenStream, found: &mut dyn FnMut(usize, usize)) {
    let mut statement = None;
    let mut keyword = None;
    for token in tokens {
        let line = token.span().start().line;
        let start = *statement.get_or_insert(line);
        let opens = match &token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Ident(ident) => ident == "impl",
            _ => false,
        };
        if let Some(keyword) = keyword.take().filter(|_| opens) {
            found(start, keyword);
        }
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => keyword = Some(line),
            TokenTree::Punct(punct) if matches!(punct.as_char(), ';' | ',') => statement = None,
            TokenTree::Group(group) => {
                let brace = group.delimiter() == Delimiter::Brace;
                unsafe_code(group.stream(), found);
                if brace {
                    statement = None;
                }
            }
            _ => {}
        }
    }
}
