//! `[strategy]`, `[replay]` and `[teacher]`: how an agent learns without forgetting, and from whom but its peers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dkt_models::step::{self, StepOptions};
use serde::{Deserialize, Serialize};

use super::{AgentConfig, Check, ConfigError, MAX_BATCH};
use crate::strategy::{self, Constant, Importance, NOISE_ETA, Rehearsal, Retention, STRATEGIES, Strategy};
use crate::stream::StreamKind;
use crate::stream::memory::Selection;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StrategyConfig {
    /// A name of the table in `strategy.rs`. Default: `replay`.
    pub name: String,
    /// The strategy's constants; those left out have its defaults.
    #[serde(flatten)]
    pub constants: BTreeMap<String, f64>,
}

impl Default for StrategyConfig {
    fn default() -> Self {
        StrategyConfig { name: "replay".to_owned(), constants: BTreeMap::new() }
    }
}

impl StrategyConfig {
    /// The row of the table.
    pub fn strategy(&self) -> &'static Strategy {
        // Every configuration is checked before it is used; the first row is the plainest.
        strategy::find(&self.name).unwrap_or(&STRATEGIES[0])
    }

    /// The value of a constant: as configured, else the strategy's default, else the constant's own.
    pub fn get(&self, constant: &Constant) -> f64 {
        let own = self.strategy().constants.iter().find(|c| c.name == constant.name);
        let default = own.map_or(constant.default, |c| c.default);
        self.constants.get(constant.name).copied().unwrap_or(default)
    }

    /// The same with all constants given.
    #[must_use]
    pub fn with_defaults(&self) -> Self {
        let constants = self.strategy().constants.iter().map(|c| (c.name.to_owned(), self.get(c)));
        StrategyConfig { name: self.name.clone(), constants: constants.collect() }
    }

    pub(super) fn checks(&self) -> [Check; 1] {
        let found = format!("`{}`; there are: {}", self.name, strategy::names());
        [("strategy.name", strategy::find(&self.name).is_some(), "the name of a strategy", found)]
    }

    /// Refuses constants that the strategy does not have, and those outside their ranges.
    pub(super) fn check_constants(&self, path: &Path) -> Result<(), ConfigError> {
        let strategy = self.strategy();
        for (name, value) in &self.constants {
            let expected = match strategy.constants.iter().find(|c| c.name == name) {
                None => format!(
                    "left out with the strategy `{}`, whose constants are: {}",
                    self.name,
                    strategy.describe_constants()
                ),
                Some(c) if c.range.contains(value) && (!c.is_whole || value.fract() == 0.0) => continue,
                Some(c) => {
                    let (low, high) = (c.range.start(), c.range.end());
                    let kind = if c.is_whole { "whole number" } else { "number" };
                    format!("a {kind} from {low} to {high} ({})", c.what)
                }
            };
            let (path, name) = (path.to_owned(), name.clone());
            return Err(ConfigError::Constant { path, name, expected, found: *value });
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Samples of earlier experiences that are kept. Default: 200 where the strategy needs them, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
    /// Remembered samples in a mini-batch, beside the new ones. Default: 32.
    pub batch_size: usize,
    /// Which samples are kept. Default: the strategy's own, else `reservoir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        ReplayConfig { capacity: None, batch_size: 32, selection: None }
    }
}

impl ReplayConfig {
    /// Capacity and selection under `strategy`.
    pub fn resolved(&self, strategy: &Strategy) -> (usize, Selection) {
        let (capacity, selection) = match strategy.rehearsal {
            Rehearsal::Never | Rehearsal::Optional => (0, Selection::Reservoir),
            Rehearsal::Needed { capacity, selection } => (capacity, selection),
        };
        (self.capacity.unwrap_or(capacity), self.selection.unwrap_or(selection))
    }

