//! What the networks of a finished experiment have in common: CKA and t-SNE of its first seed.

use std::path::PathBuf;

use super::super::CliError;
use super::super::children::Stop;
use crate::analysis::experiences::cka_over_experiences;
use crate::analysis::features::{Of, tsne_of_features};
use crate::analysis::network::Network;
use crate::analysis::{AnalysisError, MIN_SAMPLES, samples, tsne};
use crate::config::AgentConfig;
use crate::experiment::plan::{Plan, Run};
use crate::experiment::teacher::{LAST, checkpoint};
use crate::report::analysis::{cka_section, tsne_section};

/// Test images that pass through the networks at most.
const SAMPLES: usize = 500;

/// Sections of the report: layers of teacher and student after each experience, or of the first two learners at
/// the end, and the features of the final networks.
///
/// # Errors
/// [`AnalysisError::Stopped`] if `stop` is set before the end; and what keeps networks from being compared.
pub(super) fn sections(plan: &Plan, stop: &Stop) -> Result<Vec<String>, CliError> {
    let of_arm = |arm| plan.runs.iter().find(|run| run.arm == Some(arm));
    let Some(treated) = of_arm(0) else { return Ok(Vec::new()) };
    let config = &treated.agents[0];
    // The images as the agents have them, of fewer classes perhaps.
    let source = crate::data::load(&config.data.source)?;
    let source = crate::stream::prepared(source, &config.data, &config.stream)?;
    let ids = samples::balanced(&source.test, SAMPLES, 0);
    if ids.len() < MIN_SAMPLES {
        return Ok(Vec::new());
    }
    let mut sections = Vec::new();
    if let Some((teachers, students)) = pair(treated) {
        let table =
            cka_over_experiences(&read(&teachers)?, &read(&students)?, &source, &ids, || stop.is_set())?;
        sections.push(cka_section(&table));
    }
    let defaults = tsne::Options::default();
    let options =
        tsne::Options { perplexity: defaults.perplexity.min((ids.len() - 1) as f64 / 3.0), ..defaults };
    let finals: Vec<PathBuf> =
        (0..plan.arms.len()).filter_map(of_arm).flat_map(|run| &run.agents).map(last).collect();
    let mut maps = Vec::with_capacity(finals.len());
    for network in read(&finals)? {
        if stop.is_set() {
            return Err(AnalysisError::Stopped.into());
        }
        maps.push(tsne_of_features(&network, Of::Features, &source, &ids, &options)?);
    }
    sections.push(tsne_section(&maps));
    Ok(sections)
}

/// Networks that taught and networks that learned from them.
fn pair(run: &Run) -> Option<(Vec<PathBuf>, Vec<PathBuf>)> {
    match run.agents.as_slice() {
        [student] if !student.teacher.models.is_empty() => {
            let after = |i| checkpoint(&student.out_dir(), i);
            Some((student.teacher.models.clone(), (1..=student.stream.experiences).map(after).collect()))
        }
        [first, second, ..] => Some((vec![last(first)], vec![last(second)])),
        _ => None,
    }
}

fn last(agent: &AgentConfig) -> PathBuf {
    agent.out_dir().join(LAST)
}

fn read(paths: &[PathBuf]) -> Result<Vec<Network>, CliError> {
    Ok(paths.iter().map(|path| Network::read(path)).collect::<Result<_, _>>()?)
}
