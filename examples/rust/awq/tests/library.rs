//! The wrapper against the library: values, failures, ownership and threads.

use std::path::PathBuf;
use std::thread;

use awq::*;

/// Reproducible numbers, roughly normal.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.7).collect()
}

fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum())).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A directory of its own for each test.
fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("awq-rust-{}-{name}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn failures_have_status_and_text() {
    let ctx = Context::new().unwrap();
    let mut calibration = ctx.calibration(8).unwrap();
    let error = calibration.observe(View::new(&[0f32; 14], &[2, 7]).unwrap()).unwrap_err();
    assert_eq!(error.status(), Status::Invalid);
    assert!(error.to_string().contains('7'), "{error}");
    assert_eq!(ctx.checkpoint("/nonexistent/model").unwrap_err().status(), Status::NotFound);
    assert_eq!(ctx.checkpoint("a\0b").unwrap_err().status(), Status::Invalid);
    let small = Context::with(ContextOptions { memory_limit_bytes: 10_000, ..Default::default() }).unwrap();
    assert_eq!(small.calibration(100_000).unwrap_err().status(), Status::MemoryLimit);
    assert_eq!(Status::from(-99), Status::Other(-99));
}

#[test]
fn shapes_must_fit_their_elements() {
    assert!(View::new(&[0f32; 6], &[2, 3]).is_ok());
    assert!(View::new(&[0f32; 6], &[2, 4]).is_err());
    assert!(View::new(&[0f32; 0], &[usize::MAX, 2]).is_err());
    assert!(View::new(&[0f32; 1], &[1; 9]).is_err());
    let view = View::new(&[1i32, 2, 3, 4], &[2, 2]).unwrap();
    assert_eq!((view.dtype(), view.shape()), (Dtype::I32, vec![2, 2]));
    assert_eq!(view.as_slice::<i32>(), Some(&[1, 2, 3, 4][..]));
    assert_eq!(view.as_slice::<u32>(), None);
    assert_eq!(View::new::<f32>(&[], &[0, 3]).unwrap().as_slice::<f32>(), Some(&[][..]));
}

#[test]
fn statistics() {
    let (ctx, x) = (Context::new().unwrap(), normal(1, 40 * 16));
    let mut calibration = ctx.calibration(16).unwrap();
    calibration.observe(View::new(&x, &[4, 10, 16]).unwrap()).unwrap();
    assert_eq!((calibration.channels().unwrap(), calibration.rows().unwrap()), (16, 40));
    let mean = x.iter().step_by(16).map(|x| f64::from(x.abs())).sum::<f64>() / 40.0;
    assert!((calibration.statistic(Statistic::MeanAbs).unwrap()[0] - mean).abs() < 1e-9);
    assert_eq!(calibration.samples().unwrap().shape(), [40, 16]);
}

