//! The sidecar form of injection: a native sidecar container in front of the init containers, and
//! the volumes that it mounts. What is there already keeps everything but what flags ask for.

use super::{
    BY_SIDECAR, DEFAULT_IMAGE, INJECT, SIDECAR, Settings,
    edit::{Change, Editor, Entry, hyphen},
    error::ManifestError,
    find::{from_merge, written_out},
    remove::{self, line_end, line_start},
    tree::{Kind, Mapping, Node},
    write::{self, Item, Margin},
};

/// The lists of a pod's spec that have something of weir.
pub(super) const LISTS: [&str; 2] = ["initContainers", "volumes"];
/// The names of weir's volumes.
pub(super) const VOLUMES: [&str; 2] = ["weir-cgroup", "weir-bpffs"];
/// The argument that tells weir's container from another of its name.
pub const MODE: &str = "--sidecar";

/// A sidecar to be added to pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// Its image; for a container that is there already, none leaves it as it is, and otherwise means
    /// [`DEFAULT_IMAGE`].
    pub image: Option<String>,
    /// Its settings.
    pub settings: Settings,
}

// === impl Sidecar ===

impl Sidecar {
    /// Its settings as arguments, each in two parts: `--skip-inbound-ports=` and the value.
    pub(super) fn flags(&self) -> Vec<(String, &str)> {
        let given = self.settings.given.iter();
        given.map(|(name, value)| (format!("--{name}="), value.as_str())).collect()
    }

    /// The container. `docs/SIDECAR.md` says why it has what it has.
    pub(super) fn container(&self) -> Item {
        let map = Item::map;
        let image = self.image.as_deref().unwrap_or(DEFAULT_IMAGE);
        let flags: Vec<_> =
            self.flags().iter().map(|(flag, list)| format!("{flag}{list}")).collect();
        let args = ["run", MODE, "--admin=0.0.0.0:4191"].into_iter();
        let args = args.chain(flags.iter().map(String::as_str)).map(Item::plain).collect();
        let field = |name, path| {
            let source = vec![("fieldRef", map(vec![("fieldPath", Item::plain(path))]))];
            map(vec![("name", Item::plain(name)), ("valueFrom", map(source))])
        };
        let ready = vec![("path", Item::plain("/ready")), ("port", Item::Word("4191"))];
        let capabilities = vec![
            ("drop", Item::plains(&["ALL"])),
            ("add", Item::plains(&["BPF", "NET_ADMIN", "SYS_ADMIN", "NET_RAW"])),
        ];
        let [cgroup, bpffs] = VOLUMES.map(Item::plain);
        map(vec![
            ("name", Item::plain(SIDECAR)),
            ("image", Item::plain(image)),
            ("restartPolicy", Item::plain("Always")),
            ("args", Item::List(args)),
            (
                "env",
                Item::List(vec![
                    field("POD_UID", "metadata.uid"),
                    field("NODE_NAME", "spec.nodeName"),
                ]),
            ),
            (
                "ports",
                Item::List(vec![map(vec![
                    ("name", Item::plain("weir-admin")),
                    ("containerPort", Item::Word("4191")),
                ])]),
            ),
            (
                "startupProbe",
                map(vec![
                    ("httpGet", map(ready)),
                    ("periodSeconds", Item::Word("1")),
                    ("failureThreshold", Item::Word("60")),
                ]),
            ),
            (
                "securityContext",
                map(vec![
                    ("runAsUser", Item::Word("0")),
                    ("runAsNonRoot", Item::Word("false")),
                    ("capabilities", map(capabilities)),
                    ("seLinuxOptions", map(vec![("type", Item::plain("spc_t"))])),
                ]),
            ),
            ("terminationMessagePolicy", Item::plain("FallbackToLogsOnError")),
            (
                "volumeMounts",
                Item::List(vec![
                    map(vec![
                        ("name", cgroup),
                        ("mountPath", Item::plain("/host/cgroup")),
                        ("readOnly", Item::Word("true")),
                    ]),
                    map(vec![("name", bpffs), ("mountPath", Item::plain("/host/bpf"))]),
                ]),
            ),
        ])
    }
}

/// The volumes, each with its name.
pub(super) fn volumes() -> [(&'static str, Item); 2] {
    let volume = |name, path| {
        let source = vec![("path", Item::plain(path)), ("type", Item::plain("Directory"))];
        let volume = vec![("name", Item::plain(name)), ("hostPath", Item::map(source))];
        (name, Item::map(volume))
    };
    [volume(VOLUMES[0], "/sys/fs/cgroup"), volume(VOLUMES[1], "/sys/fs/bpf")]
}

/// True for weir's container among the init containers.
pub(super) fn is_sidecar(container: &Node) -> bool {
    is_named(container, SIDECAR)
        && scalars(container, "args").any(|argument| argument.scalar() == Some(MODE))
}

/// True for an item of a list that has this name. Of several names the first counts, as in the proof of the edit.
pub(super) fn is_named(item: &Node, name: &str) -> bool {
    let first = |mapping: &Mapping| {
        let found = mapping.entries.iter().find(|(key, _)| key.scalar() == Some("name"));
        found.is_some_and(|(_, value)| value.scalar() == Some(name))
    };
    item.mapping().is_some_and(first)
}

/// The items under a key of a mapping.
fn scalars<'a>(node: &'a Node, key: &str) -> impl Iterator<Item = &'a Node> {
    let entries = node.mapping().map(|mapping| &mapping.entries[..]).unwrap_or_default();
    let found = entries.iter().find(|(name, _)| name.scalar() == Some(key));
    found.and_then(|(_, value)| value.items()).unwrap_or_default().iter()
}

