//! From the user's choices to the runs of an experiment. Pure: nothing is read, nothing runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::overrides::{self, Override, OverrideError};
use super::preset::{Design, EPOCH_KEYS, Preset, Recipe};
use super::scale::{self, Facts, ScaleError, Sizes};
use super::teacher::Trained;
use crate::config::{AgentConfig, ConfigError, DataConfig};
use crate::strategy::{Rehearsal, Strategy, TrainsOn};
use crate::stream::StreamError;

/// Seed of a teacher and of its class order, far from those of students.
pub const TEACHER_SEED: u64 = 1000;
/// Largest seed: TOML has signed numbers only, and a learner's own seed is up to as many times as large as there are
/// learners.
pub const MAX_SEED: u64 = (1 << 53) - 1;
/// Most learners of one run.
pub const MAX_AGENTS: u64 = 64;
/// So much that no student goes without, however many there are.
const EXPERIMENT_LABELLING_SHARE: f64 = 0.9;
/// Largest number of views.
const MAX_VIEWS: i64 = 255;
/// Mean and standard deviation of CIFAR-100's training images, of pixels from 0 to 1, as in the thesis.
const CIFAR100_MEAN: [f64; 3] = [0.5071, 0.4865, 0.4409];
const CIFAR100_STD: [f64; 3] = [0.2673, 0.2564, 0.2762];

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Options {
    pub preset: &'static Preset,
    /// The recipe of what is trained, the preset's or a teacher's.
    pub recipe: &'static Recipe,
    pub data: String,
    /// Above 0, up to 1.
    pub scale: f64,
    /// Of one run; more than one in [`Design::Exchange`] alone.
    pub agents: usize,
    pub seeds: Vec<u64>,
    /// In place of the recipe's.
    pub network: Option<String>,
    pub teacher: Option<TeacherOptions>,
    /// Of [`Design::Strategies`].
    pub strategies: Vec<&'static Strategy>,
    pub control: bool,
    pub threads: usize,
    pub set: Vec<Override>,
    pub out: PathBuf,
}

/// The teacher of a guided experiment.
#[derive(Clone, Debug)]
pub struct TeacherOptions {
    pub recipe: &'static Recipe,
    pub network: Option<String>,
    pub set: Vec<Override>,
    /// Whether students meet the classes in the teacher's order.
    pub keep_order: bool,
    /// One that is trained already.
    pub trained: Option<Trained>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// Folder below the experiment's.
    pub key: String,
    pub label: String,
}

/// Agents that run together.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// `None` for a teacher that is trained first.
    pub arm: Option<usize>,
    pub seed: u64,
    pub folder: PathBuf,
    pub agents: Vec<AgentConfig>,
}

impl Run {
    /// Whether its agents need a broker.
    pub fn exchanges(&self) -> bool {
        self.agents.iter().any(|agent| agent.exchange.enabled)
    }
}

/// Everything that an experiment is going to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub arms: Vec<Arm>,
    /// The arm that the others are compared with.
    pub baseline: Option<usize>,
    /// In the order in which they run: teachers first, then all arms of a seed.
    pub runs: Vec<Run>,
    pub sizes: Sizes,
    /// What decides the results, by key: the identity of the experiment's folder.
    pub settings: BTreeMap<String, String>,
}

