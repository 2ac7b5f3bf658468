use crate::{Host, Loss, Objective, TestTime, Trains, loss::mean_entropy};
use acclimate_core::{AnyTensor, Inputs, Method, Params, Patch, Record, Result, wide};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Moves at each step only the layer whose proposed step agrees best with where it has been going, and none where none agrees.
///
/// # Mathematics
/// Layers $l$ are the sites of the patch: weight and bias of one site, or scale and shift of one norm, belong together. At the first
/// of every $s$ steps (`window`) the anchor is $\theta^r_l \leftarrow \theta_l$. The optimiser proposes a step $u_l$ for the loss of the
/// batch, the entropy or the cross-entropy with the likeliest class (`objective`), less $\alpha$ times the entropy of the mean prediction
/// (`diversity`). With the displacement $T_l = \theta_l - \theta^r_l$
/// $$c_l = \frac{\langle u_l,\, u_l + T_l \rangle}{\lVert u_l \rVert\, \lVert u_l + T_l \rVert}.$$
/// Only $l^* = \arg\max_l c_l$ moves, by $u_{l^*}$, if $c_{l^*} > \lambda$ (`threshold`); with `layers = "all"` every layer with
/// $c_l > \lambda$ does. At the first step of a window $T_l = 0$ and all layers move. The $k$-th step of a window is first multiplied by
/// $\min(1, k / w)$ (`warm_up`), since near an anchor every step looks aligned.
///
/// # When to use
/// A base method that harms on some shifts or at its rate: the wrong layers move there. Some of a well-tuned base's gain is given up.
/// Collapse is delayed, not excluded: keep resets. `objective = "pseudo_label"` is the authors' first base, `objective = "entropy"` with
/// `diversity = 1` the information maximisation of their second (SHOT). $\lambda$ from 0.5 to 0.99 does nearly the same.
///
/// # Differences
/// The paper says that a window's first steps are made smaller, not how: the ramp over three steps is ours, `warm_up = 1` leaves it out.
/// Its printed index of the anchor counts windows, not steps. The optimiser's memory takes in the gradients of all layers at every step
/// that is made, and nothing at a step that is not. Skipped steps count in the window. There is no code of the authors to compare with.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng, Targets};
/// use acclimate_models::tiny;
/// use acclimate_optim::Sgd;
/// use acclimate_tta::{Gala, Host, Reset, Stream};
/// use burn::tensor::DType;
///
/// let (model, all) = (tiny::resnet(0, DType::F32), Targets::Word("all".to_owned()));
/// let mut patch = Patch::new();
/// let full = acclimate_peft::build("full", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "full", full, Some(&all), &mut Rng::new(0, "patch", 0))?;
///
/// let (method, sgd) = (Gala::default(), Sgd { lr: 1e-2, momentum: 0.0, nesterov: false });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&sgd)?, Reset::Never)?;
/// for seed in 1..6 {
///     stream.step(&tiny::images(seed, 20, DType::F32))?;
/// }
/// assert!(stream.host().updates() >= 1);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Sahoo et al., *A Layer Selection Approach to Test Time Adaptation*, AAAI 2025, arXiv:2404.03784.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "gala", title = "GALA", catalogue = [52], paper = "arxiv:2404.03784", year = 2024)]
#[method(needs(gradients, optimiser, batch, learning_rate), promises(order_invariant))]
#[method(case = "", case = "layers = \"all\"\nobjective = \"entropy\"\ndiversity = 1.0\nwindow = 3")]
pub struct Gala {
    /// The loss of a row.
    pub objective: Objective,
    /// Weight of the mean prediction's entropy, $\alpha$, which keeps classes apart.
    #[method(min = 0)]
    pub diversity: f64,
    /// The cosine that a layer's step must exceed, $\lambda$.
    #[method(min = -2, max = 1)]
    pub threshold: f64,
    /// Steps between two anchors, $s$.
    #[method(min = 1)]
    pub window: u64,
    /// Steps of a window until they are made in full, $w$.
    #[method(min = 1)]
    pub warm_up: u64,
    /// How many layers may move at a step.
    pub layers: Layers,
}

impl Default for Gala {
    fn default() -> Self {
        Self {
            objective: Objective::PseudoLabel,
            diversity: 0.0,
            threshold: 0.75,
            window: 20,
            warm_up: 3,
            layers: Layers::Best,
        }
    }
}

/// How many layers may move at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// The one that agrees best.
    #[default]
    Best,
    /// All that agree.
    All,
}

/// The anchor, the steps proposed so far, and how often each layer moved.
#[derive(Clone, Debug, Record)]
pub struct GalaState {
    /// The trained tensors at the start of the window, $\theta^r$.
    pub anchor: Params,
    /// Steps proposed.
    pub step: u64,
    /// How often each layer moved, in the patch's order.
    pub moved: Vec<f64>,
}

impl TestTime for Gala {
    type State = GalaState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<GalaState> {
        host.check_trains(Self::CARD.name)?;
        let layers = layers(host.patch()).into_iter().max().map_or(0, |last| last + 1);
        Ok(GalaState { anchor: host.patch().params.clone(), step: 0, moved: vec![0.0; layers] })
    }

