use std::{collections::*, io, net::*, path::*};
pub struct Listener { pub address: SocketAddr, pub v6_only: bool, pub cgroup: Option<u64>, pub device: u32 }
pub fn listeners() -> io::Result<Vec<Listener>> { Ok(Default::default()) }
pub fn cgroup_ids(_c: &Path) -> io::Result<HashSet<u64>> { Ok(Default::default()) }
