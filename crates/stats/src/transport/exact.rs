use super::{balanced, check};
use acclimate_core::{Error, Result};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

/// A coupling of least cost with the proof that none is cheaper.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which point of the source to which of the target how much goes; at most one fewer than there are points.
    pub moves: Vec<(usize, usize, f64)>,
    /// What the moves cost.
    pub cost: f64,
    /// The potential of each point of the source: `f + g` is nowhere above the cost.
    pub f: Array1<f64>,
    /// The potential of each point of the target.
    pub g: Array1<f64>,
    /// `cost` less the value of the potentials, which no coupling can be below: zero up to rounding.
    pub gap: f64,
}

impl Plan {
    /// As a matrix, `[source, target]`.
    pub fn coupling(&self) -> Array2<f64> {
        let mut coupling = Array2::zeros((self.f.len(), self.g.len()));
        for (i, j, mass) in &self.moves {
            coupling[[*i, *j]] += mass;
        }
        coupling
    }
}

/// The coupling of least cost between masses `a` and `b`, by the network simplex method.
///
/// The basis is a spanning tree of the bipartite graph that stays strongly feasible (moves of nothing point to the root), on whole
/// numbers of a quantum of mass, so that it cannot cycle. It begins with a greedy coupling after the costs were reduced by rows and
/// columns; the entering move is the one that saves most among a few rows, and the rows are searched in turn.
///
/// # Errors
/// When sizes differ, a number is not finite, a mass is negative, or one side has more mass than the other.
pub fn exact(cost: ArrayView2<'_, f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Result<Plan> {
    check(cost, a, b)?;
    let total = balanced(a, b)?;
    let standard = cost.as_standard_layout();
    let cost = standard.as_slice().expect("the standard layout is one piece");
    let (a, b) = (a.to_vec(), b.to_vec());
    let (mut from, mut to) = (quanta(&a), quanta(&b));
    // Rounding left the sides apart by a few quanta: the largest mass does not feel them.
    let excess = from.iter().sum::<i64>() - to.iter().sum::<i64>();
    let heavier = if excess > 0 { &mut to } else { &mut from };
    let largest = (0..heavier.len()).max_by_key(|at| heavier[*at]).expect("a side with mass has points");
    heavier[largest] += excess.abs();
    let mut tree = Tree::new(cost, &from, &to);
    tree.solve()?;
    Ok(tree.plan(total, &a, &b))
}

/// All mass of one side in quanta. A finer one would overflow in sums.
const WHOLE: f64 = (1_u64 << 60) as f64;

fn quanta(masses: &[f64]) -> Vec<i64> {
    let scale = WHOLE / masses.iter().sum::<f64>();
    masses.iter().map(|mass| (mass * scale).round() as i64).collect()
}

const NONE: u32 = u32::MAX;

/// A node of the spanning tree: rows first, then columns, then the root. The arc of a node is the one to its parent; that of a row
/// points up, to a column or the root, that of a column comes down from a row, but up to the root.
#[derive(Clone, Copy)]
struct Node {
    /// The mass on its arc.
    flow: i64,
    parent: u32,
    depth: u32,
    child: u32,
    next: u32,
    before: u32,
}

struct Tree<'a> {
    cost: &'a [f64],
    rows: usize,
    columns: usize,
    nodes: Vec<Node>,
    f: Vec<f64>,
    g: Vec<f64>,
    /// Below it a reduced cost is rounding.
    rounding: f64,
    /// Where the search for an entering move goes on.
    row: usize,
    stack: Vec<u32>,
}

