//! The reverse pass by itself: its rules, its order and its mistakes.

use candle_core::Tensor;

use super::*;
use crate::{add, mul, square, sum_all};

fn leaf(values: &[f64]) -> Var {
    Var::leaf(Tensor::new(values, &crate::gradcheck::device()).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec1().unwrap()
}

#[test]
fn gradients_of_every_use_add_up() {
    // d/dx (x*x + x) = 2x + 1, with x used three times
    let x = leaf(&[1.0, -2.0]);
    let y = add(&mul(&x, &x).unwrap(), &x).unwrap();
    let grads = backward(sum_all(&y).unwrap()).unwrap();
    assert_eq!(values(grads.leaf(&x).unwrap()), [3.0, -3.0]);
}

#[test]
fn gradients_of_batches_add_up() {
    let param = |x: f64| Param::new("w", Tensor::new(&[x], &crate::gradcheck::device()).unwrap());
    let (both, late) = (param(3.0), param(5.0));
    let mut grads = backward(sum_all(&square(&both.var()).unwrap()).unwrap()).unwrap();
    let more = sum_all(&mul(&both.var(), &late.var()).unwrap()).unwrap();
    grads.accumulate(backward(more).unwrap()).unwrap();
    // 2w, and w times the other.
    assert_eq!(values(grads.param(&both).unwrap()), [11.0]);
    assert_eq!(values(grads.param(&late).unwrap()), [3.0]);
}

#[test]
fn a_gradient_can_be_differentiated_again() {
    // y = x^4: dy/dx = 4x^3, d/dx sum((dy/dx)^2) = 2 * 4x^3 * 12x^2
    let x = leaf(&[0.5, -1.5]);
    let y = sum_all(&square(&square(&x).unwrap()).unwrap()).unwrap();
    let slope = grad(&y, &[&x], true).unwrap().remove(0);
    let grads = backward(sum_all(&square(&slope).unwrap()).unwrap()).unwrap();
    let expected: Vec<f64> = [0.5f64, -1.5].iter().map(|x| 96.0 * x.powi(5)).collect();
    assert_eq!(values(grads.leaf(&x).unwrap()), expected);
}

#[test]
fn a_rule_of_raw_kernels_refuses_a_second_differentiation() {
    let x = leaf(&[2.0]);
    let doubled = (x.value() * 2.0).unwrap();
    let y = Var::record_once("double", doubled, &[&x], |g, _| Ok(vec![Some((g * 2.0)?)]));
    let y = sum_all(&y).unwrap();
    let error = grad(&y, &[&x], true).unwrap_err().to_string();
    assert!(error.contains("double cannot be differentiated twice"), "{error}");
    assert_eq!(values(grad(&y, &[&x], false).unwrap()[0].value()), [2.0]);
}

#[test]
fn frozen_parameters_and_no_grad_leave_no_history() {
    let param = Param::new("w", Tensor::new(&[3.0f64], &crate::gradcheck::device()).unwrap());
    assert!(square(&param.var()).unwrap().is_tracked());
    assert!(!no_grad(|| square(&param.var()).unwrap()).is_tracked());
    param.set_trainable(false);
    let x = leaf(&[2.0]);
    let grads = backward(sum_all(&mul(&x, &param.var()).unwrap()).unwrap()).unwrap();
    assert!(grads.param(&param).is_none());
    assert_eq!(values(grads.leaf(&x).unwrap()), [3.0]);
}

#[test]
fn activations_are_freed_while_the_pass_goes_on() {
    // The rule of the first operation runs last: by then the node of the second must be gone.
    let held = Rc::new(());
    let (kept, watched) = (held.clone(), Rc::downgrade(&held));
    drop(held);
    let x = leaf(&[1.0]);
    let first = Var::record("first", x.value().clone(), &[&x], move |g, _| {
        assert_eq!(watched.strong_count(), 0, "the activation of the later operation is still alive");
        Ok(vec![Some(g.clone())])
    });
    let second = Var::record("second", first.value().clone(), &[&first], move |g, _| {
        let _activation = &kept;
        Ok(vec![Some(g.clone())])
    });
    drop(first);
    backward(sum_all(&second).map(|sum| (sum, drop(second)).0).unwrap()).unwrap();
}

#[test]
fn a_gradient_is_told_of_once_it_is_final() {
    let param = |x: f64| Param::new("w", Tensor::new(&[x], &crate::gradcheck::device()).unwrap());
    let (early, late, twice) = (param(2.0), param(3.0), param(5.0));
    let build = || {
        let y = mul(&mul(&early.var(), &twice.var()).unwrap(), &late.var()).unwrap();
        sum_all(&mul(&add(&y, &late.var()).unwrap(), &twice.var()).unwrap()).unwrap()
    };
    let mut told = Vec::new();
    let found = backward_telling(build(), &mut |id, grad| {
        told.push((id, values(grad)));
        Ok(())
    })
    .unwrap();
    let plain = backward(build()).unwrap();
    // The way back meets `late` last at the second product, the others at the first.
    assert_eq!(told[0].0, late.id());
    assert_eq!(told.len(), 3);
    for param in [&early, &late, &twice] {
        let of = |gradients: &Gradients| values(gradients.param(param).unwrap());
        let (_, grad) = told.iter().find(|(id, _)| *id == param.id()).unwrap();
        assert_eq!((grad, &of(&found)), (&of(&plain), &of(&plain)));
    }
}

#[test]
fn a_rule_may_add_to_what_its_first_input_was_sent() {
    // y = x^2 + 3x, whose product with 3 gets what the square sent: of a leaf, and of a value between.
    let triple = |x: &Var| {
        Var::record_adding("triple", (x.value() * 3.0).unwrap(), &[x], |grad, _, other| {
            let other = other.expect("the square's gradient comes first");
            Ok(vec![Some(((grad * 3.0)? + other)?)])
        })
    };
    let leaf = leaf(&[1.0, -2.0]);
    let between = crate::scale(&leaf, 2.0).unwrap();
    for (x, slope) in [(&leaf, 1.0), (&between, 2.0)] {
        let tripled = triple(x);
        let y = add(&tripled, &square(x).unwrap()).unwrap();
        let grads = backward(sum_all(&y).unwrap()).unwrap();
        let want: Vec<f64> = values(x.value()).iter().map(|x| slope * (2.0 * x + 3.0)).collect();
        assert_eq!(values(grads.leaf(&leaf).unwrap()), want);
    }
}

#[test]
fn mistakes_are_errors() {
    let x = leaf(&[1.0, 2.0]);
    assert!(backward(x.clone()).unwrap_err().to_string().contains("single number"));
    let constant = Var::constant(Tensor::new(1.0f64, &crate::gradcheck::device()).unwrap());
    assert!(backward(constant).unwrap_err().to_string().contains("does not depend"));
    let other = leaf(&[1.0]);
    assert!(grad(&sum_all(&x).unwrap(), &[&other], false).is_err());
    let param = Param::new("w", x.value().clone());
    assert!(param.set(other.into_value()).unwrap_err().to_string().contains("parameter w"));
}
