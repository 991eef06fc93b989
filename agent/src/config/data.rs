//! `[data]`.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::data::view::Augmentation;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// `digits`, or the path of a data set (`docs/data.md`). Default: `digits`.
    pub source: String,
    /// Augmented views of each sample, used in turn, one an epoch. Default: 4.
    pub views: u8,
    /// Pixels of zero padding around the image before a random crop of the original size. Default: 1.
    pub crop_padding: u8,
    /// Random horizontal flip. Default: false.
    pub flip: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { source: "digits".to_owned(), views: 4, crop_padding: 1, flip: false }
    }
}

impl DataConfig {
    pub fn augmentation(&self) -> Augmentation {
        Augmentation { crop_padding: self.crop_padding, flip: self.flip }
    }

    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let checks: [Check; 1] = [("data.views", self.views > 0, "at least 1", self.views.to_string())];
        checks.into_iter()
    }
}
