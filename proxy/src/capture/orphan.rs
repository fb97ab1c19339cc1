//! Whether a local TCP socket still has an owner: sock_diag(7), asked for one connection. A peer
//! learns that a socket's stream has ended, and not whether its owner has closed it.

use std::{io, net::SocketAddr};

use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    sys::{Socket, protocols::NETLINK_SOCK_DIAG},
};

use super::Netns;

/// Of `lo`, in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

/// Whether the socket of `netns` at `client`, connected to `accepted` there, has been closed by its
/// owner: it may still be in the kernel, but no process has it.
///
/// # Errors
/// What netlink says; `ENOENT` where the kernel lacks `tcp_diag`, or `accepted` is not there.
pub async fn is_orphaned(
    netns: &Netns,
    client: SocketAddr,
    accepted: SocketAddr,
) -> io::Result<bool> {
    let work = move || {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        // That the other end is found shows that a client which is not found is gone.
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        inode(&socket, accepted, client)?.ok_or_else(missing)?;
        Ok(matches!(inode(&socket, client, accepted)?, None | Some(0)))
    };
    netns.run(work).await.map_err(io::Error::other)?
}

// === helpers ===

/// The inode of the socket at `local`, connected to `remote`: 0 where no process has it.
fn inode(socket: &Socket, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    socket.send(&request(local, remote), 0)?;
    let (datagram, _) = socket.recv_from_full()?;
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(&datagram)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            Ok(Some(response.header.inode))
        }
        NetlinkPayload::Error(error) if error.to_io().raw_os_error() == Some(libc::ENOENT) => {
            Ok(None)
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let interface_id = match local {
        SocketAddr::V6(v6) => v6.scope_id(),
        // What a listener bound to the interface has accepted is found by its name only.
        SocketAddr::V4(_) => LOOPBACK_IFINDEX,
    };
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip().to_canonical(),
        destination_address: remote.ip().to_canonical(),
        interface_id,
        cookie: [0xff; 8],
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = InetRequest {
        family: if socket_id.source_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_owner_is_told_from_none() {
        let netns = Netns::own().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, at) = listener.accept().unwrap();
            let local = accepted.local_addr().unwrap();
            assert!(!is_orphaned(&netns, at, local).await.unwrap());
            client.shutdown(Shutdown::Write).unwrap();
            assert!(!is_orphaned(&netns, at, local).await.unwrap(), "it only ended its stream");
            drop(client);
            assert!(is_orphaned(&netns, at, local).await.unwrap());
            let elsewhere = SocketAddr::new(local.ip(), 1);
            let error = is_orphaned(&netns, at, elsewhere).await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "no socket is connected there");
        }
    }
}
