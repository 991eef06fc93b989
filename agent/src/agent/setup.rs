//! What an agent is before it trains: its network, and the digests and settings that a checkpoint must agree with.

use std::collections::BTreeMap;
use std::path::Path;

use dkt_models::step::TrainingStep;
use dkt_models::zoo::{self, BuildOptions};
use dkt_models::{DualHead, ModelError};
use onnx_grad::GradError;
use onnx_grad::graph::Graph;
use serde::Serialize;
use serde_json::Value;

use super::AgentError;
use super::learner::ProxySet;
use crate::config::{
    AgentConfig, DataConfig, ProxyConfig, ReplayConfig, StrategyConfig, StreamConfig, TrainConfig,
};
use crate::data::view::ViewFn;
use crate::data::{DataSource, Dataset, ImageShape, Normalization, TrainedOn};
use crate::ids::Digest;
use crate::strategy::TrainsOn;
use crate::stream::{ExperienceStream, StreamError};

/// Data as the configuration names it, and fit for its augmentation.
pub(super) fn load_data(config: &AgentConfig) -> Result<DataSource, AgentError> {
    let source = crate::data::load(&config.data.source)?;
    let source = crate::stream::prepared(source, &config.data, &config.stream)?;
    check_crop_padding("data.crop_padding", config.data.crop_padding, source.train.shape)?;
    Ok(source)
}

/// The public set, where the configuration names one: images that fit the network, whatever their classes are.
pub(super) fn load_proxy(config: &AgentConfig, source: &DataSource) -> Result<Option<ProxySet>, AgentError> {
    let Some(proxy) = &config.proxy else { return Ok(None) };
    let data = proxy.data();
    let loaded = crate::data::load(&data.source)?;
    // As it is: a stream's domains are those of the training data.
    let images = crate::stream::prepared(loaded, &data, &StreamConfig::default())?.train;
    let (shape, found) = (source.train.shape, images.shape);
    if shape != found {
        return Err(AgentError::ProxyShape { data: data.source, shape, found });
    }
    check_crop_padding("proxy.crop_padding", data.crop_padding, shape)?;
    let views = ViewFn::new(&images, data.augmentation());
    Ok(Some(ProxySet { images, views, n_views: data.views }))
}

fn check_crop_padding(key: &'static str, padding: u8, shape: ImageShape) -> Result<(), AgentError> {
    if u16::from(padding) >= shape.height.min(shape.width) {
        return Err(AgentError::CropPadding { key, padding, shape });
    }
    Ok(())
}

/// A network of the zoo fitted to the data, or the user's own file checked against it.
pub(super) fn load_model(config: &AgentConfig, source: &DataSource) -> Result<DualHead, AgentError> {
    let network = &config.model.network;
    let shape = source.train.shape;
    let input = [shape.channels, shape.height, shape.width].map(usize::from);
    let classes = source.train.classes.len();
    let graph = if network.ends_with(".onnx") {
        Graph::read(network.as_ref()).map_err(ModelError::from)?
    } else {
        let seed = config.model.seed.unwrap_or(config.seed);
        zoo::build(network, &BuildOptions { seed, classes, input })?
    };
    let model = DualHead::from_graph(graph)?;
    let mismatch = |what, expected: String, found: String| AgentError::Mismatch {
        network: network.clone(),
        data: config.data.source.clone(),
        what,
        expected,
        found,
    };
    if model.input_dims() != input {
        return Err(mismatch("inputs of", format!("{:?}", model.input_dims()), format!("{input:?}")));
    }
    if model.n_classes() != classes {
        return Err(mismatch("a number of classes of", model.n_classes().to_string(), classes.to_string()));
    }
    Ok(model)
}

/// The network's training step. Names that the network does not have are told with the key that gives them.
pub(super) fn derive(config: &AgentConfig, model: &DualHead) -> Result<TrainingStep, AgentError> {
    TrainingStep::derive(model, &config.step_options()).map_err(|source| {
        let freeze = &config.train.freeze;
        let key = match &source {
            ModelError::NoSuchParameter { pattern } if freeze.iter().all(|p| p.0.as_str() != pattern) => {
                "train.groups"
            }
            ModelError::NoSuchParameter { .. } => "train.freeze",
            ModelError::Graph(GradError::NothingToTrain) if !freeze.is_empty() => "train.freeze",
            ModelError::Graph(GradError::NothingToRecompute { .. }) => "train.recompute",
            _ => return AgentError::Model(source),
        };
        AgentError::Setting { key, source }
    })
}

