//! An indexer host: runs a guest once for each block, in a memory of a pool, and stores the values
//! that it flushes, a block whole or not at all. It answers views of the index, many at a time, in
//! memories of a second pool. It is complete, so that it can be copied.
//!
//! - The index keeps each value with its height, so a view can read the state as of a height, and
//!   `--rollback-to` removes the blocks above one.
//! - With `--follow` it stays and indexes the blocks that are appended to a file.
//! - With `--listen` it answers views, metrics and health checks over HTTP; with `--view` it answers
//!   one view on stdout.
//! - With `--unsecured` it behaves like a host without this crate.
//!
//! | file | content |
//! |---|---|
//! | `opts`, `failure` | the command line and the exit statuses |
//! | `abi`, `buffers`, `protobuf` | what a guest can call, and how it passes bytes |
//! | `host` | a compiled guest and its instances |
//! | `indexing`, `chain` | the engine for blocks, and where blocks come from |
//! | `views`, `server` | the engine for views, and HTTP |
//! | `store` | the database |
//! | `memory`, `pools` | the flags for memory; the pools in use |
//! | `service`, `metrics`, `times` | signals, systemd and the ready file; figures |

mod abi;
mod buffers;
mod chain;
mod failure;
mod hexadecimal;
mod host;
mod indexing;
mod memory;
mod metrics;
mod opts;
mod pools;
mod protobuf;
mod server;
mod service;
mod store;
mod times;
mod views;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use wasm_prealloc_host::{MemoryPool, PreparedPool};

use crate::chain::{read_block, read_chain};
use crate::failure::Failure;
use crate::host::Host;
use crate::indexing::{Indexer, Progress, Reported};
use crate::memory::{Use, in_flags};
use crate::opts::Opts;
use crate::pools::Pools;
use crate::server::Server;
use crate::service::Service;
use crate::store::Index;
use crate::views::{Request, ViewError, Views};

fn main() -> ExitCode {
    let opts = Opts::parse();
    let result = match (&opts.view, &opts.module) {
        _ if opts.dump => dump(&opts).map_err(Failure::from),
        (Some(name), _) => view(&opts, name),
        (None, None) => roll_back(&opts).map_err(Failure::from),
        (None, Some(_)) => index(&opts),
    };
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    for (number, cause) in failure.error().chain().enumerate() {
        let label = if number == 0 { "error" } else { "caused by" };
        eprintln!("{label}: {}", in_flags(&cause.to_string(), Use::Blocks));
    }
    failure.status()
}

/// The engines of a process, whose guests are compiled and whose memory is secured.
struct Hosts {
    blocks: Option<Host>,
    views: Option<Host>,
    pools: Arc<Pools>,
}

impl Hosts {
    /// Compiles and verifies the guests first, and then secures memory for them. `view_slots` is the
    /// number of views that run at the same time.
    fn secure(opts: &Opts, has_blocks: bool, view_slots: usize) -> Result<Hosts, Failure> {
        let guest = opts.module.as_deref().unwrap_or(Path::new(""));
        let view_guest = opts.views.view_module.as_deref().unwrap_or(guest);
        let is_secured = !opts.unsecured;
        let blocks = if has_blocks {
            let options = opts.memory.reporting(opts.memory.for_blocks());
            let pool = is_secured.then(|| options.prepare());
            let host = Host::prepare(guest, pool.as_ref(), None)?;
            host.check_start(guest)?;
            Some((host, pool))
        } else {
            None
        };
        let views = if view_slots > 0 {
            let mut options = opts.memory.for_views(&opts.views, view_slots);
            if !has_blocks {
                options = opts.memory.reporting(options);
            }
            let pool = is_secured.then(|| options.prepare());
            let deadline = views::deadline(opts.views.view_timeout);
            let host = Host::prepare(view_guest, pool.as_ref(), Some(deadline));
            Some((host.map_err(of_views)?, pool))
        } else {
            None
        };
        let prepared = [(Use::Blocks, &blocks), (Use::Views, &views)];
        let prepared = prepared.into_iter().filter_map(|(of, prepared)| {
            let (_, pool) = prepared.as_ref()?;
            Some((of, pool.as_ref()?))
        });
        let (uses, pools): (Vec<Use>, Vec<&PreparedPool>) = prepared.unzip();
        // One lock, one check of the limits and one commit: all of it is secured, or nothing.
        let pools = MemoryPool::secure_list(&pools)
            .context("no block was begun")
            .map_err(Failure::Refused)?;
        let pools: Vec<(Use, MemoryPool)> = uses.into_iter().zip(pools).collect();
        let in_pool = |of: Use, prepared: Option<(Host, _)>| {
            let pool = pools.iter().find(|(other, _)| *other == of);
            let pool = pool.map(|(_, pool)| pool.clone());
            prepared.map(|(host, _)| host.in_pool(pool))
        };
        let (blocks, views) = (in_pool(Use::Blocks, blocks), in_pool(Use::Views, views));
        let pools = Pools::new(pools, opts.memory.check_interval());
        pools.report_secured();
        Ok(Hosts {
            blocks,
            views,
            pools: Arc::new(pools),
        })
    }
}

