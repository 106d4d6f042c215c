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

mod param;
mod reverse;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor};

pub use param::Param;
pub use reverse::{Gradients, backward, backward_telling, grad};

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

#[cfg(test)]
mod tests;