impl Plan {
    /// Training steps in an experience of the run that has the fewest, about.
    pub fn fewest_steps(&self, facts: &Facts) -> usize {
        let steps = |agent: &AgentConfig| {
            let of_class = match agent.data.samples_per_class {
                0 => facts.train_per_class,
                n => n.min(facts.train_per_class),
            };
            let is_joint = agent.strategy.strategy().trains_on == TrainsOn::Everything;
            let n_experiences = if is_joint { 1 } else { agent.stream.experiences };
            let samples = of_class * self.sizes.classes / n_experiences;
            samples.div_ceil(agent.train.batch_size) * agent.train.epochs as usize
        };
        self.runs.iter().flat_map(|run| &run.agents).map(steps).min().unwrap_or(0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Scale(#[from] ScaleError),
    #[error(transparent)]
    Override(#[from] OverrideError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("seed {seed} is the teacher's; choose other --seeds")]
    TeacherSeed { seed: u64 },
    #[error("seed {seed} is too large, expected at most {MAX_SEED}; choose other --seeds")]
    Seed { seed: u64 },
    #[error(
        "`{}`: expected a network for each of {expected} experiences, found {found}; train it with the same data and scale",
        .folder.display()
    )]
    Checkpoints { folder: PathBuf, expected: usize, found: usize },
    #[error("`{}` does not say in which order its classes came; --keep-order needs a folder with an agent.toml", .folder.display())]
    NoOrder { folder: PathBuf },
    #[error("expected a teacher with {expected} {what}, as the student has, found {found}")]
    TeacherStream { what: &'static str, expected: usize, found: usize },
}

/// Plans the experiment on data of which `facts` are known and `digest` is the digest.
///
/// # Errors
/// [`PlanError`] if something is asked for that cannot be.
pub fn plan(options: &Options, facts: &Facts, digest: &str) -> Result<Plan, PlanError> {
    if let Some(seed) = options.seeds.iter().copied().find(|seed| *seed > MAX_SEED) {
        return Err(PlanError::Seed { seed });
    }
    if options.preset.design == Design::Strategies {
        options.set.iter().try_for_each(|set| set.refuse("strategy.name", "use --strategies"))?;
    }
    let mut sizes = scale::sizes(facts, options.scale)?;
    let student =
        settings_of(options, options.recipe, options.network.as_deref(), &options.set, facts, &sizes)?;
    (sizes.classes, sizes.experiences) = stream_of(&student, facts)?;
    let mut settings = BTreeMap::from([
        ("experiment".to_owned(), options.preset.name.to_owned()),
        ("data".to_owned(), digest.to_owned()),
        ("scale".to_owned(), options.scale.to_string()),
        ("agents".to_owned(), options.agents.to_string()),
    ]);
    settings.extend(identity("student", &student));
    let mut runs = Vec::new();
    let mut order = None;
    let mut models = Vec::new();
    if let (Design::Guided { by_experience }, Some(teacher)) = (options.preset.design, &options.teacher) {
        settings.insert("keep_order".to_owned(), teacher.keep_order.to_string());
        let guide = match &teacher.trained {
            Some(trained) => {
                settings.insert("teacher".to_owned(), trained.digest.clone());
                Guide::trained(trained, by_experience, sizes.experiences)?
            }
            None => {
                let network = teacher.network.as_deref();
                let table = settings_of(options, teacher.recipe, network, &teacher.set, facts, &sizes)?;
                settings.extend(identity("teacher", &table));
                let run = teacher_run(options, teacher.recipe, TEACHER_SEED, &table, None)?;
                check_teacher(&run, stream_of(&table, facts)?, by_experience, &sizes)?;
                let guide = Guide::to_be_trained(&run, by_experience, sizes.experiences);
                runs.push(run);
                guide
            }
        };
        if teacher.keep_order {
            let no_order = || PlanError::NoOrder { folder: guide.folder.clone() };
            order = Some(guide.class_order.clone().ok_or_else(no_order)?);
        } else if options.seeds.contains(&TEACHER_SEED) {
            // Its order would be the teacher's after all.
            return Err(PlanError::TeacherSeed { seed: TEACHER_SEED });
        }
        models = guide.models;
    }
    let (arms, baseline) = arms(options);
    for seed in &options.seeds {
        for (i, arm) in arms.iter().enumerate() {
            let run = match options.preset.design {
                Design::Teacher => teacher_run(options, options.recipe, *seed, &student, Some(i))?,
                _ => student_run(options, *seed, (i, arm), &student, order.as_ref(), &models)?,
            };
            runs.push(run);
        }
    }
    Ok(Plan { arms, baseline, runs, sizes, settings })
}

/// The networks that teach.
struct Guide {
    folder: PathBuf,
    models: Vec<PathBuf>,
    class_order: Option<Value>,
}

impl Guide {
    fn trained(trained: &Trained, by_experience: bool, experiences: usize) -> Result<Self, PlanError> {
        let Trained { folder, last, by_experience: checkpoints, class_order, .. } = trained;
        if by_experience && checkpoints.len() != experiences {
            let (expected, found) = (experiences, checkpoints.len());
            return Err(PlanError::Checkpoints { folder: folder.clone(), expected, found });
        }
        let models = if by_experience { checkpoints.clone() } else { vec![last.clone()] };
        Ok(Guide { folder: folder.clone(), models, class_order: class_order.clone() })
    }

    fn to_be_trained(run: &Run, by_experience: bool, experiences: usize) -> Self {
        let folder = run.agents[0].out_dir();
        let models = if by_experience {
            (1..=experiences).map(|i| super::teacher::checkpoint(&folder, i)).collect()
        } else {
            vec![folder.join(super::teacher::LAST)]
        };
        let class_order = Value::try_from(&run.agents[0].stream.class_order).ok();
        Guide { folder, models, class_order }
    }
}

fn arms(options: &Options) -> (Vec<Arm>, Option<usize>) {
    let arm = |(key, label): (&str, &str)| Arm { key: key.to_owned(), label: label.to_owned() };
    let pair = |pair: [(&str, &str); 2]| {
        let n = if options.control { 2 } else { 1 };
        (pair.into_iter().take(n).map(arm).collect(), options.control.then_some(1))
    };
    match options.preset.design {
        Design::Guided { .. } => pair([("guided", "with the teacher"), ("alone", "without a teacher")]),
        Design::Exchange => pair([("exchange-on", "exchange on"), ("exchange-off", "exchange off")]),
        Design::Teacher => (vec![arm(("teacher", options.recipe.name))], None),
        Design::Strategies => {
            let arms: Vec<Arm> = options.strategies.iter().map(|s| arm((s.name, s.name))).collect();
            let baseline = (arms.len() > 1).then_some(0);
            (arms, baseline)
        }
    }
}

/// The keys of `AGENT.toml` that all runs of a recipe share.
fn settings_of(
    options: &Options,
    recipe: &Recipe,
    network: Option<&str>,
    set: &[Override],
    facts: &Facts,
    sizes: &Sizes,
) -> Result<Table, PlanError> {
    let mut table: Table = toml::from_str(recipe.toml).expect("invariant: a recipe is TOML");
    for key in EPOCH_KEYS {
        let Some(full) = overrides::get(&table, key).and_then(Value::as_integer) else { continue };
        let full = u32::try_from(full).unwrap_or(u32::MAX);
        let scaled = if key == "train.epochs" { scale::passes } else { scale::epochs }(full, options.scale);
        own(&mut table, key, scaled);
    }
    own(&mut table, "model.network", network.unwrap_or(recipe.network));
    own(&mut table, "data.source", options.data.as_str());
    own(&mut table, "data.crop_padding", crop_padding(facts));
    // A digit seen in a mirror is another or none.
    own(&mut table, "data.flip", facts.shape.channels == 3);
    if is_cifar100(facts) {
        let values = |values: [f64; 3]| Value::Array(values.map(Value::Float).to_vec());
        own(&mut table, "data.normalization.mean", values(CIFAR100_MEAN));
        own(&mut table, "data.normalization.std", values(CIFAR100_STD));
    }
    let reduced = [
        ("data.classes", (sizes.classes < facts.classes).then_some(sizes.classes)),
        ("data.samples_per_class", sizes.train_per_class),
        ("data.test_samples_per_class", sizes.test_per_class),
    ];
    for (key, n) in reduced {
        if let Some(n) = n {
            own(&mut table, key, n as i64);
        }
    }
    own(&mut table, "stream.experiences", sizes.experiences as i64);
    own(&mut table, "train.batch_size", scale::batch_size(recipe.batch_size, sizes) as i64);
    own(&mut table, "train.clip_norm", 5.0);
    own(&mut table, "train.threads", options.threads as i64);
    own(&mut table, "replay.capacity", if recipe.replay { scale::replay_capacity(sizes) as i64 } else { 0 });
    own(&mut table, "checkpoint.keep", 2);
    for set in set {
        set.apply(&mut table)?;
    }
    derive(&mut table, options);
    Ok(table)
}

/// Classes and experiences as they are after what the user has set.
fn stream_of(table: &Table, facts: &Facts) -> Result<(usize, usize), PlanError> {
    let number = |key| {
        let value = overrides::get(table, key).and_then(Value::as_integer);
        value.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
    };
    let classes = number("data.classes").unwrap_or(facts.classes).min(facts.classes);
    let experiences = number("stream.experiences").unwrap_or(1);
    // Other kinds of stream have all classes in every experience.
    if overrides::get(table, "stream.kind").is_none() && !classes.is_multiple_of(experiences) {
        return Err(StreamError::NotDivisible { classes, experiences }.into());
    }
    Ok((classes, experiences))
}

/// Whether the teacher that is going to be trained, on so many classes in so many experiences, fits the student.
fn check_teacher(
    run: &Run,
    (classes, experiences): (usize, usize),
    by_experience: bool,
    student: &Sizes,
) -> Result<(), PlanError> {
    let is_joint = run.agents[0].strategy.strategy().trains_on == TrainsOn::Everything;
    let networks = if is_joint { 1 } else { experiences };
    let different = |what, expected, found| Err(PlanError::TeacherStream { what, expected, found });
    if classes != student.classes {
        return different("classes", student.classes, classes);
    }
    if by_experience && networks != student.experiences {
        return different("experiences", student.experiences, networks);
    }
    Ok(())
}

/// Keys that follow from others, where the user has not set them.
fn derive(table: &mut Table, options: &Options) {
    let number =
        |table: &Table, key| overrides::get(table, key).and_then(Value::as_integer).unwrap_or(1).max(1);
    let default = |table: &mut Table, key, value: i64| {
        if overrides::get(table, key).is_none() {
            own(table, key, value);
        }
    };
    let batch = number(table, "train.batch_size");
    // As many remembered samples as new ones, as in the thesis's code.
    default(table, "replay.batch_size", batch);
    let is_exchange = options.preset.design == Design::Exchange;
    // In the thesis each pass augments anew. Peers label every view in each of their rounds, so that there are no
    // more than are used in one, or the few that are the default elsewhere.
    let fresh = number(table, if is_exchange { "exchange.refresh_epochs" } else { "train.epochs" });
    let least = i64::from(DataConfig::default().views);
    default(table, "data.views", if is_exchange { fresh.max(least) } else { fresh }.min(MAX_VIEWS));
    if is_exchange {
        let peers = options.agents as i64 - 1;
        default(table, "exchange.wait_for_peers", peers);
        // Each step, what the peers' steps take: all views, by the next round.
        let passes = number(table, "data.views").div_euclid(fresh).max(1);
        let rows = passes.saturating_mul(2 * peers).saturating_mul(batch);
        default(table, "exchange.rows_per_step", rows.clamp(64, 65_536));
        // What is compared is what soft targets do, not what they cost.
        if overrides::get(table, "exchange.labelling_share").is_none() {
            own(table, "exchange.labelling_share", EXPERIMENT_LABELLING_SHARE);
        }
    }
}

/// Puts one of the experiment's own values.
fn own(table: &mut Table, key: &str, value: impl Into<Value>) {
    // Only a user's value can be in the way, and then the configuration says so when it is read.
    let _ = overrides::put(table, key, value.into());
}

fn is_cifar100(facts: &Facts) -> bool {
    let shape = facts.shape;
    (facts.classes, shape.channels, shape.height, shape.width) == (100, 3, 32, 32)
}

/// 4 pixels of 32, 1 of 8.
fn crop_padding(facts: &Facts) -> i64 {
    i64::from(facts.shape.height.min(facts.shape.width) / 8).clamp(0, 4)
}

/// Settings as they are compared and shown; what computes and where data lie is not among them.
fn identity(of: &str, table: &Table) -> impl Iterator<Item = (String, String)> {
    let irrelevant = ["data.source", "train.threads"];
    let values =
        overrides::flat(table).into_iter().filter(move |(key, _)| !irrelevant.contains(&key.as_str()));
    values.map(move |(key, value)| (format!("{of}.{key}"), value))
}

fn teacher_run(
    options: &Options,
    recipe: &Recipe,
    seed: u64,
    table: &Table,
    arm: Option<usize>,
) -> Result<Run, PlanError> {
    let folder = super::teacher::folder(&options.out, seed);
    let mut table = table.clone();
    own(&mut table, "checkpoint.models", true);
    own(&mut table, "exchange.enabled", false);
    default_order(&mut table, None, seed);
    let agents = vec![agent(table, recipe.name, seed, seed, &folder)?];
    Ok(Run { arm, seed, folder, agents })
}

fn student_run(
    options: &Options,
    seed: u64,
    (arm, of): (usize, &Arm),
    table: &Table,
    order: Option<&Value>,
    models: &[PathBuf],
) -> Result<Run, PlanError> {
    let folder = options.out.join(&of.key).join(format!("seed-{seed}"));
    let is_treated = arm == 0;
    let mut table = table.clone();
    match options.preset.design {
        Design::Exchange => own(&mut table, "exchange.enabled", is_treated),
        Design::Guided { .. } => {
            own(&mut table, "exchange.enabled", false);
            own(&mut table, "checkpoint.models", true);
            if is_treated {
                let models = models.iter().map(|path| Value::from(path.display().to_string())).collect();
                own(&mut table, "teacher.models", Value::Array(models));
            }
        }
        Design::Strategies => {
            let strategy = options.strategies[arm];
            own(&mut table, "exchange.enabled", false);
            own(&mut table, "strategy.name", strategy.name);
            if !matches!(strategy.rehearsal, Rehearsal::Needed { .. }) {
                own(&mut table, "replay.capacity", 0);
            }
        }
        Design::Teacher => {}
    }
    let n = options.agents as u64;
    let agents = (0..n).map(|i| {
        let mut table = table.clone();
        // Every agent of every seed has a number of its own; the initial weights are the seed's.
        let own_seed = seed * n + i;
        default_order(&mut table, order, own_seed);
        let name = if n == 1 { "student".to_owned() } else { format!("agent-{}", i + 1) };
        agent(table, &name, seed, own_seed, &folder)
    });
    let agents = agents.collect::<Result<Vec<_>, _>>()?;
    Ok(Run { arm: Some(arm), seed, folder, agents })
}

fn default_order(table: &mut Table, order: Option<&Value>, seed: u64) {
    if overrides::get(table, "stream.class_order").is_none() {
        own(table, "stream.class_order", order.cloned().unwrap_or(Value::Integer(seed as i64)));
    }
}

/// Reads and checks the configuration of one agent.
fn agent(
    mut table: Table,
    name: &str,
    seed: u64,
    own_seed: u64,
    folder: &Path,
) -> Result<AgentConfig, PlanError> {
    let out = folder.join(name);
    let path = out.join("agent.toml");
    own(&mut table, "agent", name);
    own(&mut table, "fleet", format!("seed-{seed}"));
    own(&mut table, "seed", own_seed as i64);
    if overrides::get(&table, "model.seed").is_none() {
        own(&mut table, "model.seed", seed as i64);
    }
    let mut config: AgentConfig = table
        .try_into()
        .map_err(|source| ConfigError::Parse { path: path.clone(), source: Box::new(source) })?;
    config.out = Some(out);
    config.validate(&path)?;
    Ok(config)
}

#[cfg(test)]
mod tests;
