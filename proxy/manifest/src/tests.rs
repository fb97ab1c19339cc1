//! Edits of manifests: properties that hold for any input, and inputs that once went wrong.

use fastrand::Rng;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod kubectl;

fn settings() -> Settings {
    Settings {
        known: vec!["skip-inbound-ports", "skip-outbound-ports", "opaque-ports", "fail"],
        given: vec![("skip-outbound-ports", "4406".into()), ("opaque-ports", "+25".into())],
    }
}

fn sidecar() -> Sidecar {
    Sidecar { image: Some("registry.example/weir:1".into()), settings: settings() }
}

/// Everything that holds for any bytes and both forms: no panic, no edit that fails its proof,
/// injecting twice is injecting once, and nothing of weir is left behind.
fn holds(text: &[u8]) -> Result<(), TestCaseError> {
    holds_of(text, |text| inject(text, &settings()))?;
    holds_of(text, |text| inject_sidecar(text, &sidecar()))
}

fn holds_of(
    text: &[u8],
    inject: impl Fn(&[u8]) -> Result<Edited, ManifestError>,
) -> Result<(), TestCaseError> {
    let fine = |result: Result<Edited, ManifestError>| match result {
        Err(ManifestError::Internal(what)) => {
            Err(TestCaseError::fail(format!("{what}:\n{}", String::from_utf8_lossy(text))))
        }
        other => Ok(other.ok()),
    };
    let Some(once) = fine(inject(text))? else {
        fine(uninject(text, &settings()))?;
        return Ok(());
    };
    let twice = fine(inject(once.text.as_bytes()))?.map(|edited| edited.text);
    prop_assert_eq!(twice.as_ref(), Some(&once.text));
    if let Some(back) = fine(uninject(once.text.as_bytes(), &settings()))? {
        let left = |line: &Line| line.result == Outcome::Uninjected;
        prop_assert!(
            !fine(uninject(back.text.as_bytes(), &settings()))?
                .is_some_and(|edited| edited.report.iter().any(left))
        );
    }
    Ok(())
}

/// A manifest's value, by another parser than weir's.
fn values(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// An object whose pod template has the metadata given, and the way to the template.
fn object(kind: usize, metadata: Option<Value>) -> (Value, &'static str) {
    let mut template = json!({ "spec": { "containers": [{ "name": "a", "image": "b:1" }] } });
    if let Some(metadata) = metadata {
        template["metadata"] = metadata;
    }
    let whole = |api: &str, kind: &str, spec: Value| json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "x" }, "spec": spec });
    let spec = json!({ "replicas": 1, "template": template });
    match kind {
        0 => (whole("apps/v1", "Deployment", spec), "/spec/template"),
        1 => (whole("apps/v1", "StatefulSet", spec), "/spec/template"),
        2 => (whole("apps/v1", "DaemonSet", spec), "/spec/template"),
        3 => (whole("apps/v1", "ReplicaSet", spec), "/spec/template"),
        4 => (whole("batch/v1", "Job", spec), "/spec/template"),
        5 => (
            whole("batch/v1", "CronJob", json!({ "jobTemplate": { "spec": spec } })),
            "/spec/jobTemplate/spec/template",
        ),
        _ => {
            template["apiVersion"] = "v1".into();
            template["kind"] = "Pod".into();
            if !template["metadata"].is_object() {
                template["metadata"] = json!({ "name": "x" });
            }
            (template, "")
        }
    }
}

fn metadata() -> impl Strategy<Value = Option<Value>> {
    let annotations = prop::collection::btree_map(
        prop::sample::select(vec![
            "a.b/c",
            "team",
            "zzz",
            INJECT,
            "config.weir.dev/opaque-ports",
            "config.weir.dev/skip-inbound-ports",
        ]),
        prop::sample::select(vec!["enabled", "80", "a: b # c", "+25", "", "it's \"so\""]),
        0..4,
    );
    let rest = prop::sample::select(vec![json!({}), json!({ "labels": { "app": "x" } })]);
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => (rest, prop::option::of(prop::option::of(annotations))).prop_map(|(mut all, found)| {
            if let Some(annotations) = found {
                all["annotations"] = json!(annotations);
            }
            Some(all)
        }),
    ]
}

