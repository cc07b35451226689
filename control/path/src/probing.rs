//! Runs probes, which block for seconds, on threads of their own: the runtime has few blocking
//! threads, and directory listings would wait behind probes.

use std::io;

/// Runs a probe on a new thread.
///
/// # Errors
/// The probe's, or the error of starting the thread.
pub async fn probing<T: Send + 'static>(probe: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (said, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("culvert-probe".to_owned());
    // If the check has ended nobody receives the result; the thread ends by itself.
    thread.spawn(move || drop(said.send(probe())))?;
    result.await.map_err(|_| io::Error::other("the probe's thread has ended"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_and_errors_come_back() {
        assert_eq!(probing(|| Ok(7)).await.unwrap(), 7);
        let error = probing::<()>(|| Err(io::ErrorKind::TimedOut.into())).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
