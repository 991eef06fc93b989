//! Every strategy in whole agents: what it trains on, what it comes to, and that a run which was stopped ends as one
//! which was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dkt_agent::config::{AgentConfig, GivenNormalization, NormalizationConfig, OptimizerConfig};
use dkt_agent::strategy::schedule::{Every, LearningRateSchedule};
use dkt_agent::strategy::{STRATEGIES, TrainsOn};
use dkt_agent::stream::memory::Selection;
use dkt_agent::stream::{ClassOrder, StreamKind};
use dkt_agent::telemetry::event::{Epoch, Event};
use dkt_models::DualHead;
use dkt_tests::broker::Mosquitto;
use dkt_tests::config;
use dkt_tests::process::Ended;
use onnx_grad::graph::Graph;

use crate::start;

fn agent(root: &Path, strategy: &str) -> AgentConfig {
    let mut config = config::alone(root, "alice");
    config.strategy.name = strategy.to_owned();
    config.stream.experiences = 5;
    config.replay.capacity = None;
    config.data.samples_per_class = 40;
    // What belongs to a strategy is as short as the rest.
    if config.strategy.strategy().balanced_fine_tuning {
        config.strategy.constants.insert("finetune_epochs".to_owned(), 2.0);
    }
    config
}

fn epochs(ended: &Ended) -> Vec<Epoch> {
    let epoch = |event: &'_ Event| if let Event::Epoch(epoch) = event { Some(epoch.clone()) } else { None };
    ended.events.iter().filter_map(epoch).collect()
}

fn final_accuracy(ended: &Ended) -> f64 {
    let heads = &ended.evaluated().last().unwrap().heads;
    heads.iter().find(|head| head.head == "cl").unwrap().stream
}

fn model(root: &Path) -> Vec<u8> {
    fs::read(root.join("alice/model.onnx")).unwrap()
}

#[test]
fn every_strategy_trains_its_stream_and_goes_on_to_the_same_bytes() {
    let agent = |root: &Path, name: &str| {
        let mut config = agent(root, name);
        if config.strategy.strategy().gradient_noise {
            config.strategy.constants.insert("noise_eta".to_owned(), 0.01);
        }
        config
    };
    for strategy in &STRATEGIES {
        let ended = goes_on(strategy.name, &|root| agent(root, strategy.name));
        let n_experiences = if strategy.trains_on == TrainsOn::Everything { 1 } else { 5 };
        assert_eq!(ended.evaluated().len(), n_experiences, "{}", strategy.name);
        assert_eq!(
            ended.started().n_steps,
            ended.finished().n_steps,
            "{}: steps as announced",
            strategy.name
        );
    }
}

/// Runs an agent once through, and once killed in its second half and started again; both end alike. Returns the first.
fn goes_on(name: &str, config: &dyn Fn(&Path) -> AgentConfig) -> Ended {
    let whole = tempfile::tempdir().unwrap();
    let ended = start(&config(whole.path())).end();
    assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
    let stopped = tempfile::tempdir().unwrap();
    let mut config = config(stopped.path());
    config.checkpoint.every_steps = 3;
    let mut first = start(&config);
    let n_steps = ended.finished().n_steps;
    first.wait_for("a checkpoint in the second half", |event| match event {
        Event::Checkpointed { step, .. } if *step >= n_steps / 2 => Some(()),
        _ => None,
    });
    first.kill();
    assert_eq!(first.end().code, None, "{name}: it had ended before it was killed");
    let second = start(&config).end();
    let resumed = second.started().resumed_at_step;
    assert!((n_steps / 2..n_steps).contains(&resumed), "{name}: resumed at {resumed} of {n_steps}");
    assert!(model(stopped.path()) == model(whole.path()), "{name}: it ended elsewhere");
    let last = |ended: &Ended| ended.evaluated().last().unwrap().heads.clone();
    assert_eq!(last(&ended), last(&second), "{name}");
    ended
}

