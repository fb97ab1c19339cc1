//! Where services are told from: the configuration with its names in the DNS, and a directory of objects.
//! `node/services.rs` follows an API server.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};

use super::{Place, Services, configured};
use crate::config::{ProcessConfig, ServiceConfig};

/// Where services are told from, while it lasts.
pub(crate) struct Sources {
    services: Arc<Services>,
    configured: watch::Sender<Arc<[ServiceConfig]>>,
    _following: JoinSet<()>,
}

// === impl Sources ===

impl Sources {
    /// Begins to follow. What the configuration says by itself is known at once. Must be called within a
    /// runtime.
    pub(crate) fn start(config: &ProcessConfig, node: Option<String>) -> Self {
        let place = Place {
            node: node.map(Into::into),
            zone: config.balance.zone.as_deref().map(Into::into),
        };
        let services = Arc::new(Services::new(config.balance.default, place));
        let (configured, configs) = watch::channel(config.service.as_slice().into());
        // Read strictly: nothing in it can be refused.
        let _ = configured::configure(&services, &config.service);
        let mut following = JoinSet::new();
        following.spawn(configured::follow(Arc::clone(&services), configs));
        #[cfg(feature = "node")]
        if let Some(path) = &config.balance.objects_dir {
            let services = Arc::clone(&services);
            following.spawn(super::kubernetes::follow(path.clone(), services));
        }
        #[cfg(not(feature = "node"))]
        if let Some(path) = &config.balance.objects_dir {
            let directory = path.display();
            tracing::error!(%directory, "this weir was built without the feature node: objects are \
                                         not read");
        }
        Self { services, configured, _following: following }
    }

    pub(crate) const fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Has another configuration take effect.
    pub(crate) fn reconfigure(&self, config: &ProcessConfig) {
        self.configured.send_if_modified(|known| {
            let is_new = **known != *config.service;
            if is_new {
                *known = config.service.as_slice().into();
            }
            is_new
        });
    }
}
