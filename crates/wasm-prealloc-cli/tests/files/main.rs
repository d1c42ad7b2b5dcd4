//! The command with real files and streams: outputs are whole or missing, and inputs are not damaged.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod advice;
mod batch;
mod formats;
mod gzip;
mod harness;
mod names;
#[cfg(feature = "run")]
mod run;
mod single;
mod source_map;
mod special;
#[cfg(target_os = "linux")]
mod threads;
mod usage;
mod whole;
