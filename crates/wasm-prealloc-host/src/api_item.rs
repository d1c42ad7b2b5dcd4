//! The items of this crate that messages name, so that a front end can name its flags instead.

/// An item of this crate's API that the remedy of an [`Error`](crate::Error) or of another message
/// names. This enum is exhaustive, so that a front end cannot miss an item; a test compares it with
/// the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApiItem {
    /// [`Backing::Auto`](crate::Backing::Auto), a value of
    /// [`MemoryPoolBuilder::backing`](crate::MemoryPoolBuilder::backing).
    BackingAuto,
    /// [`Policy::Declared`](crate::Policy::Declared), a value of
    /// [`MemoryPoolBuilder::policy`](crate::MemoryPoolBuilder::policy).
    PolicyDeclared,
    /// [`Policy::CommitMaximum`](crate::Policy::CommitMaximum), a value of
    /// [`MemoryPoolBuilder::policy`](crate::MemoryPoolBuilder::policy).
    PolicyCommitMaximum,
    /// [`MemoryPoolBuilder::cap`](crate::MemoryPoolBuilder::cap).
    Cap,
    /// [`MemoryPoolBuilder::pages`](crate::MemoryPoolBuilder::pages).
    Pages,
    /// [`MemoryPoolBuilder::slots`](crate::MemoryPoolBuilder::slots).
    Slots,
    /// [`WhenExhausted::Wait`](crate::WhenExhausted::Wait), a value of
    /// [`MemoryPoolBuilder::when_exhausted`](crate::MemoryPoolBuilder::when_exhausted).
    Wait,
    /// [`LockMemory::Auto`](crate::LockMemory::Auto), a value of
    /// [`MemoryPoolBuilder::lock_memory`](crate::MemoryPoolBuilder::lock_memory).
    LockMemoryAuto,
    /// [`LockOptions::path`](crate::LockOptions::path).
    LockPath,
    /// [`LockOptions::timeout`](crate::LockOptions::timeout).
    LockTimeout,
    /// [`PreparedPool::secure`](crate::PreparedPool::secure).
    Secure,
    /// `WasmtimePool::configure`, of the feature `wasmtime`.
    Configure,
    /// `WasmtimePool::engine`, of the feature `wasmtime`.
    Engine,
    /// `WasmtimePool::limiter`, of the feature `wasmtime`.
    Limiter,
    /// [`MemoryPoolBuilder::table_elements`](crate::MemoryPoolBuilder::table_elements).
    TableElements,
    /// [`MemoryPoolBuilder::engine_heap_bytes`](crate::MemoryPoolBuilder::engine_heap_bytes).
    EngineHeapBytes,
    /// [`MemoryPoolBuilder::assurance`](crate::MemoryPoolBuilder::assurance).
    Assurance,
}

impl ApiItem {
    /// Every item.
    pub const ALL: [ApiItem; 17] = [
        ApiItem::BackingAuto,
        ApiItem::PolicyDeclared,
        ApiItem::PolicyCommitMaximum,
        ApiItem::Cap,
        ApiItem::Pages,
        ApiItem::Slots,
        ApiItem::Wait,
        ApiItem::LockMemoryAuto,
        ApiItem::LockPath,
        ApiItem::LockTimeout,
        ApiItem::Secure,
        ApiItem::Configure,
        ApiItem::Engine,
        ApiItem::Limiter,
        ApiItem::TableElements,
        ApiItem::EngineHeapBytes,
        ApiItem::Assurance,
    ];

    /// Returns the name that messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            ApiItem::BackingAuto => "Backing::Auto",
            ApiItem::PolicyDeclared => "Policy::Declared",
            ApiItem::PolicyCommitMaximum => "Policy::CommitMaximum",
            ApiItem::Cap => "MemoryPoolBuilder::cap",
            ApiItem::Pages => "MemoryPoolBuilder::pages",
            ApiItem::Slots => "MemoryPoolBuilder::slots",
            ApiItem::Wait => "WhenExhausted::Wait",
            ApiItem::LockMemoryAuto => "LockMemory::Auto",
            ApiItem::LockPath => "LockOptions::path",
            ApiItem::LockTimeout => "LockOptions::timeout",
            ApiItem::Secure => "PreparedPool::secure",
            ApiItem::Configure => "WasmtimePool::configure",
            ApiItem::Engine => "WasmtimePool::engine",
            ApiItem::Limiter => "WasmtimePool::limiter",
            ApiItem::TableElements => "MemoryPoolBuilder::table_elements",
            ApiItem::EngineHeapBytes => "MemoryPoolBuilder::engine_heap_bytes",
            ApiItem::Assurance => "MemoryPoolBuilder::assurance",
        }
    }

    /// Returns a message with other names for the items: `flag` returns a name, or `None` to keep
    /// the item's own. Names are put in backticks.
    ///
    /// ```
    /// use wasm_prealloc_host::ApiItem;
    ///
    /// let flag = |item| (item == ApiItem::Slots).then(|| "--slots N".to_owned());
    /// assert_eq!(
    ///     ApiItem::rename("use Backing::Auto or more `MemoryPoolBuilder::slots`", flag),
    ///     "use Backing::Auto or more `--slots N`"
    /// );
    /// ```
    pub fn rename(message: &str, flag: impl Fn(ApiItem) -> Option<String>) -> String {
        let mut renamed = message.to_owned();
        for item in ApiItem::ALL {
            if let Some(flag) = flag(item) {
                let name = item.as_str();
                renamed = renamed
                    .replace(&format!("`{name}`"), name)
                    .replace(name, &format!("`{flag}`"));
            }
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Returns the texts of the string literals in a source file without its comments and tests.
    fn literals(source: &str) -> Vec<String> {
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code: Vec<&str> = lines.collect();
        // Quotes as characters would shift the literals.
        let code = code.join("\n").replace("'\"'", "");
        let inside = code.split('"').skip(1).step_by(2);
        inside.map(str::to_owned).collect()
    }

    /// Types of wasmtime that messages name.
    const OF_WASMTIME: [&str; 4] = ["Config", "Engine", "InstanceAllocationStrategy", "Store"];

    /// Returns the items of this crate that a text names: `Type::item`.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = text.split(move |c| !is_name(c));
        words.filter(|word| {
            let is_type =
                |name: &str| name.starts_with(char::is_uppercase) && !OF_WASMTIME.contains(&name);
            word.split_once("::").is_some_and(|(ty, _)| is_type(ty))
        })
    }

    fn sources(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, found),
                false if path.ends_with("api_item.rs") => {}
                false => found.push(std::fs::read_to_string(&path).unwrap()),
            }
        }
    }

    #[test]
    fn the_items_are_those_that_messages_name() {
        let mut texts = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut texts,
        );
        let literals: Vec<String> = texts.iter().flat_map(|text| literals(text)).collect();
        let found: BTreeSet<&str> = literals.iter().flat_map(|text| named(text)).collect();
        let listed: BTreeSet<&str> = ApiItem::ALL.iter().map(|item| item.as_str()).collect();
        assert_eq!(
            found, listed,
            "every item that a message names is listed here, and front ends give it a flag"
        );
    }
}
