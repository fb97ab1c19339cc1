//! What kubectl reads is edited, and read by it is what was asked for. kubectl reads an object in
//! braces as JSON, and everything else with a port of libyaml; another port of it is the judge here.

use libyaml_safer::{Document, NodeData, Parser, ScalarStyle};

use super::*;

/// The values in a text as kubectl reads them; nothing where it refuses the text.
fn judged(text: &str) -> Option<Vec<Value>> {
    if text.trim_start().starts_with('{') {
        let values: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = values {
            return Some(values);
        }
    }
    let mut bytes = text.as_bytes();
    let mut parser = Parser::new();
    parser.set_input_string(&mut bytes);
    let mut values = Vec::new();
    loop {
        let document = Document::load(&mut parser).ok()?;
        if document.nodes.is_empty() {
            return Some(values);
        }
        values.push(value(&document, 1, 0)?);
    }
}

/// As [`judged`], for texts at which the judge may panic.
fn judged_or_lost(text: &str) -> Option<Vec<Value>> {
    std::panic::catch_unwind(|| judged(text)).ok().flatten()
}

/// A node of a document; nothing for a key that is no scalar or there twice, and for too deep ones.
fn value(document: &Document, node: i32, depth: usize) -> Option<Value> {
    if depth > 100 {
        return None;
    }
    let node = document.get_node(node)?;
    Some(match &node.data {
        NodeData::NoNode => Value::Null,
        NodeData::Scalar { value, style: ScalarStyle::Plain }
            if node.tag.as_deref() == Some("tag:yaml.org,2002:str") =>
        {
            plain(value)
        }
        NodeData::Scalar { value, .. } => value.clone().into(),
        NodeData::Sequence { items, .. } => {
            let items = items.iter().map(|item| value(document, *item, depth + 1));
            Value::Array(items.collect::<Option<_>>()?)
        }
        NodeData::Mapping { pairs, .. } => {
            let mut entries = serde_json::Map::new();
            for pair in pairs {
                let NodeData::Scalar { value: key, .. } = &document.get_node(pair.key)?.data else {
                    return None;
                };
                if entries.insert(key.clone(), value(document, pair.value, depth + 1)?).is_some() {
                    return None;
                }
            }
            Value::Object(entries)
        }
    })
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "false" => (text == "true").into(),
        _ => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
    }
}

/// What an injection makes of an object of a kind that runs pods, or has none of weir's annotations
/// yet.
fn annotated(mut object: Value) -> Value {
    let ways = ["/spec/jobTemplate/spec/template", "/spec/template", ""];
    let template = ways.iter().find(|way| {
        let spec = object.pointer(way).and_then(|template| template.get("spec"));
        spec.is_some_and(|spec| spec.get("containers").is_some())
    });
    if let Some(template) = template.and_then(|way| object.pointer_mut(way)) {
        for (name, value) in settings().annotations() {
            template["metadata"]["annotations"][name] = value.into();
        }
    }
    object
}

/// Parts of a container that kubectl reads and a strict parser of YAML 1.2 does not, each
/// for a key at four columns.
const LENIENT: [&str; 18] = [
    "image:\tb\n",
    "args: \t [a,\tb]\t\n",
    "args: [\n      \"-a\", \"b\"\n    ]\n",
    "args: [\n    a,\n    b\n    ]\n",
    "args: [\n  a, b\n  ]\n",
    "args: [\na,\n b\n]\n",
    "args: [ # said\n\n    a, # b\n    ]\n",
    "env: [{\n      \"name\": \"X\", \"value\": \"y\"\n    }]\n",
    "env: [{\n    name: X,\n    value: [{\n}]\n    }, {\n    name: Y }]\n",
    "args: [\"\n    a &&\n    b\n    \"]\n",
    "args: [\"a\nb\"]\n",
    "image: \"a\n    b\n    \"\n",
    "image: 'a\n\n    b'\n",
    "image: 'a\n b'\n",
    "command: [tar, -xf, -]\n",
    "command: [-, tar]\n",
    "command: [ -, {a: -}, -]\n",
    "image:\n    |\n      a\n",
];

/// What stands between two documents.
const BETWEEN: [&str; 3] = ["---\n", "...\n---\n", "--- # next\n"];

