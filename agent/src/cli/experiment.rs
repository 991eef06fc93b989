//! `dkt experiment`: a whole study, run by run, that goes on where it was stopped.

mod analysis;
mod arguments;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use dkt_models::DualHead;
use dkt_models::zoo::{self, BuildOptions};
use onnx_grad::graph::Graph;

pub(super) use self::arguments::Arguments;
use self::arguments::Running;
use super::children::{Host, Planned, Stop, run_agents, start_broker};
use super::log::Log;
use super::{CONFIG, CliError, DATA, chain, io_error, print};
use crate::agent::AgentError;
use crate::analysis::AnalysisError;
use crate::config::{AgentConfig, ConfigError};
use crate::data::DataSource;
use crate::experiment::folder::ExperimentFolder;
use crate::experiment::plan::{Options, Plan, Run, plan};
use crate::experiment::preset::Design;
use crate::experiment::result::RunResult;
use crate::experiment::scale::{Facts, digest};
use crate::ids::Digest;
use crate::report::experiment::{ArmRecord, ExperimentRecord, table};
use crate::telemetry::progress::{Progress, Whole};

/// Training steps in an experience below which a study says that they are few: small networks on the digits then know
/// an experience less well right after it than at the end.
const FEW_STEPS: usize = 50;

pub(super) fn run(arguments: Arguments, log: &Log) -> Result<(), CliError> {
    let (options, running) = arguments.read()?;
    let source = crate::data::load(&options.data)?;
    let facts = Facts::of(&source);
    let mut plan = plan(&options, &facts, &digest(&source))?;
    // Everything that can be refused is, before hours have gone into the first run.
    let files = check_networks(&options, &plan, &source)?;
    name_by_content(&mut plan.settings, &files);
    drop(source);
    crate::train::runtime::load()?;
    let stop = Stop::listen().map_err(io_error("listen for", Path::new("signals")))?;
    let _folder = ExperimentFolder::open(&options.out, &plan.settings)?;
    let mut results =
        plan.runs.iter().map(|run| RunResult::read(&run.folder)).collect::<Result<Vec<_>, _>>()?;
    log.tell(&describe(&options, &plan, &facts));
    let record = |results: &[Option<RunResult>]| record(&options, &plan, &facts, results);
    let mut whole = Whole::new(plan.runs.len(), results.iter().flatten().count());
    let mut failed = None;
    for (run, result) in plan.runs.iter().enumerate() {
        if results[run].is_some() {
            continue;
        }
        if stop.is_set() {
            break;
        }
        let name = name(&plan, result);
        results[run] = match run_one(result, &name, (&running, &options.out), &whole, log, &stop) {
            // What diverges in one run need not do so in another, and nobody wants to begin again for it.
            Err(error @ CliError::Child { code: DATA | CONFIG, .. }) => {
                log.tell(&format!("{name} has failed: {}\n", chain(&error)));
                failed.get_or_insert(error);
                None
            }
            result => result?,
        };
        if results[run].is_some() {
            whole.done();
        }
        record(&results).write(&options.out)?;
    }
    let mut record = record(&results);
    record.write(&options.out)?;
    let mut is_stopped = stop.is_set() && record.n_finished < record.n_runs;
    if record.n_finished == record.n_runs {
        log.tell("Comparing the networks of the first seed\n");
        match analysis::sections(&plan, &stop) {
            Err(CliError::Analysis(AnalysisError::Stopped)) => is_stopped = true,
            sections => {
                record.analyses = sections?;
                record.write(&options.out)?;
            }
        }
    }
    let mut text = format!("{}\n", table(&record));
    if is_stopped {
        text += "Stopped and saved; the same command goes on from here.\n";
    } else if record.n_finished < record.n_runs {
        text +=
            &format!("{} runs have failed; the table is of the others.\n", record.n_runs - record.n_finished);
    }
    text += &format!("Written to {}: report.html, results.csv, results.json\n", options.out.display());
    print(&text)?;
    failed.map_or(Ok(()), Err)
}

