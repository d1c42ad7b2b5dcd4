//! The indexer host and its guests, built once for all tests.

use std::sync::LazyLock;

use wasm_prealloc_tests::Indexer;

pub(crate) static INDEXER: LazyLock<Indexer> =
    LazyLock::new(|| Indexer::build("end-to-end").unwrap());
