//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::memory::{MemoryOpts, ViewMemoryOpts};

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 memory not secured or taken away, module not verified, guest trapped, block
without a flush, or stopped by a signal with blocks left: nothing of that block is stored; 2 usage, or
unreadable or invalid input.

SIGTERM and SIGINT stop it before the next block, and when the views in progress are answered; with
--follow or with nothing but --listen this is exit status 0.

Over HTTP: GET /view/NAME?height=H&input=HEX, POST /view/NAME?height=H with the input as the body (in
hexadecimal if it is text/plain), GET /metrics for Prometheus, and GET /health. A view is answered with
404 if the guest has no such export, 503 if too many others wait, 504 if it took too long, and 500 if it
trapped.

Examples:
  indexer guest.wasm --block 3200000014000000 --db index.redb
  indexer guest.wasm --block block-7.bin --height 7 --db index.redb --log
  indexer guest.wasm --chain blocks.txt --db index.redb --policy commit-maximum
  indexer guest.wasm --chain blocks.txt --follow --db index.redb --ready-file /run/indexer/ready
  indexer pinned.wasm --chain blocks.txt --follow --db index.redb \\
      --listen 127.0.0.1:8080 --views 16 --view-pages 4096 --view-module guest.wasm
  indexer guest.wasm --view balance --input 0700000000000000 --at-height 100 --db index.redb
  indexer --rollback-to 100 --db index.redb
  indexer --dump --db index.redb";

/// Index blocks with a wasm guest whose memory is secured before it runs, and answer views of the
/// index.
#[derive(Parser)]
#[command(name = "indexer", after_help = AFTER_HELP)]
pub(crate) struct Opts {
    /// The guest, a binary wasm module that exports `_start`
    #[arg(required_unless_present_any = ["dump", "rollback_to"])]
    pub(crate) module: Option<PathBuf>,
    /// A block: a file, or else its bytes in hexadecimal. Each runs in a new instance
    #[arg(
        long = "block",
        value_name = "HEX|FILE",
        required_unless_present_any = ["dump", "chain", "listen", "rollback_to", "view"],
        requires = "module"
    )]
    pub(crate) blocks: Vec<String>,
    /// A file of blocks in hexadecimal, one on each line; empty lines and comments after `#` are
    /// skipped
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "blocks",
        requires = "module"
    )]
    pub(crate) chain: Option<PathBuf>,
    /// Index the blocks that are appended to the chain's file until SIGTERM. Blocks whose height
    /// the database has are skipped
    #[arg(long, requires = "chain")]
    pub(crate) follow: bool,
    /// A file that exists while memory is secured and blocks can be indexed, for probes
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// The database, created when it is missing
    #[arg(long)]
    pub(crate) db: PathBuf,
    /// The height of the first block [default: one past the last that was indexed, or 0; with
    /// --follow 0]
    #[arg(long)]
    pub(crate) height: Option<u32>,
    /// Remove all blocks above this height first
    #[arg(long, value_name = "HEIGHT", conflicts_with_all = ["follow", "dump", "view"])]
    pub(crate) rollback_to: Option<u32>,
    /// Neither verify nor commit the guest's memory
    #[arg(long)]
    pub(crate) unsecured: bool,
    /// Print the guest's log on stderr
    #[arg(long)]
    pub(crate) log: bool,
    /// Print every stored key and value instead of indexing
    #[arg(
        long,
        conflicts_with_all = ["module", "blocks", "chain", "height", "unsecured", "log", "listen"]
    )]
    pub(crate) dump: bool,
    /// Print the answer of a view in hexadecimal instead of indexing: the guest's export of this name,
    /// which takes no parameters and returns a buffer
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["blocks", "chain", "height", "listen"],
        requires = "module"
    )]
    pub(crate) view: Option<String>,
    /// The input of the view: a file, or else its bytes in hexadecimal
    #[arg(long, value_name = "HEX|FILE", requires = "view", default_value = "")]
    pub(crate) input: String,
    /// The height whose state a view reads or --dump prints [default: the last that was indexed]
    #[arg(long, value_name = "HEIGHT", conflicts_with_all = ["blocks", "chain", "listen"])]
    pub(crate) at_height: Option<u32>,
    /// Answer views, metrics and health checks over HTTP at this address; port 0 chooses one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "module")]
    pub(crate) listen: Option<SocketAddr>,
    /// Allow an address that other machines can reach. There is no authentication
    #[arg(long, requires = "listen")]
    pub(crate) allow_remote: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryOpts,
    #[command(flatten)]
    pub(crate) views: ViewMemoryOpts,
}
