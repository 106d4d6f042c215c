//! Adam, AdamW and moving averages against PyTorch's (`fixtures/optim.py`), and saving of their state.

mod again;

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};
use nestgen_kernels::{
    Adam, AdamConfig, Gradients, Param, Var, backward, clip_grad_norm, ema_update, mul, square, sum_all,
};

/// f32 against f32 after 20 steps of 1e-2: PyTorch rounds the same formula in another order.
const TOLERANCE: f32 = 2e-6;
const STEPS: usize = 20;
const NAMES: [&str; 2] = ["a", "b"];

fn fixture() -> Result<HashMap<String, Tensor>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim.safetensors");
    candle_core::safetensors::load(path, &nestgen_kernels::gradcheck::device())
}

/// Gradients equal to the given tensors: those of the sum of their products with the parameters.
fn gradients_of(params: &[Param], wanted: &[Tensor]) -> Result<Gradients> {
    let mut gradients = Gradients::default();
    for (param, wanted) in params.iter().zip(wanted) {
        gradients.accumulate(backward(sum_all(&mul(&param.var(), &Var::constant(wanted.clone()))?)?)?)?;
    }
    Ok(gradients)
}

fn assert_close(name: &str, found: &Tensor, want: &Tensor) -> Result<()> {
    let worst = (found - want.to_device(found.device())?)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(worst <= TOLERANCE, "{name}: off by {worst}");
    Ok(())
}

#[test]
fn twenty_steps_agree_with_pytorch() -> Result<()> {
    let fixture = fixture()?;
    for (kind, weight_decay) in [("adam", 0.0), ("adamw", 0.1)] {
        let param =
            |what: &str, name: &&str| Param::new(*name, fixture[&format!("{kind}.{what}.{name}")].clone());
        let params: Vec<Param> = NAMES.iter().map(|name| param("start", name)).collect();
        let averages: Vec<Param> = NAMES.iter().map(|name| param("start", name)).collect();
        let pairs: Vec<(Param, Param)> = averages.iter().cloned().zip(params.iter().cloned()).collect();
        let config = AdamConfig { lr: 1e-2, beta1: 0.5, beta2: 0.99, eps: 1e-8, weight_decay };
        let mut adam = Adam::new(&params, config)?;
        for step in 0..STEPS {
            let wanted: Vec<Tensor> =
                NAMES.iter().map(|name| fixture[&format!("{kind}.grad{step}.{name}")].clone()).collect();
            adam.step(&gradients_of(&params, &wanted)?, config.lr)?;
            ema_update(&pairs, 0.9)?;
        }
        let state: HashMap<String, Tensor> = adam.state()?.into_iter().collect();
        for ((param, average), name) in params.iter().zip(&averages).zip(NAMES) {
            let want = |what: &str| &fixture[&format!("{kind}.{what}.{name}")];
            assert_close(name, &param.value(), want("end"))?;
            assert_close(name, &average.value(), want("average"))?;
            assert_close(name, &state[&format!("{name}.exp_avg")], want("exp_avg"))?;
            assert_close(name, &state[&format!("{name}.exp_avg_sq")], want("exp_avg_sq"))?;
        }
    }
    Ok(())
}

