//! What an agent does with an experience it has trained: remembers samples, keeps its network or its logits, and
//! notes which parameters have mattered.

use std::collections::{BTreeMap, BTreeSet};

use onnx_grad::graph::{Graph, Tensor};

use super::AgentError;
use super::learner::Learner;
use crate::config::StrategyConfig;
use crate::ids::SampleId;
use crate::strategy::importance::{self, Fisher};
use crate::strategy::{self, Constant, Importance, Retention, RowWeights, Strategy};
use crate::stream::memory::ReplayMemory;
use crate::train::runtime::{ImportanceSession, RuntimeError};

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
    /// Parameters that a path gives no importance.
    excluded: BTreeSet<String>,
}

impl Knowledge {
    /// `forward`: the network that is trained.
    pub fn new(config: &StrategyConfig, importance: Option<ImportanceSession>, forward: &Graph) -> Self {
        Knowledge {
            strategy: config.strategy(),
            config: config.clone(),
            stored: BTreeMap::new(),
            importance,
            contributions: BTreeMap::new(),
            excluded: importance::normalization_parameters(forward),
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

    /// Factor of the squared distances.
    pub fn penalty_weight(&self) -> f32 {
        self.strategy.penalty_factor() * self.constant_or_zero(&strategy::LAMBDA)
    }

    /// Factors of the rows of a mini-batch.
    pub fn row_weights(&self, n_rows: [usize; 3]) -> RowWeights {
        self.strategy.row_weights(n_rows, self.constant_or_zero(&strategy::BETA))
    }

    pub fn stored(&self, id: SampleId) -> Option<&[f32]> {
        self.stored.get(&id).map(Vec::as_slice)
    }

    /// Tensors of a checkpoint beside the training state. `memory` gives the order of what is stored.
    pub fn save(
        &self,
        learner: &Learner,
        memory: &ReplayMemory,
    ) -> Result<BTreeMap<String, Tensor>, RuntimeError> {
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
    pub fn begin(&mut self) -> Result<(), AgentError> {
        if self.knowledge.strategy.importance == Importance::PathIntegral {
            let written = importance::anchor(&self.session.state()?)?;
            self.session.write(&written)?;
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
        let held: BTreeSet<SampleId> = memory.ids().iter().copied().collect();
        stored.retain(|id, _| held.contains(id));
        Ok(())
    }

    /// What else a strategy does after an experience on `samples`, trained in mini-batches of `batch_size`.
    pub fn consolidate(&mut self, samples: &[SampleId], batch_size: usize) -> Result<(), AgentError> {
        let strategy = self.knowledge.strategy;
        match strategy.importance {
            Importance::None => {}
            Importance::Fisher | Importance::OnlineFisher => {
                let fisher = self.fisher(samples, batch_size)?;
                let is_online = strategy.importance == Importance::OnlineFisher;
                let decay = is_online.then(|| self.knowledge.constant_or_zero(&strategy::DECAY));
                let written = importance::consolidate_fisher(&self.session.state()?, &fisher, decay)?;
                self.session.write(&written)?;
            }
            Importance::PathIntegral => {
                let damping = self.knowledge.constant_or_zero(&strategy::DAMPING);
                let Knowledge { contributions, excluded, .. } = &mut self.knowledge;
                let written =
                    importance::consolidate_path(&self.session.state()?, contributions, excluded, damping)?;
                self.session.write(&written)?;
            }
        }
        if self.knowledge.asks_past_network() {
            self.session.keep_past()?;
        }
        Ok(())
    }

    /// On the samples as they are, without augmentation.
    fn fisher(
        &mut self,
        samples: &[SampleId],
        batch_size: usize,
    ) -> Result<BTreeMap<String, Vec<f32>>, RuntimeError> {
        let Some(mut importance) = self.knowledge.importance.take() else { return Ok(BTreeMap::new()) };
        let mut fisher = Fisher::default();
        for ids in samples.chunks(batch_size) {
            // In the parts in which training has room for a mini-batch; without batch statistics they add up.
            let mut whole: Vec<Vec<f32>> = Vec::new();
            for part in ids.chunks(self.rows_of_part(ids.len())) {
                self.fill_plain(part)?;
                let weight = part.len() as f32 / ids.len() as f32;
                let gradients = importance.gradients(&mut self.session)?;
                whole.resize_with(gradients.len(), Vec::new);
                for (sum, gradient) in whole.iter_mut().zip(&gradients) {
                    sum.resize(gradient.len(), 0.0);
                    sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += weight * g);
                }
            }
            fisher.add(&whole);
        }
        let means = fisher.means(importance.names());
        self.knowledge.importance = Some(importance);
        Ok(means)
    }
}