#[test]
fn manifests_that_strict_parsers_refuse_are_edited() {
    for part in LENIENT {
        for rest in ["    ports: []\n", "", "    command:\n    - x\n"] {
            let key = rest.trim_start().split(':').next().unwrap_or_default();
            if !key.is_empty() && part.starts_with(key) {
                continue;
            }
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: \
                 a\n    {part}{rest}"
            );
            let wanted: Vec<_> = judged(&text).expect(&text).into_iter().map(annotated).collect();
            round(&text, &wanted).unwrap();
        }
    }
    for annotations in ["\"[\n      1,\n    ]\n\"", "'a\n  b'", "{\n}", "{ b: [\n] }", "[\n] "] {
        let text = format!(
            "kind: Deployment\napiVersion: apps/v1\nmetadata:\n  name: a\n  annotations:\n    a: \
             {annotations}\nspec:\n  template:\n    metadata:\n      annotations: {{\n      b: \"\n \
             c\"\n    }}\n    spec:\n      containers: []\n"
        );
        let wanted: Vec<_> = judged(&text).expect(&text).into_iter().map(annotated).collect();
        round(&text, &wanted).unwrap();
    }
}

/// What there is between brackets without anything is there again after a round.
#[test]
fn empty_brackets_come_back_with_their_blanks() {
    for blank in ["", " ", "   ", "\t", "\n", "\n  ", " \n\t"] {
        let text = format!(
            "{{ \"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{ \"name\": \"a\", \
             \"annotations\": {{{blank}}} }},\n  \"spec\": {{ \"initContainers\": [{blank}], \
             \"containers\": [{blank}], \"volumes\": [{blank}] }} }}\n"
        );
        let wanted: Vec<_> = judged(&text).unwrap().into_iter().map(annotated).collect();
        round(&text, &wanted).unwrap();
    }
}

#[test]
fn objects_in_braces_need_nothing_between_them() {
    let pod = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "containers": [] } })
    };
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" } });
    let objects = [pod("a"), service, pod("\u{e9}\u{1f980}")];
    let wanted: Vec<_> = objects.iter().cloned().map(annotated).collect();
    for between in ["", "\n", " ", "\n\n\t"] {
        for pretty in [false, true] {
            let texts = objects.iter().map(|object| match pretty {
                true => format!("{object:#}{between}"),
                false => format!("{object}{between}"),
            });
            let text: String = texts.collect();
            assert_eq!(judged(&text).unwrap(), objects);
            round(&text, &wanted).unwrap();
        }
    }
    let text = format!("{}\n  {} {{\"kind\": 1,\n  \"a\" 2}}", pod("a"), pod("b"));
    let error = inject(text.as_bytes(), &settings()).unwrap_err().to_string();
    assert!(error.starts_with("line 3, column 7: "), "{error}");
    let text = format!("{}\n  {} {{\"a\": 2}}", pod("a"), pod("\u{e9}"));
    let error = inject(text.as_bytes(), &settings()).unwrap_err().to_string();
    let column = 4 + pod("\u{e9}").to_string().chars().count();
    assert!(error.starts_with(&format!("line 2, column {column}: ")), "{error}");
}

#[test]
fn templates_are_named_as_such() {
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: a\n";
    for (text, place) in [
        (format!("{{{{- if .Values.x }}}}\n{pod}    image: a\n{{{{- end }}}}\n"), "({{ in line 1)"),
        (format!("{pod}    image: {{{{ .Values.image }}}}\n"), "line 8, column 13: this looks"),
        (format!("{pod}    image: {{{{.a}}}}:{{{{.b}}}}\n"), "line 8, column 13: this looks"),
        (format!("{pod}    image: \"{{{{ a | default \"b\" }}}}\"\n"), "({{ in line 8)"),
        (format!("{pod}    image: a\n{{{{ toYaml .a | indent 4 }}}}\n"), "({{ in line 9)"),
        (pod.replace("name: a\nspec", "name: {{ .Release.Name }}\nspec"), "column 10: this looks"),
        (format!("{pod}    args: [{{{{ .a }}}}]\n"), "line 8, column 13: this looks"),
        (format!("{pod}    {{% if x %}}\n    image: a\n"), "({% in line 8)"),
        (format!("{pod}    image: a\n<% if x %>\n"), "(<% in line 9)"),
    ] {
        let error = inject(text.as_bytes(), &settings()).expect_err(&text).to_string();
        assert!(error.contains(place) && error.contains("render it first"), "{error}\n{text}");
    }
    let text = format!("{pod}    image: {{ [a]: b }}\n");
    let error = inject(text.as_bytes(), &settings()).unwrap_err().to_string();
    assert!(error.starts_with("line 8, column 14: a key that is a list"), "{error}");
    // In quotes it is a string, and an error elsewhere has nothing to do with it.
    round_of(&format!("{pod}    args: ['{{{{ x }}}}']\n"));
}

