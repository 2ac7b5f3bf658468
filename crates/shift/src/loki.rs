use crate::Calculator;
use acclimate_core::{Error, Method, Result, Rng, nearest};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Predicts classes that a classifier has never seen, or makes nearer mistakes, by the distances between labels.
///
/// # Mathematics
/// A classifier gives probabilities $p$ of the observed classes $\Lambda$; all labels $Y$ have distances $d$ to them. The answer is the
/// Fréchet mean
/// $$\hat y = \arg\min_{y \in Y} \sum_{\lambda \in \Lambda} p_\lambda\, d(\lambda, y)^2,$$
/// the label that lowers the expected squared distance most under $p$. With 0/1 distances it is the most probable class. A temperature $T$
/// replaces $p$ by $p^{1/T}$ over its sum; `power = 1` gives the Fréchet median. On a tree two passes give the sums for all nodes: a node
/// keeps mass and first two moments of its branch, and an edge of length $w$ turns $(m_0, m_1, m_2)$ into
/// $(m_0,\, m_1 + w m_0,\, m_2 + 2 w m_1 + w^2 m_0)$. With embeddings $e$ the answer is the label nearest to $\sum p_\lambda e_\lambda$.
/// The *locus* of $\Lambda$ holds the labels that some $p$ reaches (at a tie all of them). On a tree these are the nodes on the paths
/// between observed ones, so its leaves reach all. On any metric $y$ is reached when the game
/// $$v = \min_{p \in \Delta} \max_{z \in Y} \sum_\lambda p_\lambda \big(d(\lambda, y)^2 - d(\lambda, z)^2\big)$$
/// has the value zero, a linear programme.
///
/// # When to use
/// Many labels with a taxonomy, a graph or embeddings, of which few have examples; also to make mistakes cheaper. It needs no data and no
/// training. Accuracy usually drops a little where the distance to the truth improves: report both. Flat probabilities pull towards the
/// centre of the tree; a `temperature` below one sharpens them.
///
/// # Differences
/// Some of the authors' scripts weigh by raw logits, which may be negative: here rows must be probabilities. Some match distances to
/// classes by position in two orders: [`Loki::observed`] goes by name. Ties, within rounding, go to an observed label, then to the first.
/// The authors find the nearest node of the locus at a tie by NumPy's order; here the first of the farthest nodes is the next class. The
/// locus on a tree with one observed class is that class; the authors' union of paths is then empty. Training through the rule is left out.
///
/// # Example
/// ```
/// use acclimate_shift::{LabelTree, Loki};
/// use ndarray::array;
///
/// // A path 0 - 1 - 2 whose ends were observed: half and half is its middle.
/// let tree = LabelTree::new(3, &[(0, 1, 1.0), (1, 2, 1.0)])?;
/// let scores = Loki::default().tree_scores(array![[0.5, 0.5]].view(), &tree, &[0, 2])?;
/// assert_eq!(Loki::choose(scores.view(), &[0, 2]), [1]);
/// # Ok::<(), acclimate_core::Error>(())
/// ```
///
/// # References
/// Roberts, Li, Adila, Cromp, Huang, Zhao and Sala, *Geometry-Aware Adaptation for Pretrained Models*, NeurIPS 2023, arXiv:2307.12226.
#[derive(Clone, Debug, Serialize, Deserialize, Method)]
#[serde(default, deny_unknown_fields)]
#[method(name = "loki", title = "Loki", catalogue = [145], paper = "arxiv:2307.12226", year = 2023, case = "", case = "power = 1")]
pub struct Loki {
    /// The power of the distance: 2 for the mean, 1 for the median.
    #[method(min = 1, max = 2)]
    pub power: usize,
    /// Below one sharpens the probabilities, above one flattens them.
    #[method(above = 0)]
    pub temperature: f64,
}

impl Default for Loki {
    fn default() -> Self {
        Self { power: 2, temperature: 1.0 }
    }
}

impl Calculator for Loki {}

fn refused<T>(what: String) -> Result<T> {
    Err(Error::Other(format!("loki: {what}")))
}

impl Loki {
    /// The place of each observed class among the labels, by name.
    ///
    /// # Errors
    /// When a class is not a label, or two classes share a name.
    pub fn observed(classes: &[String], labels: &[String]) -> Result<Vec<usize>> {
        let places: BTreeMap<&str, usize> =
            labels.iter().zip(0..).map(|(label, place)| (label.as_str(), place)).collect();
        if places.len() != labels.len() {
            return refused("two labels have one name; rename one".to_owned());
        }
        let mut found = Vec::with_capacity(classes.len());
        for class in classes {
            let place = *places.get(class.as_str()).ok_or_else(|| {
                let near = nearest(class, labels.iter().map(String::as_str));
                Error::Unknown { kind: "label", name: class.clone(), near }
            })?;
            if found.contains(&place) {
                return refused(format!("the class `{class}` stands twice; leave one out"));
            }
            found.push(place);
        }
        Ok(found)
    }

