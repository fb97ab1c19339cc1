//! Taking weir's annotations away, so that what injection wrote is gone to the byte.
//!
//! What is empty afterwards goes too: `annotations:`, and the `metadata:` that had nothing else.
//! Braces that had been there empty stay: injection marks them with one blank at each side.

use std::ops::Range;

use super::{
    KEYS,
    edit::{Editor, Entry, Found},
    error::ManifestError,
    tree::{Kind, Mapping},
};

/// Removes weir's annotations from the editor's template; false if there are none.
///
/// # Errors
/// If they are laid out in a way that lines or entries cannot be taken from.
pub(super) fn annotations(editor: &mut Editor<'_>) -> Result<bool, ManifestError> {
    let template = editor.template.mapping;
    let Some((metadata_entry, metadata)) = within(editor, template, "metadata")? else {
        return Ok(false);
    };
    let Some((annotations_entry, annotations)) = within(editor, metadata, "annotations")? else {
        return Ok(false);
    };
    if let Some(merge) = editor.merged(annotations) {
        let problem = "an annotation of weir comes by this merge key; remove it by hand";
        return Err(editor.error(merge, problem));
    }
    let ours: Vec<usize> =
        places(annotations, |(key, _)| key.scalar().is_some_and(|name| KEYS.contains(&name)));
    if ours.is_empty() {
        return Ok(false);
    }
    for (key, value) in ours.iter().map(|&place| &annotations.entries[place]) {
        annotations.get(key.scalar().unwrap_or_default())?;
        if matches!(value.kind, Kind::Sequence(_) | Kind::Mapping(_)) {
            let problem = "the annotation is no string; correct it";
            return Err(editor.error(value, problem));
        }
        if value.anchor != 0 || key.anchor != 0 {
            return Err(editor.error(value, "the annotation has an anchor; remove the anchor"));
        }
    }
    let mut left = vec![(annotations, ours)];
    for (mapping, entry) in [(metadata, annotations_entry), (template, metadata_entry)] {
        if !empties(&left) || left.last().is_some_and(|(inner, _)| marked(editor.text, inner)) {
            break;
        }
        if entry.1.anchor != 0 {
            let problem =
                "nothing but weir's annotations is here, and an anchor; remove the anchor";
            return Err(editor.error(&entry.1, problem));
        }
        left.push((mapping, places(mapping, |other| std::ptr::eq(other, entry))));
    }
    let emptied = empties(&left);
    let Some((mapping, places)) = left.pop() else { return Ok(false) };
    match &mapping.braces {
        Some(braces) if emptied => editor.replace(braces.clone(), ""),
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
            let problem = "what follows weir's annotations would become part of the block of text \
                           in front of them; put an annotation or nothing there";
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

/// One blank at each side within braces, on one line.
fn marked(text: &str, mapping: &Mapping) -> bool {
    let Some(inside) = mapping.braces.clone().map(|braces| &text[braces]) else { return false };
    inside.starts_with(' ')
        && inside.ends_with(' ')
        && inside.trim().len() + 2 == inside.len()
        && !inside.contains('\n')
}

/// Takes an entry's lines away. Comments between the lines of a mapping's entries stay.
fn lines(editor: &mut Editor<'_>, (key, value): &Entry) -> Result<(), ManifestError> {
    let start = line_start(editor.text, key.bytes.start);
    if !editor.text[start..key.bytes.start].bytes().all(|b| b == b' ') {
        let name = key.scalar().unwrap_or("this");
        let problem = format!("{name} does not begin its line; move it to a line of its own");
        return Err(editor.error(key, &problem));
    }
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
    let entries = &mapping.entries;
    let end = |place: usize| entries[place].0.bytes.end.max(entries[place].1.bytes.end);
    for run in places.chunk_by(|a, b| a + 1 == *b) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let bytes: Range<usize> = match entries.get(last + 1) {
            Some((next, _)) => entries[first].0.bytes.start..next.bytes.start,
            None => end(first - 1)..end(last),
        };
        let separators = (first..=last).filter(|place| place + 1 < entries.len());
        let before = (last + 1 == entries.len()).then_some(first.wrapping_sub(1));
        for place in separators.chain(before) {
            if editor.text[end(place)..entries[place + 1].0.bytes.start].contains('#') {
                let problem = "a comment stands between annotations in braces; move it";
                return Err(editor.error(&entries[place + 1].0, problem));
            }
        }
        editor.replace(bytes, "");
    }
    Ok(())
}

/// Where the line of a byte begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |feed| feed + 1)
}

/// Where the line after a byte's begins.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |feed| at + feed + 1)
}
