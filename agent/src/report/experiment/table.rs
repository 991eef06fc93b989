//! The table for the terminal.

use std::fmt::Write as _;

use super::{ExperimentRecord, Row};
use crate::experiment::result::Metric;
use crate::experiment::statistics::Summary;

/// Heads, arms and figures; accuracies in per cent.
pub fn render(record: &ExperimentRecord) -> String {
    let mut text = format!("{}: {}\n\n{}\n", record.name, record.question, record.description());
    if let Some(teacher) = record.of_teacher() {
        let _ = writeln!(text, "{teacher}");
    }
    let summaries = record.summaries();
    if summaries.is_empty() {
        text.push_str("\nUntil now no run has finished.\n");
        return text;
    }
    let labels: Vec<String> = record.arms.iter().map(|arm| arm.label.clone()).collect();
    let compared: Vec<String> = match record.baseline {
        Some(baseline) => labels.iter().map(|label| format!("{label} - {}", labels[baseline])).collect(),
        None => Vec::new(),
    };
    let width = labels.iter().chain(&compared).map(|l| l.chars().count()).max().unwrap_or(0);
    let _ = writeln!(text, "\nPer cent; mean and standard deviation over seeds, of means over agents\n");
    let _ = write!(text, "{:<8} {:<width$} {:>5}", "head", "", "seeds");
    for metric in Metric::ALL {
        let _ = write!(text, " {:>15}", metric.title());
    }
    text.push('\n');
    rows(&mut text, record, &summaries, &labels, width, |s| percent(s, false));
    let differences = record.differences();
    if !differences.is_empty() {
        let _ = writeln!(text, "\nDifferences within each seed\n");
        rows(&mut text, record, &differences, &compared, width, |s| percent(s, true));
    }
    let shares = record.arms.iter().filter_map(|arm| {
        let share = 100.0 * arm.teacher_share().filter(|share| *share > 0.0)?;
        Some(format!("{} {share:.1} %", arm.label))
    });
    let shares: Vec<String> = shares.collect();
    if !shares.is_empty() {
        let _ = writeln!(text, "\nTraining rows that had a teacher: {}", shares.join(", "));
    }
    text.push_str(
        "\nstream acc.: on all test images at the end. average acc.: mean over the experiences. forgetting: mean over\n\
         earlier experiences of the accuracy right after learning less that at the end; BWT is its negative.\n",
    );
    text
}

fn rows(
    text: &mut String,
    record: &ExperimentRecord,
    rows: &[Row<'_>],
    labels: &[String],
    width: usize,
    cell: impl Fn(&Summary) -> String,
) {
    for head in record.heads() {
        for (arm, label) in labels.iter().enumerate() {
            let of = |metric| rows.iter().find(|r| r.arm == arm && r.head == head && r.metric == metric);
            let Some(first) = Metric::ALL.into_iter().find_map(of) else { continue };
            let _ = write!(text, "{head:<8} {label:<width$} {:>5}", first.summary.n);
            for metric in Metric::ALL {
                let cell = of(metric).map_or("-".to_owned(), |row| cell(&row.summary));
                let _ = write!(text, " {cell:>15}");
            }
            text.push('\n');
        }
    }
}

/// `75.0 ± 17.7`; a single seed has no deviation. Adding 0 makes -0 a plain 0.
fn percent(summary: &Summary, signed: bool) -> String {
    let mean = 100.0 * summary.mean + 0.0;
    let mean = if signed { format!("{mean:+.1}") } else { format!("{mean:.1}") };
    summary.sd.map_or(mean.clone(), |sd| format!("{mean} ± {:.1}", 100.0 * sd))
}
