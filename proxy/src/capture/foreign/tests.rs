//! With real cgroups and real programs: these tests need root, as `cargo xtask test` has it.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use weir_common::Direction;

use super::{
    testing::{CGROUP_SKB, CGROUP_SOCK_ADDR, Group, attached, attached_to},
    *,
};
use crate::capture::trial::{Instruction, load};

const BPF_PROG_ATTACH: libc::c_long = 8;

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
        let found = filters(&group.0, below).unwrap();
        let (_, found) = found.into_iter().find(|(it, _)| *it == direction).unwrap();
        assert!(!found.shared);
        found.apart
    };
    let (outbound, inbound) = (Direction::Outbound, Direction::Inbound);
    assert!(look(&top, outbound, true).is_empty());
    let (id, _link) = attached_to(&leaf.0, (CGROUP_SKB, AttachType::Egress), "sd_fw_egress");
    let named = [format!("sd_fw_egress (id {id})")];
    assert_eq!(look(&leaf, outbound, false), named);
    assert!(look(&leaf, inbound, true).is_empty(), "it sees what leaves");
    assert_eq!(look(&top, outbound, true), named, "below");
    assert!(look(&top, outbound, false).is_empty());
    let (id, _link) = attached_to(&top.0, (CGROUP_SKB, AttachType::Ingress), "sd_fw_ingress");
    assert_eq!(look(&leaf, inbound, false), [format!("sd_fw_ingress (id {id})")], "above");
}

#[test]
fn an_exclusive_program_is_an_obstacle_where_the_kernel_says_so() {
    let top = Group::top("obstacle");
    let middle = Group::new(&top.0, "middle");
    let leaf = Group::new(&middle.0, "leaf");
    assert_eq!(obstacle(&leaf.0, false), None);
    let pass = [Instruction::answer(1), Instruction::EXIT];
    let hook = AttachType::Getpeername6 as u32;
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
    let ids: Vec<_> = query::cgroup_programs(&leaf.0, AttachType::Connect4, true)
        .unwrap()
        .iter()
        .map(|program| program.id)
        .collect();
    assert!(ids.starts_with(&[first, second, above]), "{ids:?}");
    let here = query::cgroup_here(&leaf.0, AttachType::Connect4).unwrap();
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
