//! The draws of numpy's `RandomState`, so that data published as "seed 0" are the same data.

use rand_mt::Mt;

/// numpy's legacy generator.
pub(super) struct RandomState {
    twister: Mt,
    spare: Option<f64>,
}

impl RandomState {
    pub(super) fn new(seed: u32) -> Self {
        Self { twister: Mt::new(seed), spare: None }
    }

    /// `rand()`: uniform on `[0, 1)` with 53 bits.
    pub(super) fn uniform(&mut self) -> f64 {
        let (high, low) = (self.twister.next_u32() >> 5, self.twister.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `randn()`: standard normal, by the polar method; two are made at a time.
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (first, second) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = first * first + second * second;
            if square < 1.0 && square != 0.0 {
                let scale = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(scale * first);
                return scale * second;
            }
        }
    }

    /// Uniform on `0..=most`: bits under a mask, drawn again while they are too large.
    fn interval(&mut self, most: u32) -> usize {
        let mask = most
            .checked_next_power_of_two()
            .map_or(u32::MAX, |power| if power == most { 2 * most - 1 } else { power - 1 });
        loop {
            let drawn = self.twister.next_u32() & mask;
            if drawn <= most {
                return drawn as usize;
            }
        }
    }

    /// `shuffle(items)`.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            // Lists here are of a few hundred thousand items at most.
            let other = self.interval(last as u32);
            items.swap(last, other);
        }
    }

    /// `permutation(n)`.
    pub(super) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// `choice(n, size, replace=False)`.
    pub(super) fn choice(&mut self, n: usize, size: usize) -> Vec<usize> {
        let mut order = self.permutation(n);
        order.truncate(size);
        order
    }

    /// `choice(n, size, replace=False, p=weights / weights.sum())`: as many as are missing are drawn, what comes twice counts once, and
    /// so on with what is left.
    pub(super) fn weighted_choice(&mut self, weights: &[f64], size: usize) -> Vec<usize> {
        let total: f64 = weights.iter().sum();
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let mut found: Vec<usize> = Vec::with_capacity(size);
        while found.len() < size {
            let draws: Vec<f64> = (found.len()..size).map(|_| self.uniform()).collect();
            for taken in &found {
                shares[*taken] = 0.0;
            }
            let mut rising = shares.clone();
            for at in 1..rising.len() {
                rising[at] += rising[at - 1];
            }
            let last = rising.last().copied().unwrap_or(1.0);
            rising.iter_mut().for_each(|sum| *sum /= last);
            let mut new: Vec<usize> = Vec::new();
            for draw in draws {
                let item = rising.partition_point(|sum| *sum <= draw);
                if !new.contains(&item) {
                    new.push(item);
                }
            }
            found.extend(new);
        }
        found
    }
}
