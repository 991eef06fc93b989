//! The table for the terminal.

use std::fmt::Write as _;

use super::{ExperimentRecord, METRICS, Row};
use crate::experiment::result::Metric;
use crate::experiment::statistics::Summary;
use crate::report::number::fixed;

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
    rows(&mut text, record, &summaries, &labels, width, |s| percent(s, false), |row| record.mark(row));
    let differences = record.differences();
    if !differences.is_empty() {
        let _ = writeln!(text, "\nDifferences within each seed\n");
        rows(
            &mut text,
            record,
            &differences,
            &compared,
            width,
            |s| percent(s, true),
            |row| record.mark_of_difference(row),
        );
    }
    if let Some(shares) = record.of_shares() {
        let _ = writeln!(text, "\n{shares}");
    }
    let notes = record.of_untrained().into_iter().chain([METRICS.to_owned()]);
    for note in notes {
        let _ = writeln!(text, "\n{}", wrapped(&note));
    }
    text
}

/// Broken into lines.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 110;
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let n = word.chars().count();
        if length > 0 {
            let fits = length + 1 + n <= WIDTH;
            lines.push(if fits { ' ' } else { '\n' });
            length = if fits { length + 1 } else { 0 };
        }
        lines.push_str(word);
        length += n;
    }
    lines
}

fn rows(
    text: &mut String,
    record: &ExperimentRecord,
    rows: &[Row<'_>],
    labels: &[String],
    width: usize,
    cell: impl Fn(&Summary) -> String,
    mark: impl Fn(&Row<'_>) -> &'static str,
) {
    for head in record.trained_heads() {
        for (arm, label) in labels.iter().enumerate() {
            let of = |metric| rows.iter().find(|r| r.arm == arm && r.head == head && r.metric == metric);
            let Some(first) = Metric::ALL.into_iter().find_map(of) else { continue };
            let _ = write!(text, "{head:<8} {label:<width$} {:>5}", first.summary.n);
            for metric in Metric::ALL {
                let cell = of(metric).map_or("-".to_owned(), |row| cell(&row.summary));
                let _ = write!(text, " {cell:>15}");
            }
            let mark = mark(first);
            text.push_str(if mark.is_empty() { "" } else { "  " });
            text.push_str(mark);
            text.push('\n');
        }
    }
}

/// `75.0 ± 17.7`; a single seed has no deviation.
pub(super) fn percent(summary: &Summary, is_difference: bool) -> String {
    let mean = fixed(100.0 * summary.mean, 1);
    let sign = if is_difference && !mean.starts_with('-') { "+" } else { "" };
    let deviation = summary.sd.map(|sd| format!(" ± {}", fixed(100.0 * sd, 1))).unwrap_or_default();
    format!("{sign}{mean}{deviation}")
}