/// Runs the agents of one run; `None` if they were stopped before their end.
fn run_one(
    run: &Run,
    name: &str,
    (running, out): (&Running, &Path),
    whole: &Whole,
    log: &Log,
    stop: &Stop,
) -> Result<Option<RunResult>, CliError> {
    // A broker of its own, so that nothing that an earlier run has left there is taken for this one's.
    let broker = run.exchanges().then(|| start_broker(&running.broker)).transpose()?;
    let url = broker.as_ref().map(|broker| broker.url.as_str());
    let agents =
        run.agents.iter().map(|agent| planned(agent, url, running, out)).collect::<Result<Vec<_>, _>>()?;
    let name = format!("{}; now {name}", whole.text(0.0));
    let show = |names: &[String]| Progress::of_part(log.style(running.progress), names, whole.clone());
    let host = Host { log, stop, started: Instant::now() };
    let arm = run_agents(&name, &agents, show, &host)?;
    let Some(result) = RunResult::of(&arm.agents) else { return Ok(None) };
    result.write(&run.folder)?;
    Ok(Some(result))
}

fn planned(
    agent: &AgentConfig,
    broker: Option<&str>,
    running: &Running,
    root: &Path,
) -> Result<Planned, CliError> {
    let mut agent = agent.clone();
    let out = agent.out_dir();
    if let Some(broker) = broker {
        broker.clone_into(&mut agent.exchange.broker);
    }
    let path = out.join("agent.toml");
    agent.validate(&path)?;
    let toml =
        toml::to_string(&agent).map_err(|e| ConfigError::Read { path, source: std::io::Error::other(e) })?;
    // In the same folders as the runs: TensorBoard names a run by its path.
    let tensorboard = running.tensorboard.folder(agent.report.tensorboard, root);
    let tensorboard = tensorboard.map(|folder| folder.join(out.strip_prefix(root).unwrap_or(&out)));
    Ok(Planned { name: agent.agent.to_string(), out, tensorboard, toml })
}

/// Builds or reads each network once, and sees whether it fits the data. Those that are files, with their digests.
fn check_networks(
    options: &Options,
    plan: &Plan,
    source: &DataSource,
) -> Result<Vec<(String, Digest)>, CliError> {
    let shape = source.train.shape;
    let input = [shape.channels, shape.height, shape.width].map(usize::from);
    let trained =
        options.teacher.as_ref().and_then(|t| t.trained.as_ref()).map(|t| t.last.display().to_string());
    let agents = plan.runs.iter().flat_map(|run| &run.agents);
    let networks: BTreeSet<String> = agents.map(|a| a.model.network.clone()).chain(trained).collect();
    let mut files = Vec::new();
    for network in networks {
        let graph = if network.ends_with(".onnx") {
            let graph = Graph::read(network.as_ref())?;
            files.push((network.clone(), Digest::of(&graph.encode())));
            graph
        } else {
            zoo::build(&network, &BuildOptions { seed: 0, classes: plan.sizes.classes, input })?
        };
        let model = DualHead::from_graph(graph)?;
        let found = (model.input_dims(), model.n_classes());
        if found != (input, plan.sizes.classes) {
            let text = |(input, classes): ([usize; 3], usize)| format!("{input:?} and {classes} classes");
            return Err(CliError::Agent(AgentError::Mismatch {
                network,
                data: options.data.clone(),
                what: "inputs of",
                expected: text(found),
                found: text((input, plan.sizes.classes)),
            }));
        }
    }
    Ok(files)
}

/// Has settings name a network that is a file by what is in it: another file may come to lie in its place.
fn name_by_content(settings: &mut BTreeMap<String, String>, files: &[(String, Digest)]) {
    for (path, digest) in files {
        let is_it = |value: &&mut String| **value == toml::Value::from(path.as_str()).to_string();
        for value in settings.values_mut().filter(is_it) {
            *value += &format!(", digest {}", digest.short());
        }
    }
}

fn name(plan: &Plan, run: &Run) -> String {
    let arm = run.arm.map_or("teacher", |arm| plan.arms[arm].label.as_str());
    format!("{arm}, seed {}", run.seed)
}