/// Names the flags for views in a failure.
fn of_views(failure: Failure) -> Failure {
    let renamed = |error: anyhow::Error| {
        let mut causes = error.chain().rev();
        let text = |cause: &dyn std::error::Error| in_flags(&cause.to_string(), Use::Views);
        let innermost = causes.next().map_or_else(String::new, &text);
        causes.fold(anyhow!(innermost), |error, cause| {
            error.context(text(cause))
        })
    };
    match failure {
        Failure::Refused(error) => Failure::Refused(renamed(error)),
        Failure::Input(error) => Failure::Input(renamed(error)),
    }
}

fn index(opts: &Opts) -> Result<(), Failure> {
    let service = Service::start(opts.ready_file.clone())?;
    let given = match &opts.chain {
        Some(_) if opts.follow => vec![],
        Some(path) => read_chain(path)?,
        None => {
            let blocks = opts.blocks.iter().map(|block| read_block(block));
            blocks.collect::<Result<_, _>>()?
        }
    };
    let listener = opts
        .listen
        .map(|address| server::bind(address, opts.allow_remote));
    let listener = listener.transpose()?;
    let has_blocks = opts.chain.is_some() || !given.is_empty();
    let hosts = Hosts::secure(opts, has_blocks, opts.views.views)?;
    let index = Arc::new(Index::create(&opts.db)?);
    if let Some(height) = opts.rollback_to {
        remove_above(&index, height)?;
    }
    let progress = Arc::new(Progress::new(index.last_height()?));
    let (slots, most_waiting) = (opts.views.views, opts.views.waiting_views);
    let views = hosts.views.map(|host| {
        let index = Arc::clone(&index);
        Arc::new(Views::new(host, index, slots, most_waiting, opts.log))
    });
    let server = match listener {
        Some(listener) => {
            let sources = metrics::Sources {
                pools: Arc::clone(&hosts.pools),
                progress: Arc::clone(&progress),
                views: views.clone(),
            };
            let parts = server::Parts {
                views: views.clone(),
                metrics: metrics::registry(sources),
                stopped: service.stopped(),
            };
            let server = Server::start(listener, parts, slots)?;
            say(&format!("listening at http://{}", server.address()));
            Some(server)
        }
        None => None,
    };
    service.ready()?;
    let indexed = match hosts.blocks {
        Some(host) => {
            let mut indexer = Indexer {
                host,
                index: &index,
                pools: &hosts.pools,
                service: &service,
                progress: &progress,
                log: opts.log,
                reported: Reported::now(),
            };
            match &opts.chain {
                Some(path) if opts.follow => indexer.follow(path, opts.height),
                _ => indexer.index_all(&given, opts.height),
            }
        }
        None => indexing::serve(&hosts.pools, &service),
    };
    service.stop()?;
    if let Some(server) = server {
        server.stop(Duration::from_secs(opts.views.view_timeout.into()));
    }
    report(&hosts.pools, &progress, views.as_deref());
    indexed?;
    say(&format!("state root {}", index.snapshot()?.state_root()?));
    Ok(())
}

/// Prints the figures of this process.
fn report(pools: &Pools, progress: &Progress, views: Option<&Views>) {
    eprintln!("blocks: {}", progress.blocks().times);
    if let Some(views) = views {
        let counters = views.counters();
        let (failed, refused) = (counters.failed, counters.refused);
        eprintln!(
            "views: {}; {failed} failed, {refused} refused",
            counters.answered
        );
    }
    if pools.iter().next().is_some() {
        eprintln!("{pools}");
    }
}

/// Answers one view.
fn view(opts: &Opts, name: &str) -> Result<(), Failure> {
    let input = match opts.input.as_str() {
        "" => vec![],
        input => read_block(input)?,
    };
    let index = Arc::new(Index::open(&opts.db)?);
    let hosts = Hosts::secure(opts, false, 1)?;
    let Some(host) = hosts.views else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("cannot start a thread for the view")?;
    let views = Arc::new(Views::new(host, index, 1, 0, opts.log));
    let request = Request {
        name: name.to_owned(),
        input,
        height: opts.at_height,
    };
    let answer = runtime.block_on(async {
        tokio::spawn(Arc::clone(&views).count_epochs());
        views.answer(request).await
    });
    match answer {
        Ok(answer) => say(&hexadecimal::encode(&answer.bytes)),
        Err(error @ (ViewError::Failed { .. } | ViewError::TimedOut { .. })) => {
            return Err(Failure::Refused(error.into()));
        }
        Err(error) => return Err(Failure::Input(error.into())),
    }
    Ok(())
}

fn roll_back(opts: &Opts) -> anyhow::Result<()> {
    let index = Index::open(&opts.db)?;
    if let Some(height) = opts.rollback_to {
        remove_above(&index, height)?;
    }
    say(&format!("state root {}", index.snapshot()?.state_root()?));
    Ok(())
}

fn remove_above(index: &Index, height: u32) -> anyhow::Result<()> {
    let removed = index.roll_back_to(height)?;
    say(&format!(
        "rolled back to height {height}: {removed} blocks removed"
    ));
    Ok(())
}

fn dump(opts: &Opts) -> anyhow::Result<()> {
    let index = Index::open(&opts.db)?;
    let state = index.snapshot_at(opts.at_height.unwrap_or(u32::MAX))?;
    state.for_each(|key, value| say(&format!("{} = {}", as_text(key), as_text(value))))
}

/// Formats printable text unchanged, and everything else in hexadecimal.
fn as_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hexadecimal::encode(bytes)),
    }
}

/// Prints a line. A closed pipe is not an error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
