//! Minimises a smooth function of few variables.

use acclimate_core::Result;

/// A value and its gradient.
type Point = (f64, Vec<f64>);

/// When [`minimise`] ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Steps at most; a quarter more values of the function are asked for.
    pub(crate) steps: usize,
    /// The largest number of a gradient that is small enough.
    pub(crate) gradient: f64,
}

/// A move or a fall of the value below this ends the search.
const CHANGE: f64 = 1e-9;
/// Steps that are remembered.
const MEMORY: usize = 100;
/// Trials of one line search.
const TRIALS: usize = 25;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |most, x| x.abs().max(most))
}

fn along(x: &[f64], t: f64, direction: &[f64]) -> Vec<f64> {
    x.iter().zip(direction).map(|(x, d)| x + t * d).collect()
}

/// L-BFGS with steps that meet the strong Wolfe conditions (Nocedal and Wright, 2006, algorithms 3.5, 3.6 and 7.4). Its constants and the
/// order of its trials are those of `torch.optim.LBFGS`, so that a search cut short ends at the same point.
pub(crate) fn minimise(f: impl Fn(&[f64]) -> Result<Point>, start: Vec<f64>, stop: Stop) -> Result<(Vec<f64>, f64)> {
    let mut x = start;
    let (mut value, mut gradient) = f(&x)?;
    let mut asked = 1;
    let mut memory: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let mut scale = 1.0;
    let mut last: Option<(Vec<f64>, Vec<f64>)> = None;
    if largest(&gradient) <= stop.gradient {
        return Ok((x, value));
    }
    for step in 0..stop.steps {
        if let Some((moved, before)) = &last {
            let change: Vec<f64> = gradient.iter().zip(before).map(|(new, old)| new - old).collect();
            let curvature = dot(&change, moved);
            if curvature > 1e-10 {
                if memory.len() == MEMORY {
                    memory.remove(0);
                }
                scale = curvature / dot(&change, &change);
                memory.push((moved.clone(), change));
            }
        }
        let direction = descent(&gradient, &memory, scale);
        let slope = dot(&gradient, &direction);
        if slope > -CHANGE {
            break;
        }
        let first = if step == 0 { (1.0 / gradient.iter().map(|g| g.abs()).sum::<f64>()).min(1.0) } else { 1.0 };
        let from = Trial { t: 0.0, value, gradient: gradient.clone(), slope };
        let (found, trials) = search(&f, &x, &direction, from, first)?;
        asked += trials;
        let moved: Vec<f64> = direction.iter().map(|d| d * found.t).collect();
        x = along(&x, found.t, &direction);
        let fell = (found.value - value).abs();
        value = found.value;
        let small = largest(&moved) <= CHANGE;
        last = Some((moved, std::mem::replace(&mut gradient, found.gradient)));
        if asked >= stop.steps * 5 / 4 || largest(&gradient) <= stop.gradient || small || fell < CHANGE {
            break;
        }
    }
    Ok((x, value))
}

/// The direction in which the remembered curvature says the minimum lies.
fn descent(gradient: &[f64], memory: &[(Vec<f64>, Vec<f64>)], scale: f64) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for (moved, change) in memory.iter().rev() {
        let share = dot(moved, &q) / dot(change, moved);
        q = along(&q, -share, change);
        shares.push(share);
    }
    for q in &mut q {
        *q *= scale;
    }
    for ((moved, change), share) in memory.iter().zip(shares.into_iter().rev()) {
        let back = dot(change, &q) / dot(change, moved);
        q = along(&q, share - back, moved);
    }
    q
}

/// A place along a direction.
#[derive(Clone, Debug)]
struct Trial {
    t: f64,
    value: f64,
    gradient: Vec<f64>,
    slope: f64,
}

/// The minimum of the cubic through two trials, held between `low` and `high`.
fn cubic(a: &Trial, b: &Trial, low: f64, high: f64) -> f64 {
    let first = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.t - b.t);
    let square = first * first - a.slope * b.slope;
    if square < 0.0 {
        return (low + high) / 2.0;
    }
    let root = square.sqrt();
    let at = if a.t <= b.t {
        b.t - (b.t - a.t) * ((b.slope + root - first) / (b.slope - a.slope + 2.0 * root))
    } else {
        a.t - (a.t - b.t) * ((a.slope + root - first) / (a.slope - b.slope + 2.0 * root))
    };
    at.max(low).min(high)
}

/// A step that meets the strong Wolfe conditions, or the best that was found, and how many values were asked for.
fn search(
    f: &impl Fn(&[f64]) -> Result<Point>,
    x: &[f64],
    direction: &[f64],
    from: Trial,
    first: f64,
) -> Result<(Trial, usize)> {
    let at = |t: f64| -> Result<Trial> {
        let (value, gradient) = f(&along(x, t, direction))?;
        let slope = dot(&gradient, direction);
        Ok(Trial { t, value, gradient, slope })
    };
    let falls = |trial: &Trial| trial.value <= from.value + 1e-4 * trial.t * from.slope;
    let flat = |trial: &Trial| trial.slope.abs() <= -0.9 * from.slope;
    let (mut before, mut now, mut trials) = (from.clone(), at(first)?, 0);
    // Steps grow until two of them have a minimum between them.
    let mut pair = loop {
        if trials == TRIALS {
            break [from.clone(), now];
        }
        if !falls(&now) || (trials > 1 && now.value >= before.value) {
            break [before, now];
        }
        if flat(&now) {
            return Ok((now, trials + 1));
        }
        if now.slope >= 0.0 {
            break [before, now];
        }
        let t = cubic(&before, &now, now.t + 0.01 * (now.t - before.t), now.t * 10.0);
        before = std::mem::replace(&mut now, at(t)?);
        trials += 1;
    };
    let mut low = usize::from(pair[0].value > pair[1].value);
    let mut cramped = false;
    while trials < TRIALS {
        let (least, most) = (pair[0].t.min(pair[1].t), pair[0].t.max(pair[1].t));
        if (most - least) * largest(direction) < CHANGE {
            break;
        }
        let mut t = cubic(&pair[0], &pair[1], least, most);
        let edge = 0.1 * (most - least);
        // A trial near an end narrows the pair little; the second in a row is moved inwards.
        if (most - t).min(t - least) < edge {
            if cramped || t >= most || t <= least {
                t = if (t - most).abs() < (t - least).abs() { most - edge } else { least + edge };
                cramped = false;
            } else {
                cramped = true;
            }
        } else {
            cramped = false;
        }
        let trial = at(t)?;
        trials += 1;
        let high = 1 - low;
        if !falls(&trial) || trial.value >= pair[low].value {
            pair[high] = trial;
            low = usize::from(pair[0].value > pair[1].value);
        } else {
            let done = flat(&trial);
            if !done && trial.slope * (pair[high].t - pair[low].t) >= 0.0 {
                pair[high] = pair[low].clone();
            }
            pair[low] = trial;
            if done {
                break;
            }
        }
    }
    Ok((pair[low].clone(), trials + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valley_of_rosenbrock_is_followed_to_its_end() {
        let f = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            Ok((a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b]))
        };
        let (x, value) = minimise(f, vec![-1.2, 1.0], Stop { steps: 200, gradient: 1e-9 }).unwrap();
        // The search ends once the value falls by less than `CHANGE`; the valley is flat, so places are off by some root of that.
        assert!(value < CHANGE && (x[0] - 1.0).abs() < 1e-4 && (x[1] - 1.0).abs() < 1e-4, "{x:?} {value:e}");
    }
}