#[track_caller]
fn round_of(text: &str) {
    let wanted: Vec<_> = judged(text).expect(text).into_iter().map(annotated).collect();
    round(text, &wanted).unwrap();
}

/// Injecting makes of a text what is wanted, and uninjecting the text again, in both forms.
fn round(text: &str, wanted: &[Value]) -> Result<(), TestCaseError> {
    let fail = |error: ManifestError| TestCaseError::fail(format!("{error}:\n{text}"));
    let edited = inject(text.as_bytes(), &settings()).map_err(fail)?.text;
    let read = judged(&edited);
    prop_assert_eq!(read.as_deref(), Some(wanted), "{}\nbecame\n{}", text, edited);
    let back = uninject(edited.as_bytes(), &settings()).map_err(fail)?.text;
    prop_assert_eq!(&back, text, "by way of\n{}", edited);
    let edited = inject_sidecar(text.as_bytes(), &sidecar()).map_err(fail)?.text;
    prop_assert!(judged(&edited).is_some(), "{}\nbecame\n{}", text, edited);
    let back = uninject(edited.as_bytes(), &settings()).map_err(fail)?.text;
    prop_assert_eq!(&back, text, "by way of\n{}", edited);
    holds(text.as_bytes())
}

proptest! {
    #[test]
    fn lenient_manifests_become_what_kubectl_is_to_read(
        parts in prop::collection::vec((0..LENIENT.len(), 0..LENIENT.len(), 0usize..3), 1..4),
        seed: u64,
    ) {
        let mut rng = Rng::with_seed(seed);
        let mut text = String::new();
        for (place, (first, second, between)) in parts.into_iter().enumerate() {
            if place > 0 {
                text += BETWEEN[between];
            }
            let key = |part: &str| part.split(':').next().map(str::to_owned);
            let [first, second] = [LENIENT[first], LENIENT[second]];
            let second = if key(first) == key(second) { "" } else { second };
            let parts = [first, second].map(|part| match part {
                "" => String::new(),
                part => format!("    {part}"),
            });
            let comment = ["", "  # said\n", "\n"][rng.usize(..3)];
            text += &format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p{place}\n{comment}spec:\n  \
                 containers:\n  - name: a\n{}{comment}{}",
                parts[0], parts[1]
            );
        }
        let wanted: Vec<_> = judged(&text).expect(&text).into_iter().map(annotated).collect();
        round(&text, &wanted)?;
    }

    /// Whatever kubectl reads is edited as it reads it, or refused for another reason than its YAML.
    #[test]
    fn mangled_manifests_are_read_as_kubectl_reads_them(seed: u64, changes in 0usize..5) {
        let mut rng = Rng::with_seed(seed);
        let inputs = inputs();
        let text = &inputs[rng.usize(..inputs.len())];
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        for _ in 0..changes {
            mangle(&mut lines, &mut rng);
        }
        let text = lines.concat();
        let Some(before) = judged_or_lost(text.trim_start_matches('\u{feff}')) else { return Ok(()) };
        match inject(text.as_bytes(), &settings()) {
            Err(error) => {
                let error = error.to_string();
                prop_assert!(!error.contains("not valid YAML"), "{}:\n{}", error, text);
            }
            Ok(edited) => {
                let after = judged(edited.text.trim_start_matches('\u{feff}'));
                prop_assert!(after.is_some(), "{}\nbecame\n{}", text, edited.text);
                let counts = (before.len(), after.map(|after| after.len()));
                prop_assert_eq!(Some(counts.0), counts.1);
            }
        }
    }
}
