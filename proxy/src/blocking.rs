//! Work that blocks, off the thread of the runtime: that thread accepts connections and writes
//! the heartbeat, and without a heartbeat for two seconds the hooks take weir for dead.

/// Does work on a thread for blocking calls, and waits for its end. A panic goes on in the caller.
/// Work that has begun is done even if it is not waited for any more.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