    /// The scores of all labels, `[rows, labels]`, of which the largest is the answer: minus the expected power of the distance.
    /// `distances`, not squared, are from each observed class (a column of `probabilities`) to each label.
    ///
    /// # Errors
    /// When sizes do not agree, a row is not one of probabilities, or a distance is negative or not finite.
    pub fn scores(&self, probabilities: ArrayView2<'_, f64>, distances: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        let p = self.sharpened(probabilities, distances.nrows())?;
        Ok(-acclimate_stats::linalg::product(p.view(), self.powers(distances)?.view()))
    }

    /// [`Loki::scores`] on a tree, in time that grows with the sum of rows times nodes alone.
    ///
    /// # Errors
    /// As there, and when an observed node is not one of the tree.
    pub fn tree_scores(
        &self,
        probabilities: ArrayView2<'_, f64>,
        tree: &LabelTree,
        observed: &[usize],
    ) -> Result<Array2<f64>> {
        self.check()?;
        tree.inside(observed)?;
        let p = self.sharpened(probabilities, observed.len())?;
        let nodes = tree.parent.len();
        let mut scores = Array2::zeros((p.nrows(), nodes));
        let one = |(row, scores): (usize, &mut [f64])| {
            for (score, moments) in scores.iter_mut().zip(tree.moments(p.row(row), observed)) {
                *score = -moments[self.power];
            }
        };
        scores.as_slice_mut().expect("made here").par_chunks_mut(nodes).enumerate().for_each(one);
        Ok(scores)
    }

    /// The scores of labels with embeddings under squared Euclidean distances, without a table of distances; up to a constant of each row
    /// they are those of [`Loki::scores`].
    ///
    /// # Errors
    /// As there, and when `power` is not 2: the median has no such form.
    pub fn embedding_scores(
        &self,
        probabilities: ArrayView2<'_, f64>,
        observed: ArrayView2<'_, f64>,
        labels: ArrayView2<'_, f64>,
    ) -> Result<Array2<f64>> {
        if self.power != 2 {
            return Err(Error::Param {
                method: "loki",
                param: "power",
                value: self.power.to_string(),
                why: "must be 2 on embeddings; for 1 give distances".to_owned(),
            });
        }
        acclimate_stats::learn::finite("loki", observed)?;
        acclimate_stats::learn::finite("loki", labels)?;
        if observed.ncols() != labels.ncols() {
            let expected = format!("[labels, {}]", observed.ncols());
            return Err(Error::Shape { what: "loki: embeddings".to_owned(), expected, got: labels.shape().to_vec() });
        }
        let mean = self.sharpened(probabilities, observed.nrows())?.dot(&observed);
        Ok(-acclimate_stats::linalg::squared_distances(mean.view(), labels))
    }

