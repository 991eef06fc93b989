//! What an agent does with an experience it has trained: remembers samples, keeps its network or its logits, and
//! notes which parameters have mattered.

use std::collections::BTreeMap;

use onnx_grad::graph::Tensor;

use super::AgentError;
use super::learner::Learner;
use crate::config::StrategyConfig;
use crate::ids::SampleId;
use crate::strategy::{self, Constant, Importance, Retention, Strategy};
use crate::stream::memory::ReplayMemory;
use crate::train::runtime::{ImportanceSession, RuntimeError};

/// Damping of Synaptic Intelligence and its bound on an importance: avalanche-lib's.
const PATH_DAMPING: f32 = 1e-7;
const MAX_PATH_IMPORTANCE: f32 = 0.001;
const IMPORTANCE: &str = "importance";
const ANCHOR: &str = "anchor";
const PATH: &str = "path";
/// Names of tensors in a checkpoint that are no state of the training graph.
const PAST_PREFIX: &str = "past/";
const CONTRIBUTION_PREFIX: &str = "contribution/";
const STORED_LOGITS: &str = "stored_logits";

/// What a strategy knows of earlier experiences, apart from the samples themselves.
pub(crate) struct Knowledge {
    strategy: &'static Strategy,
    config: StrategyConfig,
    /// Logits of remembered samples at the time when they were stored.
    stored: BTreeMap<SampleId, Vec<f32>>,
    importance: Option<ImportanceSession>,
    /// Of each parameter to the loss's fall, over all experiences (Zenke et al. 2017, eq. 5, not yet clamped).
    contributions: BTreeMap<String, Vec<f32>>,
}

impl Knowledge {
    pub fn new(config: &StrategyConfig, importance: Option<ImportanceSession>) -> Self {
        Knowledge {
            strategy: config.strategy(),
            config: config.clone(),
            stored: BTreeMap::new(),
            importance,
            contributions: BTreeMap::new(),
        }
    }

    pub fn retention(&self) -> Retention {
        self.strategy.retention
    }

    /// Whether the network from before the experience labels mini-batches.
    pub fn asks_past_network(&self) -> bool {
        matches!(self.strategy.retention, Retention::PastNetwork | Retention::PastNetworkByExperience)
    }

    /// The value of a constant, or 0 if the strategy has none of that name.
    pub fn constant_or_zero(&self, constant: &Constant) -> f32 {
        let has = self.strategy.constants.iter().any(|c| c.name == constant.name);
        if has { self.config.get(constant) as f32 } else { 0.0 }
    }

    /// Factor of the squared distances. Synaptic Intelligence has a half in it, Elastic Weight Consolidation, as
    /// avalanche-lib has it, none.
    pub fn penalty_weight(&self) -> f32 {
        let half = if self.strategy.importance == Importance::PathIntegral { 0.5 } else { 1.0 };
        half * self.constant_or_zero(&strategy::LAMBDA)
    }

    pub fn stored(&self, id: SampleId) -> Option<&[f32]> {
        self.stored.get(&id).map(Vec::as_slice)
    }

    /// Tensors of a checkpoint beside the training state. `memory` gives the order of what is stored.
    pub fn save(&self, learner: &Learner, memory: &ReplayMemory) -> Result<BTreeMap<String, Tensor>, RuntimeError> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in learner.session.past_state()? {
            tensors.insert(format!("{PAST_PREFIX}{name}"), tensor);
        }
        for (name, values) in &self.contributions {
            tensors.insert(format!("{CONTRIBUTION_PREFIX}{name}"), Tensor::from_f32(&[values.len()], values));
        }
        if !self.stored.is_empty() {
            let rows: Vec<f32> =
                memory.ids().iter().filter_map(|id| self.stored.get(id)).flatten().copied().collect();
            let n = rows.len() / learner.n_classes;
            tensors.insert(STORED_LOGITS.to_owned(), Tensor::from_f32(&[n, learner.n_classes], &rows));
        }
        Ok(tensors)
    }
}

