//! Scenarios in freshly started machines of User-mode Linux with cgroup v2, each a named test.
//! `cargo xtask vm-test` prints them as a table, the slow ones and those of qemu included.

use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wasm_prealloc_tests::vm::{Kind, Machines, Scenario};

type Preparation = Result<Result<Machines, String>, String>;
/// The machines, prepared when the first test needs them.
type Prepared = LazyLock<Preparation, Box<dyn FnOnce() -> Preparation + Send>>;

/// Machines to be started at once: each has one processor.
const MACHINES: usize = 2;

fn main() -> ExitCode {
    let scenarios = match Scenario::all(Kind::UserMode) {
        Ok(mut scenarios) => {
            scenarios.retain(|scenario| !scenario.slow);
            scenarios
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let all = scenarios.clone();
    let machines: Arc<Prepared> = Arc::new(LazyLock::new(Box::new(move || {
        Machines::prepare(Kind::UserMode, &all).map_err(|error| format!("{error:#}"))
    })));
    let trials = scenarios.into_iter().map(|scenario| {
        let machines = Arc::clone(&machines);
        Trial::ignorable_test(scenario.name.clone(), move || check(&scenario, &machines))
    });
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(MACHINES);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn check(scenario: &Scenario, machines: &Prepared) -> Result<Completion, Failed> {
    let machines = match &**machines {
        Ok(Ok(machines)) => machines,
        Ok(Err(why)) => return Ok(Completion::ignored_with(format!("skipped: {why}"))),
        Err(error) => return Err(error.as_str().into()),
    };
    let run = machines
        .run(scenario)
        .map_err(|error| format!("{error:#}"))?;
    scenario.judge(&run)?;
    Ok(Completion::Completed)
}
