//! The command line of `dkt experiment`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Subcommand, ValueEnum};

use super::super::CliError;
use super::super::run::TensorBoardArguments;
use crate::config::lab::EMBEDDED;
use crate::experiment::overrides::Override;
use crate::experiment::plan::{MAX_AGENTS, Options, TEACHER_SEED, TeacherOptions};
use crate::experiment::preset::{self, Design, Preset, Recipe};
use crate::experiment::teacher;
use crate::strategy::{self, STRATEGIES, Strategy};
use crate::telemetry::progress::Style;

/// Most seeds of one command.
const MAX_SEEDS: usize = 1000;

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// A teacher trained on all classes guides a continual student
    #[command(name = "cifar100-training")]
    Cifar100Training {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        guided: Guided,
    },
    /// A continual teacher, one checkpoint for each experience, guides a continual student
    #[command(name = "splitcifar100-pretrained")]
    SplitCifar100Pretrained {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        guided: Guided,
        /// Strategy of the teacher that is trained first
        #[arg(long, value_enum, default_value_t = Continual::Lwf)]
        teacher: Continual,
        /// Students meet the classes in the teacher's order, and not each seed in its own
        #[arg(long)]
        keep_order: bool,
    },
    /// Continual learners, each with the classes in its own order, teach each other over a broker
    StepTraining {
        #[command(flatten)]
        common: Common,
        /// Learners of one run
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=MAX_AGENTS))]
        agents: u64,
        /// `embedded`, or the URL of a running broker
        #[arg(long, default_value = EMBEDDED, value_name = "URL")]
        broker: String,
        /// Leave out the runs with the exchange off
        #[arg(long)]
        no_control: bool,
    },
    /// Train every strategy on the same stream, without a teacher
    Strategies {
        #[command(flatten)]
        common: Common,
        /// Strategies to compare, the first with each of the others; all, if left out
        #[arg(long, value_delimiter = ',', value_parser = strategy, value_name = "NAMES")]
        strategies: Vec<&'static Strategy>,
    },
    /// Train a teacher for other experiments, and keep its network after each experience
    Teacher {
        /// Kind of teacher
        #[arg(value_enum)]
        kind: Kind,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
struct Common {
    /// `digits`, or a path: docs/data.md lists the formats
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Share of samples, epochs and, if there are many, classes
    #[arg(long, default_value_t = 1.0, value_name = "0..1")]
    scale: f64,
    /// How many seeds, counted from 0; or the seeds themselves: 0,1,2 (one: 7,). 3, if left out; a teacher has one
    #[arg(long)]
    seeds: Option<Seeds>,
    /// Network of what is trained: a name from `dkt model list`, or a dual-head ONNX file
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Folder for everything the experiment writes; `runs/` and the experiment's name, if left out
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Threads of each agent on the CPU
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// A key of AGENT.toml and its value, in place of what the experiment would choose: train.epochs=6
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = Style::Auto)]
    progress: Style,
    #[command(flatten)]
    tensorboard: TensorBoardArguments,
}

#[derive(clap::Args)]
struct Guided {
    /// A trained teacher: an ONNX file, an agent's folder, or the --out of `dkt experiment teacher`
    #[arg(long, value_name = "PATH", conflicts_with_all = ["teacher_network", "teacher_set"])]
    teacher_from: Option<PathBuf>,
    /// Network of the teacher that is trained first
    #[arg(long, value_name = "NETWORK")]
    teacher_network: Option<String>,
    /// As --set, for the teacher that is trained first
    #[arg(long, value_name = "KEY=VALUE")]
    teacher_set: Vec<Override>,
    /// Leave out the runs without a teacher
    #[arg(long)]
    no_control: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Continual {
    /// Learning without forgetting, with replay
    Lwf,
    /// End-to-end incremental learning
    Eeil,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// On all classes at once
    Joint,
    /// Learning without forgetting, with replay
    Lwf,
    /// End-to-end incremental learning
    Eeil,
}

/// `3`, or `0,1,2`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seeds(Vec<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("expected a number of seeds, or seeds once each: 0,1,2; found `{text}`");
        let seeds: Vec<u64> = if text.contains(',') {
            let list = text.strip_suffix(',').unwrap_or(text);
            list.split(',')
                .map(|seed| seed.trim().parse())
                .collect::<Result<_, _>>()
                .map_err(|_| expected())?
        } else {
            let n: usize = text.trim().parse().map_err(|_| expected())?;
            (0..).take(n.min(MAX_SEEDS + 1)).collect()
        };
        let once = seeds.iter().collect::<std::collections::BTreeSet<_>>().len() == seeds.len();
        if seeds.is_empty() || seeds.len() > MAX_SEEDS || !once { Err(expected()) } else { Ok(Seeds(seeds)) }
    }
}