#[test]
fn what_is_combined_goes_on_to_the_same_bytes_too() {
    type Change<'a> = &'a dyn Fn(&mut AgentConfig);
    let changes: [(&str, &str, Change<'_>); 3] = [
        ("der++ in micro-batches, with a proxy set and CutMix", "der++", &|c| {
            c.train.micro_batches = 3;
            c.stream.proxy = 0.2;
            c.data.cutmix = 0.5;
        }),
        ("eeil with pre-training and early stopping", "eeil", &|c| {
            c.train.pretrain_epochs = 2;
            c.train.epochs = 5;
            c.stream.validation = 0.3;
            c.train.early_stopping.patience = 1;
        }),
        ("ewc by task, in micro-batches, with a memory", "ewc", &|c| {
            c.stream.kind = StreamKind::TaskIncremental;
            c.train.micro_batches = 2;
            c.replay.capacity = Some(20);
            c.replay.selection = Some(Selection::Herding);
        }),
    ];
    for (what, strategy, change) in changes {
        goes_on(what, &|root| {
            let mut config = agent(root, strategy);
            change(&mut config);
            config
        });
    }
}

#[test]
fn what_keeps_the_past_forgets_less_than_what_does_not() {
    let accuracy = |name: &str, change: &dyn Fn(&mut AgentConfig)| {
        let root = tempfile::tempdir().unwrap();
        let mut config = agent(root.path(), name);
        config.data.samples_per_class = 0;
        config.train.epochs = 6;
        change(&mut config);
        final_accuracy(&start(&config).end())
    };
    let naive = accuracy("naive", &|_| ());
    let by_name: BTreeMap<&str, f64> = ["joint", "cumulative", "replay", "eeil", "der++"]
        .into_iter()
        .map(|n| (n, accuracy(n, &|_| ())))
        .collect();
    // One of five experiences is what is left without any memory.
    assert!(naive < 0.3, "{naive}");
    for (name, accuracy) in by_name {
        assert!(accuracy > naive + 0.3, "{name}: {accuracy} beside {naive}");
    }
}

#[test]
fn rates_weights_and_losses_follow_the_schedules() {
    let root = tempfile::tempdir().unwrap();
    let mut config = agent(root.path(), "lwf");
    config.train.epochs = 4;
    config.train.pretrain_epochs = 2;
    config.train.learning_rate = 0.01;
    config.train.schedule = LearningRateSchedule::Step { every: 2, gamma: 0.5, warmup_epochs: 0 };
    config.train.distill.weight = 1.0;
    config.train.distill.weight_step = 0.5;
    config.train.distill.weight_every = Every::Epochs(2);
    let ended = start(&config).end();
    let epochs = epochs(&ended);
    assert_eq!(epochs.len(), 2 + 5 * 4);
    let rates: Vec<f32> = epochs[..6].iter().map(|e| e.learning_rate.unwrap()).collect();
    assert_eq!(rates, [0.01, 0.01, 0.01, 0.01, 0.005, 0.005]);
    let weights: Vec<f32> = epochs[..6].iter().map(|e| e.distill_weight.unwrap()).collect();
    assert_eq!(weights, [0.0, 0.0, 1.0, 1.0, 1.5, 1.5]);
    let retained: Vec<f32> = epochs.iter().map(|e| e.loss_retention.unwrap()).collect();
    assert!(retained[..6].iter().all(|loss| *loss == 0.0), "there is no past in the first experience");
    assert!(retained[6..].iter().all(|loss| *loss > 0.0), "{retained:?}");
    assert!(epochs.iter().all(|e| e.loss_penalty.is_none()));
}

#[test]
fn fine_tuning_comes_after_the_experiences_that_are_to_have_it_at_its_own_rate() {
    let root = tempfile::tempdir().unwrap();
    let mut config = agent(root.path(), "eeil");
    config.train.learning_rate = 0.01;
    config.strategy.constants.insert("finetune_from".to_owned(), 3.0);
    config.strategy.constants.insert("finetune_rate".to_owned(), 0.5);
    let ended = start(&config).end();
    let rates = |experience| -> Vec<f32> {
        let of_experience = epochs(&ended).into_iter().filter(|e| e.experience == experience);
        of_experience.map(|e| e.learning_rate.unwrap()).collect()
    };
    for experience in 0..5 {
        let expected: &[f32] = if experience < 2 { &[0.01; 2] } else { &[0.01, 0.01, 0.005, 0.005] };
        assert_eq!(rates(experience), expected, "experience {experience}");
    }
}

#[test]
fn an_experience_ends_when_the_validation_accuracy_no_longer_rises() {
    let root = tempfile::tempdir().unwrap();
    let mut config = agent(root.path(), "replay");
    config.data.samples_per_class = 0;
    config.stream.validation = 0.2;
    config.train.epochs = 30;
    config.train.early_stopping.patience = 2;
    config.train.early_stopping.margin = 0.01;
    let ended = start(&config).end();
    let epochs = epochs(&ended);
    for experience in 0..5 {
        let accuracies: Vec<f64> = epochs
            .iter()
            .filter(|e| e.experience == experience)
            .map(|e| e.validation_accuracy.unwrap())
            .collect();
        let (mut best, mut n_without_gain, mut has_gained) = (f64::NEG_INFINITY, 0, false);
        for (i, accuracy) in accuracies.iter().enumerate() {
            if *accuracy > best + 0.01 {
                has_gained |= i > 0;
                (best, n_without_gain) = (*accuracy, 0);
            } else {
                n_without_gain += u32::from(has_gained);
            }
            let is_last = i + 1 == accuracies.len();
            assert_eq!(
                is_last,
                n_without_gain == 2 || i + 1 == 30,
                "experience {experience}: {accuracies:?}"
            );
        }
    }
    assert!(ended.finished().n_steps < ended.started().n_steps, "some experience ended early");
}

#[test]
fn a_trained_network_teaches_every_row_of_its_experience() {
    let root = tempfile::tempdir().unwrap();
    let mut teacher = agent(root.path(), "joint");
    teacher.data.samples_per_class = 0;
    teacher.train.epochs = 12;
    teacher.checkpoint.models = true;
    let taught_by = final_accuracy(&start(&teacher).end());
    let saved = root.path().join("alice/models/experience-1.onnx");
    assert!(fs::read(&saved).unwrap() == model(root.path()), "the last experience is the end");
    DualHead::from_graph(Graph::read(&saved).unwrap()).unwrap();

    let student = |change: &dyn Fn(&mut AgentConfig)| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = agent(folder.path(), "naive");
        config.data.samples_per_class = 0;
        config.data.cutmix = 0.5;
        config.train.epochs = 6;
        change(&mut config);
        start(&config).end()
    };
    let ended = student(&|c| c.teacher.models = vec![saved.clone()]);
    assert!(epochs(&ended).iter().all(|e| e.teacher_share == 1.0));
    let of_student = |ended: &Ended| ended.evaluated().last().unwrap().heads[1].stream;
    let renormalised = student(&|c| {
        c.teacher.models = vec![saved.clone()];
        let given = GivenNormalization { mean: vec![0.0], std: vec![0.05] };
        c.data.normalization = NormalizationConfig::Given(given);
    });
    let alone = student(&|_| ());
    assert!(epochs(&alone).iter().all(|e| e.teacher_share == 0.0));
    // The student head sees the classes one experience after the other too, but its teacher knows all.
    assert!(of_student(&ended) > of_student(&alone) + 0.2, "{} {}", of_student(&ended), of_student(&alone));
    let found = of_student(&renormalised);
    assert!(found > of_student(&alone) + 0.2, "taught with images that it does not know: {found}");
    assert!(taught_by > 0.9, "{taught_by}");
}

