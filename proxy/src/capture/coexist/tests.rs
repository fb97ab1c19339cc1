//! With real cgroups and real programs: these tests need root, as `cargo xtask test` has it.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use weir_common::Direction;

use super::*;
use crate::capture::{
    cgroup,
    features::{Instruction, load},
};

const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_LINK_CREATE: libc::c_long = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_SKB: u32 = 8;

/// A cgroup; removed on drop.
struct Group(PathBuf);

impl Group {
    fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Below the root, with the process id in its name.
    fn top(name: &str) -> Self {
        Self::new(&cgroup::mount_point().unwrap(), &format!("weirt-{}-{name}", std::process::id()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// A connect4 program that lets everything pass, attached by a link until dropped.
fn attached(cgroup: &Path, name: &str) -> (u32, OwnedFd) {
    attached_to(cgroup, (CGROUP_SOCK_ADDR, Hook::Connect4), name)
}

/// The same on any hook.
fn attached_to(cgroup: &Path, (kind, at): (u32, Hook), name: &str) -> (u32, OwnedFd) {
    let pass = [Instruction::answer(1), Instruction::EXIT];
    let hook = at as u32;
    let program = load((kind, hook), name, &pass).unwrap();
    let dir = File::open(cgroup).unwrap();
    let [program_fd, dir_fd] =
        [program.as_raw_fd(), dir.as_raw_fd()].map(|fd| u32::try_from(fd).unwrap());
    let attr: [u32; 4] = [program_fd, dir_fd, hook, 0];
    // SAFETY: `link_create` of `union bpf_attr`: program, target, attach type, flags.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attr.as_ptr(), 16) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: just made.
    let link = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
    // The newest comes last.
    let id = query::cgroup_programs(cgroup, at, false).unwrap().pop().unwrap().id;
    (id, link)
}

#[test]
fn another_weir_is_found_here_above_and_below_and_nowhere_else() {
    let top = Group::top("overlap");
    let middle = Group::new(&top.0, "middle");
    let leaf = Group::new(&middle.0, "leaf");
    let beside = Group::new(&top.0, "beside");
    let look = |group: &Group| overlapping(&group.0).unwrap();
    assert_eq!(look(&middle), None);

    let _foreign = attached(&middle.0, "cil_sock4");
    assert_eq!(look(&middle), None, "a program of others is no weir");

    let (program, link) = attached(&middle.0, "weir_connect4");
    let found = |relation| Some(Overlap { cgroup: middle.0.clone(), program, relation });
    assert_eq!(look(&middle), found(Relation::Same));
    assert_eq!(look(&leaf), found(Relation::Above));
    assert_eq!(look(&top), found(Relation::Below));
    assert_eq!(look(&beside), None, "siblings do not meet");

    let second = attached(&leaf.0, "weir_connect4_of_another");
    let relations: Vec<_> = overlaps(&middle.0).unwrap().iter().map(|o| o.relation).collect();
    assert_eq!(relations, [Relation::Same, Relation::Below]);
    drop(second);

    drop(link);
    // A child of another test has a copy of every descriptor until it execs.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Some(left) = look(&middle) {
        assert!(Instant::now() < deadline, "not gone with its link: {left:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Guards against connections for a service that get past its `IPAddressDeny=`.
#[test]
fn programs_that_see_packets_of_the_cgroup_and_not_weirs_are_filters() {
    let top = Group::top("filter");
    let leaf = Group::new(&top.0, "leaf");
    let look = |group: &Group, direction, below| {
        let found = filters(&group.0, direction, below).unwrap();
        assert!(!found.shared);
        found.apart
    };
    let (outbound, inbound) = (Direction::Outbound, Direction::Inbound);
    assert!(look(&top, outbound, true).is_empty());
    let (id, _link) = attached_to(&leaf.0, (CGROUP_SKB, Hook::Egress), "sd_fw_egress");
    let named = [format!("sd_fw_egress (id {id})")];
    assert_eq!(look(&leaf, outbound, false), named);
    assert!(look(&leaf, inbound, true).is_empty(), "it sees what leaves");
    assert_eq!(look(&top, outbound, true), named, "below");
    assert!(look(&top, outbound, false).is_empty());
    let (id, _link) = attached_to(&top.0, (CGROUP_SKB, Hook::Ingress), "sd_fw_ingress");
    assert_eq!(look(&leaf, inbound, false), [format!("sd_fw_ingress (id {id})")], "above");
    let survey = filters::findings(&leaf.0);
    assert_eq!(survey.len(), 2, "{survey:?}");
}

#[test]
fn an_exclusive_program_is_an_obstacle_where_the_kernel_says_so() {
    let top = Group::top("obstacle");
    let middle = Group::new(&top.0, "middle");
    let leaf = Group::new(&middle.0, "leaf");
    assert_eq!(obstacle(&leaf.0, false), None);
    let pass = [Instruction::answer(1), Instruction::EXIT];
    let hook = Hook::Getpeername6 as u32;
    let program = load((CGROUP_SOCK_ADDR, hook), "lonely", &pass).unwrap();
    let dir = File::open(&middle.0).unwrap();
    let [dir_fd, program_fd] =
        [dir.as_raw_fd(), program.as_raw_fd()].map(|fd| u32::try_from(fd).unwrap());
    // Target, program, attach type, no flags. It goes with the cgroup.
    let attr: [u32; 4] = [dir_fd, program_fd, hook, 0];
    // SAFETY: the part of `union bpf_attr` for attaching, as long as said.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, attr.as_ptr(), 16) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    for (group, relation) in [(&middle, "here"), (&leaf, "above")] {
        let why = obstacle(&group.0, false).unwrap();
        assert!(why.starts_with("lonely (id ") && why.contains("on getpeername6"), "{why}");
        assert!(why.contains(relation) && why.contains("BPF_F_ALLOW_MULTI"), "{why}");
    }
    assert_eq!(obstacle(&top.0, false), None, "below is not in the way");
}

#[test]
fn effective_programs_come_leaf_first() {
    let top = Group::top("order");
    let leaf = Group::new(&top.0, "leaf");
    let (above, _above) = attached(&top.0, "above");
    let (first, _first) = attached(&leaf.0, "first");
    let (second, _second) = attached(&leaf.0, "second");
    let ids: Vec<_> = query::cgroup_programs(&leaf.0, Hook::Connect4, true)
        .unwrap()
        .iter()
        .map(|program| program.id)
        .collect();
    assert!(ids.starts_with(&[first, second, above]), "{ids:?}");
    let here = query::cgroup_here(&leaf.0, Hook::Connect4).unwrap();
    assert_eq!((here.mode, here.programs.len()), (query::Mode::Multi, 2));
}

#[test]
fn programs_tell_their_name_and_maps() {
    let top = Group::top("info");
    let (id, _link) = attached(&top.0, "weir_connect4_and_more");
    let program = query::program(id).unwrap();
    assert_eq!((program.name.as_str(), program.kind), ("weir_connect4_a", CGROUP_SOCK_ADDR));
    assert_eq!((program.id, program.uid, program.maps.len()), (id, 0, 0));
    assert!(program.loaded_ns > 0);
}

#[test]
fn what_is_no_cgroup_says_what_to_do() {
    let error = overlapping(Path::new("/proc")).unwrap_err().to_string();
    assert!(error.starts_with("cannot query the programs attached to /proc: "), "{error}");
}
