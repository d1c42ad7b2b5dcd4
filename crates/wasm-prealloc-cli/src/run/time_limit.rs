//! The time limit of a program.

use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use wasmtime::Engine;

/// The stack of the thread that runs a program with a time limit: as large as that of a main thread.
const STACK_BYTES: usize = 8 << 20;

/// The time that an interrupted program has to end. It ends at once if it is running, and not at all
/// while it waits in a call of the system.
const GRACE: Duration = Duration::from_millis(500);

/// Runs a program, and interrupts it after `limit` at its next function call or loop. Returns `None`
/// if it has not ended then, because it waits in a call of the system, for input for example. Its
/// thread is left behind, and ends with the process.
///
/// # Errors
/// If the system refuses the thread.
pub(super) fn run_within<R: Send + 'static>(
    limit: Option<Duration>,
    engine: &Engine,
    run: impl FnOnce() -> R + Send + 'static,
) -> std::io::Result<Option<R>> {
    let Some(limit) = limit else {
        return Ok(Some(run()));
    };
    let (sender, receiver) = mpsc::channel();
    let body = move || {
        // The receiver has left if this took too long.
        let _ = sender.send(run());
    };
    let thread = thread::Builder::new()
        .name("program".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)?;
    let received = receiver.recv_timeout(limit).or_else(|error| {
        if error == RecvTimeoutError::Disconnected {
            return Err(error);
        }
        engine.increment_epoch();
        receiver.recv_timeout(GRACE)
    });
    match received {
        Ok(result) => Ok(Some(result)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => Ok(None),
        },
    }
}
