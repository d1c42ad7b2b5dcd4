//! The command with real files and streams: outputs are whole or missing, and inputs are not damaged.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod batch;
mod gzip;
mod harness;
mod single;
mod whole;
