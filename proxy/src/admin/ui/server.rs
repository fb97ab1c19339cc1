//! The server of `weir ui`. Every user of the machine can connect to a loopback address, but the control
//! socket is for one of them only: therefore the page's path has a secret, and there is nothing elsewhere.

use std::{io, net::SocketAddr};

use hyper::StatusCode;
use tokio::net::TcpListener;

use super::{Ui, secret};
use crate::{
    accept::NoSlots,
    admin::http::{serve, text},
};

/// The page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The address can be reached from elsewhere.
    #[error(
        "{0} is not a loopback address; listen on 127.0.0.1 or [::1], and forward the port from \
         elsewhere, such as with ssh -L"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be opened.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// There are no random numbers.
    #[error("cannot read /dev/urandom: {0}")]
    Random(#[source] io::Error),
}

/// The page on a loopback address.
#[derive(Debug)]
pub struct UiServer {
    listener: TcpListener,
    address: SocketAddr,
    secret: String,
    ui: Ui,
}

// === impl UiServer ===

impl UiServer {
    /// Opens the address; port 0 picks one.
    ///
    /// # Errors
    /// See [`UiError`].
    pub async fn bind(address: SocketAddr, ui: Ui) -> Result<Self, UiError> {
        if !address.ip().is_loopback() {
            return Err(UiError::NotLoopback(address));
        }
        let fail = |source| UiError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address, secret: secret().map_err(UiError::Random)?, ui })
    }

    /// Where a browser finds the page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/{}/", self.address, self.secret)
    }

    /// Answers until dropped.
    pub async fn serve(self) {
        let Self { listener, secret, ui, .. } = self;
        let prefix = format!("/{secret}/");
        serve(&listener, &NoSlots, move |_, request| {
            let (ui, prefix) = (ui.clone(), prefix.clone());
            async move {
                match request.uri().path().strip_prefix(&prefix) {
                    Some(path) => ui.answer(path, &request).await,
                    None => text(
                        StatusCode::NOT_FOUND,
                        "not found; open the address that `weir ui` has printed\n",
                    ),
                }
            }
        })
        .await;
    }
}