#[test]
fn archives_keep_calibrations() {
    let (ctx, directory, x) = (Context::new().unwrap(), scratch("archive"), normal(2, 64));
    let mut calibration = ctx.calibration(8).unwrap();
    calibration.observe(View::new(&x, &[8, 8]).unwrap()).unwrap();
    let path = directory.join("statistics");
    let mut writer = ctx.archive_writer(&path, "a test").unwrap();
    writer.add("b", &calibration).unwrap();
    writer.add("a", &calibration).unwrap();
    assert!(!path.exists());
    writer.commit().unwrap();
    let archive = ctx.archive(&path).unwrap();
    assert_eq!(archive.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(archive.provenance(), "a test");
    assert_eq!(archive.load("c").unwrap_err().status(), Status::NotFound);
    let loaded = archive.load("a").unwrap();
    assert_eq!(loaded.statistic(Statistic::MaxAbs).unwrap(), calibration.statistic(Statistic::MaxAbs).unwrap());
    std::fs::remove_dir_all(directory).unwrap();
}

/// A context, a calibration whose channel 7 is loud, and a weight [32][128].
fn searchable() -> (Context, Calibration, Vec<f32>) {
    let ctx = Context::new().unwrap();
    let (mut x, w) = (normal(3, 200 * 128), normal(4, 32 * 128));
    x.iter_mut().skip(7).step_by(128).for_each(|x| *x *= 40.0);
    let mut calibration = ctx.calibration(128).unwrap();
    calibration.observe(View::new(&x, &[200, 128]).unwrap()).unwrap();
    (ctx, calibration, w)
}

#[test]
fn rounding_by_what_outputs_lose() {
    let (ctx, _, w) = searchable();
    let mut x = normal(5, 200 * 128);
    for i in 1..x.len() {
        x[i] += 0.9 * x[i - 1]; // neighbours can make up for each other
    }
    let mut calibration = ctx.calibration_with(128, CalibrationOptions { gram: true, ..Default::default() }).unwrap();
    calibration.observe(View::new(&x, &[200, 128]).unwrap()).unwrap();
    let loss = |quantizer| -> f32 {
        let mut rounded = vec![0f32; 32 * 128];
        let weight = ctx.quantize(View::new(&w, &[32, 128]).unwrap(), None, quantizer).unwrap();
        weight.dequantize(ViewMut::new(&mut rounded, &[32, 128]).unwrap()).unwrap();
        let difference: Vec<f32> = rounded.iter().zip(&w).map(|(rounded, w)| rounded - w).collect();
        product(&x, &difference, 128).iter().map(|y| y * y).sum()
    };
    let (calibration, range) = (Some(&calibration), Range::Search);
    let nearest = loss(Quantizer { bits: 3, calibration, range, ..Default::default() });
    let feedback = loss(Quantizer { bits: 3, calibration, range, rounding: Rounding::Feedback, ..Default::default() });
    let descent = loss(Quantizer { bits: 3, calibration, range, rounding: Rounding::Descent, ..Default::default() });
    assert!(feedback < 0.7 * nearest && descent < feedback);
}

#[test]
fn search_clip_and_fold() {
    let (ctx, calibration, w) = searchable();
    let w = View::new(&w, &[32, 128]).unwrap();
    let quantizer = Quantizer { bits: 3, group_size: 32, folded: true, ..Default::default() };
    let options = SearchOptions { quantizer, grid_points: 10, ..Default::default() };
    let search = ctx.search(&calibration, &[w], options).unwrap();
    let best = search.history().unwrap().iter().map(|candidate| candidate.loss).fold(f64::INFINITY, f64::min);
    assert_eq!(search.loss().unwrap(), best);
    assert!(best < search.loss_identity().unwrap());
    let scales = search.scales(128).unwrap();
    assert!(scales.iter().all(|&scale| scale <= scales[7]));

    let mut limits = vec![0f32; 32 * 4];
    let view = ViewMut::new(&mut limits, &[32, 4]).unwrap();
    let clipping = ctx.clip_search(w, &calibration, Some(&search), ClipOptions::default(), view).unwrap();
    assert!(clipping.loss <= clipping.loss_unclipped && clipping.groups == 128);
    let clip = Some(View::new(&limits, &[32, 4]).unwrap());
    let weight = ctx.quantize(w, Some(&search), Quantizer { clip, ..quantizer }).unwrap();
    assert!(!weight.has_input_scale().unwrap());
    assert_eq!((weight.shape().unwrap(), weight.bits().unwrap(), weight.group_size().unwrap()), ((32, 128), 3, 32));

    let mut norm = vec![1f32; 128];
    let view = ViewMut::new(&mut norm, &[128]).unwrap();
    ctx.fold_norm(View::new(&scales, &[128]).unwrap(), view, FoldOptions::default()).unwrap();
    assert_eq!(norm[7], 1.0 / scales[7]);
}

#[test]
fn closures_take_part_in_a_search() {
    let (ctx, calibration, w) = searchable();
    let w = View::new(&w, &[32, 128]).unwrap();
    let (mut losses, mut steps) = (0.0, 0);
    let mut loss = |candidates: &[View<'_>]| {
        assert_eq!(candidates[0].shape(), [32, 128]);
        losses += 1.0;
        losses
    };
    let mut progress = |done, total| {
        steps += (done == total) as u32;
        true
    };
    let options = SearchOptions { loss: Some(&mut loss), progress: Some(&mut progress), ..Default::default() };
    assert_eq!(ctx.search(&calibration, &[w], options).unwrap().loss().unwrap(), 1.0);
    assert_eq!(steps, 1);
    assert!(losses >= 20.0);

    let mut cancel = |_, _| false;
    let options = SearchOptions { progress: Some(&mut cancel), ..Default::default() };
    assert_eq!(ctx.search(&calibration, &[w], options).unwrap_err().status(), Status::Cancelled);
}

#[test]
#[should_panic(expected = "from the closure")]
fn panics_do_not_cross_the_library() {
    let (ctx, calibration, w) = searchable();
    let mut loss = |_: &[View<'_>]| panic!("from the closure");
    let options = SearchOptions { loss: Some(&mut loss), ..Default::default() };
    let _ = ctx.search(&calibration, &[View::new(&w, &[32, 128]).unwrap()], options);
}

#[test]
fn weights_are_cut_joined_and_packed() {
    let (ctx, values) = (Context::new().unwrap(), normal(5, 16 * 256));
    let weight = ctx.quantize(View::new(&values, &[16, 256]).unwrap(), None, Quantizer::default()).unwrap();
    let parts = [weight.slice_rows(0..5).unwrap(), weight.slice_rows(5..16).unwrap()];
    assert_eq!(Weight::concatenate(&[&parts[0], &parts[1]]).unwrap().codes().unwrap(), weight.codes().unwrap());
    assert_eq!(weight.slice_columns(128..256).unwrap().shape().unwrap(), (16, 128));
    assert!(weight.slice_columns(100..256).unwrap_err().to_string().contains("128"));

    for layout in [Layout::Gemm, Layout::CompressedTensors] {
        let packed = ctx.pack(&weight, layout).unwrap();
        let options = UnpackOptions { group_size: 128, ..Default::default() };
        let again = ctx.unpack(layout, &packed.planes().unwrap(), options).unwrap();
        assert_eq!(again.codes().unwrap(), weight.codes().unwrap());
        assert_eq!(again.zeros().unwrap(), weight.zeros().unwrap());
        assert_eq!(again.scales().unwrap(), weight.scales().unwrap());
    }
}

#[test]
fn linears_multiply() {
    let (n, k) = (40, 192);
    let (ctx, w, x, bias) = (Context::new().unwrap(), normal(6, n * k), normal(7, 3 * k), normal(8, n));
    let weight = ctx.quantize(View::new(&w, &[n, k]).unwrap(), None, Quantizer::default()).unwrap();
    let mut rounded = vec![0f32; n * k];
    weight.dequantize(ViewMut::new(&mut rounded, &[n, k]).unwrap()).unwrap();
    let mut expected = product(&x, &rounded, k);
    let options = LinearOptions { bias: Some(View::new(&bias, &[n]).unwrap()), ..Default::default() };
    let linear = ctx.linear(&weight, options).unwrap();
    drop((ctx, weight)); // the linear needs neither
    assert_eq!((linear.inputs().unwrap(), linear.outputs().unwrap()), (k, n));

    let (x, mut y) = (View::new(&x, &[3, k]).unwrap(), vec![0f32; 3 * n]);
    linear.run(x, ViewMut::new(&mut y, &[3, n]).unwrap(), RunOptions::default()).unwrap();
    expected.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
    assert!(distance(&y, &expected) < 1e-3);

    let residual = y.clone();
    let options = RunOptions { residual: Some(View::new(&residual, &[3, n]).unwrap()), ..Default::default() };
    linear.run(x, ViewMut::new(&mut y, &[3, n]).unwrap(), options).unwrap();
    expected.iter_mut().for_each(|y| *y *= 2.0);
    assert!(distance(&y, &expected) < 2e-3);
    assert!(linear.describe(1).unwrap().contains("reference"));
    assert!(linear.run(x, ViewMut::new(&mut y, &[n, 3]).unwrap(), RunOptions::default()).is_err());
}

#[test]
fn halves_are_converted() {
    let (ctx, values) = (Context::new().unwrap(), [1.0f32, -2.5, 65504.0]);
    let (mut halves, mut brains, mut back) = ([F16(0); 3], [Bf16(0); 3], [0f32; 3]);
    let source = View::new(&values, &[3]).unwrap();
    ctx.convert(source, ViewMut::new(&mut halves, &[3]).unwrap()).unwrap();
    ctx.convert(source, ViewMut::new(&mut brains, &[3]).unwrap()).unwrap();
    assert_eq!((halves[0], brains[0]), (F16(0x3c00), Bf16(0x3f80)));
    ctx.convert(View::new(&halves, &[3]).unwrap(), ViewMut::new(&mut back, &[3]).unwrap()).unwrap();
    assert_eq!(back, values);
}

#[test]
fn threads_share_what_is_immutable() {
    fn shared<T: Send + Sync>() {}
    shared::<(Context, Weight, Packed, Linear, Archive, Checkpoint)>();
    fn movable<T: Send>() {}
    movable::<(Calibration, Search, ArchiveWriter, CheckpointWriter)>();

    let (ctx, w, x) = (Context::new().unwrap(), normal(9, 64 * 128), normal(10, 128));
    let linear = ctx.linear_dense(View::new(&w, &[64, 128]).unwrap(), LinearOptions::default()).unwrap();
    let expected = product(&x, &w, 128);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut y = vec![0f32; 64];
                    let view = ViewMut::new(&mut y, &[1, 64]).unwrap();
                    linear.run(View::new(&x, &[1, 128]).unwrap(), view, RunOptions::default()).unwrap();
                    assert!(distance(&y, &expected) < 1e-3);
                }
            });
        }
    });
}

