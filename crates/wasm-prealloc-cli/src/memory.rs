//! The progress bar of `run` and `preflight` for the commit of memory.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wasm_prealloc_host::MemoryPoolBuilder;

/// A commit that takes less time shows no progress bar.
const PROGRESS_DELAY: Duration = Duration::from_millis(800);

const BAR: &str = "committing memory [{bar:40}] {bytes}/{total_bytes}";

/// Makes a pool show its progress on a terminal if securing takes long: memory that a virtual
/// machine has not used before can take 15 s for 4 GiB.
pub(crate) fn with_progress_bar(builder: MemoryPoolBuilder) -> MemoryPoolBuilder {
    // The style is allocated before the memory is near a limit. Without a terminal nothing is drawn.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bar = None;
    let mut since = None;
    builder.on_progress(move |progress| {
        let since = since.get_or_insert_with(Instant::now);
        if since.elapsed() < PROGRESS_DELAY {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            ProgressBar::new(progress.total_bytes).with_style(style.clone())
        });
        bar.set_position(progress.committed_bytes);
        if progress.committed_bytes == progress.total_bytes {
            bar.finish_and_clear();
        }
    })
}
