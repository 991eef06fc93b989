//! How much each parameter has mattered so far, and where its distance is measured from. Pure: tensors in, tensors
//! out.
//!
//! The training graph's penalty is `sum of importance * (p - anchor)²`; both are state tensors,
//! `<parameter>.importance` and `<parameter>.anchor`, that change between experiences only.

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::GradError;
use onnx_grad::graph::{Graph, Tensor};

/// Bound on an importance of Synaptic Intelligence: avalanche-lib's.
const MAX_PATH_IMPORTANCE: f32 = 0.001;
const IMPORTANCE: &str = "importance";
const ANCHOR: &str = "anchor";
const PATH: &str = "path";

type State = BTreeMap<String, Tensor>;

/// Sums of squared gradients of one experience: the diagonal of its empirical Fisher information.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fisher {
    sums: Vec<Vec<f32>>,
    n_batches: u32,
}

impl Fisher {
    /// Adds the gradients of one mini-batch's mean cross-entropy, one for each parameter, always in the same order.
    pub fn add(&mut self, gradients: &[Vec<f32>]) {
        if self.sums.is_empty() {
            self.sums = gradients.iter().map(|g| vec![0.0; g.len()]).collect();
        }
        for (sum, gradient) in self.sums.iter_mut().zip(gradients) {
            sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g * g);
        }
        self.n_batches += 1;
    }

    /// Means over the mini-batches, as avalanche-lib's `EWCPlugin` has it, by the parameters' names.
    pub fn means(self, names: &[String]) -> BTreeMap<String, Vec<f32>> {
        let n_batches = self.n_batches.max(1) as f32;
        let means = self.sums.into_iter().map(|sum| sum.into_iter().map(|s| s / n_batches).collect());
        names.iter().cloned().zip(means).collect()
    }
}

/// State tensors after an experience under Elastic Weight Consolidation: importances with those of the experience
/// added, parameters anchored where they are. Parameters without importances keep what they have.
///
/// With `decay`, Schwarz et al. 2018: older importances are multiplied by it, and the anchor is the newest. Without,
/// Kirkpatrick et al. 2017: one penalty an experience. Their sum, `sum_e F_e (p - a_e)²`, has the gradient of
/// `F (p - a)²` with `F = sum_e F_e` and `a = sum_e F_e a_e / F`, from which it differs by a constant: no more
/// memory is needed than for one.
///
/// # Errors
/// [`GradError`] if a tensor is not float32.
pub fn consolidate_fisher(
    state: &State,
    fisher: &BTreeMap<String, Vec<f32>>,
    decay: Option<f32>,
) -> Result<State, GradError> {
    let mut written = State::new();
    for (name, mut importance, mut anchor, now) in anchored(state)? {
        let added = fisher.get(&name);
        for (i, now) in now.iter().enumerate() {
            let (old, new) = (decay.unwrap_or(1.0) * importance[i], added.map_or(0.0, |f| f[i]));
            importance[i] = old + new;
            // In float64: importances are small, and their ratio decides.
            let (old, new) = (f64::from(old), f64::from(new));
            let is_mixed = decay.is_none() && old + new > 0.0;
            anchor[i] = if is_mixed {
                ((old * f64::from(anchor[i]) + new * f64::from(*now)) / (old + new)) as f32
            } else {
                *now
            };
        }
        put(&mut written, state, &name, &[(IMPORTANCE, &importance), (ANCHOR, &anchor)]);
    }
    Ok(written)
}

/// State tensors before the first experience: parameters anchored where they begin.
///
/// # Errors
/// [`GradError`] if a tensor is not float32.
pub fn anchor(state: &State) -> Result<State, GradError> {
    let mut written = State::new();
    for (name, _, _, now) in anchored(state)? {
        put(&mut written, state, &name, &[(ANCHOR, &now)]);
    }
    Ok(written)
}

/// State tensors after an experience under Synaptic Intelligence (Zenke et al. 2017, eq. 4 and 5), and the
/// contributions of all experiences to the loss's fall, which are added to.
///
/// `contribution -= path / ((p - anchor)² + damping)`, and the importance is that, between 0 and a bound. The bound is
/// avalanche-lib's; the 0 is ours: with momentum a parameter can come back to where it was against its gradient, and a
/// penalty that falls with the distance has no minimum. Parameters named in `excluded` have no importance.
///
/// # Errors
/// [`GradError`] if a tensor is not float32.
pub fn consolidate_path(
    state: &State,
    contributions: &mut BTreeMap<String, Vec<f32>>,
    excluded: &BTreeSet<String>,
    damping: f32,
) -> Result<State, GradError> {
    let mut written = State::new();
    for (name, _, anchor, now) in anchored(state)? {
        let zeros = vec![0.0; now.len()];
        let mut importance = zeros.clone();
        if let Some(path) = state.get(&format!("{name}.{PATH}")).filter(|_| !excluded.contains(&name)) {
            let path = path.to_f32()?;
            let sums = contributions.entry(name.clone()).or_insert_with(|| zeros.clone());
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum -= path[i] / ((now[i] - anchor[i]).powi(2) + damping);
                importance[i] = sum.clamp(0.0, MAX_PATH_IMPORTANCE);
            }
        }
        let tensors = [(IMPORTANCE, &importance), (ANCHOR, &now), (PATH, &zeros)];
        put(&mut written, state, &name, &tensors);
    }
    Ok(written)
}

