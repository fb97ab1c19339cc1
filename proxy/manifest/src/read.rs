//! From a text to its tree.
//!
//! Accepted is what kubectl accepts, which is more than the specification allows: brackets and quoted
//! text that go on at the column of their key, a lone `-` in a list in brackets, and JSON objects
//! one after the other.

use granit_parser::{
    ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StructureStyle, options,
};

use super::{
    error::{ManifestError, Position},
    relaxed::Relaxed,
    remove::line_start,
    tree::{Kind, Mapping, Node, Tree, content},
};

/// Collections within collections; schemas in custom resource definitions have about forty.
const DEEPEST: usize = 200;

/// What templates have and manifests do not: Go's and Jinja's, and Ruby's.
const TEMPLATES: [&str; 3] = ["{{", "{%", "<%"];
/// What to do with a template.
const RENDER: &str = "render it first, for example with `helm template`";

/// A collection that has begun.
struct Open {
    node: Node,
    key: Option<Node>,
}

struct Builder<'t> {
    text: &'t str,
    relaxed: &'t Relaxed,
    /// Where the parser began: behind an object in braces that another one follows.
    base: usize,
    /// The same as an editor counts.
    at: Position,
    /// The number of the next anchor; at the beginning the parser's own.
    next_anchor: Option<usize>,
    stack: Vec<Open>,
    tree: Tree,
}

/// Why reading stopped.
enum Stop {
    Refused(ManifestError),
    /// The line of this byte begins too far left for the parser.
    TooFarLeft(usize, ManifestError),
    /// This byte is a hyphen that the parser does not take for text.
    Hyphen(usize, ManifestError),
}

/// # Errors
/// Where the text is no YAML, where a key is no scalar, and where it nests deeper than any manifest.
pub(super) fn read(text: &str) -> Result<Tree, ManifestError> {
    let mut relaxed = Relaxed::default();
    loop {
        let mut builder = Builder {
            text,
            relaxed: &relaxed,
            base: 0,
            at: Position { line: 1, column: 1 },
            next_anchor: None,
            stack: Vec::new(),
            tree: Tree::default(),
        };
        match builder.all() {
            Ok(()) => return Ok(builder.tree),
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::TooFarLeft(place, _)) if relaxed.indent(line_start(text, place)) => {}
            Err(Stop::Hyphen(place, _)) if relaxed.hyphen(place) => {}
            Err(Stop::TooFarLeft(_, error) | Stop::Hyphen(_, error)) => return Err(error),
        }
    }
}

// === impl Stop ===

impl From<ManifestError> for Stop {
    fn from(error: ManifestError) -> Self {
        Self::Refused(error)
    }
}

// === impl Builder ===

