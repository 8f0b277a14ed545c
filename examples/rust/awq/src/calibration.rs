//! Statistics of what a linear layer sees.

use std::path::Path;

use crate::error::{check, Result};
use crate::handle::{c_path, c_string, handle, query, signed, sized, text};
use crate::tensor::{empty, View};
use crate::Context;
use awq_sys as sys;

handle! {
    /// Statistics of the input of one linear layer, or of several that share it.
    Calibration, awq_calibration, awq_calibration_destroy
}
handle! {
    /// A file of named calibrations.
    Archive, awq_archive, awq_archive_destroy
}
handle! {
    /// Writes an archive, which appears when it is committed; dropping it leaves nothing.
    ArchiveWriter, awq_archive_writer, awq_archive_writer_destroy
}
unsafe impl Sync for Archive {}

/// What is kept besides the sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct CalibrationOptions {
    /// Also X^T X.
    pub gram: bool,
    /// Rows to keep; 0: 512; negative: none.
    pub sample_rows: i64,
    /// Of the choice of rows.
    pub seed: u64,
}

/// A number per channel.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub enum Statistic {
    MeanAbs = sys::AWQ_STATISTIC_MEAN_ABS as i32,
    MeanSquare = sys::AWQ_STATISTIC_MEAN_SQUARE as i32,
    MaxAbs = sys::AWQ_STATISTIC_MAX_ABS as i32,
}

impl Context {
    /// Statistics for layers with that many inputs.
    pub fn calibration(&self, channels: usize) -> Result<Calibration> {
        self.calibration_with(channels, CalibrationOptions::default())
    }

    pub fn calibration_with(&self, channels: usize, options: CalibrationOptions) -> Result<Calibration> {
        let mut raw: sys::awq_calibration_options = sized();
        raw.flags = if options.gram { sys::AWQ_CALIBRATION_GRAM } else { 0 };
        raw.sample_rows = options.sample_rows;
        raw.seed = options.seed;
        let channels = signed(channels)?;
        Calibration::make(|out| unsafe { sys::awq_calibration_create(self.as_ptr(), channels, &raw, out) })
    }

    /// Read what [`Calibration::save`] wrote.
    pub fn load_calibration(&self, path: impl AsRef<Path>) -> Result<Calibration> {
        let path = c_path(path.as_ref())?;
        Calibration::make(|out| unsafe { sys::awq_calibration_load(self.as_ptr(), path.as_ptr(), out) })
    }

    pub fn archive(&self, path: impl AsRef<Path>) -> Result<Archive> {
        let path = c_path(path.as_ref())?;
        Archive::make(|out| unsafe { sys::awq_archive_open(self.as_ptr(), path.as_ptr(), out) })
    }

    /// `provenance` is free text.
    pub fn archive_writer(&self, path: impl AsRef<Path>, provenance: &str) -> Result<ArchiveWriter> {
        let (path, provenance) = (c_path(path.as_ref())?, c_string(provenance)?);
        ArchiveWriter::make(|out| unsafe {
            sys::awq_archive_writer_create(self.as_ptr(), path.as_ptr(), provenance.as_ptr(), out)
        })
    }
}

impl Calibration {
    /// Add activations x[..][channels].
    pub fn observe(&mut self, x: View<'_>) -> Result<()> {
        check(unsafe { sys::awq_calibration_observe(self.as_ptr(), x.as_ptr()) })
    }

    /// The same with an f32 weight for each row.
    pub fn observe_weighted(&mut self, x: View<'_>, weights: View<'_>) -> Result<()> {
        check(unsafe { sys::awq_calibration_observe_weighted(self.as_ptr(), x.as_ptr(), weights.as_ptr()) })
    }

    /// Add what `source` has seen.
    pub fn merge(&mut self, source: &Calibration) -> Result<()> {
        check(unsafe { sys::awq_calibration_merge(self.as_ptr(), source.as_ptr()) })
    }

    /// Rounds the sums, so that parts merge to the same bytes in any order.
    pub fn trim(&mut self) -> Result<()> {
        check(unsafe { sys::awq_calibration_trim(self.as_ptr()) })
    }

    fn info(&self) -> Result<sys::awq_calibration_info> {
        query(|info| unsafe { sys::awq_calibration_get_info(self.as_ptr(), info) })
    }

    pub fn channels(&self) -> Result<usize> {
        Ok(self.info()?.channels as usize)
    }

    /// Rows observed so far.
    pub fn rows(&self) -> Result<usize> {
        Ok(self.info()?.rows as usize)
    }

    pub fn statistic(&self, which: Statistic) -> Result<Vec<f64>> {
        let mut values = vec![0.0; self.channels()?];
        let count = signed(values.len())?;
        check(unsafe { sys::awq_calibration_get_statistic(self.as_ptr(), which as i32, values.as_mut_ptr(), count) })?;
        Ok(values)
    }

    /// The kept rows, f32.
    pub fn samples(&self) -> Result<View<'_>> {
        let mut tensor = empty();
        check(unsafe { sys::awq_calibration_get_samples(self.as_ptr(), &mut tensor) })?;
        Ok(unsafe { View::from_raw(tensor) }) // valid until a change, which needs &mut self
    }

    /// Write an archive that holds this calibration alone.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = c_path(path.as_ref())?;
        check(unsafe { sys::awq_calibration_save(self.as_ptr(), path.as_ptr()) })
    }
}

impl Archive {
    /// In bytewise order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let count = unsafe { sys::awq_archive_count(self.as_ptr()) };
        (0..count).filter_map(|index| text(unsafe { sys::awq_archive_name(self.as_ptr(), index) }))
    }

    /// The text its writer gave.
    pub fn provenance(&self) -> &str {
        text(unsafe { sys::awq_archive_provenance(self.as_ptr()) }).unwrap_or("")
    }

    pub fn load(&self, name: &str) -> Result<Calibration> {
        let name = c_string(name)?;
        Calibration::make(|out| unsafe { sys::awq_archive_load(self.as_ptr(), name.as_ptr(), out) })
    }
}

impl ArchiveWriter {
    pub fn add(&mut self, name: &str, calibration: &Calibration) -> Result<()> {
        let name = c_string(name)?;
        check(unsafe { sys::awq_archive_writer_add(self.as_ptr(), name.as_ptr(), calibration.as_ptr()) })
    }

    pub fn commit(self) -> Result<()> {
        check(unsafe { sys::awq_archive_writer_commit(self.as_ptr()) })
    }
}
