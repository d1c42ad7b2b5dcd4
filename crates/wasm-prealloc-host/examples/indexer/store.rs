//! The index on disk: each value with the height of the block that flushed it. One transaction
//! stores a block whole or not at all, and one transaction removes the blocks above a height.
//!
//! Only the guest interprets keys and values.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
};
use sha2::{Digest, Sha256};

use crate::hexadecimal;

/// A value for each key and each height at which a block flushed the key. The value as of a height
/// is the one of the largest height that is not above.
const HISTORY: TableDefinition<(&[u8], u32), &[u8]> = TableDefinition::new("history");
/// The keys that each block flushed.
const BLOCKS: TableDefinition<u32, Vec<&[u8]>> = TableDefinition::new("blocks");
/// The table of values without a height, in databases of earlier versions.
const WITHOUT_HISTORY: &str = "values";

/// The database's cache. redb's default is 1 GiB, which the memory of a secured host would have to
/// leave room for.
const CACHE_BYTES: usize = 16 << 20;

/// Keys and values that a block flushed, the last value of each key.
pub(crate) type Flushed = BTreeMap<Vec<u8>, Vec<u8>>;

/// The database.
pub(crate) struct Index {
    database: Database,
}

impl Index {
    /// Opens the database, or creates an empty one.
    pub(crate) fn create(path: &Path) -> Result<Index> {
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .with_context(|| format!("cannot open or create {}", path.display()))?;
        let index = Index::checked(database, path)?;
        let transaction = index.database.begin_write()?;
        // Readers cannot open a table that does not exist.
        transaction.open_table(HISTORY)?;
        transaction.open_table(BLOCKS)?;
        transaction.commit()?;
        Ok(index)
    }

    /// Opens a database that exists.
    pub(crate) fn open(path: &Path) -> Result<Index> {
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Index::checked(database, path)
    }

    /// Refuses a database that has no history.
    fn checked(database: Database, path: &Path) -> Result<Index> {
        let transaction = database.begin_read()?;
        let mut tables = transaction.list_tables()?;
        ensure!(
            tables.all(|table| table.name() != WITHOUT_HISTORY),
            "{} was written by an earlier version, which kept no history (table `values`): index the \
             blocks again into a new file, with another --db",
            path.display()
        );
        drop(tables);
        Ok(Index { database })
    }

    /// Returns the last height that was indexed.
    pub(crate) fn last_height(&self) -> Result<Option<u32>> {
        let blocks = self.database.begin_read()?.open_table(BLOCKS)?;
        Ok(blocks.last()?.map(|(height, _)| height.value()))
    }

    /// Returns one past the last height that was indexed, or 0.
    pub(crate) fn next_height(&self) -> Result<u32> {
        match self.last_height()? {
            Some(last) => last
                .checked_add(1)
                .context("the last height indexed is the largest possible one"),
            None => Ok(0),
        }
    }

    /// Returns the state after the last block.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        self.snapshot_at(u32::MAX)
    }

    /// Returns the state after the block at a height, or after the last block below it.
    pub(crate) fn snapshot_at(&self, height: u32) -> Result<Snapshot> {
        let history = self.database.begin_read()?.open_table(HISTORY)?;
        Ok(Snapshot { history, height })
    }

    /// Stores a block's values. Heights only increase.
    pub(crate) fn store_block(&self, height: u32, flushed: &Flushed) -> Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut blocks = transaction.open_table(BLOCKS)?;
            if let Some((last, _)) = blocks.last()? {
                check_above(height, last.value())?;
            }
            let keys: Vec<&[u8]> = flushed.keys().map(Vec::as_slice).collect();
            blocks.insert(height, keys)?;
            let mut history = transaction.open_table(HISTORY)?;
            for (key, value) in flushed {
                history.insert((key.as_slice(), height), value.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes all blocks above a height, and returns their number.
    pub(crate) fn roll_back_to(&self, height: u32) -> Result<usize> {
        let Some(first) = height.checked_add(1) else {
            return Ok(0);
        };
        let transaction = self.database.begin_write()?;
        let mut removed = 0;
        {
            let mut history = transaction.open_table(HISTORY)?;
            let mut blocks = transaction.open_table(BLOCKS)?;
            for block in blocks.extract_from_if(first.., |_, _| true)? {
                let (height, keys) = block?;
                for key in keys.value() {
                    history.remove((key, height.value()))?;
                }
                removed += 1;
            }
        }
        transaction.commit()?;
        Ok(removed)
    }
}

/// Refuses a block whose height is not above the last one.
pub(crate) fn check_above(height: u32, last: u32) -> Result<()> {
    if height > last {
        return Ok(());
    }
    match height.checked_sub(1) {
        Some(before) => bail!(
            "height {height} is not above {last}, the last height indexed: remove the blocks above \
             {before} with --rollback-to {before}, or use another --db"
        ),
        None => bail!(
            "height 0 is not above {last}, the last height indexed: use another --db, or a larger \
             --height"
        ),
    }
}

/// The state after the block at a height. Later transactions do not change it.
pub(crate) struct Snapshot {
    history: ReadOnlyTable<(&'static [u8], u32), &'static [u8]>,
    height: u32,
}

impl Snapshot {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut values = self.history.range((key, 0)..=(key, self.height))?;
        let newest = values.next_back().transpose()?;
        Ok(newest.map(|(_, value)| value.value().to_vec()))
    }

    /// Calls a function with every key and its value, in the order of keys.
    pub(crate) fn for_each(&self, mut function: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut newest: Option<(Vec<u8>, Vec<u8>)> = None;
        for entry in self.history.iter()? {
            let (place, value) = entry?;
            let ((key, height), value) = (place.value(), value.value());
            if height > self.height {
                continue;
            }
            // The heights of a key follow each other.
            if let Some((before, value)) = newest.take_if(|(before, _)| before.as_slice() != key) {
                function(&before, &value);
            }
            newest = Some((key.to_vec(), value.to_vec()));
        }
        if let Some((key, value)) = newest {
            function(&key, &value);
        }
        Ok(())
    }

    /// Computes the SHA-256 of every key and value, in the order of keys, each after its length in
    /// bytes as a u64 (little-endian). Two indexers have the same if, and only if, their states are
    /// the same.
    pub(crate) fn state_root(&self) -> Result<String> {
        let mut hash = Sha256::new();
        self.for_each(|key, value| {
            for bytes in [key, value] {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        })?;
        Ok(hexadecimal::encode(&hash.finalize()))
    }
}
