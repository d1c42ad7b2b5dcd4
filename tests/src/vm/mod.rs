//! Scenarios in freshly started machines with cgroup v2: what a host answers under limits that the
//! machine of the tests does not have or cannot show.

mod archive;
mod machine;
mod packages;
mod qemu;
mod scenario;

pub use machine::{Kind, Machines, Run};
pub use scenario::{Answer, Scenario};
