//! Services: connections to one address go to the endpoints that weir chooses. Real servers in a
//! namespace, an application in a cgroup, and no cluster.

mod calls;
mod faults;
mod live;
mod lossy;
mod lost;
mod place;
mod requests;
mod retries;
mod routes;
mod shares;
mod table;
