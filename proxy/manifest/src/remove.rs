//! Taking weir's annotations and its sidecar away, so that what injection wrote is gone to the byte.
//!
//! What is empty afterwards goes too: `annotations:`, and the `metadata:` that had nothing else; for
//! the sidecar `initContainers:` and `volumes:`.
//! Braces that had been there empty stay: injection marks them with a blank at each side.

use std::ops::Range;

use super::{
    edit::{Editor, Entry, Found},
    error::ManifestError,
    sidecar::{LISTS, VOLUMES, is_named, is_sidecar},
    tree::{Kind, Mapping, Node, content},
};

/// Removes weir's annotations from the editor's template; false if there are none.
///
/// # Errors
/// If they are laid out in a way that lines or entries cannot be taken from.
pub(super) fn annotations(editor: &mut Editor<'_>) -> Result<bool, ManifestError> {
    let template = editor.template.mapping;
    // Without an annotation of weir it does not matter how others are written.
    let none = |error| if editor.annotated() { Err(error) } else { Ok(None) };
    let found = within(editor, template, "metadata").or_else(none)?;
    let Some((metadata_entry, metadata)) = found else { return Ok(false) };
    let found = within(editor, metadata, "annotations").or_else(none)?;
    let Some((annotations_entry, annotations)) = found else { return Ok(false) };
    if let Some(merge) = editor.merged(annotations) {
        let problem = "an annotation of weir comes from this merge key; remove it by hand";
        return Err(editor.error(merge, problem));
    }
    let ours: Vec<usize> = places(annotations, |(key, _)| {
        key.scalar().is_some_and(|name| editor.keys.iter().any(|key| key == name))
    });
    if ours.is_empty() {
        return Ok(false);
    }
    for (key, value) in ours.iter().map(|&place| &annotations.entries[place]) {
        annotations.get(key.scalar().unwrap_or_default())?;
        if matches!(value.kind, Kind::Sequence(_) | Kind::Mapping(_)) {
            let problem = "the annotation is not a string; write a string";
            return Err(editor.error(value, problem));
        }
        if value.anchor != 0 || key.anchor != 0 {
            return Err(editor.error(value, "the annotation has an anchor; remove the anchor"));
        }
    }
    let mut left = vec![(annotations, ours)];
    for (mapping, entry) in [(metadata, annotations_entry), (template, metadata_entry)] {
        let marks = |inner: &Mapping| {
            inner.braces.as_ref().is_some_and(|braces| marked(editor.text, braces).is_some())
        };
        if !empties(&left) || left.last().is_some_and(|(inner, _)| marks(inner)) {
            break;
        }
        if entry.1.anchor != 0 {
            let problem =
                "the mapping has only weir's annotations and an anchor; remove the anchor";
            return Err(editor.error(&entry.1, problem));
        }
        left.push((mapping, places(mapping, |other| std::ptr::eq(other, entry))));
    }
    let emptied = empties(&left);
    let Some((mapping, places)) = left.pop() else { return Ok(false) };
    match &mapping.braces {
        Some(braces) if emptied => {
            editor.replace(braces.clone(), marked(editor.text, braces).unwrap_or_default());
        }
        Some(_) => from_braces(editor, mapping, &places)?,
        None => {
            for place in places {
                lines(editor, &mapping.entries[place])?;
            }
        }
    }
    not_into_a_block(editor, annotations_entry)?;
    Ok(true)
}

/// Removes weir's sidecar and its volumes from the editor's template; false if there is none.
///
/// # Errors
/// If they are laid out in a way that lines or items cannot be taken from.
pub(super) fn sidecar(editor: &mut Editor<'_>) -> Result<bool, ManifestError> {
    // What comes by an alias or a merge key is none that was injected.
    let Some((_, spec)) = editor.template.mapping.get("spec")? else { return Ok(false) };
    let Some(spec) = spec.mapping() else { return Ok(false) };
    let Some(containers) = spec.get(LISTS[0])? else { return Ok(false) };
    let mut keys = Vec::new();
    if !items(editor, spec, containers, is_sidecar, &mut keys)? {
        return Ok(false);
    }
    if let Some(disks) = spec.get(LISTS[1])? {
        let ours = |item: &Node| VOLUMES.iter().any(|name| is_named(item, name));
        items(editor, spec, disks, ours, &mut keys)?;
    }
    keys.sort_unstable();
    if keys.len() == spec.entries.len() {
        return Err(
            editor.error(&containers.0, "the list has only weir's sidecar; remove the list")
        );
    }
    if spec.braces.is_some() {
        from_braces(editor, spec, &keys)?;
    } else {
        for (key, list) in keys.into_iter().map(|place| &spec.entries[place]) {
            let start = own_line(editor, key)?;
            let end = below(editor.text, list.content_end(editor.text));
            editor.replace(start..end, "");
        }
    }
    editor.edits.sort_by_key(|edit| edit.bytes.start);
    not_into_a_block(editor, containers)?;
    Ok(true)
}