/// Writes a value in block style, with the indentation, comments and blanks as people write them.
struct Author {
    rng: Rng,
    step: usize,
    eol: &'static str,
}

impl Author {
    fn write(&mut self, value: &Value, indent: usize, out: &mut String) {
        let Value::Object(entries) = value else { unreachable!("only mappings are written so") };
        let mut entries: Vec<_> = entries.iter().collect();
        self.rng.shuffle(&mut entries);
        for (key, value) in entries {
            self.comment(indent, out);
            *out += &format!(
                "{:indent$}{}:",
                "",
                if key == INJECT { json!(key).to_string() } else { key.clone() }
            );
            let end = ["", "", "   ", " # said"][self.rng.usize(..4)];
            match value {
                Value::Object(inner) if !inner.is_empty() && self.rng.u8(..5) > 0 => {
                    *out += &format!("{end}{}", self.eol);
                    self.write(value, indent + self.step, out);
                }
                Value::Null if self.rng.bool() => *out += &format!("{end}{}", self.eol),
                _ => *out += &format!(" {value}{end}{}", self.eol),
            }
        }
    }

    fn comment(&mut self, indent: usize, out: &mut String) {
        match self.rng.u8(..8) {
            0 => *out += &format!("{:indent$}# annotations: {{}}{}", "", self.eol),
            1 => *out += &format!("# at the margin{}", self.eol),
            2 => *out += self.eol,
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn generated_manifests_get_exactly_what_was_asked_for(
        objects in prop::collection::vec((0usize..7, metadata()), 1..4),
        style in 0usize..4,
        step in 1usize..6,
        crlf: bool,
        seed: u64,
    ) {
        let eol = if crlf { "\r\n" } else { "\n" };
        let mut author = Author { rng: Rng::with_seed(seed), step, eol };
        let (mut text, mut wanted) = (String::new(), Vec::new());
        for (kind, metadata) in objects {
            let (mut value, way) = object(kind, metadata);
            text += &format!("---{eol}");
            match style {
                0 => text += &format!("{value}{eol}"),
                1 => text += &format!("{value:#}{eol}").replace('\n', eol).replace("\r\r", "\r"),
                _ => author.write(&value, 0, &mut text),
            }
            let template = value.pointer_mut(way).unwrap();
            for (name, value) in settings().annotations() {
                template["metadata"]["annotations"][name] = value.into();
            }
            wanted.push(value);
        }
        let edited = inject(text.as_bytes(), &settings())
            .map_err(|error| TestCaseError::fail(format!("{error}:\n{text}")))?;
        prop_assert_eq!(&values(&edited.text), &wanted, "{}\nbecame\n{}", text, edited.text);
        let comments = |text: &str| ["# annotations", "# at", "# said"].map(|c| text.matches(c).count());
        prop_assert_eq!(comments(&text), comments(&edited.text));
        holds(text.as_bytes())?;
        if !text.contains("weir.dev") {
            let edited = inject_sidecar(text.as_bytes(), &sidecar())
                .map_err(|error| TestCaseError::fail(format!("{error}:\n{text}")))?;
            for value in values(&edited.text) {
                let of_pods = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
                let pods: Vec<_> =
                    of_pods.iter().filter_map(|way| value.pointer(way)).filter(|spec| spec.get("containers").is_some()).collect();
                prop_assert_eq!(pods.len(), 1);
                prop_assert_eq!(&pods[0]["initContainers"][0]["name"], "weir");
                prop_assert_eq!(pods[0]["volumes"].as_array().map(Vec::len), Some(2));
            }
            let back = uninject(edited.text.as_bytes(), &settings())
                .map_err(|error| TestCaseError::fail(format!("{error}:\n{}", edited.text)))?;
            if text.contains("null") || empty_value(&text) {
                prop_assert!(!back.text.contains("weir"), "{}", back.text);
            } else {
                prop_assert_eq!(&back.text, &text);
            }
        }
        let back = uninject(edited.text.as_bytes(), &settings())
            .map_err(|error| TestCaseError::fail(format!("{error}:\n{}", edited.text)))?;
        if !text.contains("weir.dev") && !text.contains("null") && !empty_value(&text) {
            prop_assert_eq!(back.text, text);
        } else {
            prop_assert!(!back.text.contains("weir.dev"), "{}", back.text);
        }
    }

    #[test]
    fn mangled_manifests_are_refused_or_edited_rightly(seed: u64, changes in 1usize..6) {
        let mut rng = Rng::with_seed(seed);
        let inputs = inputs();
        let mut lines: Vec<String> = inputs[rng.usize(..inputs.len())]
            .split_inclusive('\n')
            .map(str::to_owned)
            .collect();
        for _ in 0..changes {
            mangle(&mut lines, &mut rng);
        }
        holds(lines.concat().as_bytes())?;
    }

    #[test]
    fn any_bytes_are_refused_or_pass(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(&bytes)?;
    }
}

/// `metadata:` or `annotations:` with nothing behind it, which is not told apart from its absence.
fn empty_value(text: &str) -> bool {
    values(text).iter().any(|value| {
        let of_pods = ["", "/spec/template", "/spec/jobTemplate/spec/template"];
        of_pods.iter().filter_map(|way| value.pointer(way)).any(|template| {
            let metadata = template.get("metadata");
            let annotations = metadata.and_then(|metadata| metadata.get("annotations"));
            metadata.is_some_and(Value::is_null) || annotations.is_some_and(Value::is_null)
        })
    })
}

/// The golden tests' inputs.
fn inputs() -> Vec<String> {
    let mut paths = Vec::new();
    for folder in ["inject", "inject-sidecar"] {
        let folder = format!("{}/../tests/{folder}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(folder).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    paths.sort();
    let texts = paths.iter().filter_map(|path| {
        let name = path.to_str()?;
        let wanted = name.ends_with(".in.yml") || name.ends_with(".out.yml");
        wanted.then(|| String::from_utf8(std::fs::read(path).unwrap()).ok())?
    });
    texts.filter(|text| !text.is_empty()).collect()
}

fn mangle(lines: &mut Vec<String>, rng: &mut Rng) {
    if lines.is_empty() {
        return;
    }
    let at = rng.usize(..lines.len());
    match rng.u8(..6) {
        0 => drop(lines.remove(at)),
        1 => {
            let line = lines[rng.usize(..lines.len())].clone();
            lines.insert(at, line);
        }
        2 => lines[at].insert_str(0, &" ".repeat(rng.usize(1..5))),
        3 => lines[at] = lines[at].strip_prefix("  ").unwrap_or(&lines[at]).to_owned(),
        4 => {
            let other = rng.usize(..lines.len());
            lines.swap(at, other);
        }
        _ => {
            let bits = [
                "{",
                "}",
                "[",
                "]",
                ":",
                ": ",
                "&a ",
                "*a",
                "# ",
                " #",
                "\"",
                "'",
                "|\n",
                ">+\n",
                "? ",
                "- ",
                "!!str ",
                "~",
                "\n",
                "\r\n",
                "\t",
                ",",
                "<<: ",
                "---\n",
                "é",
                "null",
                "{}",
                "annotations: ",
                "metadata:",
                "weir.dev/inject: ",
                "initContainers:",
                "volumes: ",
                "name: weir",
                "--sidecar",
                "[]",
                "\\",
            ];
            let places: Vec<usize> = lines[at].char_indices().map(|(place, _)| place).collect();
            let place = places.get(rng.usize(..=places.len())).copied().unwrap_or(0);
            lines[at].insert_str(place, bits[rng.usize(..bits.len())]);
        }
    }
}

#[test]
fn positions_are_those_of_an_editor() {
    let error = |text: &[u8]| inject(text, &settings()).unwrap_err().to_string();
    assert!(error("kind: Pod\nä: \"é\" x\n".as_bytes()).starts_with("line 2, column 8: "));
    assert!(error(b"kind: Pod\nname: caf\xe9\n").starts_with("line 2, column 10: not UTF-8"));
    assert!(error("[".repeat(210).as_bytes()).contains("more than 200 deep"));
}

/// Found by the fuzz target `inject`: the brace was taken for a part of the tag.
#[test]
fn a_tag_or_an_anchor_ends_where_a_collection_begins() {
    let text = |mark: &str| {
        format!(
            "{{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"metadata\": {{\"name\": \"a\"}},\n \
             \"spec\":{mark}{{\n  \"containers\": [{{\"name\": \"b\"}}]\n }}}}\n"
        )
    };
    for mark in ["! ", "!x ", "&a ", "!<tag:x,[2]> ", "!<tag:x,[2]> &a "] {
        let text = text(mark);
        holds(text.as_bytes()).unwrap();
        let edited = inject_sidecar(text.as_bytes(), &sidecar()).unwrap().text;
        assert!(edited.contains(&format!("\"spec\":{mark}{{")), "{edited}");
        assert_eq!(uninject(edited.as_bytes(), &settings()).unwrap().text, text);
    }
    // As kubectl does.
    assert!(inject(text("!").as_bytes(), &settings()).is_err());
}

/// Found by the fuzz target `inject`: the colon was left behind.
#[test]
fn an_annotation_in_braces_without_a_value_is_taken_with_its_colon() {
    let text = |annotations: &str| {
        format!(
            "kind: Pod\napiVersion: v1\nmetadata:\n  name: a\n  annotations: {{{annotations}}}\nspec: \
             {{}}\n"
        )
    };
    let ours = "config.weir.dev/opaque-ports";
    for (annotations, left) in [
        (format!("\"a\": b, \"{ours}\": "), "\"a\": b "),
        (format!("\"a\": b, \"{ours}\" : "), "\"a\": b "),
        (format!("\"a\": b, \"{ours}\"\n     :"), "\"a\": b"),
        (format!("\"a\": b, \"{ours}\""), "\"a\": b"),
        (format!("\"a\": , \"{ours}\": "), "\"a\": "),
        (format!("\"{ours}\": , \"a\": , \"weir.dev/inject\": x"), "\"a\":"),
    ] {
        let before = text(&annotations);
        holds(before.as_bytes()).unwrap();
        assert_eq!(uninject(before.as_bytes(), &settings()).unwrap().text, text(left), "{before}");
    }
}

#[test]
fn an_edit_that_goes_wrong_is_not_given_out() {
    let before = "kind: Pod\nmetadata:\n  annotations:\n    a: b\nspec: {}\n";
    let tree = read(before).unwrap();
    let intent = |goal| Intent { document: 0, path: Vec::new(), goal };
    let right = before.replace("    a", "    weir.dev/inject: enabled\n    a");
    let wanted = || [intent(Goal::Annotations(Settings::default().annotations()))];
    verify(&tree, &right, &wanted(), &settings().keys()).unwrap();
    for wrong in [
        before.to_owned(),
        right.replace("a: b", "a: c"),
        right.replace("a: b\n", "a: b\n    c: d\n"),
        right.replace("enabled", "true"),
        right.replace("spec: {}", "spec: []"),
        format!("{right}---\n"),
        right.replace("    a: b", "   a: b"),
    ] {
        let error = verify(&tree, &wrong, &wanted(), &settings().keys()).unwrap_err();
        assert!(matches!(error, ManifestError::Internal(_)), "{wrong}");
    }
    verify(&tree, before, &[intent(Goal::Nothing)], &settings().keys()).unwrap();
    assert!(verify(&tree, &right, &[intent(Goal::Nothing)], &settings().keys()).is_err());
}

#[test]
fn a_sidecar_that_goes_wrong_is_not_given_out() {
    let before = "kind: Pod\napiVersion: v1\nmetadata:\n  name: p\nspec:\n  volumes:\n  - name: a\n  containers:\n  - name: b\n";
    let right = inject_sidecar(before.as_bytes(), &sidecar()).unwrap().text;
    let intent = |goal| [Intent { document: 0, path: Vec::new(), goal }];
    let (tree, wanted) = (read(before).unwrap(), || intent(Goal::Sidecar(sidecar())));
    verify(&tree, &right, &wanted(), &settings().keys()).unwrap();
    for wrong in [
        before.to_owned(),
        right.replacen("4191", "4192", 1),
        right.replace("    - \"--sidecar\"\n", ""),
        right.replace("weir-bpffs", "weir-bpf"),
        right.replace("  - name: a\n", ""),
        right.replace("  - name: b\n", "  - name: c\n"),
        right.replace("runAsUser: 0", "runAsUser: \"0\""),
        right.replace("  volumes:", "  disks:"),
        right.replace("    weir.dev/inject: sidecar\n", "    weir.dev/inject: enabled\n"),
    ] {
        assert_ne!(wrong, right);
        let error = verify(&tree, &wrong, &wanted(), &settings().keys()).unwrap_err();
        assert!(matches!(error, ManifestError::Internal(_)), "{wrong}");
    }
    let tree = read(&right).unwrap();
    verify(&tree, before, &intent(Goal::Nothing), &settings().keys()).unwrap();
    assert!(verify(&tree, &right, &intent(Goal::Nothing), &settings().keys()).is_err());
    assert!(
        verify(
            &tree,
            &before.replace("name: a", "name: x"),
            &intent(Goal::Nothing),
            &settings().keys()
        )
        .is_err()
    );
}

#[test]
fn a_sidecar_that_cannot_be_taken_away_is_named() {
    let text = |list: &str| {
        format!(
            "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - name: a\n    args:\n    - |\n      x\n  \
             initContainers:{list}\n"
        )
    };
    for (list, part) in [
        (
            "\n  - name: weir\n    args: [--sidecar]\n    env: &e []",
            "weir's addition has an anchor",
        ),
        (
            " &all\n  - name: weir\n    args: [--sidecar]",
            "only weir's addition and an anchor are here",
        ),
        ("\n  - name: weir\n    args: [--sidecar]\n  # said", "block scalar"),
        (" [{name: a}, # said\n   {name: weir, args: [--sidecar]}]", "comment between annotations"),
        ("\n  -\n    name: weir\n    args: [--sidecar]\n  - name: b", "at the start of the line"),
    ] {
        let text = text(list);
        let error = uninject(text.as_bytes(), &settings()).expect_err(&text).to_string();
        assert!(error.contains(part) && error.starts_with("line "), "{error}\n{text}");
    }
}

/// Guards against a proof that fails: the editor took the second name of an item, and the proof the first.
#[test]
fn an_item_with_two_names_is_the_one_of_the_first() {
    let text =
        "kind: Pod\napiVersion: v1\nmetadata:\n  name: x\nspec:\n  containers:\n  - name: a\n";
    let edited = inject_sidecar(text.as_bytes(), &sidecar()).unwrap().text;
    let twice = edited.replace(
        "- name: weir-bpffs\n    hostPath",
        "- name: b\n    name: weir-bpffs\n    hostPath",
    );
    assert_ne!(twice, edited, "{edited}");
    holds(twice.as_bytes()).unwrap();
    let back = uninject(twice.as_bytes(), &settings()).unwrap().text;
    assert!(back.contains("- name: b\n") && !back.contains("name: weir-cgroup"), "{back}");
}
