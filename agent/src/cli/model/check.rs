//! `dkt model check`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use dkt_models::check::{Finding, GradientCheck, Verdict, examine};
use dkt_models::notes;
use indicatif::{ProgressBar, ProgressStyle};
use onnx_grad::graph::Graph;

use super::with_list;
use crate::cli::{CliError, print};
use crate::train::runtime::LossProbe;

/// Most names shown for one reason.
const MAX_NAMES: usize = 5;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The network as exported for inference
    #[arg(value_name = "FORWARD.onnx")]
    model: PathBuf,
    /// Check the cross-entropy of this output [default: both heads' losses where there are two, else of the first]
    #[arg(long, value_name = "OUTPUT")]
    logits: Option<String>,
    /// Seed of inputs, labels and directions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rows of the mini-batch
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let graph = Graph::read(&arguments.model)?;
    let check = GradientCheck::new(&graph, arguments.logits.as_deref()).map_err(with_list)?;
    let feeds = check.feeds(arguments.seed, arguments.batch as usize)?;
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut probe = LossProbe::new(&check, &feeds, n_threads)?;
    let findings = examine_all(&check, &mut probe, arguments.seed)?;
    let mut text =
        format!("loss: {}; {} rows, seed {}\n\n", check.loss_name, arguments.batch, arguments.seed);
    text += &table(&findings);
    text += &untrained(&check);
    for note in notes_on_training(&graph) {
        let _ = writeln!(text, "note: {note}");
    }
    print(&text)?;
    let disagree: Vec<String> = findings
        .iter()
        .filter(|f| f.verdict == Verdict::Disagrees)
        .map(|f| format!("`{}`", f.name))
        .collect();
    if disagree.is_empty() { Ok(()) } else { Err(CliError::Gradients { names: disagree.join(", ") }) }
}

/// Every parameter in turn; a bar on a terminal shows how far it is.
fn examine_all(check: &GradientCheck, probe: &mut LossProbe, seed: u64) -> Result<Vec<Finding>, CliError> {
    let style = ProgressStyle::with_template("[{bar:30}] {pos} of {len} parameters {eta:>4} left {msg}")
        .expect("invariant: the template is well formed");
    let bar = ProgressBar::new(check.parameters.len() as u64).with_style(style.progress_chars("=> "));
    let mut findings = Vec::with_capacity(check.parameters.len());
    for (name, parameter) in &check.parameters {
        bar.set_message(name.clone());
        let zeros = vec![0.0; parameter.n_elements()];
        let gradient = probe.gradient(name).map_or(zeros, <[f32]>::to_vec);
        let finding = examine(name, parameter, &gradient, seed, |values| {
            probe.loss_at(name, values).map_err(CliError::from)
        })?;
        let original = parameter.to_f32()?;
        probe.loss_at(name, &original)?;
        findings.push(finding);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(findings)
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Zero => "zero",
        Verdict::Agrees => "agrees",
        Verdict::Kink => "kink or rounding",
        Verdict::Disagrees => "DISAGREES",
    }
}

fn table(findings: &[Finding]) -> String {
    let shape =
        |f: &Finding| format!("[{}]", f.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let width = |of: &dyn Fn(&Finding) -> usize, title: &str| {
        findings.iter().map(of).max().unwrap_or(0).max(title.len())
    };
    let (names, shapes) = (width(&|f| f.name.len(), "parameter"), width(&|f| shape(f).len(), "shape"));
    let mut text = format!(
        "{:<names$}  {:<shapes$}  {:>10}  {:>10}  verdict\n",
        "parameter", "shape", "|gradient|", "difference"
    );
    for f in findings {
        let difference = f.difference.map_or_else(|| "-".to_owned(), |d| format!("{d:.1e}"));
        let _ = writeln!(
            text,
            "{:<names$}  {:<shapes$}  {:>10}  {difference:>10}  {}",
            f.name,
            shape(f),
            format!("{:.3e}", f.norm),
            words(f.verdict)
        );
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let counts: Vec<String> = [Verdict::Agrees, Verdict::Kink, Verdict::Zero, Verdict::Disagrees]
        .into_iter()
        .filter(|v| count(*v) > 0)
        .map(|v| format!("{} {}", words(v), count(v)))
        .collect();
    let _ = writeln!(text, "\n{} parameters trained; {}", findings.len(), counts.join(", "));
    if count(Verdict::Zero) > 0 {
        text += "zero: neither the gradient nor the loss moves beyond rounding, as with a bias before a batch \
                 normalisation\n";
    }
    if count(Verdict::Kink) > 0 {
        text += "kink or rounding: differences at several step sizes contradict each other, as near the kinks of \
                 ReLU and max pooling; another --seed or a larger --batch may tell\n";
    }
    text
}

fn untrained(check: &GradientCheck) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, _, why) in &check.untrained {
        by_reason.entry(why).or_default().push(name);
    }
    let mut text = String::new();
    for (why, names) in by_reason {
        let rest = names.len().saturating_sub(MAX_NAMES);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let _ = writeln!(text, "not trained: {}{more}: {why}", names[..names.len() - rest].join(", "));
    }
    text
}

/// What training would change that one might not expect.
fn notes_on_training(graph: &Graph) -> Vec<String> {
    let has = |op: &str| graph.nodes.iter().any(|n| n.op == op);
    let mut notes = notes::notes(graph);
    if has("BatchNormalization") {
        notes.push(
            "BatchNormalization uses the mini-batch's statistics in training, as here; --batch-norm frozen of \
             `dkt model derive` keeps the running ones"
                .to_owned(),
        );
    }
    if has("Dropout") {
        notes.push("Dropout is off here, and in training too unless it is asked for (--dropout)".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_every_parameter_and_counts_them() {
        let finding = |name: &str, norm, difference, verdict| Finding {
            name: name.to_owned(),
            dims: vec![8, 1, 3, 3],
            norm,
            difference,
            verdict,
        };
        let text = table(&[
            finding("conv1.weight", 0.25, Some(1.5e-4), Verdict::Agrees),
            finding("b", 0.0, None, Verdict::Zero),
            finding("fc.weight", 1.0, Some(0.5), Verdict::Disagrees),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "parameter     shape         |gradient|  difference  verdict");
        assert_eq!(lines[1], "conv1.weight  [8, 1, 3, 3]    2.500e-1      1.5e-4  agrees");
        assert_eq!(lines[2], "b             [8, 1, 3, 3]     0.000e0           -  zero");
        assert_eq!(lines[5], "3 parameters trained; agrees 1, zero 1, DISAGREES 1");
    }

    #[test]
    fn a_gradient_that_disagrees_is_a_failure() {
        let error = CliError::Gradients { names: "`w`".to_owned() };
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("`w`"));
    }
}
