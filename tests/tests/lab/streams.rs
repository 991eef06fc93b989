//! Streams of each kind, trained by whole agents, and those that cannot be.

use std::fs;

use dkt_agent::config::{AgentConfig, ColorJitterConfig, GivenNormalization, NormalizationConfig};
use dkt_agent::stream::{ClassOrder, Domains, StreamKind};
use dkt_agent::telemetry::event::Event;
use dkt_tests::config;
use dkt_tests::process::{Ended, run};

use crate::refusals::{Case, check};
use crate::start;

/// Training samples of the handwritten digits, by class.
const SAMPLES: [u64; 10] = [142, 145, 141, 146, 144, 145, 144, 143, 139, 144];

/// An agent to its end, with checks of what every stream must tell: its experiences, and an accuracy of both heads
/// on each of them after each of them.
fn trained(change: impl FnOnce(&mut AgentConfig), experiences: &[&[&str]]) -> Ended {
    let root = tempfile::tempdir().unwrap();
    let mut config = config::alone(root.path(), "alice");
    change(&mut config);
    let ended = start(&config).end();
    let n = experiences.len();
    assert_eq!(ended.finished().n_steps, ended.started().n_steps);
    assert_eq!(ended.started().experiences, experiences);
    let csv = fs::read_to_string(root.path().join("alice/metrics.csv")).unwrap();
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let at = |name: &str| header.iter().position(|column| *column == name).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    for head in ["cl", "student"] {
        let of_head = rows.iter().filter(|row| row[at("metric")] == "accuracy" && row[at("head")] == head);
        let mut cells: Vec<(usize, usize)> = Vec::new();
        for row in of_head {
            assert!((0.0..=1.0).contains(&row[at("value")].parse().unwrap()), "{row:?}");
            let number = |column| row[at(column)].parse().unwrap();
            cells.push((number("experience"), number("on_experience")));
        }
        cells.sort_unstable();
        let expected: Vec<_> = (1..=n).flat_map(|i| (1..=n).map(move |j| (i, j))).collect();
        assert_eq!(cells, expected, "accuracies of {head}");
    }
    ended
}

/// Accuracies of the head that learns from labels, on each experience, in the end.
fn accuracies(ended: &Ended) -> Vec<f64> {
    let evaluated = ended.evaluated();
    let last = evaluated.last().unwrap();
    last.heads.iter().find(|head| head.head == "cl").unwrap().per_experience.clone()
}

const ALL: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FIRST: &[&str] = &["8", "3", "6", "4", "7"];
const SECOND: &[&str] = &["2", "5", "9", "1", "0"];

#[test]
fn experiences_by_class_and_by_task_have_the_same_split() {
    for kind in [StreamKind::ClassIncremental, StreamKind::TaskIncremental] {
        let ended = trained(|c| c.stream.kind = kind, &[FIRST, SECOND]);
        let n_samples = [[8, 3, 6, 4, 7], [2, 5, 9, 1, 0]].map(|c| c.map(|c| SAMPLES[c]).iter().sum::<u64>());
        let n_steps = n_samples.map(|n| 2 * n.div_ceil(32)).iter().sum::<u64>();
        assert_eq!(ended.started().n_steps, n_steps, "{kind:?}");
    }
}

#[test]
fn every_domain_has_all_classes_and_is_learnt() {
    for (domains, n) in [(Domains::Instances, 3), (Domains::Rotate, 4), (Domains::Permute, 2)] {
        let ended = trained(
            |c| {
                c.stream.kind = StreamKind::DomainIncremental;
                c.stream.domains = domains;
                c.stream.experiences = n;
                c.stream.class_order = ClassOrder::Seed(0);
                c.train.epochs = 6;
            },
            &vec![ALL; n],
        );
        // The last domain at least is fresh in mind; by chance it would be a tenth.
        let last = *accuracies(&ended).last().unwrap();
        assert!(last > 0.4, "{domains:?}: {last}");
    }
}

