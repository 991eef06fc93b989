//! An agent that is stopped, killed or robbed of a checkpoint goes on as if nothing had happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use dkt_agent::config::{AgentConfig, OptimizerConfig};
use dkt_agent::telemetry::event::Event;
use dkt_tests::process::Ended;
use dkt_tests::{config, repository};
use onnx_grad::graph::Graph;

use crate::start;

/// Steps between two checkpoints.
const EVERY: u64 = 10;

/// An agent that trains for long enough to be interrupted in its second of five experiences, with replay.
fn config(root: &Path) -> AgentConfig {
    let mut config = config::alone(root, "alice");
    config.stream.experiences = 5;
    config.train.epochs = 8;
    config.checkpoint.every_steps = EVERY;
    config
}

fn model(root: &Path) -> Vec<u8> {
    fs::read(root.join("alice/model.onnx")).unwrap()
}

/// Every measurement that does not depend on the time it took.
fn metrics(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("alice/metrics.csv")).unwrap();
    let timed = ["samples_per_second", "_seconds", "energy_joules"];
    text.lines().filter(|line| !timed.iter().any(|t| line.contains(t))).map(ToOwned::to_owned).collect()
}

/// What a run comes to.
struct Course {
    model: Vec<u8>,
    metrics: Vec<String>,
    n_steps: u64,
}

/// The same run without an interruption.
static UNINTERRUPTED: LazyLock<Course> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let ended = start(&config(folder.path())).end();
    let (model, metrics) = (model(folder.path()), metrics(folder.path()));
    Course { model, metrics, n_steps: ended.finished().n_steps }
});

/// Runs the agent again, to its end: it must have gone on, and end as the uninterrupted run did.
fn goes_on(root: &Path) -> Ended {
    let ended = start(&config(root)).end();
    let Course { model, metrics, n_steps } = &*UNINTERRUPTED;
    assert_eq!(ended.finished().n_steps, *n_steps);
    assert_eq!(self::metrics(root), *metrics, "a run that goes on tells its whole course");
    assert!(ended.started().resumed_at_step > 0, "it began anew");
    assert!(
        self::model(root) == *model,
        "resumed at step {}, it ended elsewhere",
        ended.started().resumed_at_step
    );
    ended
}

/// Makes a configuration another.
type Change<'a> = &'a dyn Fn(&mut AgentConfig);

/// Oldest first.
fn checkpoints(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("alice/checkpoints")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    paths
}

/// Trains into the second experience and kills the agent there. Returns the step of a checkpoint before.
fn train_and_kill(root: &Path) -> u64 {
    let mut agent = start(&config(root));
    agent.wait_for("the end of an experience", |event| matches!(event, Event::Evaluated(_)).then_some(()));
    let step = agent.checkpointed(0);
    agent.kill();
    let ended = agent.end();
    assert_eq!(ended.code, None, "a signal ends it: {ended:?}");
    step
}

#[test]
fn an_agent_that_is_asked_to_stop_saves_and_goes_on_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start(&config(folder.path()));
    agent.wait_for("the end of an experience", |event| matches!(event, Event::Evaluated(_)).then_some(()));
    agent.terminate();
    let stopped = agent.end();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert!(!stopped.events.iter().any(|e| matches!(e, Event::Finished(_))), "it was stopped on the way");
    let saved = stopped.events.iter().rev().find_map(|event| match event {
        Event::Checkpointed { step, .. } => Some(*step),
        _ => None,
    });
    let ended = goes_on(folder.path());
    assert_eq!(Some(ended.started().resumed_at_step), saved, "nothing is trained twice");
}

#[test]
fn an_agent_that_is_killed_goes_on_from_its_last_checkpoint_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let step = train_and_kill(folder.path());
    let resumed = goes_on(folder.path()).started().resumed_at_step;
    assert!(
        resumed >= step && resumed.is_multiple_of(EVERY),
        "killed after step {step}, it goes on from {resumed}"
    );
}