/// What is going to be done, with every setting.
fn describe(options: &Options, plan: &Plan, facts: &Facts) -> String {
    let mut text = format!("{}: {}\n", options.preset.name, data(options, plan, facts));
    for (key, value) in &plan.settings {
        text += &format!("  {key} = {value}\n");
    }
    for note in notes(options, plan, facts) {
        text += &format!("note: {note}\n");
    }
    text
}

/// What one must know to read the results.
fn notes(options: &Options, plan: &Plan, facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    let n_steps = plan.fewest_steps(facts);
    if n_steps < FEW_STEPS {
        notes.push(format!(
            "Only {n_steps} training steps in an experience, too few to learn much: take more epochs (train.epochs, by \
             --set or --teacher-set) or a larger --scale."
        ));
    }
    let is_by_experience = options.preset.design == Design::Guided { by_experience: true };
    if is_by_experience && options.teacher.as_ref().is_some_and(|teacher| !teacher.keep_order) {
        notes.push(
            "Teacher and student may meet the classes in different orders: the teacher of experience i may not know the \
             student's classes of experience i (--keep-order gives both the same order)."
                .to_owned(),
        );
    }
    notes
}

fn data(options: &Options, plan: &Plan, facts: &Facts) -> String {
    let sizes = &plan.sizes;
    let part = |used: Option<usize>, all: usize| match used {
        Some(used) if used > 0 => format!("{used} of {all}"),
        _ => "all".to_owned(),
    };
    // Of what is compared, which comes last: `--set` may have changed what the scale says.
    let used = plan.runs.last().and_then(|run| run.agents.first()).map(|agent| &agent.data);
    format!(
        "`{}` ({}), {} experiences of {} classes, {} training and {} test samples of each class",
        options.data,
        facts.shape,
        sizes.experiences,
        sizes.classes / sizes.experiences,
        part(used.map(|data| data.samples_per_class), facts.train_per_class),
        part(used.map(|data| data.test_samples_per_class), facts.test_per_class)
    )
}

fn record(options: &Options, plan: &Plan, facts: &Facts, results: &[Option<RunResult>]) -> ExperimentRecord {
    let finished = || plan.runs.iter().zip(results).filter_map(|(run, result)| Some((run, result.as_ref()?)));
    let runs_of = |arm| {
        let runs = finished().filter(|(run, _)| run.arm == arm);
        runs.map(|(run, result)| (run.seed, result.clone())).collect::<Vec<_>>()
    };
    let arms = plan.arms.iter().enumerate().map(|(i, arm)| ArmRecord {
        key: arm.key.clone(),
        label: arm.label.clone(),
        runs: runs_of(Some(i)),
    });
    ExperimentRecord {
        name: options.preset.name.to_owned(),
        question: options.preset.question.to_owned(),
        data: data(options, plan, facts),
        scale: options.scale,
        agents: options.agents,
        seeds: options.seeds.clone(),
        settings: plan.settings.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        arms: arms.collect(),
        baseline: plan.baseline,
        teacher: runs_of(None).into_iter().next().map(|(_, run)| run),
        notes: notes(options, plan, facts),
        n_runs: plan.runs.len(),
        n_finished: finished().count(),
        analyses: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_in_a_file_is_known_by_its_content() {
        let settings = || {
            let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            let all = [("student.model.network", "\"my.onnx\""), ("teacher.model.network", "\"resnet32\"")];
            BTreeMap::from(all.map(pair))
        };
        let named = |content: &[u8]| {
            let mut settings = settings();
            name_by_content(&mut settings, &[("my.onnx".to_owned(), Digest::of(content))]);
            settings
        };
        let (one, other) = (named(b"one"), named(b"other"));
        assert_eq!(
            one["student.model.network"],
            format!("\"my.onnx\", digest {}", Digest::of(b"one").short())
        );
        assert_ne!(one, other);
        assert_eq!(one["teacher.model.network"], "\"resnet32\"");
        assert_eq!(one, named(b"one"));
    }
}
