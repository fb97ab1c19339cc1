//! What a weir holds at a moment: memory, descriptors, threads, entries of its BPF maps, connections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, LpmTrie, Map, MapData};
use weir_common::{ConnectionKey, DestinationKey, Listening, OriginalDestination, maps};

use crate::daemon::Daemon;
use crate::left::pins;
use crate::netns::Netns;

/// At one moment.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// Proportional set size, KiB (proc(5), `smaps_rollup`). Another weir on the machine has its
    /// part in the program's own pages, so that this changes when one comes or goes.
    pub pss: u64,
    /// Of that what is no file's: heap and stacks.
    pub anonymous: u64,
    /// Open descriptors but those that are kept.
    pub descriptors: usize,
    /// Those kept for the next connections: pipes, and sockets that are neither bound nor connected.
    /// weir has a bound for each, and makes new ones ahead, so that they are not always as many.
    pub kept: usize,
    /// Threads; those for what may block come and go.
    pub threads: usize,
    /// Connections that weir says are open.
    pub connections: u64,
    /// Entries of the maps that connections write to, by name.
    pub entries: BTreeMap<&'static str, usize>,
}

// === impl Holdings ===

impl Holdings {
    /// Of a weir that runs.
    ///
    /// # Errors
    ///
    /// Fails when it has gone, or its maps are not where they should be.
    pub fn of(daemon: &Daemon, namespaces: &[&Netns]) -> Result<Self> {
        let process = Path::new("/proc").join(daemon.process.pid().to_string());
        let memory =
            fs::read_to_string(process.join("smaps_rollup")).context("cannot read smaps_rollup")?;
        let kibibytes = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} in smaps_rollup"))
        };
        let (kept, descriptors) = descriptors(&process.join("fd"), namespaces)?;
        let status = daemon.json(&["status"])?;
        let connections = status["status"]["open_connections"].as_u64();
        let dir = maps_of(daemon)?;
        let mut entries = BTreeMap::new();
        for name in [maps::PENDING, maps::FAILED, maps::LEARNED, maps::INSIDE, maps::LISTENING] {
            entries.insert(name, entries_of(&dir, name)?);
        }
        Ok(Self {
            pss: kibibytes("Pss:")?,
            anonymous: kibibytes("Pss_Anon:")?,
            descriptors,
            kept,
            threads: fs::read_dir(process.join("task"))?.count(),
            connections: connections.with_context(|| format!("no open_connections: {status}"))?,
            entries,
        })
    }

    /// No connection is open, or on its way from the hook to weir.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.connections == 0 && self.entries[maps::PENDING] == 0
    }

    /// Whether all that connections must give back is the same.
    #[must_use]
    pub fn is_as_before(&self, other: &Self) -> bool {
        let mine = (self.descriptors, self.connections, &self.entries);
        mine == (other.descriptors, other.connections, &other.entries)
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pss, anonymous, descriptors, kept, threads, connections, entries } = self;
        write!(
            f,
            "{pss} KiB PSS, {anonymous} KiB anonymous, {descriptors} descriptors and {kept} kept, \
             {threads} threads, {connections} open, {entries:?}"
        )
    }
}

/// Where a weir's maps are pinned.
///
/// # Errors
///
/// Fails when there are none, or maps of several layouts.
pub fn maps_of(daemon: &Daemon) -> Result<PathBuf> {
    let root = pins(daemon.instance())?.into_iter().next().context("nothing is pinned")?;
    let schemas = fs::read_dir(&root)?.filter_map(|entry| Some(entry.ok()?.path().join("maps")));
    let mut dirs: Vec<PathBuf> = schemas.filter(|dir| dir.is_dir()).collect();
    ensure!(dirs.len() == 1, "one layout of maps expected in {}: {dirs:?}", root.display());
    dirs.pop().context("just counted")
}

/// How many entries one of the maps has that connections write to, below [`maps_of`].
///
/// # Errors
///
/// Fails when it is not there, or has another layout.
pub fn entries_of(dir: &Path, name: &'static str) -> Result<usize> {
    let data = MapData::from_pin(dir.join(name)).with_context(|| format!("no map {name}"))?;
    match name {
        maps::PENDING => keys::<ConnectionKey, OriginalDestination>(Map::HashMap(data)),
        maps::FAILED | maps::LEARNED => keys::<DestinationKey, u64>(Map::HashMap(data)),
        maps::INSIDE => prefixes::<DestinationKey, u8>(Map::LpmTrie(data)),
        _ => keys::<DestinationKey, Listening>(Map::HashMap(data)),
    }
    .with_context(|| format!("map {name}"))
}

// === helpers ===

/// Those kept for the next connection, and all others.
fn descriptors(dir: &Path, namespaces: &[&Netns]) -> Result<(usize, usize)> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    // One that is closed between the list and the look is not counted.
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let targets: Vec<String> =
        targets.map(|target| target.to_string_lossy().into_owned()).collect();
    let mut busy = BTreeSet::new();
    for netns in namespaces {
        busy.extend(netns.socket_inodes()?);
    }
    let is_kept = |target: &&String| {
        let socket = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let inode = socket.and_then(|inode| inode.parse::<u64>().ok());
        target.starts_with("pipe:") || inode.is_some_and(|inode| !busy.contains(&inode))
    };
    let kept = targets.iter().filter(is_kept).count();
    Ok((kept, targets.len() - kept))
}

fn prefixes<K: Pod, V: Pod>(map: Map) -> Result<usize> {
    let map = LpmTrie::<MapData, K, V>::try_from(map)?;
    Ok(map.keys().filter_map(Result::ok).count())
}

fn keys<K: Pod, V: Pod>(map: Map) -> Result<usize> {
    let map = HashMap::<MapData, K, V>::try_from(map)?;
    // An entry that goes while the list is walked ends the walk early or begins it anew.
    Ok(map.keys().filter_map(Result::ok).count())
}
