//! Peers that mean harm, against both HTTP engines. weir neither crashes nor hangs, what it holds is
//! bounded and can be seen, others are served meanwhile, and no message comes to mean something else.

mod floods;
mod http1;
mod http2;
mod place;
mod servers;
mod shapes;
