use crate::{
    Host, Loss, TestTime, entropy,
    iabn::aware,
    statistics::{Kept, averages, mixed, unbiased},
};
use acclimate_core::{BatchNorm, Error, Inputs, Method, Normaliser, Params, Record, Result, Rng};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// Learns from a small memory that is balanced over predicted classes, so that a stream sorted by class looks mixed.
///
/// # Mathematics
/// **Norms** are those of `iabn` around running averages $\mu, v$ that begin at the stored moments. A batch is answered under them as
/// they are.
///
/// **Memory.** Every row joins a reservoir of `capacity` rows under its predicted class $c$. Where it is full: if $c$ is not among the
/// classes with most entries, a random entry of a random one of those gives way; else, with $m_c$ entries and $n_c$ rows of $c$ seen so
/// far, the row takes the place of a random entry of $c$ with probability $m_c/n_c$, and is dropped otherwise.
///
/// **Learning.** After every `update_every` rows, one pass over the memory: norms work around the memory's moments $\mu_m, v_m$ (the
/// variance divided by $n - 1$), and the averages move, $\mu \leftarrow (1 - a)\mu + a\,\mu_m$ and the same for $v$; one step of the
/// optimiser on the norms' $\gamma$ and $\beta$ lowers the mean entropy of $\operatorname{softmax}(z/T)$. Trained numbers: two for each
/// channel of each norm. It remembers `capacity` inputs.
///
/// # When to use
/// Streams sorted by class or with long runs of one, batches of any size, no known shifts. Adam at `lr = 1e-4` is the authors' choice. A
/// network trained with ordinary batch norms loses some accuracy under `iabn`; one trained with it does not.
///
/// # Differences
/// The authors answer and remember row by row, and learn after each full `update_every` rows; here a whole batch is answered and
/// remembered first, and then learnt from once if it is time. Their entropy is also divided by the number of classes and has a guard in the
/// logarithm; here it is the mean over rows.
///
/// # Example
/// ```
/// use acclimate_core::{Patch, Rng};
/// use acclimate_models::tiny;
/// use acclimate_optim::Adamw;
/// use acclimate_tta::{Host, Note, Reset, Stream};
/// use burn::tensor::DType;
///
/// let model = tiny::resnet(0, DType::F32);
/// let mut patch = Patch::new();
/// let norms = acclimate_peft::build("norm_tuning", &Default::default())?;
/// acclimate_peft::place(&mut patch, &model, "norm_tuning", norms, None, &mut Rng::new(0, "patch", 0))?;
///
/// let (method, adam) = (Note::default(), Adamw { lr: 1e-4, ..Adamw::default() });
/// let mut stream = Stream::new(&method, Host::new(&model, patch)?.optimiser(&adam)?, Reset::Never)?;
/// for batch in 0..8 {
///     stream.step(&tiny::images(batch, 16, DType::F32))?;
/// }
/// // 128 rows were seen, and learnt from after every 64.
/// assert_eq!(stream.report().counts.updates, 2);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Gong et al., *NOTE: Robust Continual Test-time Adaptation Against Temporal Correlation*, NeurIPS 2022, arXiv:2208.05117.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "note", title = "NOTE", catalogue = [], paper = "arxiv:2208.05117", year = 2022)]
#[method(needs(gradients, optimiser, batch_norm, learning_rate), promises(order_invariant))]
#[method(
    case = "update_every = 8\ncapacity = 12",
    case = "update_every = 12\ncapacity = 5\nmomentum = 0.5\ntemperature = 2.0"
)]
pub struct Note {
    /// Rows that are remembered.
    #[method(min = 1)]
    pub capacity: usize,
    /// Rows after which it learns.
    #[method(min = 1)]
    pub update_every: usize,
    /// How far the memory moves the running averages, $a$.
    #[method(min = 0, max = 1)]
    pub momentum: f64,
    /// Standard errors by which an input may differ before it counts, $k$ of `iabn`.
    #[method(min = 0)]
    pub deviations: f64,
    /// Divides the logits, $T$.
    #[method(above = 0)]
    pub temperature: f64,
    /// Names the random streams of the reservoir.
    pub seed: u64,
}

impl Default for Note {
    fn default() -> Self {
        Self { capacity: 64, update_every: 64, momentum: 0.01, deviations: 4.0, temperature: 1.0, seed: 0 }
    }
}

/// The running averages and the reservoir.
#[derive(Clone, Debug, Record)]
pub struct NoteState {
    /// `site.mean` and `site.variance` of every norm, `[channels]`.
    #[record(own)]
    pub averages: Params,
    /// `images`, the rows that are remembered, the oldest first; nothing before the first batch.
    #[record(own)]
    pub reservoir: Params,
    /// Their predicted classes.
    pub classes: Vec<f64>,
    /// How many rows of each class were seen.
    pub counts: Vec<f64>,
    /// How many rows were seen.
    pub seen: u64,
    /// How many of them since it last learnt.
    pub waiting: u64,
}

const IMAGES: &str = "images";

impl TestTime for Note {
    type State = NoteState;

    fn prepare(&self, host: &mut Host<'_>) -> Result<NoteState> {
        Ok(NoteState {
            averages: averages(host)?,
            reservoir: Params::default(),
            classes: vec![],
            counts: vec![],
            seen: 0,
            waiting: 0,
        })
    }

