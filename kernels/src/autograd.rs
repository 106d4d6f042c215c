//! A lean reverse pass over candle tensors.
//!
//! candle's own backward pass allocates a zeros tensor and adds to it for every edge of the graph, cuts
//! second derivatives silently unless an environment variable is set, and gives no gradient at all through
//! several fused operations. Here an operation returns a [`Var`]: the candle tensor and, when something
//! trainable went into it, a [`Node`] that says how to send a gradient back. Three rules keep it small:
//!
//! - Node numbers only grow, so going through pending nodes from the highest number down *is* reverse
//!   topological order; no graph search, and a node (with the activations it kept) is freed as soon as
//!   its gradient has been sent on.
//! - The first gradient to arrive is moved, not added to zeros.
//! - A backward rule is written in the same [`Var`] operations as the forward pass. Run it while recording
//!   and the result can be differentiated again (R1/R2 penalties). Rules that call a raw kernel are recorded
//!   with [`Var::record_once`] and refuse a second differentiation with an error, never silently.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor, bail};

/// A tensor that remembers how it was computed. Cloning is cheap (a few reference counts).
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<Rc<Node>>,
    /// Of a parameter, where its value rounded for products is kept.
    rounded: Option<Rounded>,
}

/// A parameter's value rounded for products, once somebody has asked for it: until the parameter has another value.
type Rounded = Rc<OnceCell<Tensor>>;

/// Sends the gradient of an operation's output to its inputs: one entry an input, `None` where the flag
/// in the second argument says that nobody wants it.
enum Rule {
    /// Made of [`Var`] operations: what it does can be differentiated again.
    Twice(Box<dyn Fn(&Var, &[bool]) -> Result<Vec<Option<Var>>>>),
    /// Raw kernels. What other uses of the first input sent it comes as the third argument, to be added to its gradient.
    Once(Box<dyn Fn(&Tensor, &[bool], Option<&Tensor>) -> Result<Vec<Option<Tensor>>>>, Adds),
}

/// Whether a rule adds what it is given to the first input's gradient, or is given nothing.
#[derive(Clone, Copy, PartialEq)]
enum Adds {
    Nothing,
    ToTheFirst,
}

struct Node {
    id: u64,
    /// Of the value, and so of its gradient. The value itself is kept by the rules that need it alone.
    dims: Vec<usize>,
    dtype: DType,
    /// `None` for a leaf (a parameter, or an input whose gradient is wanted).
    op: Option<Op>,
}

impl Node {
    fn new(value: &Tensor, op: Option<Op>) -> Rc<Self> {
        Rc::new(Self { id: next_id(), dims: value.dims().to_vec(), dtype: value.dtype(), op })
    }
}

struct Op {
    name: &'static str,
    /// `None` where no gradient flows.
    inputs: Vec<Option<Rc<Node>>>,
    rule: Rule,
}

impl Op {
    /// The inputs through which a gradient flows.
    fn tracked(&self) -> impl Iterator<Item = &Rc<Node>> {
        self.inputs.iter().flatten()
    }
}

thread_local! {
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

fn next_id() -> u64 {
    NEXT_ID.with(|n| n.replace(n.get() + 1))
}

/// Runs `f` with recording switched to `on`, and switches back even if `f` fails or panics.
fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.with(|r| r.set(self.0));
        }
    }
    let _restore = Restore(RECORDING.with(|r| r.replace(on)));
    f()
}

/// Runs `f` without recording: its results carry no graph and keep no activations.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

/// Whether an operation on these inputs would be recorded: whether anything must be kept for its backward pass.
pub(crate) fn is_recorded(inputs: &[&Var]) -> bool {
    RECORDING.with(Cell::get) && inputs.iter().any(|input| input.is_tracked())
}

