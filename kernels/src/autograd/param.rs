//! Parameters: leaves of the graph that stay while their values change.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use candle_core::{Result, Tensor, bail};

use super::{Node, Rounded, Var};

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

    /// Its number in this process, as [`super::backward_telling`] gives it.
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
