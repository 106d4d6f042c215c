//! Attention by own kernels, which keep scores and probabilities out of memory: in f32, or by the matrix units in bf16.

use candle_core::{DType, Result, Tensor};

use super::fused::{one, run, takes, two};
use super::plan::Plan;
use crate::precision::{Precision, current};

/// Elements of a head at most.
const HEAD: usize = 64;
/// Rows of a block of threads.
const ROWS: usize = 16;
/// Its warps.
const WARPS: usize = 4;
/// Tokens at most where the kernels multiply in plain f32. Where matrix products have faster units, they win earlier.
const MOST_TOKENS: usize = 256;
const MOST_TOKENS_BESIDE_FAST_PRODUCTS: usize = 64;
/// Tokens at most of which the matrix units' kernels have whole heads in shared memory, with a warp for 16 of them.
const SHORT: usize = 64;
/// Tokens at most of those that have memory for one warp only.
const SHORTEST: usize = 16;

/// Where queries, keys and values lie in two tensors `[B, T, N, C]`, or in one that is given twice.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Channels before the first head's queries, keys and values.
    pub(crate) first: [usize; 3],
    /// Whether all heads share one head of keys and values, which lies in a tensor of its own.
    pub(crate) shared: bool,
    /// Whether the matrix units multiply, in bf16.
    pub(crate) rough: bool,
}

impl Layout {
    /// Queries, keys and values side by side.
    pub(crate) fn packed(heads: usize, head_dim: usize) -> Self {
        let c = heads * head_dim;
        Self { heads, head_dim, first: [0, c, 2 * c], shared: false, rough: current() == Precision::Bf16 }
    }

    /// Queries, and one head of keys and values.
    pub(crate) fn multi_query(heads: usize, head_dim: usize) -> Self {
        Self { heads, head_dim, first: [0, 0, head_dim], shared: true, rough: current() == Precision::Bf16 }
    }

    /// Whether the kernels are for these queries.
    pub(crate) fn takes(&self, q: &Tensor) -> Result<bool> {
        let (_, _, tokens, _) = q.dims4()?;
        let most = match current() {
            Precision::F32 => MOST_TOKENS,
            Precision::Tf32 => MOST_TOKENS_BESIDE_FAST_PRODUCTS,
            Precision::Bf16 => usize::MAX,
        };
        Ok(takes(q) && self.head_dim <= HEAD && tokens <= most)
    }

    /// A plan with `grid` blocks; the tensors' shapes fill its sizes.
    fn plan(
        &self,
        kernel: &'static str,
        grid: (usize, usize),
        warps: usize,
        (q, kv): (&Tensor, &Tensor),
        outputs: Vec<Vec<usize>>,
    ) -> Result<Plan> {
        let (batch, blocks, tokens, q_step) = q.dims4()?;
        let kv_step = kv.dim(3)?;
        let [q_first, k_first, v_first] = self.first;
        let sizes =
            [batch * blocks, tokens, self.heads, self.head_dim, q_step, q_first, kv_step, k_first, v_first];
        let plan = Plan::blocks(kernel, grid, warps, outputs)
            .with_sizes(&sizes)
            .with_sizes(&[usize::from(self.shared)]);
        Ok(plan.with_numbers(&[1.0 / (self.head_dim as f32).sqrt()]))
    }

