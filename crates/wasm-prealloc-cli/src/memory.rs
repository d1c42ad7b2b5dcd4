//! What `run` and `preflight` share: securing memory while showing how far that has come.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use wasm_prealloc_host::MemoryPoolBuilder;

/// Nobody wants to see a bar for what is done by then.
const SHOW_AFTER: Duration = Duration::from_millis(800);

const BAR: &str = "committing memory [{bar:40}] {bytes}/{total_bytes}";

/// Makes a pool show on a terminal how far securing has come, where that takes long: memory that
/// a virtual machine has not used before can take 15 s for 4 GiB.
pub(crate) fn shown(builder: MemoryPoolBuilder) -> MemoryPoolBuilder {
    // Made before there is any limit to be near to. Without a terminal nothing is drawn.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut bar = None;
    let mut since = None;
    builder.on_progress(move |progress| {
        let since = since.get_or_insert_with(std::time::Instant::now);
        if since.elapsed() < SHOW_AFTER {
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
