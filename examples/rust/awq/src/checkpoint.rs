//! Safetensors files and directories of them.

use std::path::Path;

use crate::error::{check, Result};
use crate::handle::{c_path, c_string, handle, signed, sized, text};
use crate::tensor::{empty, View};
use crate::Context;
use awq_sys as sys;

handle! {
    /// A safetensors file or a model directory, mapped: nobody may change the files while it is open.
    Checkpoint, awq_checkpoint, awq_checkpoint_destroy
}
handle! {
    /// Writes a model directory, which appears when it is committed; dropping it leaves nothing.
    CheckpointWriter, awq_checkpoint_writer, awq_checkpoint_writer_destroy
}
unsafe impl Sync for Checkpoint {}

#[derive(Clone, Copy, Debug, Default)]
pub struct WriterOptions {
    /// Replace a model directory of that name.
    pub replace: bool,
    /// 0: 5 GB.
    pub shard_bytes: u64,
    /// 0: 1024.
    pub expected_tensors: usize,
}

impl Context {
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = c_path(path.as_ref())?;
        Checkpoint::make(|out| unsafe { sys::awq_checkpoint_open(self.as_ptr(), path.as_ptr(), out) })
    }

    pub fn checkpoint_writer(&self, path: impl AsRef<Path>, options: WriterOptions) -> Result<CheckpointWriter> {
        let mut raw: sys::awq_checkpoint_writer_options = sized();
        raw.flags = if options.replace { sys::AWQ_WRITER_REPLACE } else { 0 };
        raw.shard_bytes = options.shard_bytes;
        raw.expected_tensors = signed(options.expected_tensors)?;
        let path = c_path(path.as_ref())?;
        CheckpointWriter::make(|out| unsafe {
            sys::awq_checkpoint_writer_create(self.as_ptr(), path.as_ptr(), &raw, out)
        })
    }
}

impl Checkpoint {
    /// In bytewise order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let count = unsafe { sys::awq_checkpoint_count(self.as_ptr()) };
        (0..count).filter_map(|index| text(unsafe { sys::awq_checkpoint_name(self.as_ptr(), index) }))
    }

    /// A view into the mapping.
    pub fn get(&self, name: &str) -> Result<View<'_>> {
        let (name, mut tensor) = (c_string(name)?, empty());
        check(unsafe { sys::awq_checkpoint_get(self.as_ptr(), name.as_ptr(), &mut tensor) })?;
        Ok(unsafe { View::from_raw(tensor) })
    }

    /// The tensor's pages are not needed for now; they come back from the file when touched.
    pub fn release(&self, name: &str) -> Result<()> {
        let name = c_string(name)?;
        check(unsafe { sys::awq_checkpoint_release(self.as_ptr(), name.as_ptr()) })
    }

    /// A value of the file's `__metadata__`.
    pub fn metadata(&self, key: &str) -> Result<Option<&str>> {
        let key = c_string(key)?;
        Ok(text(unsafe { sys::awq_checkpoint_metadata(self.as_ptr(), key.as_ptr()) }))
    }
}

impl CheckpointWriter {
    pub fn add(&mut self, name: &str, tensor: View<'_>) -> Result<()> {
        let name = c_string(name)?;
        check(unsafe { sys::awq_checkpoint_writer_add(self.as_ptr(), name.as_ptr(), tensor.as_ptr()) })
    }

    /// A file beside the tensors, such as config.json.
    pub fn add_file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let (name, size) = (c_string(name)?, content.len() as u64);
        check(unsafe {
            sys::awq_checkpoint_writer_add_file(self.as_ptr(), name.as_ptr(), content.as_ptr().cast(), size)
        })
    }

    pub fn commit(self) -> Result<()> {
        check(unsafe { sys::awq_checkpoint_writer_commit(self.as_ptr()) })
    }
}