impl Var {
    /// A tensor that nobody differentiates with respect to.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None, rounded: None }
    }

    /// A fresh leaf: gradients with respect to it can be asked of [`backward`] and [`grad`].
    pub fn leaf(value: Tensor) -> Self {
        let node = Some(Node::new(&value, None));
        Self { value, node, rounded: None }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The tensor, without its history.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// The same tensor without its history: gradients stop here.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// Whether a gradient can flow through this value.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// What `round` makes of the value; a parameter's is kept for its other uses.
    pub(crate) fn rounded(&self, round: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let Some(kept) = &self.rounded else { return round(&self.value) };
        if let Some(rounded) = kept.get() {
            return Ok(rounded.clone());
        }
        let rounded = round(&self.value)?;
        Ok(kept.get_or_init(|| rounded).clone())
    }

    /// The dimensions of the tensor.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// The element type of the tensor.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// The device of the tensor.
    pub fn device(&self) -> &Device {
        self.value.device()
    }

    /// The result of an operation whose backward rule is itself made of [`Var`] operations.
    pub fn record(
        name: &'static str,
        value: Tensor,
        inputs: &[&Var],
        rule: impl Fn(&Var, &[bool]) -> Result<Vec<Option<Var>>> + 'static,
    ) -> Self {
        Self::with_op(name, value, inputs, Rule::Twice(Box::new(rule)))
    }

    /// The result of an operation whose backward rule calls a raw kernel on tensors: it can be
    /// differentiated once; [`grad`] with `create_graph` refuses to pass through it.
    pub fn record_once(
        name: &'static str,
        value: Tensor,
        inputs: &[&Var],
        rule: impl Fn(&Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Self {
        let rule = move |grad: &Tensor, wants: &[bool], _: Option<&Tensor>| rule(grad, wants);
        Self::with_op(name, value, inputs, Rule::Once(Box::new(rule), Adds::Nothing))
    }

    /// [`Self::record_once`] where the first input's gradient is made by a pass that can add to it what the input's other uses
    /// sent (a skip connection's gradient, say), which the rule gets as its third argument.
    pub(crate) fn record_adding(
        name: &'static str,
        value: Tensor,
        inputs: &[&Var],
        rule: impl Fn(&Tensor, &[bool], Option<&Tensor>) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Self {
        Self::with_op(name, value, inputs, Rule::Once(Box::new(rule), Adds::ToTheFirst))
    }

    fn with_op(name: &'static str, value: Tensor, inputs: &[&Var], rule: Rule) -> Self {
        if !is_recorded(inputs) {
            return Self::constant(value);
        }
        let inputs = inputs.iter().map(|v| v.node.clone()).collect();
        let node = Some(Node::new(&value, Some(Op { name, inputs, rule })));
        Self { value, node, rounded: None }
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let made_by = match &self.node {
            None => "constant",
            Some(node) => node.op.as_ref().map_or("leaf", |op| op.name),
        };
        write!(f, "Var({made_by} {:?} {:?})", self.value.dims(), self.value.dtype())
    }
}

/// A named trainable tensor that keeps its identity while an optimizer changes its value.
#[derive(Clone)]
pub struct Param(Rc<ParamInner>);

struct ParamInner {
    name: String,
    node: Rc<Node>,
    value: RefCell<Tensor>,
    rounded: RefCell<Rounded>,
    trainable: Cell<bool>,
}

impl Param {
    /// A trainable parameter. `name` is its path in checkpoints (`levels.0.layers.1.attn.qkv.weight`).
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        let node = Node::new(&value, None);
        let (value, rounded, trainable) = (RefCell::new(value), RefCell::default(), Cell::new(true));
        Self(Rc::new(ParamInner { name: name.into(), node, value, rounded, trainable }))
    }

    /// Its number in this process, as [`backward_telling`] gives it.
    pub fn id(&self) -> u64 {
        self.0.node.id
    }

    /// The path of the parameter in checkpoints.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The parameter as an input of an operation; a constant while frozen.
    pub fn var(&self) -> Var {
        let node = self.0.trainable.get().then(|| self.0.node.clone());
        Var { value: self.value(), node, rounded: Some(self.0.rounded.borrow().clone()) }
    }

    /// The current value.
    pub fn value(&self) -> Tensor {
        self.0.value.borrow().clone()
    }

    /// Replaces the value. The shape and the element type must stay.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let old = self.value();
        if old.dims() != value.dims() || old.dtype() != value.dtype() {
            bail!(
                "parameter {}: expected {:?} {:?}, got {:?} {:?}",
                self.name(),
                old.dims(),
                old.dtype(),
                value.dims(),
                value.dtype()
            );
        }
        *self.0.value.borrow_mut() = value;
        *self.0.rounded.borrow_mut() = Rounded::default();
        Ok(())
    }

    /// Whether products have ever asked for the value rounded.
    pub(crate) fn is_rounded(&self) -> bool {
        self.0.rounded.borrow().get().is_some()
    }

    /// Gives the value rounded, for the products that will ask for it.
    pub(crate) fn keep_rounded(&self, rounded: Tensor) {
        *self.0.rounded.borrow_mut() = Rc::new(OnceCell::from(rounded));
    }

    /// While not trainable, [`Param::var`] is a constant: no weight gradient is computed or kept.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.set(trainable);
    }
}

/// The gradients that [`backward`] found, by leaf.
#[derive(Default, Debug)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    /// The gradient of a parameter; `None` when the loss does not depend on it.
    pub fn param(&self, param: &Param) -> Option<&Tensor> {
        self.0.get(&param.0.node.id)
    }

    /// The gradient of a leaf made by [`Var::leaf`].
    pub fn leaf(&self, leaf: &Var) -> Option<&Tensor> {
        leaf.node.as_ref().and_then(|node| self.0.get(&node.id))
    }

    /// Replaces the gradient of a parameter (clipping, averaging over ranks).
    pub fn set_param(&mut self, param: &Param, gradient: Tensor) {
        self.0.insert(param.0.node.id, gradient);
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

#[cfg(test)]
mod tests;
