//! How each proxy is started: as its documentation advises for throughput, without access logs,
//! with connections to the origin that are kept.

pub(super) mod envoy;
pub(super) mod haproxy;
pub(super) mod nginx;
pub(super) mod redirect;
pub(super) mod weir;

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::proxy::Site;

/// Writes a configuration file.
fn write(site: &Site<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = site.dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}
