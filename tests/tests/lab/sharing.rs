//! Agents whose training data differ teach each other all the same: over a public set, or by sending images; and none
//! teaches more than its budget allows.

use std::fs;
use std::path::{Path, PathBuf};

use dkt_agent::config::{AgentConfig, ProxyConfig, Sharing};
use dkt_agent::data::{Dataset, load};
use dkt_agent::stream::StreamKind;
use dkt_agent::telemetry::event::Event;
use dkt_tests::broker::Mosquitto;
use dkt_tests::config;
use dkt_tests::process::{Agent, Ended};

use crate::{exchange, start};

/// Every third of the training digits, from one on, in files as MNIST has them; with all of the test digits.
fn third(root: &Path, from: usize, with_labels: bool) -> String {
    let digits = load("digits").unwrap();
    let folder = root.join(format!("third-{from}"));
    fs::create_dir(&folder).unwrap();
    let ids: Vec<usize> = (from..digits.train.len()).step_by(3).collect();
    write_split(&folder, "train", &digits.train, &ids, with_labels);
    write_split(&folder, "t10k", &digits.test, &(0..digits.test.len()).collect::<Vec<_>>(), with_labels);
    folder.display().to_string()
}

fn write_split(folder: &Path, split: &str, data: &Dataset, ids: &[usize], with_labels: bool) {
    let n = (ids.len() as u32).to_be_bytes();
    let size = |n: u16| u32::from(n).to_be_bytes();
    let head = [[0, 0, 8, 3], n, size(data.shape.height), size(data.shape.width)].concat();
    let images =
        ids.iter().flat_map(|i| data.pixels[i * data.shape.n_pixels()..][..data.shape.n_pixels()].to_vec());
    let label = |i: &usize| if with_labels { data.labels[*i] as u8 } else { 0 };
    fs::write(folder.join(format!("{split}-images-idx3-ubyte")), [head, images.collect()].concat()).unwrap();
    let head = [[0, 0, 8, 1], n].concat();
    let labels = [head, ids.iter().map(label).collect()].concat();
    fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels).unwrap();
}

/// Alice and Bob, each with a third of the digits, changed, until both have finished.
fn run_two(root: &Path, change: impl Fn(&mut AgentConfig)) -> [Ended; 2] {
    let broker = Mosquitto::dev();
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(root, name, &broker.url(), None);
        config.data.source = third(root, usize::from(name == "bob"), true);
        config.train.epochs = 24;
        change(&mut config);
        start(&config)
    });
    agents.map(Agent::end)
}

fn student_accuracy(ended: &Ended) -> f64 {
    ended.evaluated().last().unwrap().heads[1].stream
}

#[test]
fn agents_with_data_of_their_own_teach_each_other_over_a_public_set() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody knows its labels.
    let public = third(folder.path(), 2, false);
    let ended = run_two(folder.path(), |config| {
        let text = format!("source = {public:?}\nviews = 2");
        config.proxy = Some(toml::from_str::<ProxyConfig>(&text).unwrap());
        config.exchange.sharing = Sharing::Proxy;
    });
    for ended in ended {
        exchange::learned_from_its_peer(&ended);
        assert_eq!(ended.traffic("inputs").messages_out, 0, "{}", ended.name);
        let accuracy = student_accuracy(&ended);
        assert!(accuracy > 0.3, "{}: the student head has an accuracy of {accuracy}", ended.name);
    }
}

#[test]
fn agents_with_data_of_their_own_send_images_to_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run_two(folder.path(), |config| config.exchange.sharing = Sharing::Inputs);
    for ended in ended {
        let finished = ended.finished();
        assert!(finished.rows_applied > 0, "{}: {finished:?}", ended.name);
        assert!(ended.teacher_shares().iter().any(|share| *share > 0.0), "{} was never taught", ended.name);
        for kind in ["inputs", "targets"] {
            let traffic = ended.traffic(kind);
            assert!(traffic.messages_out > 0 && traffic.messages_in > 0, "{}: {traffic:?}", ended.name);
        }
        let [demand, repair] = ["demand", "repair"].map(|kind| ended.traffic(kind).bytes_out);
        assert_eq!((demand, repair), (0, 0), "{}", ended.name);
    }
}

#[test]
fn an_agent_that_labels_no_images_is_sent_none() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run_two(folder.path(), |config| {
        config.exchange.sharing = Sharing::Inputs;
        config.exchange.label_inputs = false;
        config.exchange.wait_for_peers = 0;
        config.train.epochs = 2;
    });
    for ended in ended {
        assert!(ended.traffic("status").messages_in > 0, "{} has not heard of the other", ended.name);
        assert_eq!(ended.finished().rows_applied, 0);
        assert_eq!(ended.traffic("inputs").messages_out, 0, "{}", ended.name);
    }
}

#[test]
fn labelling_keeps_to_its_share_of_the_time() {
    const SHARE: f64 = 0.01;
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let agents = ["alice", "bob"].map(|name| {
        let mut config = config::exchanging(folder.path(), name, &broker.url(), None);
        // Without a budget most of the time would go into this, as there is always more to do.
        config.exchange.rows_per_step = 512;
        config.exchange.refresh_epochs = 1;
        config.exchange.labelling_share = SHARE;
        config.exchange.linger_s = 0.0;
        start(&config)
    });
    for ended in agents.map(Agent::end) {
        let labelling = ended.finished().labelling_seconds;
        let usages = ended.evaluated().into_iter().filter_map(|evaluated| evaluated.usage);
        let training: f64 = usages.map(|usage| usage.training_seconds).sum();
        assert!(labelling > 0.0, "{} labelled nothing", ended.name);
        // One batch may go beyond it, and that may be long beside so small a share.
        assert!(labelling < 0.2 * training, "{}: {labelling} s of {training} s", ended.name);
    }
}

#[test]
fn a_public_set_of_other_images_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut wide = load("digits").unwrap().train;
    (wide.shape.height, wide.shape.width) = (4, 16);
    let other: PathBuf = folder.path().join("wide");
    fs::create_dir(&other).unwrap();
    for split in ["train", "t10k"] {
        write_split(&other, split, &wide, &[0, 1], true);
    }
    let mut config = config::alone(folder.path(), "alice");
    config.exchange.sharing = Sharing::Proxy;
    config.proxy = Some(toml::from_str(&format!("source = {:?}", other.display().to_string())).unwrap());
    let ended = start(&config).end();
    assert_eq!(ended.code, Some(65), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("expected images of 1x8x8") && ended.stderr.contains("1x4x16"),
        "{}",
        ended.stderr
    );
}

/// Numbers of public images go beyond those of the training data, and what is kept of the past is kept of these.
#[test]
fn public_images_have_no_label_no_task_and_no_past() {
    let folder = tempfile::tempdir().unwrap();
    for strategy in ["der++", "lwf"] {
        let mut config = config::alone(folder.path(), strategy.trim_end_matches('+'));
        config.strategy = toml::from_str(&format!("name = {strategy:?}")).unwrap();
        config.stream.kind = StreamKind::TaskIncremental;
        config.data.samples_per_class = 20;
        config.train.epochs = 4;
        config.exchange.sharing = Sharing::Proxy;
        config.proxy = Some(toml::from_str("source = \"digits\"").unwrap());
        let ended = start(&config).end();
        ended.finished();
        let told = |event: &Event| matches!(event, Event::Warning { message } if message.contains("[proxy]"));
        assert!(ended.events.iter().any(told), "that nobody teaches here");
        let heads = &ended.evaluated().last().unwrap().heads;
        assert!(heads[0].stream > 0.3, "{strategy}: {heads:?}");
    }
}