    pub(super) fn checks(&self, strategy: &Strategy) -> [Check; 4] {
        let (capacity, _) = self.resolved(strategy);
        let found = || format!("{capacity} with the strategy `{}`", strategy.name);
        [
            (
                "replay.batch_size",
                capacity == 0 || (1..=MAX_BATCH).contains(&self.batch_size),
                "between 1 and 65536 where there is a replay capacity",
                self.batch_size.to_string(),
            ),
            (
                "replay.selection",
                capacity > 0 || self.selection.is_none(),
                "left out where there is no replay capacity",
                found(),
            ),
            (
                "replay.capacity",
                strategy.rehearsal != Rehearsal::Never || capacity == 0,
                "0 or left out with a strategy that remembers no samples",
                found(),
            ),
            (
                "replay.capacity",
                !matches!(strategy.rehearsal, Rehearsal::Needed { .. }) || capacity > 0,
                "at least 1 with a strategy that remembers samples (`naive` is one that does not)",
                found(),
            ),
        ]
    }
}

impl AgentConfig {
    /// What the training graph is derived with: the settings of `[train]`, and what the strategy needs.
    pub fn step_options(&self) -> StepOptions {
        let strategy = self.strategy.strategy();
        let (capacity, selection) = self.replay.resolved(strategy);
        StepOptions {
            retention: match strategy.retention {
                Retention::None => None,
                Retention::PastNetwork | Retention::PastNetworkByExperience => Some(step::Retention::Distill),
                Retention::StoredLogits => Some(step::Retention::Logits),
            },
            penalty: strategy.importance != Importance::None,
            fisher: matches!(strategy.importance, Importance::Fisher | Importance::OnlineFisher),
            path_integral: strategy.importance == Importance::PathIntegral,
            gradient_noise: strategy.gradient_noise && self.strategy.get(&NOISE_ETA) > 0.0,
            class_mask: self.stream.kind == StreamKind::TaskIncremental,
            features: selection == Selection::Herding && capacity > 0,
            ..self.train.step_options()
        }
    }
}

/// Trained networks beside the student, in place of peers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherConfig {
    /// Dual-head networks of the same classes: one for all experiences, or one an experience, in order. What the
    /// continual-learning head of each says of the very mini-batch is what the student head learns. Default: none.
    pub models: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<String> {
        let config: AgentConfig = toml::from_str(&format!("agent = \"a\"\nfleet = \"f\"\n{text}")).unwrap();
        config.validate("a.toml".as_ref()).err().map(|e| e.to_string())
    }

    #[test]
    fn every_strategy_is_accepted_with_its_constants() {
        for strategy in &STRATEGIES {
            let constants: String =
                strategy.constants.iter().map(|c| format!("{} = {}\n", c.name, c.default)).collect();
            let text = format!("[strategy]\nname = \"{}\"\n{constants}", strategy.name);
            assert_eq!(refused(&text), None, "{text}");
        }
    }

    #[test]
    fn what_a_strategy_does_not_take_is_refused() {
        for (text, says) in [
            ("[strategy]\nname = \"icarl\"", "found `icarl`; there are: naive, joint,"),
            (
                "[strategy]\nname = \"lwf\"\nlambda = 1",
                "`strategy.lambda` must be left out with the strategy `lwf`, whose constants are: alpha, temperature",
            ),
            (
                "[strategy]\nname = \"lwf\"\nalpha = -1",
                "`strategy.alpha` must be a number from 0 to 1000000000 (weight of the term",
            ),
            (
                "[strategy]\nname = \"eeil\"\nfinetune_epochs = 1.5",
                "`strategy.finetune_epochs` must be a whole number from 0",
            ),
            ("[strategy]\nname = \"naive\"\n[replay]\ncapacity = 5", "found 5 with the strategy `naive`"),
            ("[replay]\ncapacity = 0", "found 0 with the strategy `replay`"),
        ] {
            let error = refused(text).unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn constants_have_the_defaults_of_their_strategy() {
        let config = |text: &str| -> StrategyConfig { toml::from_str(text).unwrap() };
        assert_eq!(config("name = \"der\"").get(&strategy::ALPHA), 0.1);
        assert_eq!(config("name = \"lwf\"").get(&strategy::ALPHA), 1.0);
        assert_eq!(config("name = \"lwf\"\nalpha = 2").get(&strategy::ALPHA), 2.0);
    }
}
