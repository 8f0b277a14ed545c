//! The searches for column scales and for clipping limits.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr::null;

use crate::error::{check, Result};
use crate::handle::{handle, query, signed, sized};
use crate::tensor::{optional, Dtype, View, ViewMut};
use crate::{Calibration, Context};
use awq_sys as sys;

handle! {
    /// A finished search over the linears that share one input.
    Search, awq_search, awq_search_destroy
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Profile {
    #[default]
    Exact = sys::AWQ_PROFILE_EXACT as i32,
    AutoAwq = sys::AWQ_PROFILE_AUTOAWQ as i32,
    LlmAwq = sys::AWQ_PROFILE_LLM_AWQ as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Range {
    #[default]
    MinMax = sys::AWQ_RANGE_MINMAX as i32,
    Search = sys::AWQ_RANGE_SEARCH as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Rounding {
    #[default]
    Nearest = sys::AWQ_ROUND_NEAREST as i32,
    Feedback = sys::AWQ_ROUND_FEEDBACK as i32,
    Descent = sys::AWQ_ROUND_DESCENT as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Scales {
    #[default]
    Plain = sys::AWQ_SCALES_PLAIN as i32,
    Duo = sys::AWQ_SCALES_DUO as i32,
    Both = sys::AWQ_SCALES_BOTH as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Normalization {
    #[default]
    Geometric = sys::AWQ_NORMALIZE_GEOMETRIC as i32,
    Mean = sys::AWQ_NORMALIZE_MEAN as i32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(i32)]
pub enum Objective {
    #[default]
    Samples = sys::AWQ_OBJECTIVE_SAMPLES as i32,
    Gram = sys::AWQ_OBJECTIVE_GRAM as i32,
}

/// How weights are rounded.  Zero is the search's choice, or else 4 bits in groups of 128.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantizer<'a> {
    pub bits: i32,
    /// -1: one group a row.
    pub group_size: i64,
    pub symmetric: bool,
    /// The caller folds the scales, so the weight records none.
    pub folded: bool,
    pub profile: Profile,
    pub scale_dtype: Option<Dtype>,
    /// f32 [K], instead of a search's scales.
    pub input_scale: Option<View<'a>>,
    /// f32 [N][groups], from [`Context::clip_search`].
    pub clip: Option<View<'a>>,
    /// What range and rounding go by, instead of a search's.
    pub calibration: Option<&'a Calibration>,
    pub range: Range,
    /// Others than the nearest want a calibration with a Gram matrix.
    pub rounding: Rounding,
    /// 0: the library's choice.
    pub damping: f64,
}

impl Quantizer<'_> {
    /// Points into `self`.
    pub(crate) fn raw(&self) -> sys::awq_quantize_options {
        let mut raw: sys::awq_quantize_options = sized();
        raw.bits = self.bits;
        raw.group_size = self.group_size;
        raw.flags = if self.symmetric { sys::AWQ_QUANTIZE_SYMMETRIC } else { 0 }
            | if self.folded { sys::AWQ_QUANTIZE_INPUT_SCALE_FOLDED } else { 0 };
        raw.profile = self.profile as i32;
        raw.scale_dtype = self.scale_dtype.map_or(0, |dtype| dtype.0);
        raw.input_scale = optional(self.input_scale.as_ref());
        raw.clip = optional(self.clip.as_ref());
        raw.calibration = self.calibration.map_or(null(), |calibration| calibration.as_ptr().cast_const());
        raw.range = self.range as i32;
        raw.rounding = self.rounding as i32;
        raw.damping = self.damping;
        raw
    }
}

/// The loss of candidate weights, f32 and one for each weight that is searched.
pub type LossFn<'a> = dyn FnMut(&[View<'_>]) -> f64 + 'a;

/// Hears of `done` of `total` steps; `false` cancels.
pub type ProgressFn<'a> = dyn FnMut(u64, u64) -> bool + 'a;

#[derive(Default)]
pub struct SearchOptions<'a> {
    pub quantizer: Quantizer<'a>,
    /// 0: 20.
    pub grid_points: i32,
    /// Try alpha = 1 too.
    pub closed_grid: bool,
    pub scales: Scales,
    pub normalization: Normalization,
    pub objective: Objective,
    pub smooth_factor: f64,
    /// 0: all that are kept.
    pub max_rows: usize,
    pub tie_copies: usize,
    pub tie_width: usize,
    /// Try candidates on this many random sums of the rows; 0: on the rows.
    pub sketch_rows: usize,
    pub loss: Option<&'a mut LossFn<'a>>,
    pub progress: Option<&'a mut ProgressFn<'a>>,
}

#[derive(Default)]
pub struct ClipOptions<'a> {
    /// None: the search's, or else the defaults.
    pub quantizer: Option<Quantizer<'a>>,
    pub grid_points: i32,
    pub max_shrink: f64,
    pub max_rows: usize,
}

/// What a clip search found.
#[derive(Clone, Copy, Debug)]
pub struct Clipping {
    pub loss: f64,
    pub loss_unclipped: f64,
    pub groups: usize,
    pub clipped_groups: usize,
}

/// What one candidate of the grid lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub alpha: f64,
    pub loss: f64,
}

/// The closures of a search, and the panic that may have ended one of them: panics must not cross the library.
struct Callbacks<'a> {
    loss: Option<&'a mut LossFn<'a>>,
    progress: Option<&'a mut ProgressFn<'a>>,
    panic: Option<Box<dyn Any + Send>>,
}

