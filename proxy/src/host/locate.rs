//! The cgroup of what an operator names: a unit of systemd, a process, a container of Docker or
//! Podman. Only reads: cgroupfs, `/proc`, and what the container runtimes keep on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{HostError, cgroup};

/// Hexadecimal digits of an abbreviated container id, as `docker ps` shows it.
const ID_DIGITS: usize = 12;
/// Users may name their own cgroups as they like, below this one.
const OF_USERS: &str = "user.slice";
/// What systemd calls its units; a name without any is a service.
const UNIT_TYPES: [&str; 3] = [".service", ".scope", ".slice"];

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A unit of systemd that has processes.
    Unit(String),
    /// The cgroup of a process.
    Process(u32),
    /// A container, by name or by id.
    Container(String),
}

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// Not running, or mistyped.
    #[error(
        "no unit {unit:?} has a cgroup below {}: start it, or correct its name (`systemctl \
         list-units`); to wait for one, pass its path with --cgroup, such as {}/system.slice/{unit}",
        root.display(), root.display()
    )]
    NoUnit {
        /// The unit.
        unit: String,
        /// Where cgroups are.
        root: PathBuf,
    },
    /// More than one has the name.
    #[error(
        "{name:?} is the name of several cgroups: {}; pass one of them with --cgroup",
        listed(paths)
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// All of them.
        paths: Vec<PathBuf>,
    },
    /// Ended, or in another PID namespace.
    #[error(
        "no process {0}; pass the number of one that is running, as weir's PID namespace has it"
    )]
    NoProcess(u32),
    /// It shares its cgroup with all that is in none.
    #[error(
        "process {0} is in the root cgroup, with all that is in no other; start it in a cgroup of its \
         own, such as with `systemd-run --scope`, or use `weir exec`"
    )]
    Root(u32),
    /// No runtime knows it, or it does not run.
    #[error(
        "no running container {name:?}: neither Docker ({}) nor Podman ({}) has one of this name with \
         a cgroup; pass its id of at least {ID_DIGITS} digits, or its cgroup with --cgroup",
        docker.display(), podman.display()
    )]
    NoContainer {
        /// The name or id.
        name: String,
        /// Where Docker keeps its own.
        docker: PathBuf,
        /// Where Podman does.
        podman: PathBuf,
    },
    /// No cgroup v2.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Where things are.
#[derive(Clone, Debug)]
struct Places {
    cgroups: PathBuf,
    proc: PathBuf,
    docker: PathBuf,
    podman: PathBuf,
}

/// What is needed of Docker's `config.v2.json`, one for each container.
#[derive(Deserialize)]
struct DockerContainer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
}

/// What is needed of Podman's `containers.json` (containers/storage).
#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

// === impl Named ===

impl Named {
    /// Its cgroup.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn locate(&self) -> Result<PathBuf, LocateError> {
        Places {
            cgroups: cgroup::mount_point()?,
            proc: "/proc".into(),
            docker: "/var/lib/docker/containers".into(),
            podman: "/var/lib/containers/storage".into(),
        }
        .find(self)
    }
}

// === impl Places ===

impl Places {
    fn find(&self, named: &Named) -> Result<PathBuf, LocateError> {
        match named {
            Named::Unit(unit) => self.unit(unit),
            Named::Process(pid) => self.process(*pid),
            Named::Container(name) => self.container(name),
        }
    }

    fn unit(&self, unit: &str) -> Result<PathBuf, LocateError> {
        let has_type = UNIT_TYPES.iter().any(|end| unit.ends_with(end));
        let unit = if has_type { unit.to_owned() } else { format!("{unit}.service") };
        let found = self.only(&unit, |name| name == unit)?;
        found.ok_or_else(|| LocateError::NoUnit { unit, root: self.cgroups.clone() })
    }

    fn process(&self, pid: u32) -> Result<PathBuf, LocateError> {
        let table = fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup"));
        let table = table.map_err(|_| LocateError::NoProcess(pid))?;
        let path = table.lines().find_map(|line| line.strip_prefix("0::/"));
        match path.ok_or(LocateError::Host(HostError::NoCgroup2))? {
            "" => Err(LocateError::Root(pid)),
            path => Ok(self.cgroups.join(path)),
        }
    }

    fn container(&self, name: &str) -> Result<PathBuf, LocateError> {
        let is_id = name.len() >= ID_DIGITS && name.chars().all(|c| c.is_ascii_hexdigit());
        let mut ids: Vec<String> = self.docker(name).chain(self.podman(name)).collect();
        if is_id {
            ids.push(name.to_ascii_lowercase());
        }
        for id in ids {
            // `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, or the id alone.
            let is_named = |name: &str| {
                let plain = name.strip_suffix(".scope").unwrap_or(name);
                plain.rsplit('-').next().is_some_and(|it| it.starts_with(&id))
            };
            if let Some(found) = self.only(name, is_named)? {
                return Ok(found);
            }
        }
        let (docker, podman) = (self.docker.clone(), self.podman.clone());
        Err(LocateError::NoContainer { name: name.to_owned(), docker, podman })
    }