/// Removes those items of a list that are ours, or notes the place of its key where nothing else is
/// in it; false if there are none.
fn items(
    editor: &mut Editor<'_>,
    spec: &Mapping,
    entry: &Entry,
    ours: impl Fn(&Node) -> bool,
    keys: &mut Vec<usize>,
) -> Result<bool, ManifestError> {
    let list = &entry.1;
    let all = list.items().unwrap_or_default();
    let places: Vec<usize> = (0..all.len()).filter(|place| ours(&all[*place])).collect();
    if places.is_empty() {
        return Ok(false);
    }
    for node in places.iter().flat_map(|place| all[*place].all()) {
        if node.anchor != 0 {
            let problem = "weir's addition has an anchor; remove the anchor";
            return Err(editor.error(node, problem));
        }
    }
    let brackets = list.brackets(editor.text);
    if places.len() == all.len() {
        let before = brackets.and_then(|it| marked(editor.text, &it).map(|before| (it, before)));
        match before {
            Some((brackets, before)) => editor.replace(brackets, before),
            None if list.anchor != 0 => {
                let problem = "only weir's addition and an anchor are here; remove the anchor";
                return Err(editor.error(list, problem));
            }
            None => keys.extend(self::places(spec, |other| std::ptr::eq(other, entry))),
        }
        return Ok(true);
    }
    if brackets.is_some() {
        let parts: Vec<_> = all.iter().map(|item| (item.bytes.clone(), item)).collect();
        from_flow(editor, &parts, &places)?;
        return Ok(true);
    }
    for item in places.into_iter().map(|place| &all[place]) {
        let start = line_start(editor.text, editor.dash_of(item)?);
        let end = below(editor.text, item.content_end(editor.text));
        editor.replace(start..end, "");
    }
    Ok(true)
}

/// # Errors
/// If a block scalar stands in front of what is removed, and blank lines or comments behind it: they
/// would become its text.
fn not_into_a_block(editor: &Editor<'_>, annotations: &Entry) -> Result<(), ManifestError> {
    let mut end = None;
    for (place, edit) in editor.edits.iter().enumerate() {
        if editor.tree.block_ends.contains(&edit.bytes.start) {
            end = Some(edit.bytes.end);
        } else if end != Some(edit.bytes.start) {
            end = None;
        }
        let Some(reached) = end.as_mut() else { continue };
        *reached = edit.bytes.end;
        let goes_on = editor.edits.get(place + 1).is_some_and(|next| next.bytes.start == *reached);
        let behind = editor.text[*reached..].lines().next().unwrap_or("-").trim();
        if !goes_on && (behind.is_empty() || behind.starts_with('#')) {
            let problem = "text after weir's entries would become part of the block scalar before \
                           them; replace it by an entry, or remove it";
            return Err(editor.error(&annotations.0, problem));
        }
    }
    Ok(())
}

fn within<'a>(
    editor: &Editor<'a>,
    mapping: &'a Mapping,
    key: &str,
) -> Result<Option<(&'a Entry, &'a Mapping)>, ManifestError> {
    Ok(match editor.find(mapping, key)? {
        Found::Mapping(entry, inner) => Some((entry, inner)),
        Found::Missing | Found::Null(_) => None,
    })
}

fn places(mapping: &Mapping, wanted: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let numbered = mapping.entries.iter().enumerate();
    numbered.filter_map(|(place, entry)| wanted(entry).then_some(place)).collect()
}