impl<'a> Tree<'a> {
    /// A greedy coupling as a forest under one root.
    fn new(cost: &'a [f64], from: &[i64], to: &[i64]) -> Self {
        let (rows, columns) = (from.len(), to.len());
        let root = (rows + columns) as u32;
        let node = Node { flow: 0, parent: root, depth: 1, child: NONE, next: NONE, before: NONE };
        let largest = cost.iter().fold(0.0, |largest: f64, cost| largest.max(cost.abs()));
        let mut tree = Self {
            cost,
            rows,
            columns,
            nodes: vec![node; rows + columns + 1],
            f: vec![0.0; rows],
            g: vec![f64::INFINITY; columns],
            // Potentials are sums along paths; a hundred roundings are more than those had that were seen.
            rounding: 128.0 * f64::EPSILON * largest,
            row: 0,
            stack: Vec::new(),
        };
        for row in cost.chunks_exact(columns) {
            for (g, cost) in tree.g.iter_mut().zip(row) {
                *g = g.min(*cost);
            }
        }
        for (f, row) in tree.f.iter_mut().zip(cost.chunks_exact(columns)) {
            *f = least(row, &tree.g);
        }
        let arcs = tree.greedy(from, to);
        tree.hang(&arcs);
        tree
    }

    /// Each row in turn sends what it can to the column with the least reduced cost that still wants some.
    fn greedy(&self, from: &[i64], to: &[i64]) -> Vec<(u32, u32, i64)> {
        let (mut from, mut to) = (from.to_vec(), to.to_vec());
        let mut wanting: Vec<u32> = (0..self.columns as u32).filter(|column| to[*column as usize] > 0).collect();
        let mut giving: Vec<u32> = (0..self.rows as u32).filter(|row| from[*row as usize] > 0).collect();
        let mut arcs = Vec::with_capacity(self.rows + self.columns);
        while !giving.is_empty() {
            for &row in &giving {
                let costs = &self.cost[row as usize * self.columns..][..self.columns];
                let reduced = |column: u32| costs[column as usize] - self.g[column as usize];
                let mut best: Option<usize> = None;
                for at in 0..wanting.len() {
                    if best.is_none_or(|best| reduced(wanting[at]) < reduced(wanting[best])) {
                        best = Some(at);
                    }
                }
                let Some(at) = best else { continue };
                let column = wanting[at] as usize;
                let mass = from[row as usize].min(to[column]);
                arcs.push((row, column as u32, mass));
                from[row as usize] -= mass;
                to[column] -= mass;
                if to[column] == 0 {
                    wanting.swap_remove(at);
                }
            }
            giving.retain(|row| from[*row as usize] > 0);
        }
        arcs
    }