    /// Ids of Docker's containers of this name.
    fn docker(&self, name: &str) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.docker).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(move |entry| {
            let text = fs::read(entry.path().join("config.v2.json")).ok()?;
            let found: DockerContainer = serde_json::from_slice(&text).ok()?;
            (found.name.trim_start_matches('/') == name).then_some(found.id)
        })
    }

    /// Ids of Podman's containers of this name. Each storage driver has a list, such as
    /// `overlay-containers`.
    fn podman(&self, name: &str) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(&self.podman).into_iter().flatten().filter_map(Result::ok);
        let all = entries.filter_map(|entry| {
            let is_list = entry.file_name().as_encoded_bytes().ends_with(b"-containers");
            let text = is_list.then(|| fs::read(entry.path().join("containers.json")).ok())??;
            serde_json::from_slice::<Vec<PodmanContainer>>(&text).ok()
        });
        let is_it = move |it: &PodmanContainer| it.names.iter().any(|other| other == name);
        all.flatten().filter(is_it).map(|it| it.id).collect::<Vec<_>>().into_iter()
    }

    /// The one cgroup whose directory has such a name. What is below it is its own.
    fn only(
        &self,
        name: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Option<PathBuf>, LocateError> {
        let mut found = Vec::new();
        search(&self.cgroups, &wanted, &mut found);
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(LocateError::Ambiguous { name: name.to_owned(), paths: found }),
        }
    }
}

// === helpers ===

/// Directories with such a name at or below another one. What goes away meanwhile is passed over.
fn search(below: &Path, wanted: &impl Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(below)?.filter_map(Result::ok);
        let is_directory = |it: &fs::DirEntry| it.file_type().is_ok_and(|kind| kind.is_dir());
        Ok(entries.filter(is_directory).map(|entry| entry.path()).collect())
    };
    let mut directories = read().unwrap_or_default();
    directories.sort();
    for path in directories {
        match path.file_name().and_then(|name| name.to_str()) {
            Some(OF_USERS) | None => {}
            Some(name) if wanted(name) => found.push(path),
            Some(_) => search(&path, wanted, found),
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1c8a9be02d7d5c1a3b9e8f7061524334251607f8e9b3a1c5d7d20eb9a8c1f4";

    fn places(directory: &Path) -> Places {
        let places = Places {
            cgroups: directory.join("cgroup"),
            proc: directory.join("proc"),
            docker: directory.join("docker"),
            podman: directory.join("storage"),
        };
        for path in [
            "system.slice/shop.service/worker",
            "system.slice/twice.service",
            "other.slice/twice.service",
            "user.slice/user-1000.slice/mine.service",
            &format!("system.slice/docker-{ID}.scope"),
        ] {
            fs::create_dir_all(places.cgroups.join(path)).unwrap();
        }
        places
    }

    fn located(places: &Places, named: &Named) -> Result<String, String> {
        let found = places.find(named).map_err(|error| error.to_string())?;
        let below = found.strip_prefix(&places.cgroups).unwrap();
        Ok(below.display().to_string())
    }

    #[test]
    fn a_unit_is_found_by_name_and_not_below_users_own() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let unit = |name: &str| located(&places, &Named::Unit(name.to_owned()));
        let found = "system.slice/shop.service";
        assert_eq!(
            (unit("shop").as_deref(), unit("shop.service").as_deref()),
            (Ok(found), Ok(found))
        );
        assert_eq!(unit("system.slice").as_deref(), Ok("system.slice"));
        for (name, words) in [
            ("mine", "/system.slice/mine.service"),
            ("worker", "no unit \"worker.service\""),
            ("twice", "several cgroups"),
        ] {
            let error = unit(name).unwrap_err();
            assert!(error.contains(words), "{name}: {error}");
        }
    }

    #[test]
    fn a_process_is_where_the_kernel_says() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        for (pid, table) in [(7, "4:memory:/x\n0::/system.slice/shop.service\n"), (8, "0::/\n")] {
            let path = places.proc.join(pid.to_string());
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup"), table).unwrap();
        }
        let process = |pid| located(&places, &Named::Process(pid));
        assert_eq!(process(7).as_deref(), Ok("system.slice/shop.service"));
        assert!(process(8).unwrap_err().contains("root cgroup"));
        assert!(process(9).unwrap_err().contains("no process 9"));
    }

    #[test]
    fn a_container_is_found_by_its_runtimes_name_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let container = |name: &str| located(&places, &Named::Container(name.to_owned()));
        let found = format!("system.slice/docker-{ID}.scope");
        assert!(container("shop").unwrap_err().contains("no running container \"shop\""));
        let of_docker = places.docker.join(ID);
        fs::create_dir_all(&of_docker).unwrap();
        let text = format!(r#"{{"ID":"{ID}","Name":"/shop","State":{{"Running":true}}}}"#);
        fs::write(of_docker.join("config.v2.json"), text).unwrap();
        let text = format!(r#"[{{"id":"{ID}","names":["cart"],"layer":"x"}}]"#);
        let list = places.podman.join("vfs-containers");
        fs::create_dir_all(&list).unwrap();
        fs::write(list.join("containers.json"), text).unwrap();
        for name in ["shop", "cart", ID, &ID[..12]] {
            assert_eq!(container(name).as_deref(), Ok(&*found), "{name}");
        }
        assert!(container(&ID[..11]).is_err(), "too short to be meant as an id");
        fs::remove_dir(places.cgroups.join(&found)).unwrap();
        assert!(container("shop").is_err(), "it does not run");
    }
}
