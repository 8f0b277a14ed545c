//! One linear layer, from activations to a 4-bit product, and what AWQ gains over plain rounding.

use awq::{Context, LinearOptions, Quantizer, Result, RunOptions, SearchOptions, View, ViewMut};

const OUTPUTS: usize = 256;
const INPUTS: usize = 256;
const TOKENS: usize = 512;
const FRESH: usize = 64;

/// A cheap, repeatable stand-in for real data: roughly normal numbers.
fn noise(state: &mut u32) -> f32 {
    (0..4)
        .map(|_| {
            *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (*state >> 8) as f32 / 16777216.0 - 0.5
        })
        .sum()
}

/// As in large language models, a few channels are much louder than the rest.
fn activations(state: &mut u32, tokens: usize) -> Vec<f32> {
    let loud = |channel| if channel == 7 || channel == 100 { 40.0 } else { 1.0 };
    (0..tokens * INPUTS).map(|i| noise(state) * loud(i % INPUTS)).collect()
}

/// Of y = x W^T against the exact product.
fn relative_error(x: &[f32], w: &[f32], y: &[f32]) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (x, y) in x.chunks(INPUTS).zip(y.chunks(OUTPUTS)) {
        for (w, &y) in w.chunks(INPUTS).zip(y) {
            let exact: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            error += (exact - f64::from(y)).powi(2);
            norm += exact * exact;
        }
    }
    (error / norm).sqrt()
}

fn main() -> Result<()> {
    let mut state = 1;
    let w: Vec<f32> = (0..OUTPUTS * INPUTS).map(|_| noise(&mut state) * 0.2).collect();
    let (seen, x) = (activations(&mut state, TOKENS), activations(&mut state, FRESH));
    let weight = View::new(&w, &[OUTPUTS, INPUTS])?;

    let ctx = Context::new()?;
    let mut calibration = ctx.calibration(INPUTS)?;
    calibration.observe(View::new(&seen, &[TOKENS, INPUTS])?)?;
    let search = ctx.search(&calibration, &[weight], SearchOptions::default())?;
    println!("alpha {:.2}: loss {:.3} instead of {:.3}", search.alpha()?, search.loss()?, search.loss_identity()?);

    for (name, search) in [("plain rounding", None), ("AWQ", Some(&search))] {
        let linear = ctx.linear(&ctx.quantize(weight, search, Quantizer::default())?, LinearOptions::default())?;
        let mut y = vec![0.0f32; FRESH * OUTPUTS];
        let out = ViewMut::new(&mut y, &[FRESH, OUTPUTS])?;
        linear.run(View::new(&x, &[FRESH, INPUTS])?, out, RunOptions::default())?;
        println!("{name}: relative error {:.4}", relative_error(&x, &w, &y));
    }
    Ok(())
}