impl Builder<'_> {
    fn all(&mut self) -> Result<(), Stop> {
        while self.stream()? {}
        Ok(())
    }

    /// Reads to the end of the text, or to an object in braces that follows another one; true if
    /// there is one, where the next call goes on.
    fn stream(&mut self) -> Result<bool, Stop> {
        let text = self.text;
        let given = self.relaxed.apply(text, self.base);
        let options = options! {
            emit_anchor_events: true,
            emit_comments: false,
            flow_nesting_limit: DEEPEST,
            block_nesting_limit: DEEPEST,
        };
        let mut parser = Parser::new_from_str_with_options(&given, options);
        if let Some(next) = self.next_anchor {
            parser.set_anchor_offset(next);
        }
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.invalid(&error))?;
            // The parser tells of the anchor behind the node that has it.
            let anchor = match event.anchor_id() {
                None => None,
                Some(_) => match parser.next_event() {
                    Some(Ok((_, anchor))) => Some(anchor.start),
                    Some(Err(error)) => return Err(self.invalid(&error)),
                    None => None,
                },
            };
            self.event(event, span, anchor)?;
            if let Some(next) = self.next_object() {
                self.next_anchor = Some(parser.anchor_offset());
                let lines = text[self.base..next].matches('\n').count();
                let line = line_start(text, next).max(if lines == 0 { self.base } else { 0 });
                let column = text[line..next].chars().count();
                self.at = Position {
                    line: self.at.line + lines,
                    column: column + if lines == 0 { self.at.column } else { 1 },
                };
                self.base = next;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The start of an object in braces directly behind a document in braces.
    fn next_object(&self) -> Option<usize> {
        let last = self.tree.documents.last().filter(|_| self.stack.is_empty())?;
        last.mapping()?.braces.as_ref().filter(|_| last.bytes.end > self.base)?;
        let behind = &self.text[last.bytes.end..];
        let next = behind.trim_start();
        next.starts_with('{').then(|| last.bytes.end + behind.len() - next.len())
    }

    fn event(
        &mut self,
        event: Event<'_>,
        span: Span,
        anchor: Option<Marker>,
    ) -> Result<(), ManifestError> {
        let id = event.anchor_id().unwrap_or_default();
        let tagged = event.tag().is_some();
        let node = |kind| {
            let starts = [Some(span.start), span.tag_start(), anchor];
            let first = starts.into_iter().flatten().min_by_key(Marker::index);
            let first = first.unwrap_or(span.start);
            Node {
                bytes: self.offset(first)..self.offset(span.end),
                at: self.position(&first),
                anchor: id,
                tagged,
                kind,
            }
        };
        match event {
            Event::Scalar(text, style, ..) => {
                let kind = Kind::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                    block: matches!(style, ScalarStyle::Literal | ScalarStyle::Folded),
                };
                let node = node(kind);
                self.scalar(node, style, span)?;
            }
            Event::Alias(anchor) => {
                let node = node(Kind::Alias(anchor));
                self.tree.aliased.insert(anchor);
                self.add(node)?;
            }
            Event::SequenceStart(..) => {
                let node = node(Kind::Sequence(Vec::new()));
                self.open(node)?;
            }
            Event::MappingStart(style, ..) => {
                let start = self.offset(span.start);
                let braces = style == StructureStyle::Flow && self.text[start..].starts_with('{');
                let braces = braces.then(|| start + 1..start + 1);
                let node = node(Kind::Mapping(Mapping { entries: Vec::new(), braces }));
                self.open(node)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        mut node: Node,
        style: ScalarStyle,
        span: Span,
    ) -> Result<(), ManifestError> {
        let (start, end) = (self.offset(span.start), self.offset(span.end));
        match style {
            ScalarStyle::Plain => {
                if let Kind::Scalar { text, .. } = &mut node.kind {
                    match &self.text[start..end] {
                        // The parser has got a letter.
                        "-" => "-".clone_into(text),
                        "~" => {}
                        // Its text for nothing is `~`, and the span that of what comes next.
                        _ if text == "~" => {
                            text.clear();
                            node.bytes.end = start;
                        }
                        _ => {}
                    }
                }
            }
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                node.bytes.end = start + quoted_end(&self.text[start..end]);
            }
            ScalarStyle::Literal | ScalarStyle::Folded => {
                // An empty one's span has the next line's indentation.
                let line = line_start(self.text, node.bytes.end);
                if self.text[line..node.bytes.end].trim().is_empty() {
                    node.bytes = node.bytes.start.min(line)..line;
                }
                self.tree.block_ends.insert(node.bytes.end);
            }
        }
        self.add(node)
    }

    fn open(&mut self, node: Node) -> Result<(), ManifestError> {
        if self.stack.len() == DEEPEST {
            return Err(too_deep(node.at));
        }
        self.stack.push(Open { node, key: None });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), ManifestError> {
        let Some(Open { mut node, .. }) = self.stack.pop() else { return Ok(()) };
        let mut end = self.offset(span.start);
        // The span of a collection with a trailing comma is the comma's.
        if !span.is_empty() && self.text[end..].starts_with(',') {
            end += 1 + content(&self.text[end + 1..]);
        }
        if let Kind::Mapping(Mapping { braces: Some(braces), .. }) = &mut node.kind {
            braces.end = end;
        }
        let closed = !span.is_empty() && self.text[end..].starts_with(['}', ']']);
        node.bytes.end = end + usize::from(closed);
        self.add(node)
    }

    fn add(&mut self, node: Node) -> Result<(), ManifestError> {
        let Some(parent) = self.stack.last_mut() else {
            self.tree.documents.push(node);
            return Ok(());
        };
        match &mut parent.node.kind {
            Kind::Sequence(items) => items.push(node),
            Kind::Mapping(mapping) => match parent.key.take() {
                Some(key) => mapping.entries.push((key, node)),
                None if matches!(node.kind, Kind::Sequence(_) | Kind::Mapping(_)) => {
                    let template = self.text[..node.bytes.start].ends_with('{')
                        && self.text[node.bytes.start..].starts_with('{');
                    let problem = if template {
                        format!("this looks like a template; {RENDER}")
                    } else {
                        "a key that is a list or a mapping, which Kubernetes does not accept; \
                         write a string"
                            .to_owned()
                    };
                    return Err(ManifestError::input(node.at, problem));
                }
                None => parent.key = Some(node),
            },
            Kind::Scalar { .. } | Kind::Alias(_) => {}
        }
        Ok(())
    }

    fn invalid(&self, error: &ScanError) -> Stop {
        let problem = self.problem(error);
        let at = self.offset(*error.marker());
        let rest = &self.text[at..];
        match error.kind() {
            ErrorKind::InvalidQuotedScalarIndent => Stop::TooFarLeft(at, problem),
            // A block scalar below its key.
            ErrorKind::SimpleKeyExpected if rest.starts_with(['|', '>']) => {
                Stop::TooFarLeft(at, problem)
            }
            ErrorKind::PlainScalarStartsWithDashFlowIndicator if rest.starts_with('-') => {
                Stop::Hyphen(at, problem)
            }
            _ => Stop::Refused(problem),
        }
    }

    fn problem(&self, error: &ScanError) -> ManifestError {
        let at = self.position(error.marker());
        if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
            return too_deep(at);
        }
        let mut found = TEMPLATES.iter().filter_map(|mark| Some((self.text.find(mark)?, mark)));
        let template = match found.by_ref().min() {
            None => String::new(),
            Some((place, mark)) => {
                let line = self.text[..place].matches('\n').count() + 1;
                format!("; if this is a template ({mark} in line {line}), {RENDER}")
            }
        };
        let info = error.info();
        ManifestError::input(
            at,
            format!("not valid YAML: {info}; correct it there or just before{template}"),
        )
    }

    fn offset(&self, marker: Marker) -> usize {
        let offset = marker.byte_offset().map(|offset| self.relaxed.original(self.base, offset));
        offset.unwrap_or(self.text.len()).min(self.text.len())
    }

    fn position(&self, marker: &Marker) -> Position {
        let line = self.at.line + marker.line() - 1;
        if !self.relaxed.is_empty() {
            let offset = self.offset(*marker);
            let before = &self.text[line_start(self.text, offset)..offset];
            return Position { line, column: before.chars().count() + 1 };
        }
        let first = if marker.line() == 1 { self.at.column } else { 1 };
        Position { line, column: first + marker.col() }
    }
}

fn too_deep(at: Position) -> ManifestError {
    let problem =
        format!("collections are nested more than {DEEPEST} deep; this is not a manifest");
    ManifestError::input(at, problem)
}

/// Where a quoted scalar ends that begins the text. The parser's span goes on to the next token, and
/// has comments in it.
fn quoted_end(text: &str) -> usize {
    let mut characters = text.char_indices();
    let Some((_, quote)) = characters.next() else { return 0 };
    while let Some((at, c)) = characters.next() {
        let escape = match quote {
            '"' => c == '\\',
            _ => text[at..].starts_with("''"),
        };
        if escape {
            characters.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}