#[test]
fn samples_held_out_are_not_trained_on() {
    let ended = trained(|c| c.stream.validation = 0.5, &[FIRST, SECOND]);
    let rest = |classes: [usize; 5]| classes.map(|c| SAMPLES[c] - SAMPLES[c].div_ceil(2)).iter().sum::<u64>();
    let n_steps: u64 = [[8, 3, 6, 4, 7], [2, 5, 9, 1, 0]].map(|c| 2 * rest(c).div_ceil(32)).iter().sum();
    assert_eq!(ended.started().n_steps, n_steps);
}

#[test]
fn a_reduced_data_set_is_trained_in_every_augmentation() {
    let change = |c: &mut AgentConfig| {
        c.data.classes = 4;
        c.data.samples_per_class = 64;
        c.data.test_samples_per_class = 20;
        c.data.views = 6;
        c.data.color_jitter = ColorJitterConfig { brightness: 0.2, contrast: 0.2, saturation: 0.2 };
        c.data.cutmix = 0.5;
        // The digits' pixels go up to 16 of 255.
        let given = GivenNormalization { mean: vec![0.02], std: vec![0.02] };
        c.data.normalization = NormalizationConfig::Given(given);
        c.stream.class_order = ClassOrder::List(vec![3, 1, 0, 2]);
        c.train.epochs = 6;
    };
    let ended = trained(change, &[&["3", "1"], &["0", "2"]]);
    assert_eq!(ended.started().n_steps, 2 * 6 * (2 * 64 / 32));
    let again = trained(change, &[&["3", "1"], &["0", "2"]]);
    assert_eq!(accuracies(&ended), accuracies(&again), "a run is repeatable");
    // A few dozen steps on mixed images; by chance it would be a quarter.
    let mean = accuracies(&ended).iter().sum::<f64>() / 2.0;
    assert!(mean > 0.5, "{:?}", accuracies(&ended));
}

#[test]
fn settings_that_change_nothing_are_told() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config::alone(root.path(), "alice");
    config.train.epochs = 1;
    config.train.dropout = true;
    config.stream.proxy = 0.1;
    let ended = start(&config).end();
    ended.finished();
    let warnings: Vec<&String> = ended
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Warning { message } => Some(message),
            _ => None,
        })
        .collect();
    let [dropout, proxy] = warnings[..] else { panic!("{warnings:?}") };
    assert!(dropout.starts_with("`train.dropout` changes nothing"), "{dropout}");
    assert!(proxy.starts_with("`stream.proxy` sets samples aside"), "{proxy}");
}

#[test]
fn an_agent_of_a_lab_takes_over_the_class_order_of_another() {
    let case = Case::new();
    let lab = r#"
        title = "One order"
        [defaults]
        fleet = "lab"
        data.views = 2
        stream.experiences = 2
        train.epochs = 1
        exchange.enabled = false
        [[agents]]
        agent = "alice"
        stream.class_order = 1
        [[agents]]
        agent = "bob"
        seed = 2
        stream.class_order = "alice"
    "#;
    let output = run(crate::testbed(case.folder.path(), lab));
    let out = case.path("out");
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    // What bob was run with can be run by hand, without alice.
    let written = AgentConfig::read(&out.join("bob/agent.toml")).unwrap();
    assert_eq!(written.stream.class_order, ClassOrder::Seed(1));
    assert!(!fs::read_to_string(out.join("bob/agent.toml")).unwrap().contains("alice"));
}

#[test]
fn an_agent_takes_over_the_class_order_of_a_file() {
    let case = Case::new();
    let mut alice = config::alone(case.folder.path(), "alice");
    alice.stream.class_order = ClassOrder::Seed(1);
    config::write(case.folder.path(), &alice);
    let mut bob = config::alone(case.folder.path(), "bob");
    bob.stream.class_order = ClassOrder::SameAs("alice.toml".to_owned());
    let ended = start(&bob).end();
    assert_eq!(ended.started().experiences, [FIRST, SECOND]);
    ended.finished();
}