    /// The label with the largest score in each row; at a tie, within rounding, an observed one, else the first.
    pub fn choose(scores: ArrayView2<'_, f64>, observed: &[usize]) -> Vec<usize> {
        let best = |row: ArrayView1<'_, f64>| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Two sums of the same terms in another order differ by this much at most.
            let floor = top - 1e-12 * (1.0 + top.abs());
            let tied = |label: &usize| row.get(*label).is_some_and(|score| *score >= floor);
            let first_observed = observed.iter().copied().filter(tied).min();
            first_observed.or_else(|| (0..row.len()).find(tied)).unwrap_or(0)
        };
        scores.axis_iter(Axis(0)).map(best).collect()
    }

    /// Which labels some probabilities of the observed classes reach, by a linear programme for each.
    ///
    /// # Errors
    /// When a distance is negative or not finite, or there is no observed class.
    pub fn locus(&self, distances: ArrayView2<'_, f64>) -> Result<Vec<bool>> {
        let powers = self.powers(distances)?;
        if powers.nrows() == 0 {
            return refused("there is no observed class; give at least one".to_owned());
        }
        Ok((0..powers.ncols()).into_par_iter().map(|label| reached(&powers, label)).collect())
    }

    /// The label to collect next: that with which the locus is largest, the first of equals; none when the locus holds all labels.
    /// `distances` are between all labels.
    ///
    /// # Errors
    /// As [`Loki::locus`], and when `distances` is not square or an observed label is not among them.
    pub fn next_class(&self, distances: ArrayView2<'_, f64>, observed: &[usize]) -> Result<Option<usize>> {
        let labels = distances.nrows();
        if labels != distances.ncols() || observed.iter().any(|label| *label >= labels) {
            return refused("distances must be between all labels, the observed ones among them".to_owned());
        }
        let size = |chosen: &[usize]| -> Result<(usize, Vec<bool>)> {
            let locus = self.locus(distances.select(Axis(0), chosen).view())?;
            Ok((locus.iter().filter(|inside| **inside).count(), locus))
        };
        let (_, locus) = size(observed)?;
        let mut best = None;
        for label in (0..labels).filter(|label| !locus[*label]) {
            let chosen: Vec<usize> = observed.iter().copied().chain([label]).collect();
            let (found, _) = size(&chosen)?;
            if best.is_none_or(|(most, _)| found > most) {
                best = Some((found, label));
            }
        }
        Ok(best.map(|(_, label)| label))
    }

    /// Draws `count` labels without repetition with probabilities in proportion to $e^{-\theta d}$, where `distances` are to a centre: how
    /// the locus depends on where observed classes lie is read off such draws. Zero `theta` draws evenly.
    ///
    /// # Errors
    /// When there are fewer labels than `count`, or a number is not finite.
    pub fn draw(distances: ArrayView1<'_, f64>, theta: f64, count: usize, seed: u64) -> Result<Vec<usize>> {
        if count > distances.len() || !theta.is_finite() || distances.iter().any(|d| !d.is_finite()) {
            return refused(format!("{count} labels of {} cannot be drawn at theta {theta}", distances.len()));
        }
        let mut rng = Rng::new(seed, "labels", 0);
        // An exponential race in logarithms: the order of arrival is that of draws without replacement.
        let mut race: Vec<(f64, usize)> = distances
            .iter()
            .zip(0..)
            .map(|(d, label)| ((-(1.0 - rng.uniform()).ln()).ln() + theta * d, label))
            .collect();
        race.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut drawn: Vec<usize> = race.into_iter().take(count).map(|(_, label)| label).collect();
        drawn.sort_unstable();
        Ok(drawn)
    }

    fn powers(&self, distances: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
        self.check()?;
        match distances.indexed_iter().find(|(_, d)| !d.is_finite() || **d < 0.0) {
            Some(((from, to), d)) => refused(format!(
                "the distance in row {}, column {} is {d}; distances are finite and not negative",
                from + 1,
                to + 1
            )),
            None => Ok(distances.mapv(|d| d.powi(self.power as i32))),
        }
    }

    fn sharpened(&self, probabilities: ArrayView2<'_, f64>, classes: usize) -> Result<Array2<f64>> {
        self.check()?;
        if probabilities.ncols() != classes {
            let (expected, got) = (format!("[rows, {classes}]"), probabilities.shape().to_vec());
            return Err(Error::Shape { what: "loki: probabilities".to_owned(), expected, got });
        }
        let mut p = probabilities.to_owned();
        for (mut row, number) in p.rows_mut().into_iter().zip(1..) {
            // Single precision leaves sums of a thousand classes this far from one.
            if row.iter().any(|p| p.is_nan() || *p < 0.0) || (row.sum() - 1.0).abs() > 1e-4 {
                return refused(format!("row {number} is not one of probabilities; take a softmax of logits first"));
            }
            if self.temperature != 1.0 {
                let top = row.iter().copied().fold(0.0, f64::max);
                row.mapv_inplace(|p| (p / top).powf(1.0 / self.temperature));
            }
            let sum = row.sum();
            row /= sum;
        }
        Ok(p)
    }
}

/// Labels joined by edges of some length; distances are along the shortest paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelGraph {
    edges: Vec<Vec<(usize, f64)>>,
}

impl LabelGraph {
    /// `labels` of them and the edges between them, each with its length.
    ///
    /// # Errors
    /// When an edge leads to no label, or its length is not positive and finite.
    pub fn new(labels: usize, edges: &[(usize, usize, f64)]) -> Result<Self> {
        let mut joined = vec![Vec::new(); labels];
        for (a, b, length) in edges {
            if *a >= labels || *b >= labels || !length.is_finite() || *length <= 0.0 {
                return refused(format!("an edge from {a} to {b} of length {length} among {labels} labels"));
            }
            joined[*a].push((*b, *length));
            joined[*b].push((*a, *length));
        }
        Ok(Self { edges: joined })
    }