/// Two agents with half of the classes each, one after the other; what one does not have, the other teaches.
#[test]
fn a_public_set_teaches_the_student_head_classes_that_its_agent_never_sees() {
    let root = tempfile::tempdir().unwrap();
    let broker = Mosquitto::dev();
    let agent = |name: &str, order: Vec<u16>| {
        let mut config = config::exchanging(root.path(), name, &broker.url(), None);
        config.stream.class_order = ClassOrder::List(order);
        config.stream.proxy = 0.3;
        config.train.epochs = 30;
        config.train.proxy_batch_size = 64;
        config
    };
    let alice = start(&agent("alice", (0..10).collect()));
    let bob = start(&agent("bob", (0..10).rev().collect()));
    for mut agent in [alice, bob] {
        let heads = agent.wait_for("the end of an experience", |event| match event {
            Event::Evaluated(evaluated) => Some(evaluated.heads.clone()),
            _ => None,
        });
        // R[0][1]: classes of the second experience, after the first.
        let of = |head: usize| heads[head].per_experience[1];
        assert!(of(0) < 0.05, "labels alone cannot teach them: {}", of(0));
        assert!(of(1) > 0.5, "the peer has taught {} of them", of(1));
        agent.kill();
        agent.end();
    }
}

#[test]
fn the_memory_is_as_large_as_it_may_be_and_chosen_as_asked() {
    let mut models: Vec<Vec<u8>> = Vec::new();
    for selection in [Selection::Reservoir, Selection::ClassBalanced, Selection::Herding] {
        let root = tempfile::tempdir().unwrap();
        let mut config = agent(root.path(), "replay");
        config.replay.capacity = Some(30);
        config.replay.batch_size = 30;
        config.replay.selection = Some(selection);
        let ended = start(&config).end();
        let rows = ended.evaluated().iter().map(|e| e.usage.as_ref().unwrap().n_samples).collect::<Vec<_>>();
        // 80 new samples in 3 mini-batches, 2 epochs; from the second experience on 30 remembered ones in each.
        assert_eq!(rows, [160, 340, 340, 340, 340], "{selection:?}");
        let model = model(root.path());
        assert!(!models.contains(&model), "{selection:?} remembers what another does");
        models.push(model);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let refused = [
        ("strategy = { name = \"icarl\" }", "`strategy.name` must be the name of a strategy, found `icarl`"),
        (
            "strategy = { name = \"naive\" }\nreplay = { capacity = 9 }",
            "`replay.capacity` must be 0 or left out",
        ),
        ("teacher = { models = [\"x.onnx\"] }\nexchange = { enabled = true }", "one kind of teacher"),
        ("train = { early_stopping = { patience = 3 } }", "`stream.validation` above 0"),
        (
            "train = { pretrain_epochs = 3, optimizer = { name = \"adamw\" } }",
            "0 where there is weight decay, which would move the student head",
        ),
    ];
    for (text, says) in refused {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.toml");
        fs::write(&file, format!("agent = \"a\"\nfleet = \"f\"\n{text}")).unwrap();
        let output = dkt_tests::process::run(crate::dkt(["run".as_ref(), file.as_os_str()]));
        assert_eq!(output.code, Some(78), "{text}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{text}: {}", output.stderr);
    }
    let root = tempfile::tempdir().unwrap();
    let mut config = agent(root.path(), "naive");
    config.teacher.models = vec!["missing.onnx".into()];
    let ended = start(&config).end();
    assert_eq!(ended.code, Some(66), "{}", ended.stderr);
    config.train.optimizer = OptimizerConfig::default();
    config.teacher.models = vec!["a.onnx".into(), "b.onnx".into()];
    let ended = start(&config).end();
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("one for each of 5 experiences, found 2"), "{}", ended.stderr);
}
