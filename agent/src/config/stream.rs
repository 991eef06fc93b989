//! `[stream]`.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::stream::{ClassOrder, Domains, StreamKind};

/// Most experiences of a stream: each has a number of 16 bits.
const MAX_EXPERIENCES: usize = 65_535;
/// An image turned by so many quarters is itself again.
const QUARTER_TURNS: usize = 4;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// What differs between experiences. Default: `class-incremental`.
    pub kind: StreamKind,
    /// What a domain is in a domain-incremental stream. Default: `instances`.
    pub domains: Domains,
    /// Number of experiences; must divide the number of classes where experiences differ in their classes.
    /// Default: 5.
    pub experiences: usize,
    /// A seed, the list of all class indices in the order in which they come, or the agent whose order it is.
    /// Default: seed 0.
    pub class_order: ClassOrder,
    /// Share of each class's training samples that is held out for validation. Default: 0.
    pub validation: f64,
    /// Share of each class's training samples that is public: every agent may see them at any time, without their
    /// labels, and its student head learns what teachers say of them. Default: 0.
    pub proxy: f64,
    /// Seeds domains, validation and proxy; agents with the same seed have the same. Default: 0.
    pub seed: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            kind: StreamKind::ClassIncremental,
            domains: Domains::Instances,
            experiences: 5,
            class_order: ClassOrder::Seed(0),
            validation: 0.0,
            proxy: 0.0,
            seed: 0,
        }
    }
}

impl StreamConfig {
    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let has_domains = self.kind == StreamKind::DomainIncremental;
        let experiences = self.experiences.to_string();
        let checks: [Check; 6] = [
            (
                "stream.experiences",
                (1..=MAX_EXPERIENCES).contains(&self.experiences),
                "between 1 and 65535",
                experiences.clone(),
            ),
            (
                "stream.experiences",
                self.domains != Domains::Rotate || self.experiences <= QUARTER_TURNS,
                "at most 4 with the domains \"rotate\", which are quarter turns",
                experiences,
            ),
            (
                "stream.domains",
                has_domains || self.domains == Domains::Instances,
                "left out, unless the kind is \"domain-incremental\"",
                format!("{:?}", self.domains).to_lowercase(),
            ),
            (
                "stream.class_order",
                !has_domains || self.class_order == ClassOrder::Seed(0),
                "left out with the kind \"domain-incremental\", where every experience has all classes",
                self.class_order.to_string(),
            ),
            (
                "stream.validation",
                (0.0..1.0).contains(&self.validation),
                "a share from 0 to below 1",
                self.validation.to_string(),
            ),
            (
                "stream.proxy",
                (0.0..1.0).contains(&self.proxy),
                "a share from 0 to below 1",
                self.proxy.to_string(),
            ),
        ];
        checks.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StreamConfig, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_configuration_reads_as_it_was_written() {
        for text in [
            "",
            "kind = \"task-incremental\"\nclass_order = [1, 0]\nvalidation = 0.1\nseed = 9",
            "kind = \"domain-incremental\"\ndomains = \"rotate\"\nexperiences = 4",
            "class_order = \"alice\"",
        ] {
            let config = parse(text).unwrap();
            assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_key() {
        for (text, key) in [
            ("experiences = 0", "stream.experiences"),
            ("experiences = 65536", "stream.experiences"),
            ("kind = \"domain-incremental\"\ndomains = \"rotate\"", "stream.experiences"),
            ("domains = \"permute\"", "stream.domains"),
            ("kind = \"domain-incremental\"\nclass_order = 1", "stream.class_order"),
            ("validation = 1.0", "stream.validation"),
            ("validation = -0.1", "stream.validation"),
            ("validation = nan", "stream.validation"),
        ] {
            let refused: Vec<&str> =
                parse(text).unwrap().checks().filter(|(_, holds, ..)| !holds).map(|(key, ..)| key).collect();
            assert_eq!(refused, [key], "{text}");
        }
        for (text, says) in [
            ("kind = \"online\"", "unknown variant `online`"),
            ("domains = \"noise\"", "unknown variant `noise`"),
            ("class_order = -1", "expected a seed"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
