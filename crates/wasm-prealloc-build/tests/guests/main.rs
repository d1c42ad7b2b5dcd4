//! Builds of real workspaces, by the cargo that runs the tests: one file a subject, and the
//! workspaces themselves in `fixture.rs`. Nothing here runs a guest.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;
mod outputs;
#[cfg(unix)]
mod target;
mod toolchains;