    fn step(&self, batch: &Inputs, state: &mut GalaState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        let (seen, gradient) = host.gradient(|taped| {
            let seen = taped.forward(batch)?;
            let mut loss = Loss::mean(self.objective.of(seen.logits.clone()));
            if self.diversity > 0.0 {
                loss.value = loss.value - mean_entropy(seen.logits.clone()) * self.diversity;
            }
            Ok((seen, Some(loss)))
        })?;
        let at = state.step % self.window;
        let now = host.patch().params.clone();
        let anchor = if at == 0 { now.clone() } else { state.anchor.clone() };
        let layers = layers(host.patch());
        let mut moves = vec![false; state.moved.len()];
        if let Some(gradient) = gradient {
            host.update_by(&gradient, |movement| {
                let share = ((at + 1) as f64 / self.warm_up as f64).min(1.0);
                let steps = movement.map(|_, u| AnyTensor::from_elements(u.elements() * share));
                moves = if at == 0 {
                    vec![true; moves.len()]
                } else {
                    self.chosen(&aligned(&layers, &steps, &now, &anchor))
                };
                if !moves.contains(&true) {
                    return Ok(None);
                }
                let mut of = layers.iter();
                Ok(Some(steps.map(|_, u| match of.next() {
                    Some(layer) if moves[*layer] => u.clone(),
                    _ => u.zeros_like(),
                })))
            })?;
        }
        state.anchor = anchor;
        state.step += 1;
        state.moved.iter_mut().zip(moves).for_each(|(count, moves)| *count += f64::from(u8::from(moves)));
        Ok(seen.logits)
    }

    fn trains(&self) -> Trains {
        Trains::Everything
    }
}

impl Gala {
    /// Which layers move by their cosines; the first of equals.
    fn chosen(&self, cosines: &[f64]) -> Vec<bool> {
        let best = (0..cosines.len()).reduce(|best, at| if cosines[at] > cosines[best] { at } else { best });
        let may = |at: usize| self.layers == Layers::All || Some(at) == best;
        (0..cosines.len()).map(|at| may(at) && cosines[at] > self.threshold).collect()
    }
}

/// The layer of each trained tensor, counted from 0: tensors of one site belong together.
fn layers(patch: &Patch) -> Vec<usize> {
    let sites: Vec<&str> =
        patch.parts().iter().flat_map(|part| part.sites.iter().map(|site| site.name.as_str())).collect();
    // The longest name: a site may be a part of another's path. What stands at no site, such as a head, goes by its own.
    let site_of = |name: &str| {
        let within = |site: &&&str| name.strip_prefix(**site).is_some_and(|rest| rest.starts_with('.'));
        let site = sites.iter().filter(within).max_by_key(|site| site.len()).copied();
        site.unwrap_or_else(|| name.rsplit_once('.').map_or(name, |(path, _)| path)).to_owned()
    };
    let mut found: Vec<String> = vec![];
    let numbered = patch.params.names().map(|name| {
        let site = site_of(name);
        found.iter().position(|known| *known == site).unwrap_or_else(|| {
            found.push(site);
            found.len() - 1
        })
    });
    numbered.collect()
}

/// The cosine of each layer's step with the displacement it would lead to; below all others for a layer that proposes no step.
fn aligned(layers: &[usize], steps: &Params, now: &Params, anchor: &Params) -> Vec<f64> {
    let count = layers.iter().max().map_or(0, |last| last + 1);
    let (mut inner, mut step, mut after) = (vec![], vec![], vec![]);
    for (((_, u), (_, now)), (_, anchor)) in steps.iter().zip(now.iter()).zip(anchor.iter()) {
        let u = wide(u.elements());
        let led = u.clone() + (wide(now.elements()) - wide(anchor.elements()));
        inner.push((u.clone() * led.clone()).sum());
        step.push(u.square().sum());
        after.push(led.square().sum());
    }
    let mut sums = vec![[0.0; 3]; count];
    // One read of the device for all layers.
    let singles: Vec<f64> = AnyTensor::from(Tensor::cat([inner, step, after].concat(), 0)).to_f64s();
    for (at, layer) in layers.iter().enumerate() {
        (0..3).for_each(|of| sums[*layer][of] += singles[of * layers.len() + at]);
    }
    let cosine = |[inner, step, after]: [f64; 3]| match (step * after).sqrt() {
        0.0 => f64::NEG_INFINITY,
        lengths => inner / lengths,
    };
    sums.into_iter().map(cosine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};

    /// The cosine for one layer that has come by `there` and proposes `step`.
    fn cosine(there: [f64; 2], step: [f64; 2]) -> f64 {
        let params = |values: [f64; 2]| {
            let mut params = Params::default();
            params.insert("layer", AnyTensor::from_f64s(values.to_vec(), &[2], DType::F64, &Device::flex()));
            params
        };
        aligned(&[0], &params(step), &params(there), &params([0.0; 2]))[0]
    }

    #[test]
    fn alignment_is_the_cosine_with_where_a_step_leads() {
        assert!((cosine([0.0, 0.0], [0.3, -0.4]) - 1.0).abs() < 1e-15);
        assert!((cosine([2.0, 0.0], [-0.5, 0.0]) + 1.0).abs() < 1e-15);
        let across = cosine([3.0, 0.0], [0.0, 0.5]);
        assert!((across - 0.5 / (9.25f64).sqrt()).abs() < 1e-15, "{across}");
        // At an angle b to a way of length t: (t·cos b + u)/√((t + u·cos b)² + (u·sin b)²).
        let (t, u, b) = (1.7, 0.6, 0.9f64);
        let expected = (t * b.cos() + u) / ((t + u * b.cos()).powi(2) + (u * b.sin()).powi(2)).sqrt();
        assert!((cosine([t, 0.0], [u * b.cos(), u * b.sin()]) - expected).abs() < 1e-15);
        assert_eq!(cosine([1.0, 0.0], [0.0, 0.0]), f64::NEG_INFINITY);
    }

    #[test]
    fn alignment_does_not_change_with_scale() {
        let (one, tenth) = (cosine([1.0, 0.5], [0.2, -0.1]), cosine([0.1, 0.05], [0.02, -0.01]));
        assert!((one - tenth).abs() < 1e-15);
    }
}
