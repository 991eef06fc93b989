//! `exchange.encoding`: how rows of soft targets are written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exchange::rows::Encoding;
use crate::exchange::wire::MAX_CLASSES;

/// `"f32"`, `"f16"`, `"u8"` or `{ top_k = 2 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodingConfig {
    /// Single precision: 4 bytes a class.
    F32,
    /// Half precision: 2 bytes a class.
    F16,
    /// A byte a class, with a scale and an offset for each row.
    U8,
    /// The so many largest logits (of fewer classes: all), and one for the rest.
    TopK(usize),
}

impl EncodingConfig {
    pub(super) fn is_sound(self) -> bool {
        match self {
            EncodingConfig::TopK(k) => (1..=MAX_CLASSES).contains(&k),
            EncodingConfig::F32 | EncodingConfig::F16 | EncodingConfig::U8 => true,
        }
    }

    pub fn encoding(self) -> Encoding {
        match self {
            EncodingConfig::F32 => Encoding::F32,
            EncodingConfig::F16 => Encoding::F16,
            EncodingConfig::U8 => Encoding::U8,
            EncodingConfig::TopK(k) => Encoding::TopK(k),
        }
    }
}

/// As it is written in TOML.
impl fmt::Display for EncodingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodingConfig::F32 => f.write_str("\"f32\""),
            EncodingConfig::F16 => f.write_str("\"f16\""),
            EncodingConfig::U8 => f.write_str("\"u8\""),
            EncodingConfig::TopK(k) => write!(f, "{{ top_k = {k} }}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExchangeConfig;

    #[test]
    fn a_configuration_reads_as_it_was_written() {
        for (text, encoding) in [
            ("", EncodingConfig::F16),
            ("encoding = \"f32\"", EncodingConfig::F32),
            ("encoding = \"u8\"", EncodingConfig::U8),
            ("encoding = { top_k = 2 }", EncodingConfig::TopK(2)),
        ] {
            let config: ExchangeConfig = toml::from_str(text).unwrap();
            assert_eq!(config.encoding, encoding);
            let shown = format!("encoding = {encoding}");
            assert_eq!(toml::from_str::<ExchangeConfig>(&shown).unwrap().encoding, encoding);
            assert_eq!(toml::from_str::<ExchangeConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
        for text in ["encoding = \"f64\"", "encoding = \"top_k\"", "encoding = { top_k = -1 }"] {
            assert!(toml::from_str::<ExchangeConfig>(text).is_err(), "{text}");
        }
        assert!(!EncodingConfig::TopK(0).is_sound() && !EncodingConfig::TopK(4097).is_sound());
    }
}
