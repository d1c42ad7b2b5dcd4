//! The indexer as a service: signals that stop it between two blocks, the messages to systemd, and
//! the file that says that it is ready.
//!
//! Memory and blocks are elsewhere.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// The exit status of a program that a SIGTERM ended, as a shell reports it.
#[cfg(unix)]
const TERMINATED: i32 = 128 + 15;

/// The service that this process is part of.
pub(crate) struct Service {
    /// Set by SIGTERM and SIGINT.
    stopped: Arc<AtomicBool>,
    /// True as long as a signal ends the process at once: no block has begun.
    interruptible: Arc<AtomicBool>,
    ready_file: Option<PathBuf>,
}

impl Service {
    /// Installs the signal handlers, and deletes the ready file of an earlier process. A folder
    /// that cannot be written to is an error now, and not when memory is secured.
    ///
    /// A process that is the first of a container has no default action for a signal, so it needs a
    /// handler from the start.
    pub(crate) fn start(ready_file: Option<PathBuf>) -> Result<Service> {
        let service = Service {
            stopped: Arc::default(),
            interruptible: Arc::new(AtomicBool::new(true)),
            ready_file,
        };
        service.remove_ready_file()?;
        if let Some(path) = service.unfinished_ready_file() {
            std::fs::write(&path, "")
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        #[cfg(unix)]
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            use signal_hook::flag;
            let (interruptible, stopped) = (&service.interruptible, &service.stopped);
            let shutdown = |condition: &Arc<AtomicBool>| {
                flag::register_conditional_shutdown(signal, TERMINATED, Arc::clone(condition))
            };
            // In this order, the second signal ends the process in the middle of a block. A block
            // is stored whole or not at all.
            shutdown(interruptible)
                .and_then(|_| shutdown(stopped))
                .and_then(|_| flag::register(signal, Arc::clone(stopped)))
                .context("cannot handle signals")?;
        }
        Ok(service)
    }

    /// Tells systemd, and a probe that looks for the ready file, that memory is secured. From now
    /// on a signal stops the process between two blocks.
    pub(crate) fn ready(&self) -> Result<()> {
        self.interruptible.store(false, Ordering::Relaxed);
        if let (Some(unfinished), Some(path)) = (self.unfinished_ready_file(), &self.ready_file) {
            std::fs::rename(unfinished, path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        notify("READY=1");
        Ok(())
    }

    /// Returns the flag that a signal sets.
    pub(crate) fn stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }

    /// Returns true if a signal asked the process to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Tells systemd and the probe that the process ends.
    pub(crate) fn stop(&self) -> Result<()> {
        notify("STOPPING=1");
        self.remove_ready_file()
    }

    /// The ready file before memory is secured, in the same folder.
    fn unfinished_ready_file(&self) -> Option<PathBuf> {
        let path = self.ready_file.as_ref()?;
        Some(path.with_added_extension("new"))
    }

    fn remove_ready_file(&self) -> Result<()> {
        let Some(path) = &self.ready_file else {
            return Ok(());
        };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Sets the line that `systemctl status` shows.
pub(crate) fn set_status(text: &str) {
    notify(&format!("STATUS={text}"));
}

/// Sends a message to systemd, if it started the process: `NOTIFY_SOCKET` is set. A lost message
/// does not stop the indexer.
fn notify(message: &str) {
    #[cfg(unix)]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Custom(message)]);
    #[cfg(not(unix))]
    let _ = message;
}
