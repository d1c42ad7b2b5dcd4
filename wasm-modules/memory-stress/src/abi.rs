//! The interface between an indexer's host and its guests: the imports, and the layout of buffers.
//! This guest declares only the imports that it needs; a host also offers `__get_len` and `__get`.
//!
//! A buffer is a pointer to bytes. The four bytes before it hold their number as a little-endian
//! `u32`.

#![expect(unsafe_code, reason = "every import of the host is a foreign function")]

/// The size of the length before a buffer's content, in bytes.
const LENGTH_BYTES: usize = 4;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    /// The number of bytes that [`__load_input`] writes.
    fn __host_len() -> i32;
    /// Writes the input, height first, to the content of a buffer.
    fn __load_input(content: *mut u8);
    /// Takes a protobuf message, `repeated bytes list = 1`: keys and values in turn.
    fn __flush(content: *const u8);
    /// Takes one line of UTF-8 text.
    fn __log(content: *const u8);
}

/// The height of a block, and the block.
pub(crate) struct Input {
    bytes: Vec<u8>,
}

impl Input {
    /// Loads the input of this run from the host. Returns `None` if it is too short for a height.
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: the call takes no pointer and returns a number.
        let length = unsafe { __host_len() } as u32;
        let mut buffer = with_length(length as usize);
        buffer.resize(LENGTH_BYTES + length as usize, 0);
        // SAFETY: the content starts after the length, and has room for `length` bytes.
        unsafe { __load_input(buffer.as_mut_ptr().add(LENGTH_BYTES)) };
        let bytes = buffer.split_off(LENGTH_BYTES);
        (bytes.len() >= 4).then_some(Self { bytes })
    }

    /// Returns the height of the block.
    pub(crate) fn height(&self) -> u32 {
        u32::from_le_bytes([self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]])
    }

    /// Returns the bytes of the block.
    pub(crate) fn block(&self) -> &[u8] {
        &self.bytes[4..]
    }
}

/// Logs one line through the host.
pub(crate) fn log(line: &str) {
    let mut buffer = with_length(line.len());
    buffer.extend_from_slice(line.as_bytes());
    // SAFETY: the length before the content is right, and the buffer outlives the call.
    unsafe { __log(buffer.as_ptr().add(LENGTH_BYTES)) };
}

/// Stores pairs of keys and values through the host.
pub(crate) fn flush(pairs: &[(&[u8], &[u8])]) {
    let mut message = Vec::new();
    for (key, value) in pairs {
        append_list_item(&mut message, key);
        append_list_item(&mut message, value);
    }
    let mut buffer = with_length(message.len());
    buffer.append(&mut message);
    // SAFETY: the length before the content is right, and the buffer outlives the call.
    unsafe { __flush(buffer.as_ptr().add(LENGTH_BYTES)) };
}

/// Returns a buffer that holds a length, and has room for the content.
fn with_length(length: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(LENGTH_BYTES + length);
    buffer.extend_from_slice(&(length as u32).to_le_bytes());
    buffer
}

/// Appends one element of `repeated bytes list = 1`.
fn append_list_item(message: &mut Vec<u8>, bytes: &[u8]) {
    const LIST_FIELD: u8 = (1 << 3) | 2;
    message.push(LIST_FIELD);
    let mut length = bytes.len() as u32;
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}
