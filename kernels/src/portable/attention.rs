//! Attention as batched matrix products and a softmax; the backward pass computes the probabilities again.

use candle_core::{Result, Tensor};

use super::linear::product;
use super::softmax::{softmax, softmax_backward};
use crate::Var;
use crate::cuda::attention::Layout;
use crate::cuda::fused;
use crate::mixed::widened_value;

/// `[B, T, N, heads * hd] -> [B T, heads, N, hd]`, of `heads` heads that start at channel `first`.
fn heads(x: &Tensor, first: usize, heads: usize, head_dim: usize) -> Result<Tensor> {
    let (batch, blocks, tokens, _) = x.dims4()?;
    let x = widened_value(&x.narrow(3, first, heads * head_dim)?.contiguous()?)?;
    x.reshape((batch * blocks, tokens, heads, head_dim))?.transpose(1, 2)?.contiguous()
}

/// `[B T, heads, N, hd] -> [B, T, N, heads * hd]`.
fn channels(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let (_, heads, tokens, head_dim) = x.dims4()?;
    x.transpose(1, 2)?.contiguous()?.reshape((dims[0], dims[1], tokens, heads * head_dim))
}

/// Queries, keys and values as stacks of matrices; with shared keys all heads' queries are rows of one matrix.
struct Stacks {
    /// `[S, M, hd]`
    q: Tensor,
    /// `[S, N, hd]`
    k: Tensor,
    v: Tensor,
    scale: f64,
}

impl Stacks {
    fn of(q: Tensor, k: Tensor, v: Tensor) -> Result<Self> {
        let (blocks, kv_heads, tokens, head_dim) = k.dims4()?;
        let stacks = blocks * kv_heads;
        let rows = q.elem_count() / (stacks * head_dim).max(1);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let q = q.reshape((stacks, rows, head_dim))?;
        let [k, v] = [k, v].map(|x| x.reshape((stacks, tokens, head_dim)));
        Ok(Self { q, k: k?, v: v?, scale })
    }

    fn probabilities(&self) -> Result<Tensor> {
        let scores = product(&self.q, &self.k, (false, true), true)?;
        if fused::takes(&scores) {
            fused::softmax(&scores, self.scale)
        } else {
            softmax(&scores.affine(self.scale, 0.0)?)
        }
    }

    fn forward(&self) -> Result<Tensor> {
        product(&self.probabilities()?, &self.v, (false, false), true)
    }

    /// From the gradient `[S, M, hd]` of the output to those of queries, keys and values.
    fn backward(&self, grad: &Tensor) -> Result<[Tensor; 3]> {
        let p = self.probabilities()?;
        let dv = product(&p, grad, (true, false), true)?;
        let dp = product(grad, &self.v, (false, true), true)?;
        let ds = match fused::takes(&p) {
            true => fused::softmax_backward(&p, &dp, self.scale)?,
            false => softmax_backward(&p, &dp)?.affine(self.scale, 0.0)?,
        };
        Ok([product(&ds, &self.k, (false, false), true)?, product(&ds, &self.q, (true, false), true)?, dv])
    }
}

/// [`crate::attention`] of a checked operand. Can be differentiated once.
pub(crate) fn attention(qkv: &Var, num_heads: usize) -> Result<Var> {
    let (batch, blocks, tokens, channels3) = qkv.value().dims4()?;
    let c = channels3 / 3;
    let split = [batch * blocks, num_heads, tokens, c / num_heads];
    let layout = Layout::packed(num_heads, c / num_heads);
    if layout.takes(qkv.value())? {
        let input = qkv.value().contiguous()?;
        let kept = layout.forward(&input, &input)?;
        return Ok(Var::record_once("attention", kept.0.clone(), &[qkv], move |grad, _| {
            Ok(layout.backward(&input, &input, &kept, grad)?.into_iter().map(Some).collect())
        }));
    }
    let part = move |x: &Tensor, i: usize| heads(x, i * c, num_heads, c / num_heads);
    let stacks = move |x: &Tensor| Stacks::of(part(x, 0)?, part(x, 1)?, part(x, 2)?);
    let input = qkv.value().clone();
    let value = channels(&stacks(&input)?.forward()?.reshape(&split[..])?, input.dims())?;
    Ok(Var::record_once("attention", value, &[qkv], move |grad, _| {
        let stacks = stacks(&input)?;
        let grad = heads(grad, 0, num_heads, c / num_heads)?.reshape(stacks.q.shape())?;
        let grads = stacks.backward(&grad)?;
        let [dq, dk, dv] = grads.map(|x| channels(&x.reshape(&split[..])?, input.dims()));
        Ok(vec![Some(Tensor::cat(&[dq?, dk?, dv?], 3)?)])
    }))
}

/// [`crate::multi_query_attention`] of checked operands. Can be differentiated once.
pub(crate) fn multi_query_attention(q: &Var, kv: &Var, num_heads: usize) -> Result<Var> {
    let (batch, blocks, tokens, c) = q.value().dims4()?;
    let hd = c / num_heads;
    let layout = Layout::multi_query(num_heads, hd);
    if layout.takes(q.value())? {
        let (queries, pairs) = (q.value().contiguous()?, kv.value().contiguous()?);
        let kept = layout.forward(&queries, &pairs)?;
        return Ok(Var::record_once("multi_query_attention", kept.0.clone(), &[q, kv], move |grad, _| {
            Ok(layout.backward(&queries, &pairs, &kept, grad)?.into_iter().map(Some).collect())
        }));
    }
    let many = [batch * blocks, num_heads, tokens, hd];
    let one = [batch * blocks, 1, tokens, hd];
    let stacks = move |q: &Tensor, kv: &Tensor| {
        Stacks::of(heads(q, 0, num_heads, hd)?, heads(kv, 0, 1, hd)?, heads(kv, hd, 1, hd)?)
    };
    let (queries, pairs) = (q.value().clone(), kv.value().clone());
    let value = channels(&stacks(&queries, &pairs)?.forward()?.reshape(&many[..])?, queries.dims())?;
    Ok(Var::record_once("multi_query_attention", value, &[q, kv], move |grad, _| {
        let stacks = stacks(&queries, &pairs)?;
        let grad = heads(grad, 0, num_heads, hd)?.reshape(stacks.q.shape())?;
        let [dq, dk, dv] = stacks.backward(&grad)?;
        let dq = channels(&dq.reshape(&many[..])?, queries.dims())?;
        let [dk, dv] = [dk, dv].map(|x| channels(&x.reshape(&one[..])?, pairs.dims()));
        Ok(vec![Some(dq), Some(Tensor::cat(&[dk?, dv?], 3)?)])
    }))
}
