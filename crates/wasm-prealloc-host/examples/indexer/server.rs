//! Views, metrics and health checks over HTTP.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::hexadecimal;
use crate::views::{Request, ViewError, Views};

/// The type of bodies in hexadecimal. All others are bytes.
const TEXT: &str = "text/plain";

/// The time that a client has to read an answer when the server stops, beyond that of a view.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The parts of the host that answer requests.
pub(crate) struct Parts {
    /// `None` if the host was started without memory for views.
    pub(crate) views: Option<Arc<Views>>,
    pub(crate) metrics: Registry,
    /// Set when the host stops.
    pub(crate) stopped: Arc<AtomicBool>,
}

/// Takes an address, before memory is committed.
pub(crate) fn bind(address: SocketAddr, allow_remote: bool) -> Result<TcpListener> {
    ensure!(
        allow_remote || address.ip().is_loopback(),
        "other machines can reach {address}, and there is no authentication: listen at 127.0.0.1, or \
         allow it with --allow-remote"
    );
    let listener = TcpListener::bind(address);
    listener.with_context(|| format!("cannot listen at {address}"))
}

/// A server in threads of its own.
pub(crate) struct Server {
    runtime: Runtime,
    address: SocketAddr,
    views: Option<Arc<Views>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts to answer. `slots` is the number of views that run at the same time.
    pub(crate) fn start(listener: TcpListener, parts: Parts, slots: usize) -> Result<Server> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(slots.max(1))
            .enable_all()
            .build()
            .context("cannot start threads for requests")?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let views = parts.views.clone();
        if let Some(views) = &views {
            runtime.spawn(Arc::clone(views).count_epochs());
        }
        let router = Router::new()
            .route("/view/{name}", get(view).post(view))
            .route("/metrics", get(metrics))
            .route("/health", get(health))
            .with_state(Arc::new(parts));
        let (stop, stopped) = oneshot::channel();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async {
            // An error means that the server is dropped.
            let _ = stopped.await;
        });
        let serving = runtime.spawn(async { serving.await });
        drop(_entered);
        Ok(Server {
            runtime,
            address,
            views,
            stop,
            serving,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: views that run are answered, and views that wait are refused.
    pub(crate) fn stop(self, view_timeout: Duration) {
        if let Some(views) = &self.views {
            views.stop();
        }
        let _ = self.stop.send(());
        // Clients that do not read their answer, or do not finish their request, are cut off.
        let limit = view_timeout + LAST_ANSWERS;
        let _ = self
            .runtime
            .block_on(async { timeout(limit, self.serving).await });
        self.runtime.shutdown_background();
    }
}

async fn health(State(parts): State<Arc<Parts>>) -> Response {
    match parts.stopped.load(Ordering::Relaxed) {
        false => "ok\n".into_response(),
        true => refusal(StatusCode::SERVICE_UNAVAILABLE, "the indexer stops"),
    }
}

async fn metrics(State(parts): State<Arc<Parts>>) -> Response {
    let mut text = String::new();
    match prometheus_text::encode(&mut text, &parts.metrics) {
        Ok(()) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn view(
    State(parts): State<Arc<Parts>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(views) = &parts.views else {
        let text = "this indexer has no memory for views (--views)";
        return refusal(StatusCode::NOT_FOUND, text);
    };
    let is_text = |header: &HeaderName| {
        let value = headers.get(header).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.starts_with(TEXT))
    };
    let query = query.unwrap_or_default();
    let request = match parse(name, &query, &body, is_text(&CONTENT_TYPE)) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match Arc::clone(views).answer(request).await {
        Ok(answer) => {
            let height = [(
                HeaderName::from_static("x-height"),
                answer.height.to_string(),
            )];
            match is_text(&ACCEPT) {
                true => (height, hexadecimal::encode(&answer.bytes) + "\n").into_response(),
                false => (height, answer.bytes).into_response(),
            }
        }
        Err(error) => failure(&error),
    }
}

/// Reads a request: `height=H` and `input=HEX` of the query, and the body.
fn parse(name: String, query: &str, body: &[u8], is_text: bool) -> Result<Request> {
    let digits = |text: &str| {
        let bytes = hexadecimal::decode(text.trim());
        bytes.context("the input is not hexadecimal")
    };
    let (mut height, mut input) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("height", number)) => {
                let number: Result<u32, _> = number.parse();
                height = Some(number.context("the height is not a number below 2^32")?);
            }
            Some(("input", text)) => input = Some(digits(text)?),
            _ => anyhow::bail!("the parameter {pair:?} is neither height=H nor input=HEX"),
        }
    }
    ensure!(
        input.is_none() || body.is_empty(),
        "there are two inputs: one in the query and one in the body"
    );
    let input = match input {
        Some(input) => input,
        None if is_text => digits(std::str::from_utf8(body).context("the body is not text")?)?,
        None => body.to_vec(),
    };
    Ok(Request {
        name,
        input,
        height,
    })
}

fn failure(error: &ViewError) -> Response {
    let (status, is_temporary) = match error {
        ViewError::Unknown { .. } | ViewError::NotIndexed { .. } => (StatusCode::NOT_FOUND, false),
        ViewError::TooManyWait { .. } | ViewError::Empty => (StatusCode::SERVICE_UNAVAILABLE, true),
        ViewError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, false),
        ViewError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, false),
        ViewError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, false),
    };
    let mut text = error.to_string();
    if let ViewError::Failed { cause, .. } = error {
        text = format!("{text}: {cause:#}");
    }
    let mut response = refusal(status, &text);
    if is_temporary {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
    }
    response
}

fn refusal(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}