/// Settings that change nothing, in words.
pub(super) fn without_effect(config: &AgentConfig, network: &Graph) -> Vec<String> {
    let mut messages = Vec::new();
    if config.train.dropout && !network.nodes.iter().any(|node| node.op == "Dropout") {
        messages.push(
            "`train.dropout` changes nothing: the network has no Dropout layer, which exporters leave out in \
             evaluation mode (models/export/README.md)"
                .to_owned(),
        );
    }
    let public = if config.proxy.is_some() { "[proxy]" } else { "`stream.proxy`" };
    let has_public = config.proxy.is_some() || config.stream.proxy > 0.0;
    if has_public && !config.exchange.enabled && config.teacher.models.is_empty() {
        messages.push(format!(
            "{public} sets samples aside for a student head that nobody teaches, as in a control: \
             `exchange.enabled` is false and `teacher.models` is empty"
        ));
    }
    messages
}

/// The stream that the configuration names, as the strategy sees it.
pub(super) fn stream(config: &AgentConfig, source: &DataSource) -> Result<ExperienceStream, StreamError> {
    let stream = ExperienceStream::new(source, &config.stream)?;
    Ok(match config.strategy.strategy().trains_on {
        TrainsOn::Everything => stream.joined(),
        TrainsOn::Experience | TrainsOn::SeenSoFar => stream,
    })
}

/// That there are as many teachers as experiences, or one, and that each fits the data. Their digests, in order.
pub(super) fn check_teachers(
    config: &AgentConfig,
    source: &DataSource,
    n_experiences: usize,
) -> Result<Vec<Digest>, AgentError> {
    let models = &config.teacher.models;
    if models.len() > 1 && models.len() != n_experiences {
        return Err(AgentError::Teachers { experiences: n_experiences, models: models.len() });
    }
    models
        .iter()
        .map(|path| {
            let model = DualHead::from_graph(Graph::read(path).map_err(ModelError::from)?)?;
            check_teacher(path, &model, source)?;
            Ok(Digest::of(&model.graph().encode()))
        })
        .collect()
}

/// That a teacher fits the data, and how it wants its images normalised, if it says so.
pub(super) fn check_teacher(
    path: &Path,
    model: &DualHead,
    source: &DataSource,
) -> Result<Option<Normalization>, AgentError> {
    let shape = source.train.shape;
    let input = [shape.channels, shape.height, shape.width].map(usize::from);
    let refused = |what, expected: String, found: String| {
        Err(AgentError::Teacher { path: path.to_owned(), what, expected, found })
    };
    if model.input_dims() != input {
        return refused("images of", format!("{input:?}"), format!("{:?}", model.input_dims()));
    }
    let classes = &source.train.classes;
    if model.n_classes() != classes.len() {
        return refused("a number of classes of", classes.len().to_string(), model.n_classes().to_string());
    }
    let trained_on = TrainedOn::read(&model.graph().metadata, input[0], path)?;
    match trained_on.classes {
        Some(found) if found != *classes => refused("the classes", classes.join(", "), found.join(", ")),
        _ => Ok(trained_on.normalization),
    }
}

/// Of everything that training and evaluation read: `views` (training images and their augmentation), labels,
/// names of classes, the test split, and the public set's images and augmentation where there is one.
pub(super) fn data_digest(views: Digest, source: &DataSource, proxy: Option<Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&views.0);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let labels = |data: &Dataset| data.labels.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<u8>>();
    source.train.classes.iter().for_each(|class| part(class.as_bytes()));
    part(&labels(&source.train));
    part(&labels(&source.test));
    part(&source.test.pixels);
    if let Some(proxy) = proxy {
        part(&proxy.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Differs between two runs of an agent: microseconds since 1970.
pub(super) fn session() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_micros() as u64)
}

/// The settings that decide how training goes on, by their keys in `AGENT.toml`: a checkpoint of others cannot be
/// resumed. Where data and teachers lie and what computes is not among them.
pub(super) fn training_settings(config: &AgentConfig, teachers: &[Digest]) -> BTreeMap<String, Value> {
    #[derive(Serialize)]
    struct Sections<'a> {
        seed: u64,
        data: &'a DataConfig,
        proxy: Option<&'a ProxyConfig>,
        stream: &'a StreamConfig,
        train: &'a TrainConfig,
        strategy: &'a StrategyConfig,
        replay: &'a ReplayConfig,
    }
    let AgentConfig { seed, data, proxy, stream, train, strategy, .. } = config;
    let proxy = proxy.as_ref();
    // With what is left out filled in: a default of another release is another setting.
    let (capacity, selection) = config.replay.resolved(strategy.strategy());
    let replay =
        &ReplayConfig { capacity: Some(capacity), selection: Some(selection), ..config.replay.clone() };
    let strategy = &strategy.with_defaults();
    // By way of text, so that a float32 reads as it was written and not as the float64 nearest to it.
    let value =
        serde_json::to_string(&Sections { seed: *seed, data, proxy, stream, train, strategy, replay })
            .and_then(|text| serde_json::from_str(&text))
            .expect("invariant: a configuration has a JSON form");
    let mut settings = BTreeMap::new();
    flatten("", value, &mut settings);
    for key in ["data.source", "proxy.source", "train.device", "train.threads"] {
        settings.remove(key);
    }
    let teachers = teachers.iter().map(|digest| digest.to_string().into()).collect();
    settings.insert("teacher.models".to_owned(), Value::Array(teachers));
    settings
}

