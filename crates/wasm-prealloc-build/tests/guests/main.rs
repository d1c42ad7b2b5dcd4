//! Builds of real workspaces with cargo, one file for each topic. The workspaces are created in
//! `fixture.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;
mod outputs;
#[cfg(unix)]
mod target;
mod toolchains;