fn strategy(name: &str) -> Result<&'static Strategy, String> {
    strategy::find(name).ok_or_else(|| format!("expected one of {}", strategy::names()))
}

/// How it is run, which decides nothing about the results.
pub(super) struct Running {
    pub broker: String,
    pub progress: Style,
    pub tensorboard: TensorBoardArguments,
}

impl Arguments {
    /// The user's choices.
    ///
    /// # Errors
    /// [`CliError`] if a teacher that is named cannot be found.
    pub(super) fn read(self) -> Result<(Options, Running), CliError> {
        match self.experiment {
            Experiment::Cifar100Training { common, guided } => {
                let teacher = guided.read(recipe("joint"), false)?;
                let options = common.read("cifar100-training");
                Ok((Options { teacher: Some(teacher), control: !guided.no_control, ..options.0 }, options.1))
            }
            Experiment::SplitCifar100Pretrained { common, guided, teacher, keep_order } => {
                let kind = match teacher {
                    Continual::Lwf => "lwf",
                    Continual::Eeil => "eeil",
                };
                let teacher = guided.read(recipe(kind), keep_order)?;
                let options = common.read("splitcifar100-pretrained");
                Ok((Options { teacher: Some(teacher), control: !guided.no_control, ..options.0 }, options.1))
            }
            Experiment::StepTraining { common, agents, broker, no_control } => {
                let (options, running) = common.read("step-training");
                let options = Options { agents: agents as usize, control: !no_control, ..options };
                Ok((options, Running { broker, ..running }))
            }
            Experiment::Strategies { common, strategies } => {
                let (options, running) = common.read("strategies");
                let all = || STRATEGIES.iter().collect();
                let strategies = if strategies.is_empty() { all() } else { strategies };
                Ok((Options { strategies, ..options }, running))
            }
            Experiment::Teacher { kind, common } => {
                let kind = match kind {
                    Kind::Joint => "joint",
                    Kind::Lwf => "lwf",
                    Kind::Eeil => "eeil",
                };
                let out =
                    common.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("teacher-{kind}")));
                let seeds = common.seeds.clone().unwrap_or(Seeds(vec![TEACHER_SEED]));
                let (options, running) = common.read("teacher");
                Ok((Options { recipe: recipe(kind), seeds: seeds.0, out, ..options }, running))
            }
        }
    }
}

fn recipe(kind: &str) -> &'static Recipe {
    preset::teacher(kind).expect("invariant: every kind of teacher has a recipe")
}

impl Common {
    fn read(self, name: &str) -> (Options, Running) {
        let preset: &'static Preset = preset::find(name).expect("invariant: every experiment has a preset");
        let options = Options {
            preset,
            recipe: &preset.student,
            data: self.data,
            scale: self.scale,
            agents: 1,
            seeds: self.seeds.map_or(vec![0, 1, 2], |seeds| seeds.0),
            network: self.network,
            teacher: None,
            strategies: Vec::new(),
            control: !matches!(preset.design, Design::Teacher),
            threads: self.threads as usize,
            set: self.set,
            out: self.out.unwrap_or_else(|| Path::new("runs").join(name)),
        };
        let (progress, tensorboard) = (self.progress, self.tensorboard);
        (options, Running { broker: EMBEDDED.to_owned(), progress, tensorboard })
    }
}

impl Guided {
    fn read(&self, recipe: &'static Recipe, keep_order: bool) -> Result<TeacherOptions, CliError> {
        Ok(TeacherOptions {
            recipe,
            network: self.teacher_network.clone(),
            set: self.teacher_set.clone(),
            keep_order,
            trained: self.teacher_from.as_deref().map(teacher::find).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_list() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(seeds("3").unwrap(), [0, 1, 2]);
        assert_eq!(seeds("4, 2,9").unwrap(), [4, 2, 9]);
        assert_eq!(seeds("7,").unwrap(), [7]);
        for text in ["", "0", ",", "1,1", "a", "1,-2", "100000000", "1,18446744073709551616"] {
            assert!(seeds(text).unwrap_err().contains("expected a number of seeds"), "{text}");
        }
    }
}