fn flatten(prefix: &str, value: Value, settings: &mut BTreeMap<String, Value>) {
    match value {
        // Given in one of two forms that have no key in common.
        Value::Object(_) if prefix == "data.normalization" => {
            settings.insert(prefix.to_owned(), value);
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(&key, value, settings);
            }
        }
        value => _ = settings.insert(prefix.to_owned(), value),
    }
}

/// The first setting that differs: as it is now, as it was. Keys that only one side knows are those of another
/// release.
pub(super) fn different_setting(
    now: &BTreeMap<String, Value>,
    saved: &BTreeMap<String, Value>,
) -> Option<(String, String)> {
    // The name of a strategy or an optimiser first: the defaults of other settings follow from it.
    let names = now.iter().filter(|(key, _)| key.ends_with(".name"));
    let (key, now, saved) = names
        .chain(now)
        .find_map(|(key, now)| Some((key, now, saved.get(key).filter(|saved| *saved != now)?)))?;
    Some((format!("{key} = {now}"), format!("{key} = {saved}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(train: &str) -> AgentConfig {
        toml::from_str(&format!("agent = \"a\"\nfleet = \"f\"\n[train]\n{train}")).unwrap()
    }

    #[test]
    fn only_what_decides_how_training_goes_on_is_a_setting() {
        let base = training_settings(&config(""), &[]);
        assert_eq!(base, training_settings(&config("threads = 2\ndevice = \"cuda\""), &[]));
        assert_eq!(different_setting(&base, &base), None);
        let other = training_settings(&config("epochs = 3"), &[]);
        let expected = ("train.epochs = 20".to_owned(), "train.epochs = 3".to_owned());
        assert_eq!(different_setting(&base, &other), Some(expected));
        let of_strategy = |text: &str| {
            let text = format!("agent = \"a\"\nfleet = \"f\"\n[strategy]\nname = \"lwf\"\n{text}");
            training_settings(&toml::from_str(&text).unwrap(), &[])
        };
        let expected = ("strategy.alpha = 2.0".to_owned(), "strategy.alpha = 1.0".to_owned());
        assert_eq!(different_setting(&of_strategy("alpha = 2"), &of_strategy("")), Some(expected));
        let expected = ("strategy.name = \"lwf\"".to_owned(), "strategy.name = \"replay\"".to_owned());
        assert_eq!(
            different_setting(&of_strategy(""), &base),
            Some(expected),
            "not the capacity of a memory"
        );
        let given = "[data]\nnormalization = { mean = [0.5], std = [0.5] }\n[train]\n";
        let given = training_settings(
            &toml::from_str(&format!("agent = \"a\"\nfleet = \"f\"\n{given}")).unwrap(),
            &[],
        );
        assert!(different_setting(&base, &given).is_some());
        assert!(different_setting(&base, &training_settings(&config(""), &[Digest([1; 32])])).is_some());
        let mut older = base.clone();
        older.remove("train.clip_norm");
        assert_eq!(different_setting(&base, &older), None);
    }

    #[test]
    fn labels_and_the_test_split_are_part_of_the_data() {
        let source = crate::data::load("digits").unwrap();
        let digest = |change: fn(&mut DataSource)| {
            let mut changed = source.clone();
            change(&mut changed);
            data_digest(Digest([7; 32]), &changed, None)
        };
        let base = digest(|_| ());
        assert_eq!(base, digest(|_| ()));
        let changes: [fn(&mut DataSource); 4] = [
            |s| s.train.labels.swap(0, 1),
            |s| s.test.labels.swap(0, 1),
            |s| s.test.pixels[0] ^= 1,
            |s| s.train.classes[3] = "three".to_owned(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            assert_ne!(base, digest(change), "change {i}");
        }
        assert_ne!(base, data_digest(Digest([7; 32]), &source, Some(Digest([8; 32]))), "a public set");
    }
}