    /// Makes the arcs, a forest, a tree: each part hangs from the root by a move of nothing, which can never carry mass.
    fn hang(&mut self, arcs: &[(u32, u32, i64)]) {
        let root = (self.rows + self.columns) as u32;
        let mut starts = vec![0_usize; root as usize + 1];
        for (row, column, _) in arcs {
            starts[*row as usize + 1] += 1;
            starts[self.rows + *column as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut fill = starts.clone();
        let mut near = vec![(0_u32, 0_i64); 2 * arcs.len()];
        for (row, column, mass) in arcs {
            let column = self.rows as u32 + column;
            near[fill[*row as usize]] = (column, *mass);
            fill[*row as usize] += 1;
            near[fill[column as usize]] = (*row, *mass);
            fill[column as usize] += 1;
        }
        self.nodes[root as usize].parent = NONE;
        self.nodes[root as usize].depth = 0;
        let mut seen = vec![false; root as usize];
        for top in 0..root {
            if std::mem::replace(&mut seen[top as usize], true) {
                continue;
            }
            // Parts keep the potential of their top: the reduced costs say how parts lie to each other.
            self.adopt(root, top, 0);
            self.stack.push(top);
            while let Some(node) = self.stack.pop() {
                for &(other, mass) in &near[starts[node as usize]..starts[node as usize + 1]] {
                    if !std::mem::replace(&mut seen[other as usize], true) {
                        self.adopt(node, other, mass);
                        self.settle(other);
                        self.stack.push(other);
                    }
                }
            }
        }
    }

    /// Puts a node without parent under one.
    fn adopt(&mut self, parent: u32, node: u32, flow: i64) {
        let first = self.nodes[parent as usize].child;
        let depth = self.nodes[parent as usize].depth + 1;
        if first != NONE {
            self.nodes[first as usize].before = node;
        }
        self.nodes[parent as usize].child = node;
        let own = &mut self.nodes[node as usize];
        (own.parent, own.depth, own.flow, own.next, own.before) = (parent, depth, flow, first, NONE);
    }

    /// Takes a node from its parent.
    fn orphan(&mut self, node: u32) {
        let Node { parent, next, before, .. } = self.nodes[node as usize];
        if next != NONE {
            self.nodes[next as usize].before = before;
        }
        match before {
            NONE => self.nodes[parent as usize].child = next,
            before => self.nodes[before as usize].next = next,
        }
    }

    /// The potential of a node from its parent's: the reduced cost of an arc of the tree is zero.
    fn settle(&mut self, node: u32) {
        let parent = self.nodes[node as usize].parent as usize;
        let node = node as usize;
        if node < self.rows {
            let column = parent - self.rows;
            self.f[node] = self.cost[node * self.columns + column] - self.g[column];
        } else {
            let column = node - self.rows;
            self.g[column] = self.cost[parent * self.columns + column] - self.f[parent];
        }
    }

    /// Pivots until no move saves anything.
    fn solve(&mut self) -> Result<()> {
        // Seen are about ten pivots for each point; a bound only guards against rounding that undoes itself.
        let most = 1_000_000 + 200 * (self.rows + self.columns) as u64;
        let (mut pivots, mut fresh) = (0, true);
        loop {
            match self.entering() {
                Some((row, column, saving)) => {
                    self.pivot(row, column, saving);
                    (pivots, fresh) = (pivots + 1, false);
                }
                None if fresh => return Ok(()),
                // Rounding has piled up in potentials that were changed step by step.
                None => {
                    self.renew();
                    fresh = true;
                }
            }
            if pivots > most {
                return Err(Error::Numeric {
                    who: "exact transport".to_owned(),
                    step: pivots,
                    what: "no optimal coupling was found; scale the costs, or use the entropic form".to_owned(),
                });
            }
        }
    }

    /// The move with the most negative reduced cost in the next rows that have one.
    fn entering(&mut self) -> Option<(usize, usize, f64)> {
        // A block pays when its search costs about as much as a pivot.
        let block = BLOCK.div_ceil(self.columns).min(self.rows);
        let mut searched = 0;
        while searched < self.rows {
            let mut best = (-self.rounding, usize::MAX);
            for _ in 0..block.min(self.rows - searched) {
                let row = self.row;
                let reduced = least(&self.cost[row * self.columns..][..self.columns], &self.g) - self.f[row];
                if reduced < best.0 {
                    best = (reduced, row);
                }
                self.row = if row + 1 == self.rows { 0 } else { row + 1 };
                searched += 1;
            }
            if best.1 != usize::MAX {
                let row = best.1;
                let costs = &self.cost[row * self.columns..][..self.columns];
                let at = costs.iter().zip(&self.g).position(|(cost, g)| cost - g - self.f[row] == best.0);
                return Some((row, at.expect("the least was found in this row"), best.0));
            }
        }
        None
    }

    fn pivot(&mut self, row: usize, column: usize, saving: f64) {
        let (p, q) = (row as u32, (self.rows + column) as u32);
        let rows = self.rows as u32;
        let root = rows + self.columns as u32;
        // Mass goes round from the node where both paths meet down to `p`, over the new move and up from `q`. Of the arcs that run dry
        // first the last in this order leaves, which keeps the tree strongly feasible.
        let up = |node: u32, parent: u32| node < rows || parent == root;
        let (mut down, mut climb) = (p, q);
        let (mut first, mut second) = ((i64::MAX, NONE), (i64::MAX, NONE));
        while down != climb {
            let (below, above) = (self.nodes[down as usize], self.nodes[climb as usize]);
            if below.depth >= above.depth {
                if up(down, below.parent) && below.flow < first.0 {
                    first = (below.flow, down);
                }
                down = below.parent;
            } else {
                if !up(climb, above.parent) && above.flow <= second.0 {
                    second = (above.flow, climb);
                }
                climb = above.parent;
            }
        }
        let meet = down;
        let (mass, leaving, moved, onto) =
            if second.0 <= first.0 { (second.0, second.1, q, p) } else { (first.0, first.1, p, q) };
        if mass > 0 {
            for (from, sign) in [(p, -mass), (q, mass)] {
                let mut node = from;
                while node != meet {
                    let Node { parent, flow, .. } = self.nodes[node as usize];
                    self.nodes[node as usize].flow = flow + if up(node, parent) { sign } else { -sign };
                    node = parent;
                }
            }
        }
        // The part that is cut off hangs from the new move: the arcs from there to the cut turn round.
        let (mut node, mut parent, mut flow) = (moved, onto, mass);
        loop {
            let Node { parent: old_parent, flow: old_flow, .. } = self.nodes[node as usize];
            self.orphan(node);
            self.adopt(parent, node, flow);
            if node == leaving {
                break;
            }
            (parent, flow, node) = (node, old_flow, old_parent);
        }
        let shift = if moved == p { saving } else { -saving };
        self.stack.push(moved);
        while let Some(node) = self.stack.pop() {
            if node < rows {
                self.f[node as usize] += shift;
            } else {
                self.g[(node - rows) as usize] -= shift;
            }
            let Node { parent, mut child, .. } = self.nodes[node as usize];
            self.nodes[node as usize].depth = self.nodes[parent as usize].depth + 1;
            while child != NONE {
                self.stack.push(child);
                child = self.nodes[child as usize].next;
            }
        }
    }

    /// Potentials anew from those of the parts' tops.
    fn renew(&mut self) {
        let root = self.rows + self.columns;
        let mut top = self.nodes[root].child;
        while top != NONE {
            self.stack.push(top);
            while let Some(node) = self.stack.pop() {
                let mut child = self.nodes[node as usize].child;
                while child != NONE {
                    self.settle(child);
                    self.stack.push(child);
                    child = self.nodes[child as usize].next;
                }
            }
            top = self.nodes[top as usize].next;
        }
    }

    fn plan(mut self, total: f64, a: &[f64], b: &[f64]) -> Plan {
        let quantum = total / WHOLE;
        let mut moves = Vec::new();
        for (at, node) in self.nodes[..self.rows + self.columns].iter().enumerate() {
            if node.flow > 0 {
                let (row, column) = if at < self.rows {
                    (at, node.parent as usize - self.rows)
                } else {
                    (node.parent as usize, at - self.rows)
                };
                moves.push((row, column, node.flow as f64 * quantum));
            }
        }
        moves.sort_by_key(|(row, column, _)| (*row, *column));
        // Potentials that are feasible to the last bit but for one rounding.
        for (f, row) in self.f.iter_mut().zip(self.cost.chunks_exact(self.columns)) {
            *f = least(row, &self.g);
        }
        let cost: f64 = moves.iter().map(|(row, column, mass)| self.cost[row * self.columns + column] * mass).sum();
        let value = |potentials: &[f64], masses: &[f64]| potentials.iter().zip(masses).map(|(p, m)| p * m).sum::<f64>();
        let gap = cost - value(&self.f, a) - value(&self.g, b);
        Plan { moves, cost, f: self.f.into(), g: self.g.into(), gap }
    }
}

/// How many moves are looked at before the best of them enters.
const BLOCK: usize = 1024;

/// The least of `costs − g`.
fn least(costs: &[f64], g: &[f64]) -> f64 {
    // Lanes that do not wait for each other.
    const LANES: usize = 8;
    let mut lanes = [f64::INFINITY; LANES];
    let (costs, g) = (costs.chunks_exact(LANES), g.chunks_exact(LANES));
    let (rest, rest_g) = (costs.remainder(), g.remainder());
    for (costs, g) in costs.zip(g) {
        for at in 0..LANES {
            let reduced = costs[at] - g[at];
            lanes[at] = if reduced < lanes[at] { reduced } else { lanes[at] };
        }
    }
    let all = lanes.into_iter().chain(rest.iter().zip(rest_g).map(|(cost, g)| cost - g));
    all.fold(f64::INFINITY, |least, reduced| if reduced < least { reduced } else { least })
}
