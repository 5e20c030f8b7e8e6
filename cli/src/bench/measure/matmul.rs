//! The ceiling: one large matrix product, as the models' linear layers do it.

use candle_core::{Error, Tensor};
use llm_dit_kernels::Linear;

use super::{Lines, Setup};
use crate::{
    bench::{model::Plan, row::Row},
    error::CliError,
};

/// Rows and columns on a GPU, and on a CPU, where the large one would take a minute.
const SIDE: usize = 8192;
const SIDE_CPU: usize = 1024;

/// Measures a square matrix product, the ceiling of other rows.
///
/// # Errors
///
/// [`CliError`] if the report cannot be written.
pub fn rows(setup: &Setup, plan: &Plan, lines: &mut Lines<'_>) -> Result<(), CliError> {
    let side = if plan.device.is_cpu() { SIDE_CPU } else { SIDE };
    let name = format!("matmul {side}^3");
    lines.measure(&name, || {
        // Random, since a GPU that multiplies zeros needs less power and so runs faster.
        let matrix = || Tensor::randn(0f32, 1f32, (side, side), &plan.device)?.to_dtype(plan.dtype);
        let (x, linear) = (matrix()?, Linear::new(matrix()?, None));
        let times = setup.clock.time(&[&plan.device], || linear.forward(&x))?;
        Ok::<_, Error>(Row::new(&name, &times).with_work(2.0 * (side as f64).powi(3)))
    })
}
