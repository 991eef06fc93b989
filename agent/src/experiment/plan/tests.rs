use std::collections::BTreeSet;

use super::*;
use crate::data::ImageShape;
use crate::experiment::preset::{self, PRESETS};
use crate::strategy::STRATEGIES;
use crate::stream::ClassOrder;

const DIGITS: Facts = Facts {
    classes: 10,
    train_per_class: 139,
    test_per_class: 35,
    shape: ImageShape { channels: 1, height: 8, width: 8 },
};
const CIFAR100: Facts = Facts {
    classes: 100,
    train_per_class: 500,
    test_per_class: 100,
    shape: ImageShape { channels: 3, height: 32, width: 32 },
};

fn options(name: &str, set: &[&str]) -> Options {
    let preset = preset::find(name).unwrap();
    let teacher = preset.teacher.map(|kind| TeacherOptions {
        recipe: preset::teacher(kind).unwrap(),
        network: None,
        set: Vec::new(),
        keep_order: false,
        trained: None,
    });
    Options {
        preset,
        recipe: &preset.student,
        data: "data".to_owned(),
        scale: 1.0,
        agents: if preset.design == Design::Exchange { 2 } else { 1 },
        seeds: vec![0, 5],
        network: None,
        teacher,
        strategies: STRATEGIES.iter().collect(),
        control: true,
        threads: 1,
        set: set.iter().map(|text| text.parse().unwrap()).collect(),
        out: PathBuf::from("out"),
    }
}

fn planned(options: &Options, facts: &Facts) -> Plan {
    plan(options, facts, "d1g").unwrap_or_else(|e| panic!("{}: {e:?}", options.preset.name))
}

#[test]
fn every_preset_is_valid_for_every_data_and_scale() {
    for preset in &PRESETS {
        for facts in [DIGITS, CIFAR100] {
            for scale in [1.0, 0.1, 0.001] {
                let plan = planned(&Options { scale, ..options(preset.name, &[]) }, &facts);
                assert!(plan.runs.len() >= 2, "{}", preset.name);
                let folders: BTreeSet<PathBuf> =
                    plan.runs.iter().flat_map(|run| &run.agents).map(AgentConfig::out_dir).collect();
                let n_agents: usize = plan.runs.iter().map(|run| run.agents.len()).sum();
                assert_eq!(folders.len(), n_agents, "each agent has a folder of its own");
                assert!(folders.iter().all(|folder| folder.starts_with("out")));
            }
        }
    }
    for recipe in &preset::TEACHERS {
        planned(&Options { recipe, ..options("teacher", &[]) }, &CIFAR100);
    }
}

#[test]
fn the_thesis_figures_are_those_of_full_scale() {
    let student = |name: &str| planned(&options(name, &[]), &CIFAR100).runs.pop().unwrap().agents[0].clone();
    for (name, epochs, learning_rate, weight) in [
        ("cifar100-training", 300, 0.001, 5.0),
        ("splitcifar100-pretrained", 800, 0.01, 0.5),
        ("step-training", 800, 0.01, 0.01),
    ] {
        let config = student(name);
        let train = &config.train;
        assert_eq!(
            (train.epochs, train.learning_rate, train.distill.weight),
            (epochs, learning_rate, weight)
        );
        assert_eq!((train.batch_size, train.clip_norm), (256, 5.0), "{name}");
        assert_eq!((config.replay.capacity, config.replay.batch_size), (Some(2000), 256), "{name}");
        assert_eq!((config.stream.experiences, config.data.crop_padding, config.data.flip), (10, 4, true));
        assert_eq!((config.data.classes, config.data.samples_per_class), (0, 0), "{name}");
        assert_eq!(config.model.network, "slim-resnet18");
    }
    assert_eq!(student("cifar100-training").data.cutmix, 0.5);
    let stepping = student("step-training");
    assert_eq!((stepping.exchange.refresh_epochs, stepping.data.views), (10, 10));
}

