//! What the command does to files and streams: outputs whole or not at all, inputs never damaged.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod batch;
mod gzip;
mod harness;
mod single;
mod whole;
