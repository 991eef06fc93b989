//! Tables for the terminal.

use std::fmt::Write as _;

use super::record::{HeadRecord, LabRecord};

/// Accuracies of every agent and head in every arm, and what was exchanged; accuracies in per cent.
pub fn render(record: &LabRecord) -> String {
    let mut text = String::new();
    let n = record.arms.iter().flat_map(|a| &a.agents).map(|r| r.n_experiences()).max().unwrap_or(0);
    let _ = writeln!(text, "{}\n", record.title);
    let _ = writeln!(text, "Average accuracy on the experiences trained so far (per cent)\n");
    let _ = write!(text, "{:<10} {:<8} {:<13}", "agent", "head", "");
    for i in 1..=n {
        let _ = write!(text, "{:>7}", format!("exp {i}"));
    }
    let _ = writeln!(text, "{:>8}{:>12}", "final", "forgetting");
    for (agent, head, records) in record.rows() {
        for (arm, head_record) in record.arms.iter().zip(records) {
            let Some(head_record) = head_record else { continue };
            let _ = write!(text, "{agent:<10} {head:<8} {:<13}", arm.name);
            text.push_str(&accuracies(head_record, n));
            text.push('\n');
        }
    }
    let _ = writeln!(
        text,
        "\nfinal: accuracy on all test images. forgetting: mean loss of accuracy on earlier experiences;\nnegative where the head got better at them."
    );
    text.push_str(&exchanged(record));
    text
}

fn accuracies(head: &HeadRecord, n: usize) -> String {
    // Adding 0 makes -0 a plain 0.
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{:.1}", 100.0 * v + 0.0));
    let mut text = String::new();
    for i in 0..n {
        let _ = write!(text, "{:>7}", percent(head.matrix.average_accuracy(i)));
    }
    let last = head.stream.last().copied();
    let _ = write!(text, "{:>8}{:>12}", percent(last), percent(head.matrix.forgetting()));
    text
}

/// Messages and bytes of the arms in which anything was exchanged.
fn exchanged(record: &LabRecord) -> String {
    let mut text = String::new();
    for arm in &record.arms {
        for run in &arm.agents {
            let Some(traffic) = run.last_traffic() else { continue };
            if text.is_empty() {
                let _ = writeln!(
                    text,
                    "\nExchanged\n\n{:<10} {:<8} {:>12} {:>10} {:>12} {:>10}",
                    "agent", "kind", "messages out", "bytes out", "messages in", "bytes in"
                );
            }
            for kind in &traffic.kinds {
                let _ = writeln!(
                    text,
                    "{:<10} {:<8} {:>12} {:>10} {:>12} {:>10}",
                    run.name(),
                    kind.kind,
                    kind.messages_out,
                    kind.bytes_out,
                    kind.messages_in,
                    kind.bytes_in
                );
            }
        }
    }
    text
}
