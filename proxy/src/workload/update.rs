//! Settings and port states that change while the workload is captured.
//!
//! Each entry of a list is a system call, so that changes are made on threads of their own.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{TemporaryPort, Workload, configure, lock, temporary::Temporary};
use crate::{
    blocking::blocking,
    capture::CaptureError,
    config::{Fail, WorkloadSettings},
    decision::Source,
    ports::{PortChange, PortPolicy, PortStatus, PortsReset, PortsSet},
};

impl Workload {
    /// Whether other settings can be put in force without capturing it again. New connections get
    /// what is new, open ones stay as they are.
    #[must_use]
    pub fn can_change_to(&self, wanted: &WorkloadSettings) -> bool {
        self.with_changes_of(wanted) == *wanted
    }

    /// Its settings, with those of `wanted` that change in place.
    #[must_use]
    pub fn with_changes_of(&self, wanted: &WorkloadSettings) -> WorkloadSettings {
        self.settings().with_changes_in_place(wanted)
    }

    /// Puts settings in force that it [can change to](Self::can_change_to). Ports that were set with
    /// `weir ports` stay as they are.
    ///
    /// # Errors
    /// Where a map cannot be written; what was in force before is then put back as far as possible.
    pub async fn change(self: &Arc<Self>, wanted: WorkloadSettings) -> Result<(), CaptureError> {
        let workload = Arc::clone(self);
        blocking(move || workload.rewrite(wanted)).await
    }

    /// Puts ports into a state, in one direction or both; new connections get it at once, in the
    /// kernel. Returns what has changed.
    ///
    /// # Errors
    /// Where a map cannot be written; nothing is changed then, in either direction.
    pub async fn set_ports(
        self: &Arc<Self>,
        change: PortsSet,
        source: Source,
    ) -> Result<Vec<PortChange>, CaptureError> {
        let workload = Arc::clone(self);
        blocking(move || workload.write_ports(&change, source)).await
    }

    /// Puts ports back to what the configuration says, in the kernel too. Returns what has changed.
    ///
    /// # Errors
    /// Where a map cannot be written; nothing is changed then, in either direction.
    pub async fn reset_ports(
        self: &Arc<Self>,
        reset: PortsReset,
    ) -> Result<Vec<PortChange>, CaptureError> {
        let workload = Arc::clone(self);
        blocking(move || {
            workload.change_ports(|next, temporary| workload.reset(&reset, next, temporary))
        })
        .await
    }

    /// Puts ports back whose time is over. Returns what has changed.
    ///
    /// # Errors
    /// Where a map cannot be written; nothing is changed then.
    pub async fn expire_ports(self: &Arc<Self>) -> Result<Vec<PortChange>, CaptureError> {
        let workload = Arc::clone(self);
        blocking(move || {
            let configured = workload.configured_policy();
            workload.change_ports(|next, temporary| {
                let over = temporary.over().into_iter();
                let put_back = |TemporaryPort { direction, port, before }| {
                    temporary.forget(direction, port);
                    next.put_back(direction, port, before, &configured)
                };
                over.filter_map(put_back).collect()
            })
        })
        .await
    }

    fn write_ports(
        &self,
        change: &PortsSet,
        source: Source,
    ) -> Result<Vec<PortChange>, CaptureError> {
        let deadline =
            change.lifetime_s.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        self.change_ports(|next, temporary| {
            let mut changes = Vec::new();
            for direction in change.directions() {
                let before: Vec<_> = change
                    .ports
                    .iter()
                    .map(|port| (port, next.set_at_run_time(direction, port)))
                    .collect();
                let changed = next.set(direction, &change.ports, change.state, source);
                for (port, before) in before {
                    let is_changed = || changed.binary_search_by_key(&port, |it| it.port).is_ok();
                    match deadline {
                        None => drop(temporary.forget(direction, port)),
                        // What a port has for good it does not have for a time.
                        Some(deadline) if temporary.has(direction, port) || is_changed() => {
                            temporary.set(direction, port, deadline, before);
                        }
                        Some(_) => {}
                    }
                }
                changes.extend(changed);
            }
            changes
        })
    }

    fn reset(
        &self,
        reset: &PortsReset,
        next: &mut PortPolicy,
        temporary: &mut Temporary,
    ) -> Vec<PortChange> {
        let configured = self.configured_policy();
        let mut changes = Vec::new();
        for direction in reset.directions() {
            let wanted =
                |port: &u16| reset.ports.as_ref().is_none_or(|ports| ports.contains(*port));
            let ports: Vec<_> = next.run_time_ports(direction).filter(wanted).collect();
            for port in ports {
                temporary.forget(direction, port);
                changes.extend(next.put_back(direction, port, None, &configured));
            }
        }
        changes
    }

