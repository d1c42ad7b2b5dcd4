//! Shared parts of `run` and `preflight`: the progress bar for the commit of memory, and the flags in
//! errors about memory.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use wasm_prealloc_host::{Error, MemoryPoolBuilder};

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

/// Names flags where the library names its API, in errors whose remedy is an option of this program.
pub(crate) fn with_flags(error: Error) -> anyhow::Error {
    let (advice, flags) = match &error {
        Error::NoHugePages { .. } => ("Backing::Auto", "`--backing auto`".to_owned()),
        Error::GrowthNotAssured { .. } => ("Policy::Declared", "`--policy declared`".to_owned()),
        Error::SlotTooSmall {
            maximum: Some(maximum),
            ..
        } => {
            let flags = format!("make the slots larger (`--pages {maximum}`)");
            ("make the slots larger", flags)
        }
        _ => return error.into(),
    };
    anyhow!(error.to_string().replace(advice, &flags))
}

#[cfg(test)]
mod tests {
    use wasm_prealloc_host::Limit;

    use super::*;

    #[test]
    fn errors_name_flags_and_no_items_of_the_library() {
        let huge_pages = Error::NoHugePages {
            collapsed_bytes: 0,
            needed_bytes: 1,
        };
        let growth = Error::GrowthNotAssured {
            limit: Limit::DataSegment,
        };
        let slot = Error::SlotTooSmall {
            maximum: Some(17),
            slot_pages: 16,
        };
        for (error, flag) in [
            (huge_pages, "`--backing auto`"),
            (growth, "`--policy declared`"),
            (slot, "`--pages 17`"),
        ] {
            let message = with_flags(error).to_string();
            assert!(
                message.contains(flag) && !message.contains("::"),
                "{message}"
            );
        }
    }
}
