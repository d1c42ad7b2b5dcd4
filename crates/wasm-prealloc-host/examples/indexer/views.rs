//! Views: exports of the guest that read the index and return an answer. Many run at the same time,
//! each in a new instance with a memory of its own, and none changes the index.
//!
//! Waiting for a memory suspends the task, in the order of the requests. The view itself runs on a
//! thread for blocking work, so that it does not hold up the tasks of other requests, and its memory
//! is zeroed on that thread too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::{select, task, time};

use crate::abi::Guest;
use crate::host::{Host, TimedOut};
use crate::store::Index;
use crate::times::Times;

/// The length of an epoch of the engine.
const EPOCH: Duration = Duration::from_millis(100);

/// Returns the number of epochs after which a view traps.
pub(crate) fn deadline(timeout_seconds: u32) -> u64 {
    let epochs = u64::from(timeout_seconds) * 1000 / EPOCH.as_millis() as u64;
    // The first epoch is shorter.
    epochs + 1
}

/// The engine for views.
pub(crate) struct Views {
    host: Host,
    index: Arc<Index>,
    log: bool,
    /// The number of views that can run at the same time.
    slots: usize,
    most_waiting: usize,
    /// True when the host stops.
    stops: watch::Sender<bool>,
    counters: Mutex<Counters>,
}

/// The counters of views.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// The views that were answered, each from its request to its answer.
    pub(crate) answered: Times,
    /// The number of views that trapped or took too long.
    pub(crate) failed: u64,
    /// The number of views that were refused because too many waited.
    pub(crate) refused: u64,
    /// The number of views that run or wait for a memory now.
    pub(crate) in_progress: usize,
}

/// A request for a view.
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) input: Vec<u8>,
    /// The height whose state the view reads. `None` for the last that was indexed.
    pub(crate) height: Option<u32>,
}

/// An answer of a view.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) height: u32,
}

/// The reason why a view has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error(
        "the guest exports no view {name:?}: a function without parameters that returns a pointer"
    )]
    Unknown { name: String },
    #[error("height {height} is not indexed yet; the last height is {last}")]
    NotIndexed { height: u32, last: u32 },
    #[error("no block is indexed yet")]
    Empty,
    #[error(
        "{waiting} views wait for {slots} memories (--waiting-views, --views); try again later"
    )]
    TooManyWait { waiting: usize, slots: usize },
    #[error("the indexer stops")]
    Stopping,
    #[error("the view {name:?} has no answer: {TimedOut}")]
    TimedOut { name: String },
    #[error("the view {name:?} has no answer")]
    Failed {
        name: String,
        #[source]
        cause: anyhow::Error,
    },
}

impl Views {
    /// `slots` is the number of memories of the host's pool.
    pub(crate) fn new(
        host: Host,
        index: Arc<Index>,
        slots: usize,
        most_waiting: usize,
        log: bool,
    ) -> Views {
        Views {
            host,
            index,
            log,
            slots,
            most_waiting,
            stops: watch::Sender::new(false),
            counters: Mutex::default(),
        }
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the engine's epochs, by which views time out.
    pub(crate) async fn count_epochs(self: Arc<Views>) {
        let mut epochs = time::interval(EPOCH);
        loop {
            epochs.tick().await;
            self.host.engine().increment_epoch();
        }
    }

    /// Refuses the views that wait, and all later ones. Those that run are answered.
    pub(crate) fn stop(&self) {
        self.stops.send_replace(true);
    }

    /// Answers a view.
    pub(crate) async fn answer(self: Arc<Views>, request: Request) -> Result<Answer, ViewError> {
        let begin = Instant::now();
        if !self.host.has_view(&request.name) {
            return Err(ViewError::Unknown { name: request.name });
        }
        let place = Place::take(&self)?;
        let outcome = self.run(request, place).await;
        let mut counters = self.counters();
        match &outcome {
            Ok(_) => counters.answered.record(begin.elapsed()),
            Err(ViewError::TimedOut { .. } | ViewError::Failed { .. }) => counters.failed += 1,
            // The guest did not run.
            Err(_) => {}
        }
        outcome
    }

    async fn run(&self, request: Request, place: Place) -> Result<Answer, ViewError> {
        let Request {
            name,
            input,
            height,
        } = request;
        let view = name.clone();
        let failed = |cause: anyhow::Error| match cause.is::<TimedOut>() {
            true => ViewError::TimedOut { name: name.clone() },
            false => ViewError::Failed {
                name: name.clone(),
                cause,
            },
        };
        let last = self.index.last_height().map_err(failed)?;
        let last = last.ok_or(ViewError::Empty)?;
        let height = match height {
            Some(height) if height > last => return Err(ViewError::NotIndexed { height, last }),
            Some(height) => height,
            None => last,
        };
        let state = self.index.snapshot_at(height).map_err(failed)?;
        let guest = Guest::view(height, &input, state, self.log);
        let mut stops = self.stops.subscribe();
        let mut running = select! {
            running = self.host.instantiate(guest) => running.map_err(failed)?,
            () = async { drop(stops.wait_for(|stops| *stops).await) } => {
                return Err(ViewError::Stopping);
            }
        };
        let answer = task::spawn_blocking(move || {
            let answer = running.view(&view);
            // The next view that waits takes the memory, and then another one may wait.
            drop(running);
            drop(place);
            answer
        });
        let bytes = match answer.await {
            Ok(answer) => answer.map_err(failed)?,
            Err(panic) => return Err(failed(anyhow!("the host panicked: {panic}"))),
        };
        Ok(Answer { bytes, height })
    }
}

/// The place of a view among those in progress. It is free again when this is dropped, also because
/// the client of a view that waits has gone.
struct Place(Arc<Views>);

impl Place {
    fn take(views: &Arc<Views>) -> Result<Place, ViewError> {
        let mut counters = views.counters();
        if counters.in_progress >= views.slots + views.most_waiting {
            counters.refused += 1;
            return Err(ViewError::TooManyWait {
                waiting: counters.in_progress - views.slots,
                slots: views.slots,
            });
        }
        counters.in_progress += 1;
        Ok(Place(Arc::clone(views)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters().in_progress -= 1;
    }
}