/// A parameter of several chunks, and its gradient at every step.
fn long_run(steps: std::ops::Range<usize>, adam: &mut Adam, param: &Param) -> Result<()> {
    for step in steps {
        let target = Var::constant(Tensor::full(
            step as f32,
            param.value().shape(),
            &nestgen_kernels::gradcheck::device(),
        )?);
        let gradients = backward(sum_all(&square(&nestgen_kernels::sub(&param.var(), &target)?)?)?)?;
        adam.step(&gradients, 0.01)?;
    }
    Ok(())
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

#[test]
fn a_saved_and_loaded_optimizer_continues_bit_for_bit() -> Result<()> {
    let start = Tensor::arange(0f32, 70_001.0, &nestgen_kernels::gradcheck::device())?;
    let straight = Param::new("w", start.clone());
    let mut adam = Adam::new(std::slice::from_ref(&straight), AdamConfig::default())?;
    long_run(0..6, &mut adam, &straight)?;

    let first = Param::new("w", start);
    let mut adam = Adam::new(std::slice::from_ref(&first), AdamConfig::default())?;
    long_run(0..3, &mut adam, &first)?;
    let path = std::env::temp_dir().join(format!("nestgen-optim-{}.safetensors", std::process::id()));
    candle_core::safetensors::save(&adam.state()?.into_iter().collect(), &path)?;
    let second = Param::new("w", first.value());
    let mut adam = Adam::new(std::slice::from_ref(&second), AdamConfig::default())?;
    let state = candle_core::safetensors::load(&path, &nestgen_kernels::gradcheck::device());
    std::fs::remove_file(&path).ok();
    adam.load_state(&state?)?;
    assert_eq!(adam.num_steps(), 3);
    long_run(3..6, &mut adam, &second)?;
    assert_eq!(bits(&second.value())?, bits(&straight.value())?);
    Ok(())
}

#[test]
fn a_step_leaves_copies_of_the_old_value_alone() -> Result<()> {
    let param = Param::new("w", Tensor::ones(3, DType::F32, &nestgen_kernels::gradcheck::device())?);
    let (copy, shared) = (param.value(), Param::new("average", param.value()));
    let mut adam = Adam::new(std::slice::from_ref(&param), AdamConfig::default())?;
    adam.step(&gradients_of(std::slice::from_ref(&param), std::slice::from_ref(&copy))?, 0.1)?;
    assert_eq!(copy.to_vec1::<f32>()?, [1.0; 3]);
    assert_eq!(shared.value().to_vec1::<f32>()?, [1.0; 3]);
    assert_ne!(param.value().to_vec1::<f32>()?, [1.0; 3]);
    Ok(())
}

#[test]
fn states_that_do_not_fit_are_errors_and_change_nothing() -> Result<()> {
    let param = Param::new("w", Tensor::ones(3, DType::F32, &nestgen_kernels::gradcheck::device())?);
    let mut adam = Adam::new(std::slice::from_ref(&param), AdamConfig::default())?;
    let mut state: HashMap<String, Tensor> = adam.state()?.into_iter().collect();
    state.insert("num_steps".into(), Tensor::new(7i64, &nestgen_kernels::gradcheck::device())?);
    state.insert("w.exp_avg_sq".into(), Tensor::ones(4, DType::F32, &nestgen_kernels::gradcheck::device())?);
    assert!(adam.load_state(&state).is_err());
    state.remove("w.exp_avg_sq");
    assert!(adam.load_state(&state).is_err_and(|e| e.to_string().contains("w.exp_avg_sq")));
    assert_eq!(adam.num_steps(), 0);
    assert!(Adam::new(&[param.clone(), param], AdamConfig::default()).is_err());
    Ok(())
}

#[test]
fn exempt_parameters_do_not_decay() -> Result<()> {
    let value = Tensor::ones(3, DType::F32, &nestgen_kernels::gradcheck::device())?;
    let params = [Param::new("w", value.clone()), Param::new("pos_embed", value.clone())];
    let config = AdamConfig { weight_decay: 0.5, ..AdamConfig::default() };
    let mut adam = Adam::new(&params, config)?.without_decay(|name| name.ends_with("pos_embed"));
    adam.step(&gradients_of(&params, &[value.zeros_like()?, value.zeros_like()?])?, 0.1)?;
    assert_eq!(params[0].value().to_vec1::<f32>()?, [0.95; 3]);
    assert_eq!(params[1].value().to_vec1::<f32>()?, [1.0; 3]);
    Ok(())
}

#[test]
fn clipping_scales_the_joint_norm() -> Result<()> {
    let zeros = Tensor::zeros(2, DType::F32, &nestgen_kernels::gradcheck::device())?;
    let params = [Param::new("a", zeros.clone()), Param::new("b", zeros)];
    let wanted = [
        Tensor::new(&[3f32, 0.0], &nestgen_kernels::gradcheck::device())?,
        Tensor::new(&[0f32, 4.0], &nestgen_kernels::gradcheck::device())?,
    ];
    let mut gradients = gradients_of(&params, &wanted)?;
    assert_eq!(clip_grad_norm(&mut gradients, &params, 10.0)?, 5.0);
    assert_eq!(clip_grad_norm(&mut gradients, &params, 1.0)?, 5.0);
    let norm = clip_grad_norm(&mut gradients, &params, 1.0)?;
    assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    Ok(())
}

#[test]
fn gradients_without_a_finite_norm_stay_as_they_are() -> Result<()> {
    for odd in [f32::INFINITY, f32::NAN] {
        let wanted = Tensor::new(&[odd, 1.0], &nestgen_kernels::gradcheck::device())?;
        let params = [Param::new("a", wanted.zeros_like()?)];
        let mut gradients = Gradients::default();
        gradients.set_param(&params[0], wanted.clone());
        let norm = clip_grad_norm(&mut gradients, &params, 1.0)?;
        assert!(!norm.is_finite(), "{norm}");
        assert_eq!(bits(gradients.param(&params[0]).unwrap())?, bits(&wanted)?);
    }
    Ok(())
}

#[test]
fn the_portable_path_passes_the_same_tests() {
    again::on_the_portable_path();
}

#[test]
fn a_gpu_passes_the_same_tests() {
    again::on_the_gpu();
}
