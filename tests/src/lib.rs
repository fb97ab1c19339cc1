//! Harness of weir's end-to-end tests: real network namespaces, cgroups, servers and clients.