impl Learner {
    /// Takes what [`Knowledge::save`] has written out of a checkpoint's tensors.
    pub fn restore_knowledge(
        &mut self,
        tensors: &BTreeMap<String, Tensor>,
        memory: &ReplayMemory,
    ) -> Result<(), AgentError> {
        let with_prefix = |prefix: &str| -> BTreeMap<String, Tensor> {
            let named = tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?, t)));
            named.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
        };
        let past = with_prefix(PAST_PREFIX);
        if !past.is_empty() {
            self.session.restore_past(&past)?;
        }
        for (name, tensor) in with_prefix(CONTRIBUTION_PREFIX) {
            self.knowledge.contributions.insert(name, tensor.to_f32()?);
        }
        if let Some(stored) = tensors.get(STORED_LOGITS) {
            let rows = stored.to_f32()?;
            let rows = rows.chunks_exact(self.n_classes).map(<[f32]>::to_vec);
            self.knowledge.stored = memory.ids().iter().copied().zip(rows).collect();
        }
        Ok(())
    }

    /// Before the first step of all: parameters are measured from where they begin.
    pub fn begin(&mut self) -> Result<(), RuntimeError> {
        if self.knowledge.strategy.importance == Importance::PathIntegral {
            self.anchor(BTreeMap::new())?;
        }
        Ok(())
    }

    /// Remembers samples of the experience.
    pub fn remember(&mut self, memory: &mut ReplayMemory, new: &[SampleId]) -> Result<(), RuntimeError> {
        let features = if memory.needs_features() {
            let candidates = memory.candidates(new, |id| self.source.train.label(id));
            self.features_of(&candidates)?
        } else {
            BTreeMap::new()
        };
        memory.offer(new, |id| self.source.train.label(id), &features);
        if self.knowledge.retention() == Retention::StoredLogits {
            self.store_logits(memory)?;
        }
        Ok(())
    }

    /// Samples that are new in the memory get the logits of the network as it is now.
    fn store_logits(&mut self, memory: &ReplayMemory) -> Result<(), RuntimeError> {
        let new: Vec<SampleId> =
            memory.ids().iter().copied().filter(|id| self.knowledge.stored(*id).is_none()).collect();
        let logits = self.logits_of(&new)?;
        let stored = &mut self.knowledge.stored;
        stored.extend(logits);
        let held: std::collections::BTreeSet<SampleId> = memory.ids().iter().copied().collect();
        stored.retain(|id, _| held.contains(id));
        Ok(())
    }

    /// What else a strategy does after an experience on `samples`, trained in mini-batches of `batch_size`.
    pub fn consolidate(&mut self, samples: &[SampleId], batch_size: usize) -> Result<(), RuntimeError> {
        match self.knowledge.strategy.importance {
            Importance::None => {}
            Importance::Fisher | Importance::OnlineFisher => {
                let fisher = self.fisher(samples, batch_size)?;
                self.anchor(fisher)?;
            }
            Importance::PathIntegral => self.consolidate_path()?,
        }
        if self.knowledge.asks_past_network() {
            self.session.keep_past()?;
        }
        Ok(())
    }

    /// Diagonal of the empirical Fisher information: mean over mini-batches of the squared gradient of their mean
    /// cross-entropy, in evaluation mode, as avalanche-lib's `EWCPlugin` computes it.
    fn fisher(&mut self, samples: &[SampleId], batch_size: usize) -> Result<BTreeMap<String, Vec<f32>>, RuntimeError> {
        let Some(mut importance) = self.knowledge.importance.take() else { return Ok(BTreeMap::new()) };
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for ids in samples.chunks(batch_size) {
            self.fill_plain(ids)?;
            let gradients = importance.gradients(&mut self.session)?;
            if sums.is_empty() {
                sums = gradients.iter().map(|g| vec![0.0; g.len()]).collect();
            }
            for (sum, gradient) in sums.iter_mut().zip(&gradients) {
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g * g);
            }
        }
        let n_batches = samples.len().div_ceil(batch_size).max(1) as f32;
        sums.iter_mut().flatten().for_each(|s| *s /= n_batches);
        let fisher = importance.names().iter().cloned().zip(sums).collect();
        self.knowledge.importance = Some(importance);
        Ok(fisher)
    }

    /// Adds importances, and anchors parameters where they are.
    ///
    /// One penalty an experience, `sum_e F_e (p - a_e)²`, has the gradient of `F (p - a)²` with `F = sum_e F_e` and
    /// `a = sum_e F_e a_e / F`, and differs from it by a constant: no more memory than one penalty is needed.
    fn anchor(&mut self, fisher: BTreeMap<String, Vec<f32>>) -> Result<(), RuntimeError> {
        let state = self.session.state()?;
        let is_online = self.knowledge.strategy.importance == Importance::OnlineFisher;
        let decay = if is_online { self.knowledge.constant_or_zero(&strategy::DECAY) } else { 1.0 };
        let mut written = BTreeMap::new();
        for (name, [mut importance, mut anchor], now) in anchored(&state)? {
            let added = fisher.get(&name);
            for (i, now) in now.iter().enumerate() {
                let (old, new) = (decay * importance[i], added.map_or(0.0, |f| f[i]));
                importance[i] = old + new;
                // In float64: importances are small, and their ratio decides.
                let sum = f64::from(old) + f64::from(new);
                let is_mixed = !is_online && sum > 0.0;
                anchor[i] = if is_mixed {
                    ((f64::from(old) * f64::from(anchor[i]) + f64::from(new) * f64::from(*now)) / sum) as f32
                } else {
                    *now
                };
            }
            written.insert(format!("{name}.{IMPORTANCE}"), Tensor::from_f32(&state[&name].dims, &importance));
            written.insert(format!("{name}.{ANCHOR}"), Tensor::from_f32(&state[&name].dims, &anchor));
        }
        self.session.write(&written)
    }

    /// Zenke et al. 2017, eq. 4 and 5, with avalanche-lib's bound.
    fn consolidate_path(&mut self) -> Result<(), RuntimeError> {
        let state = self.session.state()?;
        let mut written = BTreeMap::new();
        for (name, [_, anchor], now) in anchored(&state)? {
            let dims = &state[&name].dims;
            let path_name = format!("{name}.{PATH}");
            let path = values(&path_name, &state)?;
            let sums = self.knowledge.contributions.entry(name.clone()).or_insert_with(|| vec![0.0; now.len()]);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += path[i] / ((now[i] - anchor[i]).powi(2) + PATH_DAMPING);
            }
            let importance: Vec<f32> = sums.iter().map(|sum| (-sum).min(MAX_PATH_IMPORTANCE)).collect();
            written.insert(format!("{name}.{IMPORTANCE}"), Tensor::from_f32(dims, &importance));
            written.insert(format!("{name}.{ANCHOR}"), Tensor::from_f32(dims, &now));
            written.insert(path_name, Tensor::from_f32(dims, &vec![0.0; now.len()]));
        }
        self.session.write(&written)
    }
}

/// A parameter's name, its importance and anchor, and its value.
type Anchored = (String, [Vec<f32>; 2], Vec<f32>);

/// Every parameter that has an anchor.
fn anchored(state: &BTreeMap<String, Tensor>) -> Result<Vec<Anchored>, RuntimeError> {
    let names = state.keys().filter_map(|name| name.strip_suffix(".anchor"));
    names
        .map(|name| {
            let of = |suffix: &str| values(&format!("{name}.{suffix}"), state);
            Ok((name.to_owned(), [of(IMPORTANCE)?, of(ANCHOR)?], values(name, state)?))
        })
        .collect()
}

fn values(name: &str, state: &BTreeMap<String, Tensor>) -> Result<Vec<f32>, RuntimeError> {
    let tensor = state.get(name).ok_or_else(|| RuntimeError::NoState { name: name.to_owned() })?;
    tensor.to_f32().map_err(|_| RuntimeError::NoState { name: name.to_owned() })
}
