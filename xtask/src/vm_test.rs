//! `cargo xtask vm-test`: hosts in freshly started machines with cgroup v2. The scenarios and their
//! right outcomes are in `tests/fixtures/vm`.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use wasm_prealloc_tests::skipped;
use wasm_prealloc_tests::vm::{Kind, Machines, Run, Scenario};

use crate::memory_test::table;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask vm-test            all scenarios in User-mode Linux, in a few minutes
  cargo xtask vm-test hidden     those with `hidden` in their name
  cargo xtask vm-test --qemu     those that need huge pages or a newer kernel

Needs Linux on x86-64, and Debian's servers once: the packages are unpacked to target/vm. --qemu
needs the program qemu-system-x86_64.

Exit status: 0 every row is as expected or there are no machines here, 1 a row is not")]
pub(crate) struct Opts {
    /// Run only scenarios with this text in their name
    filter: Option<String>,

    /// Start machines of qemu, which have huge pages and write tracking, and are slow
    #[arg(long)]
    qemu: bool,

    /// The number of machines at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,

    /// Print the consoles too
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn run(opts: &Opts) -> Result<()> {
    let kind = match opts.qemu {
        true => Kind::Qemu,
        false => Kind::UserMode,
    };
    let mut scenarios = Scenario::all(kind)?;
    if let Some(filter) = &opts.filter {
        scenarios.retain(|scenario| scenario.name.contains(filter.as_str()));
    }
    ensure!(!scenarios.is_empty(), "no scenario has such a name");
    let machines = match Machines::prepare(kind, &scenarios)? {
        Ok(machines) => machines,
        Err(why) => {
            skipped(&why);
            return Ok(());
        }
    };
    let runs = run_all(opts, &machines, &scenarios);
    let mut table = table("scenario|right|seen|OOM kills|seconds|as expected");
    let mut wrong = Vec::new();
    for (scenario, run) in scenarios.iter().zip(runs) {
        let run = run.with_context(|| scenario.name.clone())?;
        let verdict = scenario.judge(&run);
        table.add_row(row(scenario, &run, verdict.is_ok()));
        if let Err(differences) = verdict {
            wrong.push(format!("{}: {differences}", scenario.name));
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{table}")?;
    for differences in &wrong {
        writeln!(stdout, "\n{}", differences.trim_end())?;
    }
    ensure!(wrong.is_empty(), "{} rows are not as expected", wrong.len());
    Ok(())
}

/// Runs the scenarios on a few threads, and returns their outcomes in the same order.
fn run_all(opts: &Opts, machines: &Machines, scenarios: &[Scenario]) -> Vec<Result<Run>> {
    let next = AtomicUsize::new(0);
    let runs: Mutex<Vec<Option<Result<Run>>>> =
        Mutex::new(scenarios.iter().map(|_| None).collect());
    let work = || {
        while let Some((index, scenario)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            scenarios.get(index).map(|scenario| (index, scenario))
        } {
            eprintln!("running: {}", scenario.name);
            let run = machines.run(scenario);
            if let (true, Ok(run)) = (opts.verbose, &run) {
                eprintln!("{}:\n{}", scenario.name, run.console);
            }
            if let Ok(mut runs) = runs.lock() {
                runs[index] = Some(run);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..opts.jobs {
            scope.spawn(work);
        }
        work();
    });
    let runs = runs.into_inner().unwrap_or_default();
    let complete = runs.into_iter().map(|run| run.context("not run")?);
    complete.collect()
}

fn row(scenario: &Scenario, run: &Run, as_expected: bool) -> [String; 6] {
    let words = run.answers.iter().map(ToString::to_string);
    let kills = run.answers.last().map_or(0, |answer| answer.oom_kills);
    [
        scenario.name.clone(),
        scenario.right(),
        words.collect::<Vec<_>>().join(", "),
        kills.to_string(),
        format!("{:.1}", run.elapsed.as_secs_f64()),
        if as_expected { "yes" } else { "NO" }.to_owned(),
    ]
}
