//! How an agent and its teachers come to speak of the same images: `exchange.sharing`, and `[proxy]`.

use serde::{Deserialize, Serialize};

use super::{Check, ColorJitterConfig, DataConfig};

/// What a student lets its teachers label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Its training samples, by their numbers: teachers have the same data set.
    #[default]
    Ids,
    /// Public samples, by their numbers: teachers have the same public set, and training data of their own.
    Proxy,
    /// Its training samples, which it sends: nobody else has them.
    Inputs,
}

impl std::fmt::Display for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sharing::Ids => "ids",
            Sharing::Proxy => "proxy",
            Sharing::Inputs => "inputs",
        })
    }
}

/// A data set that all agents of a fleet have: the training images of `source`, without their labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// As `data.source`; its classes need not be those of the training data. Required.
    pub source: String,
    /// Only the first so many classes of it; 0 for all. Default: 0.
    #[serde(default)]
    pub classes: usize,
    /// Only the first so many images of each class; 0 for all. Default: 0.
    #[serde(default)]
    pub samples_per_class: usize,
    /// Augmented views of each image, used in turn, one an epoch. Default: 4.
    #[serde(default = "default_views")]
    pub views: u8,
    /// As `data.crop_padding`. Default: 1.
    #[serde(default = "default_crop_padding")]
    pub crop_padding: u8,
    /// As `data.flip`. Default: false.
    #[serde(default)]
    pub flip: bool,
    #[serde(default)]
    pub color_jitter: ColorJitterConfig,
}

fn default_views() -> u8 {
    DataConfig::default().views
}

fn default_crop_padding() -> u8 {
    DataConfig::default().crop_padding
}

impl ProxyConfig {
    /// The same as the configuration of a data set.
    pub fn data(&self) -> DataConfig {
        DataConfig {
            source: self.source.clone(),
            classes: self.classes,
            samples_per_class: self.samples_per_class,
            views: self.views,
            crop_padding: self.crop_padding,
            flip: self.flip,
            color_jitter: self.color_jitter,
            ..DataConfig::default()
        }
    }

    /// What each key must be.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        let jitter = self.color_jitter;
        let checks: [Check; 2] = [
            ("proxy.views", self.views > 0, "at least 1", self.views.to_string()),
            (
                "proxy.color_jitter",
                [jitter.brightness, jitter.contrast, jitter.saturation]
                    .iter()
                    .all(|v| (0.0..=1.0).contains(v)),
                "brightness, contrast and saturation from 0 to 1",
                format!("{jitter:?}"),
            ),
        ];
        checks.into_iter()
    }
}

/// That what is to be shared is there, and only once.
pub(super) fn checks(sharing: Sharing, proxy: Option<&ProxyConfig>, public_share: f64) -> [Check; 2] {
    [
        (
            "exchange.sharing",
            sharing != Sharing::Proxy || proxy.is_some() || public_share > 0.0,
            "\"ids\" or \"inputs\", or given with [proxy] or `stream.proxy` above 0: those are the public samples",
            sharing.to_string(),
        ),
        (
            "proxy.source",
            proxy.is_none() || (sharing == Sharing::Proxy && public_share == 0.0),
            "left out, unless `exchange.sharing` is \"proxy\" and `stream.proxy` is 0",
            proxy.map_or(String::new(), |proxy| proxy.source.clone()),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AgentConfig;

    fn refused(text: &str) -> Option<String> {
        let config: AgentConfig = toml::from_str(&format!("agent = \"a\"\nfleet = \"f\"\n{text}")).unwrap();
        config.validate("x.toml".as_ref()).err().map(|error| error.to_string())
    }

    #[test]
    fn public_samples_come_from_one_place_and_only_where_they_are_shared() {
        let shared = "[exchange]\nsharing = \"proxy\"\n";
        let set = "[proxy]\nsource = \"digits\"\n";
        let aside = "[stream]\nproxy = 0.2\n";
        for fine in ["", aside, &format!("{shared}{set}"), &format!("{shared}{aside}")] {
            assert_eq!(refused(fine), None, "{fine}");
        }
        for (text, key) in [
            (shared.to_owned(), "exchange.sharing"),
            (set.to_owned(), "proxy.source"),
            (format!("{shared}{set}{aside}"), "proxy.source"),
            (format!("[exchange]\nsharing = \"inputs\"\n{set}"), "proxy.source"),
            (format!("{shared}{set}views = 0"), "proxy.views"),
            (format!("{shared}{set}color_jitter = {{ contrast = 2.0 }}"), "proxy.color_jitter"),
        ] {
            let error = refused(&text).unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
        }
    }

    #[test]
    fn a_configuration_reads_as_it_was_written() {
        let text = "source = \"x\"\nviews = 2\nsamples_per_class = 9\nflip = true";
        let config: ProxyConfig = toml::from_str(text).unwrap();
        assert_eq!(toml::from_str::<ProxyConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<ProxyConfig>("views = 1").is_err(), "`source` is required");
        assert_eq!(config.data().views, 2);
    }
}
