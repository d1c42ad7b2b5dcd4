//! The index on disk: the current value of each key, and the last height that was indexed. One
//! transaction stores a block whole or not at all.
//!
//! Only the guest interprets keys and values.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};

const VALUES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("values");
const STATE: TableDefinition<&str, u32> = TableDefinition::new("state");
const LAST_HEIGHT: &str = "last_height";

/// Keys and values that a block flushed, the last value of each key.
pub(crate) type Flushed = BTreeMap<Vec<u8>, Vec<u8>>;

/// The database.
pub(crate) struct Index {
    database: Database,
}

impl Index {
    /// Opens the database, or creates an empty one.
    pub(crate) fn create(path: &Path) -> Result<Index> {
        let database = Database::create(path)
            .with_context(|| format!("cannot open or create {}", path.display()))?;
        let transaction = database.begin_write()?;
        // Readers cannot open a table that does not exist.
        transaction.open_table(VALUES)?;
        transaction.open_table(STATE)?;
        transaction.commit()?;
        Ok(Index { database })
    }

    /// Opens a database that exists.
    pub(crate) fn open(path: &Path) -> Result<Index> {
        let database =
            Database::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Index { database })
    }

    /// Returns one past the last height that was indexed, or 0.
    pub(crate) fn next_height(&self) -> Result<u32> {
        let state = self.database.begin_read()?.open_table(STATE)?;
        match state.get(LAST_HEIGHT)? {
            Some(last) => last
                .value()
                .checked_add(1)
                .context("the last height indexed is the largest possible one"),
            None => Ok(0),
        }
    }

    /// Returns the current values, for a guest to read while it runs.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let values = self.database.begin_read()?.open_table(VALUES)?;
        Ok(Snapshot { values })
    }

    /// Stores a block's values and its height.
    pub(crate) fn store_block(&self, height: u32, flushed: &Flushed) -> Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut values = transaction.open_table(VALUES)?;
            for (key, value) in flushed {
                values.insert(key.as_slice(), value.as_slice())?;
            }
            transaction.open_table(STATE)?.insert(LAST_HEIGHT, height)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Returns every key and value, in the order of keys.
    pub(crate) fn all(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        for entry in self.snapshot()?.values.iter()? {
            let (key, value) = entry?;
            all.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(all)
    }

    /// Computes the SHA-256 of every key and value, in the order of keys, each after its length in
    /// bytes as a u64 (little-endian). Two indexers have the same if, and only if, they stored the
    /// same.
    pub(crate) fn state_root(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for entry in self.snapshot()?.values.iter()? {
            let (key, value) = entry?;
            for bytes in [key.value(), value.value()] {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        }
        let digest = hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The values at one moment.
pub(crate) struct Snapshot {
    values: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Snapshot {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.values.get(key)?.map(|value| value.value().to_vec()))
    }
}