impl Callbacks<'_> {
    fn guard(&mut self, call: impl FnOnce(&mut Self) -> bool) -> i32 {
        match catch_unwind(AssertUnwindSafe(|| call(self))) {
            Ok(go_on) => !go_on as i32,
            Err(panic) => {
                self.panic = Some(panic);
                1
            }
        }
    }
}

unsafe extern "C" fn loss(
    user_data: *mut c_void,
    count: usize,
    candidates: *const *const sys::awq_tensor,
    loss: *mut f64,
) -> i32 {
    let callbacks = &mut *user_data.cast::<Callbacks<'_>>();
    let views: Vec<View<'_>> = (0..count).map(|index| View::from_raw(**candidates.add(index))).collect();
    callbacks.guard(|callbacks| {
        if let Some(function) = &mut callbacks.loss {
            *loss = function(&views);
        }
        true
    })
}

unsafe extern "C" fn progress(user_data: *mut c_void, done: u64, total: u64) -> i32 {
    let callbacks = &mut *user_data.cast::<Callbacks<'_>>();
    callbacks.guard(|callbacks| callbacks.progress.as_mut().map_or(true, |function| function(done, total)))
}

impl Context {
    /// Find the column scales of the linears `weights`, which share the calibrated input.
    pub fn search<'a>(
        &self,
        calibration: &Calibration,
        weights: &[View<'_>],
        mut options: SearchOptions<'a>,
    ) -> Result<Search> {
        let mut callbacks = Callbacks { loss: options.loss.take(), progress: options.progress.take(), panic: None };
        let quantizer = options.quantizer.raw();
        let mut raw: sys::awq_search_options = sized();
        raw.flags = if options.closed_grid { sys::AWQ_SEARCH_CLOSED_GRID } else { 0 };
        raw.grid_points = options.grid_points;
        raw.scales = options.scales as i32;
        raw.normalization = options.normalization as i32;
        raw.objective = options.objective as i32;
        raw.smooth_factor = options.smooth_factor;
        raw.max_rows = signed(options.max_rows)?;
        raw.tie_copies = signed(options.tie_copies)?;
        raw.tie_width = signed(options.tie_width)?;
        raw.sketch_rows = signed(options.sketch_rows)?;
        raw.quantize = &quantizer;
        let user_data: *mut c_void = (&mut callbacks as *mut Callbacks<'_>).cast();
        if callbacks.loss.is_some() {
            raw.loss = Some(loss);
            raw.loss_data = user_data;
        }
        if callbacks.progress.is_some() {
            raw.progress = Some(progress);
            raw.progress_data = user_data;
        }

        let search =
            Search::make(|out| unsafe { sys::awq_search_create(self.as_ptr(), calibration.as_ptr(), &raw, out) })?;
        for weight in weights {
            check(unsafe { sys::awq_search_add_weight(search.as_ptr(), weight.as_ptr()) })?;
        }
        // The weights are read, and the closures called, by this call alone.
        let result = check(unsafe { sys::awq_search_run(search.as_ptr()) });
        if let Some(panic) = callbacks.panic {
            resume_unwind(panic);
        }
        result.map(|()| search)
    }

    /// Find the limits[N][groups], f32, that the groups of `w` are best clipped to.
    pub fn clip_search(
        &self,
        w: View<'_>,
        calibration: &Calibration,
        search: Option<&Search>,
        options: ClipOptions<'_>,
        mut limits: ViewMut<'_>,
    ) -> Result<Clipping> {
        let quantizer = options.quantizer.as_ref().map(Quantizer::raw);
        let mut raw: sys::awq_clip_options = sized();
        raw.grid_points = options.grid_points;
        raw.max_shrink = options.max_shrink;
        raw.max_rows = signed(options.max_rows)?;
        raw.quantize = crate::handle::pointer(quantizer.as_ref());
        let search = search.map_or(std::ptr::null_mut(), Search::as_ptr);
        let limits = limits.as_mut_ptr();
        let result: sys::awq_clip_result = query(|result| unsafe {
            sys::awq_clip_search(self.as_ptr(), w.as_ptr(), calibration.as_ptr(), search, &raw, limits, result)
        })?;
        Ok(Clipping {
            loss: result.loss,
            loss_unclipped: result.loss_unclipped,
            groups: result.groups as usize,
            clipped_groups: result.clipped_groups as usize,
        })
    }
}

impl Search {
    fn result(&self) -> Result<sys::awq_search_result> {
        query(|result| unsafe { sys::awq_search_get_result(self.as_ptr(), result) })
    }

    pub fn alpha(&self) -> Result<f64> {
        Ok(self.result()?.alpha)
    }

    /// Of the best scales.
    pub fn loss(&self) -> Result<f64> {
        Ok(self.result()?.loss)
    }

    /// Of plain rounding.
    pub fn loss_identity(&self) -> Result<f64> {
        Ok(self.result()?.loss_identity)
    }

    /// The best scale of each of `channels` inputs.
    pub fn scales(&self, channels: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; channels];
        check(unsafe { sys::awq_search_get_scales(self.as_ptr(), values.as_mut_ptr(), signed(channels)?) })?;
        Ok(values)
    }

    /// In the order of evaluation.
    pub fn history(&self) -> Result<Vec<Candidate>> {
        let count = self.result()?.candidates;
        let (mut alphas, mut losses) = (vec![0.0; count as usize], vec![0.0; count as usize]);
        check(unsafe { sys::awq_search_get_history(self.as_ptr(), alphas.as_mut_ptr(), losses.as_mut_ptr(), count) })?;
        Ok(alphas.into_iter().zip(losses).map(|(alpha, loss)| Candidate { alpha, loss }).collect())
    }
}