/// Scales and biases of normalisation layers, which avalanche-lib's Synaptic Intelligence leaves alone.
pub fn normalization_parameters(forward: &Graph) -> BTreeSet<String> {
    let layers = forward.nodes.iter().filter(|node| node.op.ends_with("Normalization"));
    layers.flat_map(|node| node.inputs.iter().skip(1)).cloned().collect()
}

/// A parameter's name, importance, anchor and value.
type Anchored = (String, Vec<f32>, Vec<f32>, Vec<f32>);

/// Every parameter that has an anchor.
fn anchored(state: &State) -> Result<Vec<Anchored>, GradError> {
    let mut all = Vec::new();
    for (name, parameter) in state {
        let of = |suffix: &str| state.get(&format!("{name}.{suffix}"));
        if let (Some(importance), Some(anchor)) = (of(IMPORTANCE), of(ANCHOR)) {
            all.push((name.clone(), importance.to_f32()?, anchor.to_f32()?, parameter.to_f32()?));
        }
    }
    Ok(all)
}

fn put(written: &mut State, state: &State, name: &str, tensors: &[(&str, &Vec<f32>)]) {
    for (suffix, values) in tensors {
        let name_of = format!("{name}.{suffix}");
        // A training graph without a path integral has no tensor for it.
        if state.contains_key(&name_of) {
            written.insert(name_of, Tensor::from_f32(&state[name].dims, values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(p: &[f32], tensors: &[(&str, &[f32])]) -> State {
        let mut state = State::from([("p".to_owned(), Tensor::from_f32(&[p.len()], p))]);
        for (suffix, values) in tensors {
            state.insert(format!("p.{suffix}"), Tensor::from_f32(&[p.len()], values));
        }
        state
    }

    fn fisher(values: &[f32]) -> BTreeMap<String, Vec<f32>> {
        BTreeMap::from([("p".to_owned(), values.to_vec())])
    }

    fn read(written: &State, name: &str) -> Vec<f32> {
        written[name].to_f32().unwrap()
    }

    #[test]
    fn one_penalty_has_the_gradient_of_the_penalties_of_all_experiences() {
        let (f, p) = ([[0.5, 0.0, 2.0], [0.25, 0.0, 0.0]], [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]);
        let first = state(&p[0], &[("importance", &[0.0; 3]), ("anchor", &[9.0; 3])]);
        let first = consolidate_fisher(&first, &fisher(&f[0]), None).unwrap();
        let mut second = state(&p[1], &[]);
        second.extend(first);
        let both = consolidate_fisher(&second, &fisher(&f[1]), None).unwrap();
        let at = [0.3, -0.7, 11.0];
        for i in 0..3 {
            let expected: f32 = (0..2).map(|e| 2.0 * f[e][i] * (at[i] - p[e][i])).sum();
            let found = 2.0 * read(&both, "p.importance")[i] * (at[i] - read(&both, "p.anchor")[i]);
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn online_importances_decay_and_the_anchor_is_the_newest() {
        let before = state(&[5.0, 6.0], &[("importance", &[1.0, 2.0]), ("anchor", &[0.0, 0.0])]);
        let after = consolidate_fisher(&before, &fisher(&[0.5, 0.0]), Some(0.5)).unwrap();
        assert_eq!(read(&after, "p.importance"), [1.0, 1.0]);
        assert_eq!(read(&after, "p.anchor"), [5.0, 6.0]);
    }

    #[test]
    fn a_path_becomes_an_importance_within_bounds() {
        let before = state(
            &[1.0, 1.0, 1.0],
            &[("importance", &[0.0; 3]), ("anchor", &[0.0; 3]), ("path", &[-0.0005, -9.0, 9.0])],
        );
        let mut contributions = BTreeMap::new();
        let after = consolidate_path(&before, &mut contributions, &BTreeSet::new(), 0.0).unwrap();
        assert_eq!(read(&after, "p.importance"), [0.0005, MAX_PATH_IMPORTANCE, 0.0]);
        assert_eq!(read(&after, "p.anchor"), [1.0; 3]);
        assert_eq!(read(&after, "p.path"), [0.0; 3]);
        assert_eq!(contributions["p"], [0.0005, 9.0, -9.0]);
        let excluded = BTreeSet::from(["p".to_owned()]);
        let after = consolidate_path(&before, &mut contributions, &excluded, 0.0).unwrap();
        assert_eq!(read(&after, "p.importance"), [0.0; 3]);
    }
}
