//! Attention by own kernels, which keep scores and probabilities out of memory: f32 tensors on one GPU.

use candle_core::{Result, Tensor};

use super::fused::{run, takes};
use super::plan::Plan;
use crate::precision::{Precision, current};

/// Elements of a head at most.
const HEAD: usize = 64;
/// Rows of a block of threads.
const ROWS: usize = 16;
/// Tokens at most: the kernels multiply in plain f32. Where matrix products have faster units, they win earlier.
const MOST_TOKENS: usize = 256;
const MOST_TOKENS_BESIDE_FAST_PRODUCTS: usize = 64;

/// Where queries, keys and values lie in two tensors `[B, T, N, C]`.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Channels before the first head's queries, keys and values.
    pub(crate) first: [usize; 3],
    /// Whether all heads share one head of keys and values.
    pub(crate) shared: bool,
}

impl Layout {
    /// Whether the kernels are for these queries.
    pub(crate) fn takes(&self, q: &Tensor) -> Result<bool> {
        let (_, _, tokens, _) = q.dims4()?;
        let most = match current() {
            Precision::F32 => MOST_TOKENS,
            Precision::Tf32 | Precision::Bf16 => MOST_TOKENS_BESIDE_FAST_PRODUCTS,
        };
        Ok(takes(q) && self.head_dim <= HEAD && tokens <= most)
    }

    /// A plan with blocks for `heads` heads of each sequence; the tensors' shapes fill its sizes.
    fn plan(
        &self,
        kernel: &'static str,
        heads: usize,
        q: &Tensor,
        kv: &Tensor,
        outputs: Vec<Vec<usize>>,
    ) -> Result<Plan> {
        let (batch, blocks, tokens, q_step) = q.dims4()?;
        let (sequences, kv_step) = (batch * blocks, kv.dim(3)?);
        let [q_first, k_first, v_first] = self.first;
        let sizes = [sequences, tokens, self.heads, self.head_dim, q_step, q_first, kv_step, k_first, v_first];
        let grid = (sequences * heads, tokens.div_ceil(ROWS));
        let plan =
            Plan::blocks(kernel, grid, outputs).with_sizes(&sizes).with_sizes(&[usize::from(self.shared)]);
        Ok(plan.with_numbers(&[1.0 / (self.head_dim as f32).sqrt()]))
    }

    /// The output `[B, T, N, heads * head_dim]`, and the logarithm of each query's sum `[B, T, heads, N]`.
    pub(crate) fn forward(&self, q: &Tensor, kv: &Tensor) -> Result<[Tensor; 2]> {
        let (b, t, n, _) = q.dims4()?;
        let outputs = vec![vec![b, t, n, self.heads * self.head_dim], vec![b, t, self.heads, n]];
        two(run(&self.plan("attention", self.heads, q, kv, outputs)?, &[Some(q), Some(kv)])?)
    }

    /// The gradients of queries, keys and values from that of the output.
    pub(crate) fn backward(
        &self,
        q: &Tensor,
        kv: &Tensor,
        [output, logs]: &[Tensor; 2],
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (b, t, n, _) = q.dims4()?;
        let kv_heads = if self.shared { 1 } else { self.heads };
        let outputs = vec![output.dims().to_vec(), logs.dims().to_vec()];
        let plan = self.plan("attention_queries", self.heads, q, kv, outputs)?;
        let [dq, inner] = two(run(&plan, &[Some(q), Some(kv), Some(grad), Some(output), Some(logs)])?)?;
        let outputs = vec![vec![b, t, n, kv_heads * self.head_dim]; 2];
        let plan = self.plan("attention_keys", kv_heads, q, kv, outputs)?;
        let [dk, dv] = two(run(&plan, &[Some(q), Some(kv), Some(grad), Some(logs), Some(&inner)])?)?;
        Ok([dq, dk, dv])
    }
}

fn two(outputs: Vec<Tensor>) -> Result<[Tensor; 2]> {
    outputs.try_into().map_err(|_| candle_core::Error::Msg("attention: expected two outputs".into()))
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
            let layout = Layout { heads, head_dim, first: [0, c, 2 * c], shared: false };
            let kept = layout.forward(&qkv, &qkv)?;
            close("attention", &kept[0], composed.value())?;
            let grad = single(composed.dims(), 2)?;
            let found = layout.backward(&qkv, &qkv, &kept, &grad)?;
            close(
                "attention's gradient",
                &Tensor::cat(&found, 3)?,
                &gradients(&composed, &grad, &[&leaf])?[0],
            )?;
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
            let layout = Layout { heads, head_dim, first: [0, 0, head_dim], shared: true };
            let kept = layout.forward(&q, &kv)?;
            close("multi_query_attention", &kept[0], composed.value())?;
            let grad = single(composed.dims(), 3)?;
            let [dq, dk, dv] = layout.backward(&q, &kv, &kept, &grad)?;
            let wanted = gradients(&composed, &grad, &[&leaves[0], &leaves[1]])?;
            close("its queries' gradient", &dq, &wanted[0])?;
            close("its keys' and values' gradient", &Tensor::cat(&[dk, dv], 3)?, &wanted[1])?;
        }
        Ok(())
    }
}
