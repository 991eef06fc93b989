//! `[stream]`.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::stream::ClassOrder;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Number of experiences; must divide the number of classes. Default: 5.
    pub experiences: usize,
    /// A seed, or the list of all class indices in the order in which they come. Default: seed 0.
    pub class_order: ClassOrder,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig { experiences: 5, class_order: ClassOrder::Seed(0) }
    }
}

impl StreamConfig {
    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let checks: [Check; 1] =
            [("stream.experiences", self.experiences > 0, "at least 1", self.experiences.to_string())];
        checks.into_iter()
    }
}