/// True if the last mapping loses all that it has.
fn empties(left: &[(&Mapping, Vec<usize>)]) -> bool {
    left.last().is_some_and(|(mapping, places)| mapping.entries.len() == places.len())
}

/// What was between braces or brackets before injection put one line there, with a blank at each
/// side; nothing for braces of other texts.
fn marked<'t>(text: &'t str, braces: &Range<usize>) -> Option<&'t str> {
    let inside = text[braces.clone()].strip_suffix(' ')?;
    let line = inside.trim();
    let before = inside.strip_suffix(line)?.strip_suffix(' ')?;
    (!line.contains('\n')).then_some(before)
}

/// Where the line begins that a key is the first on.
fn own_line(editor: &Editor<'_>, key: &Node) -> Result<usize, ManifestError> {
    let start = line_start(editor.text, key.bytes.start);
    if editor.text[start..key.bytes.start].bytes().all(|b| b == b' ') {
        return Ok(start);
    }
    let name = key.scalar().unwrap_or("this");
    let problem = format!("{name} does not start its line; move it to a separate line");
    Err(editor.error(key, &problem))
}

/// Takes an entry's lines away. Comments between the lines of a mapping's entries stay.
fn lines(editor: &mut Editor<'_>, (key, value): &Entry) -> Result<(), ManifestError> {
    let start = own_line(editor, key)?;
    let mut end = line_end(editor.text, key.bytes.end);
    match &value.kind {
        Kind::Mapping(Mapping { braces: None, entries }) => {
            if entries.first().is_some_and(|(first, _)| first.bytes.start < end) {
                return Err(editor.error(key, "entries on their key's line; write them below"));
            }
            editor.replace(start..end, "");
            for entry in entries {
                lines(editor, entry)?;
            }
            return Ok(());
        }
        // It ends where the next line begins.
        Kind::Scalar { block: true, .. } => end = end.max(value.bytes.end),
        _ => end = end.max(line_end(editor.text, value.bytes.end)),
    }
    editor.replace(start..end, "");
    Ok(())
}

/// Takes entries out of a flow mapping that keeps others.
fn from_braces(
    editor: &mut Editor<'_>,
    mapping: &Mapping,
    places: &[usize],
) -> Result<(), ManifestError> {
    let end = |entry| end_in_flow(editor.text, entry);
    let entries = mapping.entries.iter();
    let parts: Vec<_> = entries.map(|entry| (entry.0.bytes.start..end(entry), &entry.0)).collect();
    from_flow(editor, &parts, places)
}

/// Takes parts out of a collection in flow style that keeps others; each comes with a node to name
/// in errors.
fn from_flow(
    editor: &mut Editor<'_>,
    parts: &[(Range<usize>, &Node)],
    places: &[usize],
) -> Result<(), ManifestError> {
    for run in places.chunk_by(|a, b| a + 1 == *b) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let bytes = match parts.get(last + 1) {
            Some((next, _)) => parts[first].0.start..next.start,
            None => parts[first - 1].0.end..parts[last].0.end,
        };
        let separators = (first..=last).filter(|place| place + 1 < parts.len());
        let before = (last + 1 == parts.len()).then_some(first.wrapping_sub(1));
        for place in separators.chain(before) {
            let (next, node) = &parts[place + 1];
            if editor.text[parts[place].0.end..next.start].contains('#') {
                let problem = "comment between annotations in braces; move it";
                return Err(editor.error(node, problem));
            }
        }
        editor.replace(bytes, "");
    }
    Ok(())
}

/// Where an entry of a flow mapping ends: one without a value with its colon, if it has that.
fn end_in_flow(text: &str, (key, value): &Entry) -> usize {
    if !value.bytes.is_empty() {
        return value.bytes.end;
    }
    let behind = &text[key.bytes.end..];
    let colon = content(behind);
    key.bytes.end + if behind[colon..].starts_with(':') { colon + 1 } else { 0 }
}

/// Where the line behind the end of something begins, which may end with its line itself.
fn below(text: &str, end: usize) -> usize {
    if text[..end].ends_with('\n') { end } else { line_end(text, end) }
}

/// Where the line of a byte begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |feed| feed + 1)
}

/// Where the line after a byte's begins.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |feed| at + feed + 1)
}