    /// The kernel for heads of this size.
    fn named(&self, kernels: [&'static str; 2]) -> &'static str {
        kernels[usize::from(self.head_dim > 32)]
    }

    /// The output `[B, T, N, heads * head_dim]`, and unless sequences are short what the backward pass needs beside it: the
    /// logarithm of each query's sum `[B, T, heads, N]`.
    pub(crate) fn forward(&self, q: &Tensor, kv: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (b, t, n, _) = q.dims4()?;
        if self.rough && n <= SHORT {
            let kernel = self.named(match n <= SHORTEST {
                true => ["attention_shortest_32", "attention_shortest_64"],
                false => ["attention_short_32", "attention_short_64"],
            });
            let outputs = vec![vec![b, t, n, self.heads * self.head_dim]];
            let plan = self.plan(kernel, (b * t * self.heads, 1), groups(n).0, (q, kv), outputs)?;
            return Ok((one(&plan.with_types(&[DType::BF16]), &[Some(q), Some(kv)])?, None));
        }
        let outputs = vec![vec![b, t, n, self.heads * self.head_dim], vec![b, t, self.heads, n]];
        let plan = if self.rough {
            let (warps, groups) = groups(n);
            let plan = self.plan(
                self.named(["attention_bf16_32", "attention_bf16_64"]),
                (b * t * self.heads, groups),
                warps,
                (q, kv),
                outputs,
            )?;
            plan.with_types(&[DType::BF16])
        } else {
            self.plan("attention", (b * t * self.heads, n.div_ceil(ROWS)), WARPS, (q, kv), outputs)?
        };
        let [output, logs] = two("attention", run(&plan, &[Some(q), Some(kv)])?)?;
        Ok((output, Some(logs)))
    }

    /// The gradients of `q`, and of `kv` where that is another tensor, from that of the output.
    pub(crate) fn backward(
        &self,
        q: &Tensor,
        kv: &Tensor,
        (output, logs): &(Tensor, Option<Tensor>),
        grad: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let (b, t, n, _) = q.dims4()?;
        let mut outputs = vec![q.dims().to_vec()];
        outputs.extend(self.shared.then(|| kv.dims().to_vec()));
        let (types, (warps, groups)) = (vec![DType::BF16; outputs.len()], groups(n));
        let Some(logs) = logs else {
            let kernel = self.named(match n <= SHORTEST {
                true => ["attention_shortest_backward_32", "attention_shortest_backward_64"],
                false => ["attention_short_backward_32", "attention_short_backward_64"],
            });
            let grid = (b * t * if self.shared { 1 } else { self.heads }, 1);
            let plan = self.plan(kernel, grid, warps, (q, kv), outputs)?;
            return run(&plan.with_types(&types), &[q, kv, grad].map(Some));
        };
        if self.rough {
            let kernel = self.named(["attention_backward_bf16_32", "attention_backward_bf16_64"]);
            let plan = self.plan(kernel, (b * t * self.heads, 2 * groups), warps, (q, kv), outputs)?;
            return run(&plan.with_types(&types), &[q, kv, grad, output, logs].map(Some));
        }
        let (kv_heads, rows) = (if self.shared { 1 } else { self.heads }, n.div_ceil(ROWS));
        let outputs = vec![output.dims().to_vec(), logs.dims().to_vec()];
        let plan = self.plan("attention_queries", (b * t * self.heads, rows), WARPS, (q, kv), outputs)?;
        let [dq, inner] = two("attention", run(&plan, &[q, kv, grad, output, logs].map(Some))?)?;
        let outputs = vec![vec![b, t, n, kv_heads * self.head_dim]; 2];
        let plan = self.plan("attention_keys", (b * t * kv_heads, rows), WARPS, (q, kv), outputs)?;
        let [dk, dv] = two("attention", run(&plan, &[q, kv, grad, logs, &inner].map(Some))?)?;
        Ok(match self.shared {
            true => vec![dq, Tensor::cat(&[dk, dv], 3)?],
            false => vec![Tensor::cat(&[dq, dk, dv], 3)?],
        })
    }
}

/// Warps of a block of the kernels for the matrix units, 16 rows each, and blocks for so many tokens.
fn groups(tokens: usize) -> (usize, usize) {
    let warps = tokens.div_ceil(16).next_power_of_two().min(4);
    (warps, tokens.div_ceil(16 * warps))
}

#[cfg(test)]
mod tests {
    use super::super::emulation::{can_run, close, single};
    use super::*;
    use crate::{Var, portable};

    fn gradients(y: &Var, grad: &Tensor, leaves: &[&Var]) -> Result<Vec<Tensor>> {
        let found = crate::backward(crate::sum_all(&crate::mul(y, &Var::constant(grad.clone()))?)?)?;
        Ok(leaves.iter().filter_map(|leaf| found.leaf(leaf).cloned()).collect())
    }

    #[test]
    fn attention_agrees_with_the_composition() -> Result<()> {
        if !can_run() {
            return Ok(());
        }
        for (sequences, tokens, heads, head_dim) in [(2, 5, 2, 3), (1, 33, 1, 40), (1, 1, 2, 64)] {
            let c = heads * head_dim;
            let qkv = (single(&[1, sequences, tokens, 3 * c], 1)? * 3.0)?;
            let leaf = Var::leaf(qkv.clone());
            let composed = portable::attention::attention(&leaf, heads)?;
            let layout = Layout::packed(heads, head_dim);
            let kept = layout.forward(&qkv, &qkv)?;
            close("attention", &kept.0, composed.value())?;
            let grad = single(composed.dims(), 2)?;
            let found = layout.backward(&qkv, &qkv, &kept, &grad)?;
            close("attention's gradient", &found[0], &gradients(&composed, &grad, &[&leaf])?[0])?;
        }
        Ok(())
    }

    #[test]
    fn attention_with_shared_keys_agrees_with_the_composition() -> Result<()> {
        if !can_run() {
            return Ok(());
        }
        for (sequences, tokens, heads, head_dim) in [(2, 5, 3, 4), (1, 17, 2, 36)] {
            let q = single(&[sequences, 1, tokens, heads * head_dim], 1)?;
            let kv = single(&[sequences, 1, tokens, 2 * head_dim], 2)?;
            let leaves = [Var::leaf(q.clone()), Var::leaf(kv.clone())];
            let composed = portable::attention::multi_query_attention(&leaves[0], &leaves[1], heads)?;
            let layout = Layout::multi_query(heads, head_dim);
            let kept = layout.forward(&q, &kv)?;
            close("multi_query_attention", &kept.0, composed.value())?;
            let grad = single(composed.dims(), 3)?;
            let found = layout.backward(&q, &kv, &kept, &grad)?;
            let wanted = gradients(&composed, &grad, &[&leaves[0], &leaves[1]])?;
            close("its queries' gradient", &found[0], &wanted[0])?;
            close("its keys' and values' gradient", &found[1], &wanted[1])?;
        }
        Ok(())
    }
}