#[test]
fn arms_of_a_seed_differ_in_nothing_but_what_is_compared() {
    for name in ["cifar100-training", "splitcifar100-pretrained", "step-training"] {
        let plan = planned(&options(name, &[]), &DIGITS);
        for seed in [0, 5] {
            let of = |arm| plan.runs.iter().find(|run| run.arm == Some(arm) && run.seed == seed).unwrap();
            for (treated, control) in of(0).agents.iter().zip(&of(1).agents) {
                let mut same = treated.clone();
                same.out.clone_from(&control.out);
                same.teacher.models.clear();
                same.exchange.enabled = false;
                assert_eq!(&same, control, "{name}");
                assert_ne!(treated.out, control.out);
                let is_exchange = name == "step-training";
                assert_eq!(
                    (treated.exchange.enabled, treated.teacher.models.is_empty()),
                    (is_exchange, is_exchange)
                );
            }
        }
    }
}

#[test]
fn learners_of_a_run_share_their_weights_and_nothing_else() {
    let plan = planned(&Options { agents: 3, ..options("step-training", &[]) }, &DIGITS);
    let mut orders = BTreeSet::new();
    for run in plan.runs.iter().filter(|run| run.arm == Some(0)) {
        for agent in &run.agents {
            assert_eq!(agent.model.seed, Some(run.seed));
            assert_eq!(agent.stream.class_order, ClassOrder::Seed(agent.seed));
            assert_eq!(agent.exchange.wait_for_peers, 2);
            orders.insert(agent.seed);
        }
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn one_teacher_is_trained_for_all_seeds() {
    let by_name = |name| planned(&options(name, &[]), &DIGITS);
    let joint = by_name("cifar100-training");
    let teachers: Vec<&Run> = joint.runs.iter().filter(|run| run.arm.is_none()).collect();
    assert_eq!(teachers, [&joint.runs[0]]);
    assert_eq!(
        joint.runs[1].agents[0].teacher.models,
        [PathBuf::from("out/teacher/seed-1000/joint/model.onnx")]
    );
    let continual = by_name("splitcifar100-pretrained");
    let models = &continual.runs[1].agents[0].teacher.models;
    assert_eq!(models.len(), 5);
    assert_eq!(models[4], PathBuf::from("out/teacher/seed-1000/lwf/models/experience-5.onnx"));
    assert!(continual.runs[0].agents[0].checkpoint.models);
    assert_ne!(continual.runs[1].agents[0].stream.class_order, ClassOrder::Seed(TEACHER_SEED));
    let mut options = options("splitcifar100-pretrained", &[]);
    options.seeds = vec![TEACHER_SEED];
    assert!(matches!(plan(&options, &DIGITS, ""), Err(PlanError::TeacherSeed { .. })));
    options.teacher.as_mut().unwrap().keep_order = true;
    let kept = planned(&options, &DIGITS);
    assert_eq!(kept.runs[1].agents[0].stream.class_order, ClassOrder::Seed(TEACHER_SEED));
}

#[test]
fn a_trained_teacher_must_have_what_the_experiment_needs() {
    let trained = Trained {
        folder: PathBuf::from("t"),
        last: PathBuf::from("t/model.onnx"),
        by_experience: vec![PathBuf::from("t/models/experience-1.onnx")],
        class_order: None,
        digest: "abc".to_owned(),
    };
    let with = |name: &str, keep_order: bool| {
        let mut options = options(name, &[]);
        let teacher = options.teacher.as_mut().unwrap();
        (teacher.trained, teacher.keep_order) = (Some(trained.clone()), keep_order);
        plan(&options, &DIGITS, "")
    };
    let joint = with("cifar100-training", false).unwrap();
    assert!(joint.runs.iter().all(|run| run.arm.is_some()));
    assert_eq!(joint.runs[0].agents[0].teacher.models, [PathBuf::from("t/model.onnx")]);
    let error = with("splitcifar100-pretrained", false).unwrap_err().to_string();
    assert!(error.contains("`t`: expected a network for each of 5 experiences, found 1"), "{error}");
    assert!(matches!(with("cifar100-training", true), Err(PlanError::NoOrder { .. })));
}

#[test]
fn a_teacher_that_is_trained_first_must_fit_the_student() {
    let error = |name: &str, teacher_set: &[&str]| {
        let mut options = options(name, &[]);
        options.teacher.as_mut().unwrap().set =
            teacher_set.iter().map(|text| text.parse().unwrap()).collect();
        plan(&options, &DIGITS, "").err().map(|error| error.to_string())
    };
    for (set, says) in [
        (&["stream.experiences=2"][..], "with 5 experiences, as the student has, found 2"),
        (&["data.classes=5"], "with 10 classes, as the student has, found 5"),
        (
            &["strategy={name=\"joint\"}", "replay.capacity=0"],
            "with 5 experiences, as the student has, found 1",
        ),
    ] {
        let error = error("splitcifar100-pretrained", set).unwrap_or_default();
        assert!(error.contains(says), "{set:?}: {error}");
    }
    assert_eq!(error("splitcifar100-pretrained", &["train.epochs=3"]), None);
    // Its final network serves every experience.
    assert_eq!(error("cifar100-training", &["stream.experiences=2"]), None);
    assert!(error("cifar100-training", &["data.classes=5"]).is_some());
}

#[test]
fn what_would_be_ignored_or_would_not_fit_is_refused() {
    let largest =
        Options { seeds: vec![MAX_SEED], agents: MAX_AGENTS as usize, ..options("step-training", &[]) };
    let agents = planned(&largest, &DIGITS).runs.remove(0).agents;
    assert_eq!(agents.last().unwrap().seed, MAX_SEED * 64 + 63);
    let error = plan(&Options { seeds: vec![0, MAX_SEED + 1], ..largest }, &DIGITS, "").unwrap_err();
    assert!(error.to_string().contains("seed 9007199254740992 is too large"), "{error}");
    for set in ["strategy.name=replay", "strategy={name=\"replay\"}"] {
        let error = plan(&options("strategies", &[set]), &DIGITS, "").unwrap_err().to_string();
        assert!(error.ends_with("cannot be set here: use --strategies"), "{error}");
        planned(&options("step-training", &[set]), &DIGITS);
    }
}

#[test]
fn what_the_user_sets_wins_and_the_rest_follows() {
    let set = ["train.batch_size=8", "exchange.refresh_epochs=3", "stream.class_order=[9,8,7,6,5,4,3,2,1,0]"];
    let plan = planned(&options("step-training", &set), &DIGITS);
    let agent = &plan.runs[0].agents[0];
    assert_eq!((agent.train.batch_size, agent.replay.batch_size), (8, 8));
    assert_eq!((agent.exchange.refresh_epochs, agent.data.views), (3, 4));
    assert_eq!(agent.exchange.rows_per_step, 64);
    assert!(matches!(&agent.stream.class_order, ClassOrder::List(list) if list[0] == 9));
    assert_eq!(plan.settings["student.train.batch_size"], "8");
    let error = super::plan(&options("step-training", &["train.epochz=3"]), &DIGITS, "").unwrap_err();
    assert!(matches!(error, PlanError::Config(ConfigError::Parse { .. })), "{error:?}");
}

#[test]
fn steps_are_those_of_the_run_that_has_the_fewest() {
    let steps = |scale, set: &[&str]| {
        let options = Options { scale, ..options("strategies", set) };
        planned(&options, &DIGITS).fewest_steps(&DIGITS)
    };
    // 2 classes of 20 samples in mini-batches of 32; a joint run, which has all at once, has more.
    assert_eq!(steps(0.05, &[]), 5 * 2);
    assert_eq!(steps(0.05, &["train.epochs=30", "train.batch_size=8"]), 30 * 5);
    assert_eq!(steps(0.05, &["data.samples_per_class=64"]), 5 * 4);
    // The teacher's count as well.
    let mut guided = options("splitcifar100-pretrained", &[]);
    guided.teacher.as_mut().unwrap().set = vec!["train.epochs=3".parse().unwrap()];
    assert_eq!(planned(&guided, &DIGITS).fewest_steps(&DIGITS), 3 * 9);
}

#[test]
fn settings_tell_experiments_apart_and_not_their_runs() {
    let base = planned(&options("step-training", &[]), &DIGITS).settings;
    let more = Options { seeds: vec![7], threads: 4, control: false, ..options("step-training", &[]) };
    assert_eq!(planned(&more, &DIGITS).settings, base);
    for other in [
        Options { scale: 0.5, ..options("step-training", &[]) },
        Options { agents: 3, ..options("step-training", &[]) },
        Options { network: Some("resnet32".to_owned()), ..options("step-training", &[]) },
        options("step-training", &["train.learning_rate=0.1"]),
        options("strategies", &[]),
    ] {
        assert_ne!(planned(&other, &DIGITS).settings, base);
    }
}