#[test]
fn checkpoints_come_back() {
    let (ctx, directory) = (Context::new().unwrap(), scratch("checkpoint"));
    let path = directory.join("model");
    let mut writer = ctx.checkpoint_writer(&path, WriterOptions::default()).unwrap();
    writer.add("b", View::new(&[1i64, 2, 3], &[3]).unwrap()).unwrap();
    writer.add("a", View::new(&[F16(0x3c00); 4], &[2, 2]).unwrap()).unwrap();
    writer.add_file("config.json", b"{}").unwrap();
    assert!(!path.exists());
    writer.commit().unwrap();
    drop(ctx.checkpoint_writer(&path, WriterOptions { replace: true, ..Default::default() }).unwrap());

    let checkpoint = ctx.checkpoint(&path).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.get("b").unwrap().as_slice::<i64>(), Some(&[1, 2, 3][..]));
    assert_eq!(checkpoint.get("a").unwrap().shape(), [2, 2]);
    assert_eq!(checkpoint.get("c").unwrap_err().status(), Status::NotFound);
    checkpoint.release("a").unwrap();
    assert_eq!(checkpoint.metadata("nothing").unwrap(), None);
    assert_eq!(std::fs::read(path.join("config.json")).unwrap(), b"{}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn memory_is_given_back() {
    let (ctx, values) = (Context::new().unwrap(), normal(11, 64 * 256));
    let before = ctx.memory().unwrap().0;
    let weight = ctx.quantize(View::new(&values, &[64, 256]).unwrap(), None, Quantizer::default()).unwrap();
    assert!(ctx.memory().unwrap().0 > before);
    drop(weight);
    assert_eq!(ctx.memory().unwrap().0, before);
    assert!(!ctx.device_name().unwrap().is_empty() && !version().is_empty());
}
