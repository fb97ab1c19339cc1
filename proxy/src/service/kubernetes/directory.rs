//! The objects without an API server: manifests in a directory, which is followed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{Delta, Kind, Origin, Problem, Services, error::Fault},
    convert::{service, slice},
    object::{AnyObject, Body, ServiceObject, SliceObject},
    route::route,
};
use crate::{
    blocking::blocking,
    manifests::{self, Stamp, Watch, first_line},
    route::Route,
};

/// How often it is looked at where changes are not told.
const LOOK: Duration = Duration::from_millis(100);
/// Ten thousand endpoints are 9 MB.
const MOST_MIB: u64 = 64;

/// So many objects at a time leave memory behind that is given back to the kernel.
const LARGE: usize = 64;

/// An object. Its content is the model's alone.
type Name = (Kind, Arc<str>);

#[derive(Debug, Default)]
struct Directory {
    files: BTreeMap<PathBuf, Entry>,
    /// Which file each object is in.
    owners: HashMap<Name, PathBuf>,
}

/// An object of a file.
enum Typed {
    Service(ServiceObject),
    Slice(SliceObject),
    Route(Box<Route>),
    /// A list of nothing.
    Empty,
}

#[derive(Debug, Default)]
struct Entry {
    /// `None` for one that is to be read again.
    stamp: Option<Stamp>,
    /// Its objects that are in another file too, which was there first.
    doubles: Vec<Name>,
    problem: Option<String>,
}

/// Follows for ever. What is wrong is logged once, and in [`Services::feed`].
pub(crate) async fn follow(path: PathBuf, services: Arc<Services>) {
    let mut directory = Directory::default();
    let (mut watch, mut said) = (Watch::new(), None);
    loop {
        let (look, into) = (path.clone(), Arc::clone(&services));
        let problems;
        (directory, watch, problems) = blocking(move || {
            watch.follow(&look);
            let problems = directory.update(&look, &into);
            (directory, watch, problems)
        })
        .await;
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        if problem != said {
            match &problem {
                Some(problem) => tracing::warn!("{problem}"),
                None => tracing::info!(directory = %path.display(), "all objects are understood"),
            }
            said.clone_from(&problem);
        }
        services.heard(Origin::Directory, problem.map_or(Ok(()), Err));
        watch.changed(LOOK).await;
    }
}

/// What the objects in a file say. Several are apart by `---`, or in a `List`.
///
/// # Errors
/// The first thing that is wrong, with its line or object. Nothing of the file counts then.
pub fn parse(text: &str) -> Result<Vec<Delta>, String> {
    let objects = serde_saphyr::from_multiple(text);
    taken(objects.map_err(|error| first_line(&error))?)
}

/// The same of JSON, which YAML has all of, but for the time that it takes.
///
/// # Errors
/// As for [`parse`].
pub fn parse_json(text: &str) -> Result<Vec<Delta>, String> {
    let objects = serde_json::Deserializer::from_str(text).into_iter::<AnyObject>();
    taken(objects.collect::<Result<_, _>>().map_err(|error| error.to_string())?)
}

/// Nothing that was parsed is freed before the last is converted: what is kept would lie in its gaps.
fn taken(objects: Vec<AnyObject>) -> Result<Vec<Delta>, String> {
    let each = |object: AnyObject| {
        if object.items.is_empty() { vec![object] } else { object.items }
    };
    let parsed: Vec<_> = objects.into_iter().flat_map(each).map(typed).collect::<Result<_, _>>()?;
    let mut deltas = Vec::new();
    for object in &parsed {
        let delta = match object {
            Typed::Service(object) => {
                service(object, false).map(|(name, spec)| Some(Delta::Service(name, spec)))
            }
            Typed::Slice(object) => slice(object).map(|slice| slice.map(Delta::Slice)),
            Typed::Route(route) => Ok(Some(Delta::Route((**route).clone()))),
            Typed::Empty => Ok(None),
        };
        deltas.extend(delta.map_err(|problem| problem.to_string())?);
    }
    Ok(deltas)
}

// === impl Directory ===