// === impl Editor ===

impl<'a> Editor<'a> {
    /// Adds the sidecar, its volumes and the annotation that tells of it, or gives one that is there
    /// what is asked for.
    pub(super) fn inject_sidecar(&mut self, sidecar: &Sidecar) -> Result<Change, ManifestError> {
        self.inject(&[(INJECT, BY_SIDECAR)])?;
        let Some((key, spec)) = self.spec()? else {
            let problem = "the spec may come from a merge key; replace it by its content";
            return Err(self.error(self.template.node, problem));
        };
        let [containers, disks] = [self.list(spec, LISTS[0])?, self.list(spec, LISTS[1])?];
        let there = items(containers).iter().find(|item| is_named(item, SIDECAR));
        let container = match there {
            Some(container) => {
                self.update_sidecar(container, sidecar)?;
                None
            }
            None => Some(sidecar.container()),
        };
        let missing = |(name, item): (&'static str, Item)| {
            let there = items(disks).iter().any(|volume| is_named(volume, name));
            (!there).then_some(item)
        };
        let missing: Vec<_> = volumes().into_iter().filter_map(missing).collect();
        let mut new = Vec::new();
        for (name, entry, items) in [
            (LISTS[0], containers, container.into_iter().collect::<Vec<_>>()),
            (LISTS[1], disks, missing),
        ] {
            match entry {
                _ if items.is_empty() => {}
                None => new.push((name.into(), Item::List(items))),
                Some(entry) if entry.1.is_null() => self.fill(spec, entry, &Item::List(items))?,
                Some(entry) => self.insert_items(entry, &items)?,
            }
        }
        if !new.is_empty() {
            self.insert(key, spec, &new)?;
        }
        self.sidecar_not_shared()?;
        Ok(match (there, self.edits.is_empty()) {
            (None, _) => Change::New,
            (Some(_), false) => Change::Updated,
            (Some(_), true) => Change::Nothing,
        })
    }

    /// Takes the sidecar and its volumes away; false if there is none.
    pub(super) fn uninject_sidecar(&mut self) -> Result<bool, ManifestError> {
        let before = self.edits.len();
        let removed = remove::sidecar(self)?;
        if self.edits.len() > before {
            self.sidecar_not_shared()?;
        }
        Ok(removed)
    }