    fn step(&self, batch: &Inputs, state: &mut NoteState, host: &mut Host<'_>) -> Result<Tensor<2>> {
        // Not asked before: as the statistics of another method it trains nothing.
        host.check_trains_norms(Self::CARD.name)?;
        let Inputs::Images(images) = batch else {
            return Err(Error::Unsupported {
                who: Self::CARD.name.to_owned(),
                what: "remember inputs other than images".to_owned(),
                instead: "choose a method without a memory of inputs, such as `tent`".to_owned(),
            });
        };
        if let Ok(kept) = state.reservoir.get::<4>(IMAGES)
            && kept.dims()[1..] != images.dims()[1..]
        {
            let (what, got) = ("images to remember".to_owned(), images.dims().to_vec());
            return Err(Error::Shape { what, expected: format!("[rows, then {:?}]", &kept.dims()[1..]), got });
        }
        let mut answer = None;
        self.under(state, &mut |statistics| {
            answer = Some(host.forward_under(batch, statistics)?.logits);
            Ok(())
        })?;
        let logits = answer.expect("the pass above ran once");
        self.remember(images, &logits, state);

        state.waiting += batch.rows() as u64;
        if state.waiting >= self.update_every as u64 {
            state.waiting = 0;
            let memory = Inputs::Images(state.reservoir.get::<4>(IMAGES)?);
            let moving = Moving { method: self, kept: Kept::new(&state.averages) };
            host.learn(|taped| {
                let seen = taped.forward_under(&memory, &moving)?;
                // A product: the gradient of a quotient by a number has that number's reciprocal in single precision.
                let loss = Loss::mean(entropy(seen.logits.clone() * (1.0 / self.temperature)));
                Ok((seen, Some(loss)))
            })?;
            state.averages = moving.kept.into_params();
        }
        Ok(logits)
    }

    fn under(&self, state: &mut NoteState, pass: &mut dyn FnMut(&dyn Normaliser) -> Result<()>) -> Result<()> {
        pass(&Resting { method: self, kept: Kept::new(&state.averages) })
    }
}

impl Note {
    /// Lets the rows of a batch join the reservoir, one after another.
    fn remember(&self, images: &Tensor<4>, logits: &Tensor<2>, state: &mut NoteState) {
        state.counts.resize(logits.dims()[1], 0.0);
        let held = state.classes.len();
        // Where each entry lies among those held so far and then the batch's rows, with its class.
        let mut entries: Vec<(usize, usize)> = state.classes.iter().map(|class| *class as usize).enumerate().collect();
        for (row, class) in logits.clone().argmax(1).to_data().iter::<i64>().enumerate() {
            let class = class as usize;
            state.counts[class] += 1.0;
            let mut rng = Rng::new(self.seed, "reservoir", state.seen);
            state.seen += 1;
            if entries.len() >= self.capacity {
                let Some(victim) = victim(&entries, class, state.counts[class], &mut rng) else { continue };
                entries.remove(victim);
            }
            entries.push((held + row, class));
        }
        let all = match state.reservoir.get::<4>(IMAGES) {
            Ok(kept) => Tensor::cat(vec![kept, images.clone()], 0),
            Err(_) => images.clone(),
        };
        let rows: Vec<i64> = entries.iter().map(|(at, _)| *at as i64).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [entries.len()]), &all.device());
        state.reservoir.insert(IMAGES, all.select(0, rows));
        state.classes = entries.into_iter().map(|(_, class)| class as f64).collect();
    }
}

/// Which entry of a full reservoir gives way to a row of `class`, of which `seen` came by with it; none where the row is dropped.
fn victim(entries: &[(usize, usize)], class: usize, seen: f64, rng: &mut Rng) -> Option<usize> {
    let classes = entries.iter().map(|(_, class)| *class).max().unwrap_or(0).max(class) + 1;
    let mut sizes = vec![0usize; classes];
    entries.iter().for_each(|(_, class)| sizes[*class] += 1);
    let most = sizes.iter().max().copied().unwrap_or(0);
    let from = if sizes[class] == most {
        if rng.uniform() > most as f64 / seen {
            return None;
        }
        class
    } else {
        let largest: Vec<usize> = (0..classes).filter(|class| sizes[*class] == most).collect();
        largest[below(rng, largest.len())]
    };
    let place = below(rng, most);
    entries.iter().enumerate().filter(|(_, (_, class))| *class == from).map(|(at, _)| at).nth(place)
}

/// An index below `n`, out of one number.
fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.uniform() * n as f64) as usize
}

/// Around the averages as they are.
struct Resting<'a> {
    method: &'a Note,
    kept: Kept,
}

impl Normaliser for Resting<'_> {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let base = self.kept.moments(norm.site)?;
        Ok(aware(norm, base, self.method.deviations))
    }
}

/// Around the moments of what passes, which move the averages.
struct Moving<'a> {
    method: &'a Note,
    kept: Kept,
}

impl Normaliser for Moving<'_> {
    fn normalise(&self, norm: BatchNorm<'_>) -> Result<Tensor<4>> {
        let own = unbiased(&norm)?;
        self.kept.put_moments(norm.site, &mixed(&self.kept.moments(norm.site)?, &own, self.method.momentum));
        Ok(aware(norm, own, self.method.deviations))
    }
}
