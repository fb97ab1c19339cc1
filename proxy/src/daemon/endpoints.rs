//! Where a weir can be reached: the control socket and the admin address, which one process has at a
//! time.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::DaemonError;
use crate::{
    admin::{
        control::{BoundSocket, ControlSocket},
        http::AdminServer,
    },
    config::Admin,
};

/// How long the old process may take to release the admin address.
const RELEASE: Duration = Duration::from_secs(5);
/// Between two attempts to open it in that time.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to open it later.
const RETRY: Duration = Duration::from_secs(1);

/// Both, opened.
pub(super) struct Endpoints {
    pub(super) control: ControlSocket,
    /// `None` where none is asked for, and where it is not free.
    pub(super) admin: Option<AdminServer>,
}

// === impl Endpoints ===

impl Endpoints {
    /// `control` is the control socket where it is open already.
    pub(super) async fn open(
        config: &Admin,
        control: Option<BoundSocket>,
    ) -> Result<Self, DaemonError> {
        let control = match control {
            Some(bound) => bound.try_into()?,
            None => ControlSocket::bind(&config.control_socket)?,
        };
        let admin = match config.address {
            Some(address) => Some(AdminServer::bind(address).await?),
            None => None,
        };
        Ok(Self { control, admin })
    }

    /// Opens them once the old process, which has its control socket at `old`, has released them.
    pub(super) async fn take_over(config: &Admin, old: &Path) -> Result<Self, DaemonError> {
        let path = &config.control_socket;
        let control =
            if path == old { ControlSocket::replace(path)? } else { ControlSocket::bind(path)? };
        let Some(address) = config.address else { return Ok(Self { control, admin: None }) };
        let deadline = Instant::now() + RELEASE;
        loop {
            match AdminServer::bind(address).await {
                Ok(admin) => return Ok(Self { control, admin: Some(admin) }),
                Err(error) if Instant::now() > deadline => {
                    // Connections are captured already: better without metrics than not at all.
                    tracing::error!(%error, "continuing without the admin address until it is free");
                    return Ok(Self { control, admin: None });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// Opens an admin address as soon as it is free.
pub(super) async fn when_free(address: SocketAddr) -> AdminServer {
    loop {
        sleep(RETRY).await;
        if let Ok(admin) = AdminServer::bind(address).await {
            tracing::info!(%address, "admin address opened");
            return admin;
        }
    }
}
