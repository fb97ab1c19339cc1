//! A handover as the new process sees it: one connection to the old one from the first call to the
//! last, by which each notices that the other is gone.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::DaemonError;
use crate::{
    admin::{
        client::{ClientError, Connection, ask},
        protocol::{ErrorCode, HandOver, HandingOver, Retire},
    },
    blocking::blocking,
    capture::{self, CaptureError, detach},
    workloads::Workloads,
};

/// How long a weir that ends may take from its last answer until its locks are free, and one whose
/// new process was killed until it can be asked again.
const DYING: Duration = Duration::from_secs(5);
/// Between two looks whether they are.
const PAUSE: Duration = Duration::from_millis(20);

/// A weir that has been asked to hand over and still serves.
pub(super) struct OldProcess {
    control: PathBuf,
    connection: Connection,
}

// === impl OldProcess ===

impl OldProcess {
    /// Asks the weir that serves the instance to hand over; `None` where there is none.
    ///
    /// # Errors
    /// Where it refuses or does not answer.
    pub(super) async fn of(instance: &str) -> Result<Option<Self>, DaemonError> {
        let instance = instance.to_owned();
        blocking(move || ask_to_hand_over(&instance)).await
    }

    /// Its control socket.
    pub(super) fn control(&self) -> &Path {
        &self.control
    }

    /// Tells it that everything is captured here. One that is gone or hangs is not waited for: its
    /// connections come here already. One that hangs retires when it goes on, if it finds that the
    /// connection lasts: it is to be kept.
    ///
    /// # Errors
    /// Where it refuses: then it captures itself, as before.
    pub(super) async fn retire(
        self,
        workloads: &Workloads,
    ) -> Result<Option<Connection>, DaemonError> {
        let Self { control, mut connection } = self;
        let retire = Retire { schema: workloads.instance().pins().schema().to_owned() };
        let again = retire.clone();
        let (answer, connection) = blocking(move || {
            let answer = connection.ask(None, &retire);
            (answer, connection)
        })
        .await;
        let error = match answer {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        if is_gone(workloads, &error) {
            return Ok(None);
        }
        if error.is_silence() {
            tracing::warn!(%error, "the old process does not answer; continuing without it");
            return Ok(Some(connection));
        }
        // One of an earlier version closes a connection that is silent for ten seconds.
        let answer = match error {
            error @ ClientError::Refused(_) => Err(error),
            _ => blocking(move || ask(&control, None, &again)).await,
        };
        match answer {
            Ok(_) => Ok(None),
            Err(error @ ClientError::Refused(_)) => Err(DaemonError::Handover(error)),
            Err(error) => {
                if !is_gone(workloads, &error) {
                    tracing::warn!(%error, "cannot talk to the old process; continuing");
                }
                Ok(None)
            }
        }
    }
}

// === helpers ===

fn ask_to_hand_over(instance: &str) -> Result<Option<OldProcess>, DaemonError> {
    let Some(control) = capture::control_socket(instance)? else { return Ok(None) };
    let deadline = Instant::now() + DYING;
    loop {
        let asked = Connection::open(&control).and_then(|mut connection| {
            let HandingOver { pid } = connection.ask(None, &HandOver)?;
            Ok((pid, connection))
        });
        let error = match asked {
            Ok((pid, connection)) => {
                tracing::info!(pid, "taking over");
                return Ok(Some(OldProcess { control, connection }));
            }
            Err(error) => error,
        };
        let again = match &error {
            ClientError::NotRunning { .. } if !is_served(instance) => return Ok(None),
            ClientError::NotRunning { .. } | ClientError::Garbled { .. } => true,
            error @ ClientError::Io { .. } => !error.is_silence(),
            // It hands over to another one, of which it may not have noticed yet that it was killed.
            ClientError::Refused(refusal) => refusal.code == ErrorCode::Refused,
            _ => false,
        };
        if !again || Instant::now() > deadline {
            return Err(DaemonError::Handover(error));
        }
        thread::sleep(PAUSE);
    }
}

/// Whether a process holds the instance's lock.
fn is_served(instance: &str) -> bool {
    matches!(detach::claim(instance, false), Err(CaptureError::Served { .. }))
}

/// A lock that is free means that its holder has gone.
fn is_gone(workloads: &Workloads, error: &ClientError) -> bool {
    let gone =
        !matches!(error, ClientError::Refused(_)) && workloads.instance().take_lock().is_ok();
    if gone {
        tracing::info!("the old process has exited; continuing");
    }
    gone
}