    /// The distances from each of `observed` to all labels.
    ///
    /// # Errors
    /// When an observed label is none of the graph, or a label cannot be reached.
    pub fn distances(&self, observed: &[usize]) -> Result<Array2<f64>> {
        let labels = self.edges.len();
        let mut found = Array2::zeros((observed.len(), labels));
        for (from, mut row) in observed.iter().zip(found.rows_mut()) {
            if *from >= labels {
                return refused(format!("label {from} of {labels}; labels count from zero"));
            }
            row.assign(&self.shortest(*from));
            if let Some(far) = row.iter().position(|d| d.is_infinite()) {
                return refused(format!("no path leads from label {from} to {far}; join the parts of the graph"));
            }
        }
        Ok(found)
    }

    fn shortest(&self, from: usize) -> Array1<f64> {
        let mut found = Array1::from_elem(self.edges.len(), f64::INFINITY);
        found[from] = 0.0;
        // Lengths are not negative, and of such floats the bits are in their order.
        let mut open = BinaryHeap::from([Reverse((0_u64, from))]);
        while let Some(Reverse((bits, label))) = open.pop() {
            let at = f64::from_bits(bits);
            if at > found[label] {
                continue;
            }
            for (to, length) in &self.edges[label] {
                if at + length < found[*to] {
                    found[*to] = at + length;
                    open.push(Reverse((found[*to].to_bits(), *to)));
                }
            }
        }
        found
    }
}

/// Labels that are the nodes of a tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelTree {
    graph: LabelGraph,
    /// The node nearer to node 0 and the length of the edge to it.
    parent: Vec<(usize, f64)>,
    /// Every node after its parent.
    order: Vec<usize>,
}

impl LabelTree {
    /// `nodes` of them and the edges between them, each with its length.
    ///
    /// # Errors
    /// As [`LabelGraph::new`], and when the edges do not make a tree.
    pub fn new(nodes: usize, edges: &[(usize, usize, f64)]) -> Result<Self> {
        let graph = LabelGraph::new(nodes, edges)?;
        let mut parent = vec![(0, 0.0); nodes];
        let mut seen = vec![false; nodes];
        let mut order = Vec::from_iter((nodes > 0).then_some(0));
        if let Some(first) = seen.first_mut() {
            *first = true;
        }
        let mut next = 0;
        while let Some(node) = order.get(next).copied() {
            for (to, length) in &graph.edges[node] {
                if !seen[*to] {
                    seen[*to] = true;
                    parent[*to] = (node, *length);
                    order.push(*to);
                }
            }
            next += 1;
        }
        if nodes == 0 || order.len() != nodes || edges.len() != nodes - 1 {
            return refused(format!(
                "{} edges between {nodes} nodes are no tree; it joins all nodes by one edge fewer, or use `LabelGraph`",
                edges.len()
            ));
        }
        Ok(Self { graph, parent, order })
    }

    /// The tree as a graph: its distances.
    pub fn graph(&self) -> &LabelGraph {
        &self.graph
    }

    /// The nodes with one neighbour: the smallest set whose locus is the whole tree.
    pub fn leaves(&self) -> Vec<usize> {
        (0..self.parent.len()).filter(|node| self.graph.edges[*node].len() <= 1).collect()
    }

    /// The nodes on the paths between observed ones: those that some probabilities reach.
    ///
    /// # Errors
    /// When an observed node is none of the tree.
    pub fn locus(&self, observed: &[usize]) -> Result<Vec<bool>> {
        self.inside(observed)?;
        let mut below = vec![0_usize; self.parent.len()];
        let mut chosen = vec![false; self.parent.len()];
        for node in observed {
            chosen[*node] = true;
        }
        let total = chosen.iter().filter(|chosen| **chosen).count();
        let mut joined = vec![0; self.parent.len()];
        for node in self.order.iter().rev() {
            below[*node] += usize::from(chosen[*node]);
            if *node != self.order[0] && below[*node] > 0 {
                let parent = self.parent[*node].0;
                below[parent] += below[*node];
                joined[parent] += 1;
            }
        }
        // A node lies between two when observed ones are in two of its directions.
        let inside = |node: usize| chosen[node] || joined[node] + usize::from(below[node] < total) >= 2;
        Ok((0..self.parent.len()).map(inside).collect())
    }