impl Directory {
    /// Reads what has changed, and has it take effect; what is wrong at present.
    fn update(&mut self, path: &Path, services: &Services) -> Vec<String> {
        let there = match manifests::list(path) {
            Ok(there) => there,
            // What it said before stays in effect.
            Err(error) => return vec![format!("cannot read {}: {error}", path.display())],
        };
        let mut deltas = Vec::new();
        let gone: Vec<_> =
            self.files.keys().filter(|path| !there.contains_key(*path)).cloned().collect();
        for path in gone {
            self.files.remove(&path);
            self.disown(&path, &HashSet::new(), &mut deltas);
        }
        loop {
            self.wake();
            let is_stale = |(path, stamp): &(&PathBuf, &Stamp)| {
                self.files.get(*path).is_none_or(|entry| entry.stamp != Some(**stamp))
            };
            let stale: Vec<_> = there.iter().filter(is_stale).collect();
            if stale.is_empty() {
                break;
            }
            for (path, stamp) in stale {
                self.read(path, *stamp, &mut deltas);
            }
        }
        let is_large = deltas.len() >= LARGE;
        // What is refused is among the services' problems from here on.
        let _ = services.apply(Origin::Directory, deltas);
        if is_large {
            services.settle();
        }
        let mut problems: Vec<_> =
            self.files.iter().flat_map(|(path, entry)| entry.problems(path)).collect();
        problems.extend(services.problems(Origin::Directory).iter().map(Problem::to_string));
        problems
    }

    fn read(&mut self, path: &Path, stamp: Stamp, deltas: &mut Vec<Delta>) {
        let mut entry = Entry { stamp: Some(stamp), ..Entry::default() };
        match read(path, stamp) {
            Ok(read) => {
                let names = read.iter().filter_map(name).collect();
                self.disown(path, &names, deltas);
                for delta in read {
                    let Some(name) = name(&delta) else { continue };
                    match self.owners.get(&name) {
                        Some(owner) if owner != path => entry.doubles.push(name),
                        _ => {
                            self.owners.insert(name, path.to_owned());
                            deltas.push(delta);
                        }
                    }
                }
            }
            Err(problem) => {
                let keeps = self.owners.values().any(|owner| owner == path);
                let kept = if keeps { "; its previous content remains in effect" } else { "" };
                entry.problem = Some(format!("{problem}{kept}"));
            }
        }
        self.files.insert(path.to_owned(), entry);
    }

    /// Forgets the objects of a file but these.
    fn disown(&mut self, path: &Path, but: &HashSet<Name>, deltas: &mut Vec<Delta>) {
        self.owners.retain(|name, owner| {
            let stays = owner != path || but.contains(name);
            if !stays {
                deltas.push(name.0.gone(Arc::clone(&name.1)));
            }
            stays
        });
    }

    /// Has files read again whose objects were in another file that does not have them any more.
    fn wake(&mut self) {
        let owners = &self.owners;
        for entry in self.files.values_mut() {
            if entry.doubles.iter().any(|name| !owners.contains_key(name)) {
                entry.stamp = None;
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn problems(&self, path: &Path) -> impl Iterator<Item = String> {
        let path = path.display();
        let double =
            |(kind, name): &Name| format!("{} {name} is in another file already", kind.name());
        let problems = self.problem.iter().cloned().chain(self.doubles.iter().map(double));
        problems.map(move |problem| format!("{path}: {problem}"))
    }
}

// === helpers ===

fn name(delta: &Delta) -> Option<Name> {
    delta.object().map(|(kind, name)| (kind, Arc::clone(name)))
}

fn typed(object: AnyObject) -> Result<Typed, String> {
    Ok(match &*object.kind {
        "Service" => Typed::Service(object.into_service()),
        "EndpointSlice" => Typed::Slice(object.into_slice()),
        "HTTPRoute" | "GRPCRoute" => {
            let read = match object.spec {
                Body::Http(body) => route(&object.metadata, body, false),
                Body::Grpc(body) => route(&object.metadata, body, false),
                _ => Err(wrong(&object, "spec is missing")),
            };
            Typed::Route(Box::new(read.map_err(|problem| problem.to_string())?))
        }
        "List" | "ServiceList" | "EndpointSliceList" | "HTTPRouteList" | "GRPCRouteList" => {
            Typed::Empty
        }
        _ => {
            let fault = "is no Service, EndpointSlice, HTTPRoute or GRPCRoute; remove it";
            return Err(wrong(&object, fault).to_string());
        }
    })
}

fn wrong(object: &AnyObject, fault: &str) -> Problem {
    Problem { place: object.name(), fault: Fault::Other(fault.to_owned()) }
}

fn read(path: &Path, stamp: Stamp) -> Result<Vec<Delta>, String> {
    let text = manifests::read(path, stamp, MOST_MIB)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json { parse_json(&text) } else { parse(&text) }
}
