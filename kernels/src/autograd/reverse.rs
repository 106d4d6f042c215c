//! The way back: from a scalar to the gradients of its leaves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use candle_core::{DType, Result, Tensor, bail};

use super::{Adds, Node, Op, Param, Rule, Var, with_recording};

/// The gradients that [`backward`] found, by leaf.
#[derive(Default, Debug)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    /// The gradient of a parameter; `None` when the loss does not depend on it.
    pub fn param(&self, param: &Param) -> Option<&Tensor> {
        self.0.get(&param.id())
    }

    /// The gradient of a leaf made by [`Var::leaf`].
    pub fn leaf(&self, leaf: &Var) -> Option<&Tensor> {
        leaf.node.as_ref().and_then(|node| self.0.get(&node.id))
    }

    /// Replaces the gradient of a parameter (clipping, averaging over ranks).
    pub fn set_param(&mut self, param: &Param, gradient: Tensor) {
        self.0.insert(param.id(), gradient);
    }

    /// Adds the gradients of another micro-batch (gradient accumulation).
    pub fn accumulate(&mut self, other: Gradients) -> Result<()> {
        for (id, grad) in other.0 {
            let sum = match self.0.remove(&id) {
                Some(have) => (have + grad)?,
                None => grad,
            };
            self.0.insert(id, sum);
        }
        Ok(())
    }
}

/// Gradients of the scalar `loss` with respect to every leaf it depends on.
///
/// Takes the loss by value so that activations are freed while the pass goes on.
///
/// # Errors
/// When the loss is not a single element, or a backward rule fails.
pub fn backward(loss: Var) -> Result<Gradients> {
    let seed = ones_like_scalar(&loss)?;
    let mut leaves = HashMap::new();
    sweep(loss, seed, false, None, None, |id, grad| {
        leaves.insert(id, grad.into_value());
        Ok(())
    })?;
    Ok(Gradients(leaves))
}

/// [`backward`], which tells of each leaf's gradient as soon as nothing can be added to it, while the pass goes on:
/// `on_final` gets it with the [`Param::id`] of its parameter. The order is a function of the graph alone.
///
/// # Errors
/// As [`backward`], and those of `on_final`.
pub fn backward_telling(loss: Var, on_final: &mut dyn FnMut(u64, &Tensor) -> Result<()>) -> Result<Gradients> {
    let seed = ones_like_scalar(&loss)?;
    let mut leaves = HashMap::new();
    let mut uses = leaf_uses(&loss);
    sweep(loss, seed, false, None, Some(&mut uses), |id, grad| {
        on_final(id, grad.value())?;
        leaves.insert(id, grad.into_value());
        Ok(())
    })?;
    Ok(Gradients(leaves))
}

/// How many inputs of operations each leaf is, on the ways to `output`.
fn leaf_uses(output: &Var) -> HashMap<u64, usize> {
    let (mut seen, mut uses) = (HashSet::new(), HashMap::new());
    let mut stack: Vec<Rc<Node>> = output.node.iter().cloned().collect();
    while let Some(node) = stack.pop() {
        for input in node.op.iter().flat_map(Op::tracked) {
            if input.op.is_none() {
                *uses.entry(input.id).or_insert(0) += 1;
            } else if seen.insert(input.id) {
                stack.push(input.clone());
            }
        }
    }
    uses
}

/// Gradients of the scalar `output` with respect to `inputs` (leaves), in their order.
///
/// With `create_graph` the results can be differentiated again.
///
/// # Errors
/// When an input is not a leaf that `output` depends on, or with `create_graph` when the way back passes
/// an operation that is differentiable only once.
pub fn grad(output: &Var, inputs: &[&Var], create_graph: bool) -> Result<Vec<Var>> {
    let seed = ones_like_scalar(output)?;
    let mut leaves = HashMap::new();
    let way = nodes_between(output, inputs);
    sweep(output.clone(), seed, create_graph, Some(&way), None, |id, grad| {
        leaves.insert(id, grad);
        Ok(())
    })?;
    let find = |input: &&Var| match input.node.as_ref().and_then(|node| leaves.get(&node.id)) {
        Some(grad) => Ok(grad.clone()),
        None => bail!("grad: the output does not depend on {input:?}"),
    };
    inputs.iter().map(find).collect()
}

