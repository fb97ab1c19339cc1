//! Pods without an API server: manifests in a directory, such as a kubelet's static pods, or those
//! written for containers of plain containerd.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::{Pods, seen::Seen};
use crate::admin::node::NodeState;
use crate::blocking::blocking;
use crate::manifests::{self, Stamp, Watch, first_line};

/// How often it is looked at where changes are not told.
const LOOK: Duration = Duration::from_millis(500);
/// Larger files are no pods.
const MOST_MIB: u64 = 1;

#[derive(Debug, Default)]
struct Directory {
    files: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    /// What it said when it was last understood.
    seen: Option<Seen>,
    problem: Option<String>,
}

/// Follows until the receiver is dropped.
pub(super) async fn follow(path: &Path, sender: watch::Sender<Pods>, state: &NodeState) {
    let (mut directory, mut watch) = (Directory::default(), Watch::new());
    loop {
        let owned = path.to_owned();
        let outcome;
        (directory, watch, outcome) = blocking(move || {
            watch.follow(&owned);
            let outcome = directory.look(&owned);
            (directory, watch, outcome)
        })
        .await;
        let mut problems = directory.problems();
        match outcome {
            Ok(()) => {
                let all = directory.pods();
                if sender.borrow().as_deref() != Some(&all)
                    && sender.send(Some(Arc::new(all))).is_err()
                {
                    return;
                }
            }
            // What it said before stays in force.
            Err(error) => problems.insert(0, format!("cannot read {}: {error}", path.display())),
        }
        let problem = Some(problems.join("; ")).filter(|problem| !problem.is_empty());
        if problem != state.problem()
            && let Some(problem) = &problem
        {
            tracing::warn!("{problem}");
        }
        state.set_problem(problem);
        watch.changed(LOOK).await;
    }
}

// === impl Directory ===

impl Directory {
    /// Reads what has changed.
    fn look(&mut self, path: &Path) -> io::Result<()> {
        let there = manifests::list(path)?;
        self.files.retain(|path, _| there.contains_key(path));
        for (path, stamp) in there {
            if self.files.get(&path).is_some_and(|entry| entry.stamp == stamp) {
                continue;
            }
            let before = self.files.remove(&path).and_then(|entry| entry.seen);
            let (seen, problem) = match read(&path, stamp) {
                Ok(seen) => (Some(seen), None),
                Err(problem) => (before, Some(problem)),
            };
            self.files.insert(path, Entry { stamp, seen, problem });
        }
        Ok(())
    }

    /// Where two files are of the same pod, the first one counts.
    fn pods(&self) -> Vec<Seen> {
        let mut pods: Vec<Seen> = Vec::new();
        for seen in self.files.values().filter_map(|entry| entry.seen.as_ref()) {
            if pods.iter().all(|other| other.workload() != seen.workload()) {
                pods.push(seen.clone());
            }
        }
        pods
    }

    fn problems(&self) -> Vec<String> {
        let problem = |(path, entry): (&PathBuf, &Entry)| {
            let problem = entry.problem.as_ref()?;
            let kept =
                if entry.seen.is_some() { "; its previous content remains in effect" } else { "" };
            Some(format!("{}: {problem}{kept}", path.display()))
        };
        self.files.iter().filter_map(problem).collect()
    }
}

// === helpers ===

fn read(path: &Path, stamp: Stamp) -> Result<Seen, String> {
    let text = manifests::read(path, stamp, MOST_MIB)?;
    // JSON is YAML too.
    let pod: Pod = serde_saphyr::from_str(&text).map_err(|error| first_line(&error))?;
    let uid_or_cgroup = "metadata.name is missing, or both metadata.uid and the annotation \
                         weir.dev/cgroup, which identify the cgroup";
    Seen::new(&pod, BTreeMap::new()).ok_or_else(|| uid_or_cgroup.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  uid: u\n";

    fn names(directory: &Directory) -> Vec<String> {
        directory.pods().iter().map(Seen::workload).collect()
    }

    #[test]
    fn manifests_come_change_and_go() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        let mut directory = Directory::default();
        directory.look(place.path()).unwrap();
        assert!(names(&directory).is_empty());
        fs::write(file("web.yaml"), WEB).unwrap();
        fs::write(file("db.json"), r#"{"metadata":{"name":"db","uid":"d"}}"#).unwrap();
        for other in [".web.yaml", "web.yaml~", "notes.txt"] {
            fs::write(file(other), "metadata: [").unwrap();
        }
        directory.look(place.path()).unwrap();
        assert_eq!(names(&directory), ["default.db", "default.web"]);
        assert!(directory.problems().is_empty());
        fs::write(file("web.yaml"), WEB.replace("web", "web-two")).unwrap();
        fs::remove_file(file("db.json")).unwrap();
        directory.look(place.path()).unwrap();
        assert_eq!(names(&directory), ["default.web-two"]);
    }

    #[test]
    fn what_is_not_understood_changes_nothing_and_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("web.yaml");
        let mut directory = Directory::default();
        fs::write(&file, WEB).unwrap();
        directory.look(place.path()).unwrap();
        for (bad, names_it) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: [\n", "line"),
            ("metadata:\n  name: 3\n  uid: u\n  annotations: {a: [b]}\n", "line"),
            ("metadata:\n  name: web\n", "weir.dev/cgroup"),
        ] {
            fs::write(&file, bad).unwrap();
            directory.look(place.path()).unwrap();
            assert_eq!(names(&directory), ["default.web"], "{bad}");
            let problems = directory.problems();
            assert!(problems[0].contains(names_it), "{problems:?}");
            assert!(problems[0].ends_with("previous content remains in effect"), "{problems:?}");
        }
        fs::write(&file, WEB).unwrap();
        directory.look(place.path()).unwrap();
        assert!(directory.problems().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let error = Directory::default().look(&place.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
