//! stub
use super::http::*;
use tokio::io::{AsyncRead, AsyncWrite};
pub(super) async fn serve<C, U>(_client: C, _upstream: U, _context: HttpContext) -> HttpEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    EndCause::Drained.into()
}