/// The nodes on a way from `output` to one of `inputs`: a gradient with respect to images needs no gradient of
/// the weights on its way.
fn nodes_between(output: &Var, inputs: &[&Var]) -> HashSet<u64> {
    let mut seen: BTreeMap<u64, Rc<Node>> = BTreeMap::new();
    let mut stack: Vec<Rc<Node>> = output.node.iter().cloned().collect();
    while let Some(node) = stack.pop() {
        if let Entry::Vacant(place) = seen.entry(node.id) {
            stack.extend(node.op.iter().flat_map(Op::tracked).cloned());
            place.insert(node);
        }
    }
    let mut way: HashSet<u64> = inputs.iter().filter_map(|input| Some(input.node.as_ref()?.id)).collect();
    // From the lowest number up, a node's inputs are always decided before it.
    for (id, node) in &seen {
        if node.op.iter().flat_map(Op::tracked).any(|input| way.contains(&input.id)) {
            way.insert(*id);
        }
    }
    way
}

fn ones_like_scalar(output: &Var) -> Result<Var> {
    if output.value.elem_count() != 1 {
        bail!("backward starts from a single number, got shape {:?}", output.dims());
    }
    Ok(Var::constant(output.value.ones_like()?))
}

/// Visits the graph from `output` down, in order of falling node number, and hands leaf gradients over.
///
/// With `way` only its nodes are visited. With `uses` of leaves, one is handed over when its last use has been visited, and
/// not at the end: leaves are older than all operations.
fn sweep(
    output: Var,
    seed: Var,
    create_graph: bool,
    way: Option<&HashSet<u64>>,
    mut uses: Option<&mut HashMap<u64, usize>>,
    mut on_leaf: impl FnMut(u64, Var) -> Result<()>,
) -> Result<()> {
    let Some(root) = output.node.clone() else {
        bail!("backward: the output does not depend on anything trainable");
    };
    drop(output);
    let mut pending: BTreeMap<u64, (Rc<Node>, Var)> = BTreeMap::from([(root.id, (root, seed))]);
    while let Some((id, (node, grad))) = pending.pop_last() {
        let Some(op) = &node.op else {
            on_leaf(id, grad)?;
            continue;
        };
        let wanted = |input: &Rc<Node>| way.is_none_or(|way| way.contains(&input.id));
        let wants: Vec<bool> = op.inputs.iter().map(|input| input.as_ref().is_some_and(wanted)).collect();
        let grads = match &op.rule {
            Rule::Twice(rule) => with_recording(create_graph, || rule(&grad, &wants))?,
            Rule::Once(..) if create_graph => bail!("{} cannot be differentiated twice", op.name),
            Rule::Once(rule, adds) => {
                let first = op.inputs.first().and_then(Option::as_ref);
                let first = first.filter(|first| *adds == Adds::ToTheFirst && wanted(first));
                let have = first.and_then(|first| pending.remove(&first.id));
                let have = have.as_ref().map(|(_, have)| have.value());
                let grads = with_recording(false, || rule(grad.value(), &wants, have))?;
                grads.into_iter().map(|grad| grad.map(Var::constant)).collect()
            }
        };
        drop(grad);
        for (input, grad) in op.inputs.iter().zip(grads) {
            let (Some(to), Some(grad)) = (input.as_ref().filter(|to| wanted(to)), grad) else {
                continue;
            };
            if grad.dims() != to.dims {
                bail!("{}: gradient {:?} for an input {:?}", op.name, grad.dims(), to.dims);
            }
            // The gradient of an f32 value is f32, and summed in it.
            let grad = match to.dtype {
                DType::F32 => with_recording(create_graph, || crate::widened(&grad))?,
                _ => grad,
            };
            let sum = match pending.remove(&to.id) {
                Some((_, have)) => with_recording(create_graph, || crate::add(&have, &grad))?,
                None => grad,
            };
            pending.insert(to.id, (to.clone(), sum));
        }
        for leaf in op.tracked().filter(|node| node.op.is_none()) {
            let Some(left) = uses.as_mut().and_then(|uses| uses.get_mut(&leaf.id)) else { continue };
            *left -= 1;
            if *left == 0
                && let Some((_, grad)) = pending.remove(&leaf.id)
            {
                on_leaf(leaf.id, grad)?;
            }
        }
    }
    Ok(())
}
