//! Services and EndpointSlices of Kubernetes as the model has them. The objects are parsed into types
//! that have what weir reads and nothing else: a full object takes thirty times the memory.

mod convert;
mod directory;
mod gateway;
mod linkerd;
mod object;
mod route;

pub(crate) use self::{
    convert::{service, slice},
    directory::follow,
    object::{NO_PROXY, ServiceObject, SliceObject, full_name},
    route::{GrpcRouteObject, HttpRouteObject, RouteSeen},
};
pub use directory::{parse, parse_json};

#[cfg(test)]
mod tests;
