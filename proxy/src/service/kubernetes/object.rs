//! The parts of Kubernetes objects that weir reads. Unknown fields are left out: there are many.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::{Deserialize, Deserializer};

use super::{
    gateway::{GrpcBody, HttpBody},
    linkerd::GROUPS,
};

/// The label of services that another proxy serves, which kube-proxy leaves alone too.
pub(crate) const NO_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The label with the service of a group of endpoints.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The annotation of a Service that says whether connections to it are balanced: of the same name as a
/// pod's, which is for connections that the pod makes.
pub(super) const BALANCE: &str = "config.weir.dev/balance";
/// The annotation of a Service that says how long a new endpoint takes to get its whole share.
pub(super) const SLOW_START: &str = "config.weir.dev/slow-start";

/// The annotation of a route that says which requests go to one endpoint.
pub(super) const AFFINITY: &str = "config.weir.dev/affinity";
/// The annotation of a route that says which requests fail or wait on purpose.
pub(super) const FAULT: &str = "config.weir.dev/fault";

/// What is kept of an object's labels and annotations.
const KEPT: [&str; 6] = [NO_PROXY, SERVICE_NAME, BALANCE, SLOW_START, AFFINITY, FAULT];

/// A Service.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceObject {
    #[serde(default, deserialize_with = "slim")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Option<ServiceBody>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceObject {
    #[serde(default, deserialize_with = "slim")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) address_type: String,
    #[serde(default)]
    pub(super) endpoints: Option<Vec<EndpointBody>>,
    #[serde(default)]
    pub(super) ports: Option<Vec<SlicePortBody>>,
}

/// Any of the objects, as in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct AnyObject {
    pub(super) kind: String,
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Body,
    address_type: String,
    endpoints: Option<Vec<EndpointBody>>,
    ports: Option<Vec<SlicePortBody>>,
    /// Of a `List`.
    pub(super) items: Vec<AnyObject>,
}

/// What the `spec` of an object says.
#[derive(Clone, Debug, Default)]
pub(super) enum Body {
    #[default]
    Nothing,
    Service(ServiceBody),
    Http(HttpBody),
    Grpc(GrpcBody),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceBody {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Option<Vec<String>>,
    pub(super) ports: Option<Vec<PortBody>>,
    pub(super) session_affinity: Option<String>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) publish_not_ready_addresses: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortBody {
    pub(super) name: Option<String>,
    pub(super) port: i64,
    pub(super) protocol: Option<String>,
    pub(super) app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlicePortBody {
    pub(super) name: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointBody {
    pub(super) addresses: Vec<String>,
    pub(super) conditions: Option<ConditionsBody>,
    pub(super) node_name: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) hints: Option<HintsBody>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConditionsBody {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HintsBody {
    pub(super) for_zones: Option<Vec<Named>>,
    pub(super) for_nodes: Option<Vec<Named>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) name: String,
}

/// Metadata as it comes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    generation: Option<i64>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    labels: Option<Kept>,
    annotations: Option<Kept>,
}

/// Of labels and annotations those that are read.
#[derive(Default)]
struct Kept(BTreeMap<String, String>);

// === impl Kept ===

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Kept;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Kept, M::Error> {
                let mut kept = BTreeMap::new();
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    let is_linkerds = GROUPS.iter().any(|group| key.starts_with(group));
                    if KEPT.contains(&&*key) || is_linkerds {
                        kept.insert(key.into_owned(), map.next_value()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(Kept(kept))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

// === impl AnyObject ===

impl<'de> Deserialize<'de> for AnyObject {
    /// The kind of an object says what its `spec` is: it has to come first, as tools write it. So an error
    /// has its place.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = AnyObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of Kubernetes")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<AnyObject, M::Error> {
                let mut object = AnyObject::default();
                let mut spec_at_first = false;
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    match &*key {
                        "kind" => object.kind = map.next_value()?,
                        "metadata" => object.metadata = map.next_value::<Slim>()?.0,
                        "addressType" => object.address_type = map.next_value()?,
                        "endpoints" => object.endpoints = map.next_value()?,
                        "ports" => object.ports = map.next_value()?,
                        "items" => object.items = map.next_value()?,
                        "spec" => {
                            spec_at_first = object.kind.is_empty();
                            object.spec = match &*object.kind {
                                "HTTPRoute" => Body::Http(map.next_value()?),
                                "GRPCRoute" => Body::Grpc(map.next_value()?),
                                _ => map
                                    .next_value::<Option<_>>()?
                                    .map_or(Body::Nothing, Body::Service),
                            };
                        }
                        _ => _ = map.next_value::<serde::de::IgnoredAny>()?,
                    }
                }
                if spec_at_first && matches!(&*object.kind, "HTTPRoute" | "GRPCRoute") {
                    let name = object.name();
                    return Err(serde::de::Error::custom(format!(
                        "{name}: write kind before spec"
                    )));
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl AnyObject {
    pub(super) fn into_service(self) -> ServiceObject {
        let spec = match self.spec {
            Body::Service(body) => Some(body),
            _ => None,
        };
        ServiceObject { metadata: self.metadata, spec }
    }

    pub(super) fn into_slice(self) -> SliceObject {
        let Self { metadata, address_type, endpoints, ports, .. } = self;
        SliceObject { metadata, address_type, endpoints, ports }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.kind, full_name(&self.metadata))
    }
}

/// An object with the kind that a client asks the API server for.
macro_rules! resource {
    ($object:ty, $kind:ty) => {
        impl kube::Resource for $object {
            type DynamicType = ();
            type Scope = <$kind as kube::Resource>::Scope;

            fn kind(_: &()) -> Cow<'_, str> {
                <$kind as kube::Resource>::kind(&())
            }

            fn group(_: &()) -> Cow<'_, str> {
                <$kind as kube::Resource>::group(&())
            }

            fn version(_: &()) -> Cow<'_, str> {
                <$kind as kube::Resource>::version(&())
            }

            fn plural(_: &()) -> Cow<'_, str> {
                <$kind as kube::Resource>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(ServiceObject, Service);
resource!(SliceObject, EndpointSlice);

// === helpers ===

/// The namespace and the name, which together are unique.
pub(crate) fn full_name(metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default())
}

/// Metadata with what is kept of it.
struct Slim(ObjectMeta);

impl<'de> Deserialize<'de> for Slim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        slim(deserializer).map(Self)
    }
}

pub(super) fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let metadata = Metadata::deserialize(deserializer)?;
    let kept = |kept: Option<Kept>| kept.map(|kept| kept.0).filter(|kept| !kept.is_empty());
    Ok(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        uid: metadata.uid,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        labels: kept(metadata.labels),
        annotations: kept(metadata.annotations),
        ..ObjectMeta::default()
    })
}