#[test]
fn an_agent_that_is_killed_twenty_times_comes_to_the_same_model() {
    // Checkpoints until each kill; the moment within training is the machine's.
    const CHECKPOINTS: [usize; 20] = [1, 2, 1, 1, 3, 1, 2, 1, 1, 2, 1, 3, 1, 1, 2, 1, 1, 2, 1, 1];
    let folder = tempfile::tempdir().unwrap();
    let mut step = 0;
    for (kill, n_checkpoints) in CHECKPOINTS.into_iter().enumerate() {
        let mut agent = start(&config(folder.path()));
        let began = agent.started().resumed_at_step;
        assert!(began >= step, "kill {kill}: after a checkpoint at step {step} it goes on from {began}");
        step = (0..n_checkpoints).fold(began, |after, _| agent.checkpointed(after + 1));
        agent.kill();
        assert_eq!(agent.end().code, None);
    }
    goes_on(folder.path());
}

#[test]
fn an_agent_warns_of_a_damaged_checkpoint_and_goes_on_from_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    train_and_kill(folder.path());
    let mut paths = checkpoints(folder.path());
    let newest = paths.pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let ended = goes_on(folder.path());
    let before = paths.pop().unwrap();
    let step = before.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap();
    assert_eq!(Ok(ended.started().resumed_at_step), step.parse());
    let name = newest.file_name().unwrap().to_str().unwrap();
    let warnings = ended.events.iter().filter_map(|event| match event {
        Event::Warning { message } => Some(message.as_str()),
        _ => None,
    });
    let warnings: Vec<&str> = warnings.collect();
    assert!(
        matches!(warnings[..], [one] if one.contains(name) && one.contains("using the one before")),
        "{warnings:?}"
    );
}

/// The handwritten digits as a data set of files, in another split.
fn digits(folder: &Path) -> String {
    fs::create_dir(folder).unwrap();
    for what in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
        for split in ["train", "t10k"] {
            let name = folder.join(format!("{split}-{what}"));
            fs::copy(repository("agent/data/digits").join(what), name).unwrap();
        }
    }
    folder.display().to_string()
}

#[test]
fn an_agent_with_other_settings_does_not_touch_what_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    train_and_kill(folder.path());
    let before = checkpoints(folder.path());
    // The same layers with another constant.
    let mut network = Graph::read(&repository("models/zoo/digits-cnn.onnx")).unwrap();
    let norm = network.nodes.iter_mut().find(|node| node.op == "BatchNormalization").unwrap();
    norm.attributes.insert("epsilon".to_owned(), 1e-3_f32.into());
    let file = folder.path().join("other.onnx");
    fs::write(&file, network.encode()).unwrap();
    let network = move |config: &mut AgentConfig| config.model.network = file.display().to_string();
    let data = digits(&folder.path().join("data"));
    // What differs, as it was; of two settings the one that the other follows from.
    let changes: [(&str, Change); 7] = [
        (
            "the setting `train.learning_rate = 0.001`, and the configuration has `train.learning_rate = 0.5`",
            &|c| {
                c.train.learning_rate = 0.5;
            },
        ),
        ("the setting `train.optimizer.name = \"adam\"`", &|c| {
            c.train.optimizer = OptimizerConfig::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.1 }
        }),
        ("the setting `strategy.name = \"replay\"`", &|c| {
            c.strategy.name = "naive".to_owned();
            c.replay.capacity = None;
        }),
        ("the setting `data.crop_padding = 1`", &|c| c.data.crop_padding = 2),
        ("the data set `", &|c| c.data.source.clone_from(&data)),
        ("the agent `alice`", &|c| c.agent = "bob".parse().unwrap()),
        ("the network `", &network),
    ];
    for (what, change) in changes {
        let mut other = config(folder.path());
        change(&mut other);
        let ended = start(&other).end();
        assert_eq!(ended.code, Some(78), "{what}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("was trained with {what}")), "{}", ended.stderr);
        assert_eq!(ended.events, []);
        assert_eq!(checkpoints(folder.path()), before);
    }
}

#[test]
fn an_agent_that_has_finished_has_nothing_more_to_train() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::alone(folder.path(), "alice");
    config.train.epochs = 1;
    let first = start(&config).end();
    let trained = model(folder.path());
    let again = start(&config).end();
    assert_eq!(again.started().resumed_at_step, first.finished().n_steps);
    assert_eq!(again.finished().n_steps, first.finished().n_steps);
    assert!(model(folder.path()) == trained);
}
