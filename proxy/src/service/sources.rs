//! Where services are told from: the configuration with its names in the DNS, and a directory of objects.
//! `node/services.rs` follows an API server.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};

use super::{
    Place, Services,
    configured::{self, Declared},
};
use crate::config::ProcessConfig;

/// Where services are told from, while it lasts.
pub(crate) struct Sources {
    services: Arc<Services>,
    configured: watch::Sender<Arc<Declared>>,
    _following: JoinSet<()>,
}

// === impl Sources ===

impl Sources {
    /// Begins to follow, for clients on `node`, or on that of the configuration. What the configuration says by itself is known at once. Must be called within a
    /// runtime.
    pub(crate) fn start(config: &ProcessConfig, node: Option<String>) -> Self {
        let node = node.as_deref().or(config.balance.node.as_deref());
        let place = Place {
            node: node.map(Into::into),
            zone: config.balance.zone.as_deref().map(Into::into),
        };
        let services = Arc::new(Services::new(config.balance.default, place));
        let declared = Arc::new(Declared::of(config));
        // Read strictly: nothing in it can be refused.
        let _ = configured::configure(&services, &declared);
        let (configured, configs) = watch::channel(declared);
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
        let declared = Declared::of(config);
        self.configured.send_if_modified(|known| {
            let is_new = **known != declared;
            if is_new {
                *known = Arc::new(declared);
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Balance,
        service::{
            Delta, Origin,
            tests::{service, slice},
        },
    };

    #[tokio::test]
    async fn clients_are_on_the_node_that_is_given_or_configured() {
        let balance = Balance { node: Some("one".into()), ..Balance::default() };
        let config = ProcessConfig { balance, ..ProcessConfig::default() };
        for (given, expected) in [(None, "10.1.0.1:80"), (Some("two"), "10.1.0.2:80")] {
            let sources = Sources::start(&config, given.map(str::to_owned));
            let mut deltas = [
                service("shop", &["10.96.0.1:80"]),
                slice("a", "shop", 80, &["10.1.0.1", "10.1.0.2"]),
            ];
            if let [Delta::Service(_, spec), Delta::Slice(slice)] = &mut deltas {
                spec.policy.local_only = true;
                slice.addresses[0].node = Some("one".into());
                slice.addresses[1].node = Some("two".into());
            }
            let services = sources.services();
            services.apply(Origin::Cluster, deltas).unwrap();
            let target = services.find("10.96.0.1:80".parse().unwrap()).unwrap();
            let endpoints = services.endpoints(&target);
            let used = endpoints.all().iter().filter(|it| it.used.is_used());
            assert_eq!(used.map(|it| it.address.to_string()).collect::<Vec<_>>(), [expected]);
        }
    }
}
