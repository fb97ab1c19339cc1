//! Resets: sending one on purpose, and waiting until what should arrive before it has arrived.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long bytes that were received before a reset may take to be delivered. On a direct
/// connection only what is already in the receiver's kernel survives; a receiver that does not
/// read for this long would have lost them too.
pub(super) const GRACE: Duration = Duration::from_secs(1);

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(32);

/// Closes `stream` with a RST instead of a FIN: `SO_LINGER` with zero seconds, tcp(7).
/// What its peer has not received yet is dropped.
pub fn reset(stream: TcpStream) {
    // Without the option the close is an ordinary one, which is all that is left to do.
    let _ = stream.set_zero_linger();
}

/// Resets `stream` once its peer has what was written to it, as far as [`GRACE`] allows.
pub(crate) async fn reset_behind(stream: TcpStream) {
    // Past it the rest is undeliverable.
    let _ = tokio::time::timeout(GRACE, delivered(&stream)).await;
    reset(stream);
}

/// From now on a close of `stream` is a reset, also the kernel's when the process dies: a stream
/// that was cut must not look complete.
pub fn arm(stream: &impl AsFd) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Takes [`arm`] back. To be called just before the end is sent: from then on the kernel delivers
/// what there is and the end, whatever becomes of the process, and with the option it would not.
pub fn disarm(stream: &impl AsFd) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Waits until the peer's kernel has everything that was written to `stream`. The kernel has no
/// event for that, so it is asked at growing intervals. Returns at once if asking fails.
pub(super) async fn delivered(stream: &impl AsFd) {
    let mut wait = FIRST_WAIT;
    while unacknowledged(stream) > 0 {
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Bytes sent or queued that the peer has not acknowledged (SIOCOUTQ, tcp(7)); 0 if unknown.
fn unacknowledged(stream: &impl AsFd) -> libc::c_int {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and TIOCOUTQ (the same
    // number as SIOCOUTQ) writes one int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { bytes } else { 0 }
}
