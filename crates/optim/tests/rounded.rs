//! States in half their memory.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use acclimate_core::{AnyOptimiser, AnyTensor, Params, Patch, RecordReader, Rng, Role};
use acclimate_optim::{Adamax, Adamw, DadaptAdam, Host, HostSettings, Laprop, Prodigy, Sgd, StateForm};
use burn::tensor::{DType, Device};

/// Numbers in single precision: a matrix and a vector.
fn random(purpose: &str) -> Params {
    let mut rng = Rng::new(0, purpose, 0);
    let mut params = Params::default();
    for (name, shape) in [("matrix", vec![64, 32]), ("vector", vec![7])] {
        params.insert(name, rng.normal_tensor(&shape, 1.0, DType::F32, &Device::flex()));
    }
    params
}

fn settings(state: StateForm) -> HostSettings {
    HostSettings { state, ..Default::default() }
}

fn host(optimiser: &dyn AnyOptimiser, state: StateForm, x: &Params) -> Host {
    Host::over(optimiser, settings(state), x, vec![Role::Other; x.len()]).unwrap()
}

fn methods() -> [Box<dyn AnyOptimiser>; 5] {
    let momentum = Sgd { momentum: 0.9, ..Default::default() };
    [
        Box::new(Adamw::default()),
        Box::new(Adamax::default()),
        Box::new(Laprop::default()),
        Box::new(momentum),
        Box::new(DadaptAdam::default()),
    ]
}

#[test]
fn a_state_takes_two_bytes_for_each_number_that_is_declared() {
    let x = random("start");
    for optimiser in methods() {
        let declared: usize = x.iter().map(|(_, x)| optimiser.size_of_state(&x.shape())).sum();
        for (form, bytes) in [(StateForm::Full, 4), (StateForm::Bf16, 2)] {
            let mut host = host(optimiser.as_ref(), form, &x);
            assert_eq!(host.state_bytes(), bytes * declared, "{}", optimiser.card().name);
            host.step(optimiser.as_ref(), &x, &x, 1.0, 0.0).unwrap();
            assert_eq!(host.state_bytes(), bytes * declared, "{}", optimiser.card().name);
        }
    }
}

#[test]
fn a_saved_run_in_bf16_goes_on_bit_for_bit() {
    for optimiser in methods() {
        let mut patch = Patch::new();
        patch.params = random("start");
        let mut host = Host::new(optimiser.as_ref(), settings(StateForm::Bf16), &patch).unwrap();
        let step = |host: &mut Host, patch: &mut Patch| {
            patch.params = host.step(optimiser.as_ref(), &patch.params, &patch.params.clone(), 1.0, 0.0).unwrap();
        };
        for _ in 0..3 {
            step(&mut host, &mut patch);
        }
        let mut saved = RecordReader::from(host.save());
        let mut again = Host::load(optimiser.as_ref(), settings(StateForm::Bf16), &patch, &mut saved).unwrap();
        let mut other = patch.clone();
        for _ in 0..3 {
            step(&mut host, &mut patch);
            step(&mut again, &mut other);
        }
        assert_eq!(patch.params.fingerprint(), other.params.fingerprint(), "{}", optimiser.card().name);
    }
}

#[test]
fn a_number_is_kept_to_seven_bits_and_right_on_average() {
    let (sgd, g) = (Sgd { momentum: 0.9, ..Default::default() }, random("gradient"));
    let mut host = host(&sgd, StateForm::Bf16, &g);
    host.step(&sgd, &g, &g, 1.0, 0.0).unwrap();
    // The first velocity is the gradient.
    let kept = host.save().tensors.any("velocity/matrix").unwrap().to_f64s();
    let errors: Vec<f64> =
        kept.iter().zip(g.any("matrix").unwrap().to_f64s()).map(|(kept, g)| kept / g - 1.0).collect();
    assert!(errors.iter().all(|error| error.abs() < 2f64.powi(-7)));
    assert!(errors.iter().any(|error| error.abs() > 2f64.powi(-9)));
    // Five standard errors of the mean, of which each error's own is at most half a unit.
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(mean.abs() < 5.0 * 2f64.powi(-8) / (errors.len() as f64).sqrt(), "{mean:e}");
}

#[test]
fn a_moment_that_moves_by_a_thousandth_does_not_stand_still() {
    let adam = Adamw::default();
    let mut x = Params::default();
    x.insert("x", AnyTensor::from_f64s(vec![1.0; 256], &[256], DType::F32, &Device::flex()));
    let mut host = host(&adam, StateForm::Bf16, &x);
    for _ in 0..1500 {
        host.step(&adam, &x, &x, 0.0, 0.0).unwrap();
    }
    let record = host.save();
    let v = record.tensors.any("v/x").unwrap().to_f64s();
    let exact = 1.0 - 0.999_f64.powi(1500);
    // Rounded to the nearest, it would stop near a quarter.
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    assert!((mean / exact - 1.0).abs() < 0.02, "{mean} in place of {exact}");
}

#[test]
fn a_step_that_fails_leaves_a_rounded_state_as_it_was() {
    let adam = Adamw { lr: 1e38, ..Default::default() };
    let mut x = Params::default();
    x.insert("x", AnyTensor::from_f64s(vec![3e38], &[1], DType::F32, &Device::flex()));
    let mut host = host(&adam, StateForm::Bf16, &x);
    let g = x.map(|_, x| AnyTensor::from_elements(x.elements() * 0.0 - 1.0));
    let before = format!("{:?} {:?}", host.save().numbers, host.save().tensors.fingerprint());
    host.step(&adam, &x, &g, 1.0, 0.0).unwrap_err();
    assert_eq!(format!("{:?} {:?}", host.save().numbers, host.save().tensors.fingerprint()), before);
}

#[test]
fn a_run_in_bf16_ends_where_one_in_full_does() {
    for optimiser in [&Adamw { lr: 0.1, ..Default::default() } as &dyn AnyOptimiser, &DadaptAdam::default()] {
        let off = [StateForm::Full, StateForm::Bf16].map(|form| {
            let mut x = random("start");
            let (mut host, start) = (host(optimiser, form, &x), x.norm());
            for k in 0..400 {
                // The gradient of half the squared distance to zero.
                x = host.step(optimiser, &x, &x.clone(), 1.0 - f64::from(k) / 400.0, 0.0).unwrap();
            }
            x.norm() / start
        });
        assert!(off.iter().all(|off| *off < 1e-2), "{}: {off:?}", optimiser.card().name);
    }
}

#[test]
fn methods_that_keep_more_than_moments_are_refused() {
    let (prodigy, x) = (Prodigy::default(), random("start"));
    let error = Host::over(&prodigy, settings(StateForm::Bf16), &x, vec![Role::Other; 2]).unwrap_err().to_string();
    assert!(error.contains("prodigy") && error.contains("`state = \"full\"`"), "{error}");
}