    /// Changes the policy, in the kernel too, and what of it does not last.
    fn change_ports(
        &self,
        change: impl FnOnce(&mut PortPolicy, &mut Temporary) -> Vec<PortChange>,
    ) -> Result<Vec<PortChange>, CaptureError> {
        let _one_at_a_time = lock(&self.changing);
        let before = self.policy();
        let (mut next, mut temporary) = (before.clone(), lock(&self.temporary).clone());
        let lasting = temporary.clone();
        let changes = change(&mut next, &mut temporary);
        let kept = temporary.all() != lasting.all();
        // A weir that is killed in between comes back without anything that does not last.
        *lock(&self.temporary) = temporary.union(&lasting);
        let written = self.keep_temporary(kept).and_then(|()| {
            self.kernel.ports.reserve(&next)?;
            write_all(&changes, |change, status| self.write_port(change, status))
        });
        *lock(&self.temporary) = if written.is_ok() { temporary } else { lasting };
        if let Err(error) = written {
            // What is there fits: it was there before.
            let _ = self.kernel.ports.reserve(&before);
            let _ = self.keep_temporary(kept);
            return Err(error);
        }
        *lock(&self.policy) = next;
        // What lasts now, and is not known to, is put back at a restart: no reason to undo it.
        let _ = self.keep_temporary(kept);
        Ok(changes)
    }

    /// Keeps what does not last for the time after a restart.
    fn keep_temporary(&self, changed: bool) -> Result<(), CaptureError> {
        if !changed {
            return Ok(());
        }
        let own = Some(self.shared.instance.programs());
        self.description(&self.settings(), self.origin, own).keep(&self.kernel)
    }

    fn write_port(&self, change: &PortChange, status: PortStatus) -> Result<(), CaptureError> {
        let PortStatus { state, source, included } = status;
        self.kernel.ports.set(change.direction, change.port, state, source, included)
    }

    fn rewrite(&self, wanted: WorkloadSettings) -> Result<(), CaptureError> {
        let _one_at_a_time = lock(&self.changing);
        let policy = self.policy();
        let now = self.settings();
        let next = wanted.port_policy(self.origin.source()).with_ports_set_in(&policy);
        let switches = self.switches();
        let own = Some(self.shared.instance.programs());
        let keep = |settings| self.description(settings, self.origin, own).keep(&self.kernel);
        // Kept first: a weir that is killed once its maps are written comes back with what they say.
        let written = keep(&wanted).and_then(|()| {
            configure::rewrite(&self.kernel, (&now, &wanted), (&policy, &next), switches)
        });
        if let Err(error) = written {
            let _ = keep(&now);
            let back = (&wanted, &*now);
            let _ = configure::rewrite(&self.kernel, back, (&next, &policy), switches);
            return Err(error);
        }
        *lock(&self.policy) = next;
        let fails_closed = wanted.workload.fail == Fail::Closed;
        self.slots.fails_closed.store(fails_closed, Ordering::Relaxed);
        self.balance.set(wanted.outbound.balance);
        let format = wanted.workload.record_format;
        self.shared.telemetry.set_record_format(self.name(), format);
        *lock(&self.settings) = Arc::new(wanted);
        Ok(())
    }
}

// === helpers ===

/// Writes what each change leads to; where one cannot be written, what it came from of those
/// before.
fn write_all<E>(
    changes: &[PortChange],
    write: impl Fn(&PortChange, PortStatus) -> Result<(), E>,
) -> Result<(), E> {
    for (at, change) in changes.iter().enumerate() {
        if let Err(error) = write(change, change.after) {
            for change in changes[..at].iter().rev() {
                let _ = write(change, change.before);
            }
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use super::*;
    use crate::{
        decision::{Direction, PortState},
        ports::{PolicyInput, PortSet},
    };

    /// Guards against a change of both directions of which the first half stays.
    #[test]
    fn what_cannot_be_written_as_a_whole_leaves_nothing_changed() {
        let ports: PortSet = (8000..8004).collect();
        let mut policy =
            PortPolicy::new(PolicyInput::default(), PolicyInput::default(), Source::Config);
        let changes: Vec<PortChange> = [Direction::Outbound, Direction::Inbound]
            .into_iter()
            .flat_map(|direction| policy.set(direction, &ports, PortState::Skip, Source::Cli))
            .collect();
        assert_eq!(changes.len(), 8);
        for room in 0..=changes.len() {
            let map = RefCell::new(BTreeMap::new());
            let left = RefCell::new(room);
            let wrote: Result<(), &str> = write_all(&changes, |change, status| {
                if status == change.after {
                    let left = &mut *left.borrow_mut();
                    *left = left.checked_sub(1).ok_or("no room")?;
                }
                map.borrow_mut().insert((change.direction, change.port), status);
                Ok(())
            });
            assert_eq!(wrote.is_ok(), room == changes.len());
            for change in &changes {
                let found = map.borrow().get(&(change.direction, change.port)).copied();
                match wrote {
                    Ok(()) => assert_eq!(found, Some(change.after)),
                    Err(_) => assert!(found.is_none_or(|it| it == change.before), "{room}"),
                }
            }
        }
    }
}