    /// Whether the pod has the sidecar, and where.
    pub(super) fn sidecar(&self) -> Option<&'a Node> {
        let spec = self.anchors.get(self.template.node, "spec")?;
        self.anchors.get(spec, LISTS[0])?.items()?.iter().find(|item| is_sidecar(item))
    }

    /// The pod's spec, where it is written out.
    pub(super) fn spec(&self) -> Result<Option<(&'a Node, &'a Mapping)>, ManifestError> {
        let Some((key, value)) = self.template.mapping.get("spec")? else { return Ok(None) };
        written_out(value, "spec", self.name)?;
        Ok(value.mapping().map(|spec| (key, spec)))
    }

    /// An entry of the spec whose value is a list, or nothing.
    fn list(&self, spec: &'a Mapping, key: &str) -> Result<Option<&'a Entry>, ManifestError> {
        let Some(entry) = spec.get(key)? else {
            return match spec.merge() {
                Some((merge, _)) => Err(from_merge(merge, key, self.name)),
                None => Ok(None),
            };
        };
        written_out(&entry.1, key, self.name)?;
        if entry.1.items().is_some() || entry.1.is_null() {
            return Ok(Some(entry));
        }
        Err(self.error(&entry.1, &format!("expected a list at `{key}`")))
    }

    /// Puts items in front of those of a list.
    fn insert_items(&mut self, (key, list): &'a Entry, new: &[Item]) -> Result<(), ManifestError> {
        let first = list.items().and_then(<[Node]>::first);
        if let Some(brackets) = list.brackets(self.text) {
            let line: Vec<_> = new.iter().map(Item::flow).collect();
            let lines = |at: Margin<'_>| {
                let texts: Vec<_> = new.iter().map(|item| item.flow_lines(at)).collect();
                texts.join(&format!(",{}{}", at.eol, at.margin))
            };
            let first = first.map(|first| first.bytes.start);
            return self.insert_in_flow(key, brackets, first, line.join(", "), lines);
        }
        let Some(first) = first else {
            return Err(self.error(key, "an empty list without brackets; write []"));
        };
        let dash = self.dash_of(first)?;
        let below = self.above(key, first, dash, "its items")?;
        let text = write::list(new, dash - line_start(self.text, dash), self.layout());
        self.replace(below..below, text);
        Ok(())
    }

    /// Where an item's hyphen is.
    pub(super) fn dash_of(&self, item: &Node) -> Result<usize, ManifestError> {
        hyphen(self.text, item.bytes.start).ok_or_else(|| {
            self.error(item, "expected `- ` at the start of the line of a list item")
        })
    }

    /// Gives a container that is there already the image and the lists that are asked for.
    fn update_sidecar(
        &mut self,
        container: &'a Node,
        sidecar: &Sidecar,
    ) -> Result<(), ManifestError> {
        let Some(mapping) = container.mapping().filter(|_| is_sidecar(container)) else {
            let problem = format!(
                "an init container named {SIDECAR} does not run `weir run {MODE}`; rename it"
            );
            return Err(self.error(container, &problem));
        };
        if let Some(image) = &sidecar.image {
            match mapping.get("image")? {
                Some(entry) if entry.1.scalar() == Some(image) => {}
                Some(entry) => self.replace_value(entry, mapping, &Item::plain(image))?,
                None => return Err(self.error(container, "the sidecar has no image; write one")),
            }
        }
        let Some((_, args)) = mapping.get("args")? else { return Ok(()) };
        let mut new = Vec::new();
        for (flag, list) in sidecar.flags() {
            let wanted = Item::Plain(format!("{flag}{list}"));
            let there = scalars(container, "args")
                .find(|item| item.scalar().is_some_and(|text| text.starts_with(&flag)));
            let apart = scalars(container, "args")
                .find(|item| item.scalar().is_some_and(|text| format!("{text}=") == flag));
            match (there, apart) {
                (_, Some(apart)) => {
                    let problem = format!("write the flag and its list as one item: {flag}LIST");
                    return Err(self.error(apart, &problem));
                }
                (Some(item), None) if item.scalar() == Some(&format!("{flag}{list}")) => {}
                (Some(item), None) => self.replace_argument(item, args, &wanted)?,
                (None, None) => new.push(wanted),
            }
        }
        self.add_arguments(container, args, &new)
    }

    fn replace_argument(
        &mut self,
        item: &'a Node,
        args: &Node,
        value: &Item,
    ) -> Result<(), ManifestError> {
        if item.anchor != 0 || item.tagged || matches!(item.kind, Kind::Scalar { block: true, .. })
        {
            let problem =
                "the argument has an anchor, a tag or a block scalar; write a plain value";
            return Err(self.error(item, problem));
        }
        let flow = args.brackets(self.text).is_some();
        self.replace(item.bytes.clone(), if flow { value.flow() } else { value.leaf() });
        Ok(())
    }

    /// Puts arguments behind the one that asks for a sidecar.
    fn add_arguments(
        &mut self,
        container: &'a Node,
        args: &Node,
        new: &[Item],
    ) -> Result<(), ManifestError> {
        let mode = scalars(container, "args").find(|item| item.scalar() == Some(MODE));
        let Some(mode) = mode.filter(|_| !new.is_empty()) else { return Ok(()) };
        if args.brackets(self.text).is_some() {
            let texts: Vec<_> = new.iter().map(|item| format!(", {}", item.flow())).collect();
            self.replace(mode.bytes.end..mode.bytes.end, texts.concat());
            return Ok(());
        }
        let dash = self.dash_of(mode)?;
        let layout = self.layout();
        let mut text = write::list(new, dash - line_start(self.text, dash), layout);
        let below = line_end(self.text, mode.bytes.end);
        if !self.text[..below].ends_with('\n') {
            text = format!("{}{}", layout.eol, text.trim_end());
        }
        self.replace(below..below, text);
        Ok(())
    }

    /// As [`Editor::not_shared`], for everything that a sidecar is in.
    fn sidecar_not_shared(&self) -> Result<(), ManifestError> {
        let spec = self.template.mapping.get("spec")?.map(|(_, spec)| spec);
        let mut nodes: Vec<&Node> = spec.into_iter().collect();
        for (place, key) in LISTS.iter().enumerate() {
            let Some(list) = spec.and_then(Node::mapping).and_then(|spec| {
                spec.entries.iter().find(|(name, _)| name.scalar() == Some(key)).map(|(_, it)| it)
            }) else {
                continue;
            };
            nodes.push(list);
            let ours = list.items().unwrap_or_default().iter().filter(|_| place == 0);
            nodes.extend(ours.filter(|item| is_sidecar(item)).flat_map(|item| item.all()));
        }
        self.not_shared(nodes)
    }
}

// === helpers ===

fn items(entry: Option<&Entry>) -> &[Node] {
    entry.and_then(|(_, list)| list.items()).unwrap_or_default()
}