    /// The node to observe next, farthest from the locus of `observed`, the first of equals; none when it holds the whole tree.
    ///
    /// # Errors
    /// As [`LabelTree::locus`], and when nothing is observed yet.
    pub fn next_class(&self, observed: &[usize]) -> Result<Option<usize>> {
        let locus = self.locus(observed)?;
        if observed.is_empty() {
            return refused("no node is observed; give at least one".to_owned());
        }
        let mut far: Vec<f64> = locus.iter().map(|inside| if *inside { 0.0 } else { f64::INFINITY }).collect();
        // Towards the root, then away from it.
        for node in self.order.iter().rev().chain(&self.order) {
            let (parent, length) = self.parent[*node];
            far[parent] = far[parent].min(far[*node] + length);
            far[*node] = far[*node].min(far[parent] + length);
        }
        let mut best = None;
        for (node, far) in far.into_iter().enumerate().filter(|(_, far)| *far > 0.0) {
            if best.is_none_or(|(most, _)| far > most) {
                best = Some((far, node));
            }
        }
        Ok(best.map(|(_, node)| node))
    }

    fn inside(&self, observed: &[usize]) -> Result<()> {
        match observed.iter().find(|node| **node >= self.parent.len()) {
            Some(node) => refused(format!("node {node} of {}; nodes count from zero", self.parent.len())),
            None => Ok(()),
        }
    }

    /// Mass and the first two moments of the distance to every node.
    fn moments(&self, p: ArrayView1<'_, f64>, observed: &[usize]) -> Vec<[f64; 3]> {
        let along = |[m0, m1, m2]: [f64; 3], w: f64| [m0, m1 + w * m0, m2 + 2.0 * w * m1 + w * w * m0];
        let mut below = vec![[0.0; 3]; self.parent.len()];
        for (node, p) in observed.iter().zip(p) {
            below[*node][0] += p;
        }
        let away = &self.order[1..];
        for node in away.iter().rev() {
            let (parent, w) = self.parent[*node];
            let from = along(below[*node], w);
            (0..3).for_each(|k| below[parent][k] += from[k]);
        }
        let mut all = below.clone();
        for node in away {
            let (parent, w) = self.parent[*node];
            let own = along(below[*node], w);
            let others = along(std::array::from_fn(|k| all[parent][k] - own[k]), w);
            (0..3).for_each(|k| all[*node][k] += others[k]);
        }
        all
    }
}

/// Whether the game that asks for `label` has the value zero.
///
/// Its payments, shifted into `[1, 2]`, make the programme `max Σ u` under `payments u ≤ 1`, `u ≥ 0`, whose start at zero is allowed; the
/// value is one over its maximum.
fn reached(powers: &Array2<f64>, label: usize) -> bool {
    let (players, labels) = powers.dim();
    let payment = |z: usize, i: usize| powers[[i, label]] - powers[[i, z]];
    let all = (0..labels).flat_map(|z| (0..players).map(move |i| payment(z, i)));
    let (low, high) = all.fold((0.0_f64, 0.0_f64), |(low, high), a| (low.min(a), high.max(a)));
    if high <= 0.0 {
        return true;
    }
    let scale = high - low;
    // Rows are labels, columns the observed classes and the right side; slack variables take the place of what leaves.
    let mut table = Array2::from_shape_fn((labels + 1, players + 1), |(z, i)| match (z < labels, i < players) {
        (true, true) => 1.0 + (payment(z, i) - low) / scale,
        (true, false) => 1.0,
        (false, true) => -1.0,
        (false, false) => 0.0,
    });
    let mut outside: Vec<usize> = (0..players).collect();
    let mut inside: Vec<usize> = (players..players + labels).collect();
    // Bland's rule does not go round in circles; a bound guards against rounding.
    for _ in 0..50 * (players + labels) {
        let enters = (0..players).filter(|i| table[[labels, *i]] < -1e-11).min_by_key(|i| outside[*i]);
        let Some(enters) = enters else { break };
        let ratio = |z: usize| table[[z, players]] / table[[z, enters]];
        let leaves = (0..labels)
            .filter(|z| table[[*z, enters]] > 1e-11)
            .min_by(|a, b| ratio(*a).total_cmp(&ratio(*b)).then(inside[*a].cmp(&inside[*b])));
        let Some(leaves) = leaves else { break };
        pivot(&mut table, leaves, enters);
        std::mem::swap(&mut outside[enters], &mut inside[leaves]);
    }
    let value = (1.0 / table[[labels, players]] - 1.0) + low / scale;
    value <= 1e-9
}

/// Exchanges the variable of a row with that of a column.
fn pivot(table: &mut Array2<f64>, row: usize, column: usize) {
    let centre = table[[row, column]];
    let mut line = table.row(row).to_owned();
    line[column] = 1.0;
    line /= centre;
    for (other, mut values) in table.rows_mut().into_iter().enumerate() {
        if other == row {
            values.assign(&line);
        } else {
            let factor = values[column];
            values[column] = 0.0;
            values.scaled_add(-factor, &line);
        }
    }
}