#[test]
fn class_orders_of_nobody_are_refused() {
    let case = Case::new();
    let output = case.agent(|c| c.stream.class_order = ClassOrder::SameAs("carol.toml".to_owned()));
    check("no such file", &output, 66, &["cannot read the configuration", "carol.toml"]);
    let output = case.agent(|c| c.stream.class_order = ClassOrder::SameAs("alice.toml".to_owned()));
    check("its own", &output, 78, &["have each other's class order", "a seed or a list"]);
    let lab = |order: &str, says: &[&str]| {
        let text = "title = \"x\"\n[defaults]\nfleet = \"f\"\n[[agents]]\nagent = \"a\"\n[[agents]]\nagent = \"b\"\n";
        let lab = format!("{text}stream.class_order = \"{order}\"\n");
        let output = run(crate::testbed(case.folder.path(), &lab));
        check(order, &output, 78, &[&["lab.toml"], says].concat());
    };
    lab("c", &["`b` has the class order of `c`, but this lab has `a`, `b`; name one of them"]);
    lab("b", &["`b`, `b` have each other's class order"]);
}

#[test]
fn streams_that_cannot_be_are_refused_with_what_to_do() {
    let case = Case::new();
    let refused = |says: &[&str], change: fn(&mut AgentConfig)| {
        check(&format!("{says:?}"), &case.agent(change), 78, says);
    };
    fn by_domain(c: &mut AgentConfig) {
        c.stream.kind = StreamKind::DomainIncremental;
        c.stream.class_order = ClassOrder::Seed(0);
    }
    refused(&["10 classes do not divide into 3"], |c| {
        c.stream.kind = StreamKind::TaskIncremental;
        c.stream.experiences = 3;
    });
    refused(&["`stream.class_order` must be left out", "domain-incremental", "found 1"], |c| {
        c.stream.kind = StreamKind::DomainIncremental;
    });
    refused(&["`stream.domains` must be left out", "found permute"], |c| c.stream.domains = Domains::Permute);
    refused(&["`stream.experiences` must be at most 4", "quarter turns", "found 5"], |c| {
        by_domain(c);
        c.stream.domains = Domains::Rotate;
        c.stream.experiences = 5;
    });
    refused(&["class `8` has 35 test samples, fewer than the 36", "a smaller `stream.experiences`"], |c| {
        by_domain(c);
        c.stream.experiences = 36;
    });
    refused(&["`stream.validation` must be a share from 0 to below 1, found 1"], |c| {
        c.stream.validation = 1.0;
    });
    refused(&["has 1 training sample", "`stream.validation` = 0"], |c| {
        c.data.samples_per_class = 1;
        c.stream.validation = 0.5;
    });
    refused(&["`data.classes`", "at most the 10 classes of the data, found 12"], |c| c.data.classes = 12);
    refused(&["`data.samples_per_class` = 140", "class `8` has 139 samples", "choose 139"], |c| {
        c.data.samples_per_class = 140;
    });
    refused(&["`data.test_samples_per_class` = 36", "class `8` has 35 samples"], |c| {
        c.data.test_samples_per_class = 36;
    });
}

#[test]
fn augmentations_that_cannot_be_are_refused_with_what_to_do() {
    let case = Case::new();
    let refused = |says: &[&str], change: fn(&mut AgentConfig)| {
        check(&format!("{says:?}"), &case.agent(change), 78, says);
    };
    refused(&["`data.cutmix` must be 0 with the exchange", "[teacher]", "exchange.enabled = false"], |c| {
        c.data.cutmix = 0.5;
        c.exchange.enabled = true;
    });
    refused(&["`data.cutmix` must be a probability", "found 2"], |c| c.data.cutmix = 2.0);
    refused(&["`data.color_jitter` must be", "from 0 to 1", "contrast: -0.5"], |c| {
        c.data.color_jitter.contrast = -0.5;
    });
    refused(&["`data.normalization`: expected a mean and a std for each of 1 channels, found 3"], |c| {
        let given = GivenNormalization { mean: vec![0.5; 3], std: vec![0.25; 3] };
        c.data.normalization = NormalizationConfig::Given(given);
    });
    let text = "agent = \"alice\"\nfleet = \"lab\"\n[data]\nnormalization = \"none\"";
    check("none", &case.text(text), 78, &["line 4", "expected \"auto\", or { mean = [...], std = [...] }"]);
}
