//! Tables for the terminal.

use std::fmt::Write as _;

use super::number::{fixed, percent};
use super::record::{HeadRecord, LabRecord};

/// Accuracies of every agent and head in every arm, what the training took, and what was exchanged; accuracies in per
/// cent.
pub fn render(record: &LabRecord) -> String {
    let mut text = format!("{}\n\n", record.title);
    let n = record.arms.iter().flat_map(|a| &a.agents).map(|r| r.n_experiences()).max().unwrap_or(0);
    if n > 1 {
        over_experiences(&mut text, record, n);
    } else {
        of_one_experience(&mut text, record);
    }
    text.push_str(untrained(record));
    text.push_str(&membership(record));
    text.push_str(&took(record));
    text.push_str(&exchanged(record));
    text
}

fn over_experiences(text: &mut String, record: &LabRecord, n: usize) {
    let _ = writeln!(text, "Average accuracy on the experiences trained so far (per cent)\n");
    let _ = write!(text, "{:<10} {:<8} {:<13}", "agent", "head", "");
    for i in 1..=n {
        let _ = write!(text, "{:>7}", format!("exp {i}"));
    }
    let _ = writeln!(text, "{:>8}{:>12}{:>8}", "final", "forgetting", "fwt");
    lines(text, record, |head| {
        let each = (0..n).map(|i| format!("{:>7}", percent(head.matrix.average_accuracy(i))));
        let last = percent(head.stream.last().copied());
        let forgetting = percent(head.matrix.forgetting());
        let transfer = percent(head.matrix.forward_transfer(&head.initial));
        format!("{}{last:>8}{forgetting:>12}{transfer:>8}", each.collect::<String>())
    });
    text.push_str(
        "\nfinal: accuracy on all test images. forgetting: mean loss of accuracy on earlier experiences;\n\
         negative where the head got better at them. fwt: forward transfer, mean accuracy on experiences just\n\
         before they were trained, less that of the initial network.\n",
    );
}

/// Where there is one experience alone, nothing can be forgotten or known before.
fn of_one_experience(text: &mut String, record: &LabRecord) {
    let _ = writeln!(text, "Accuracy on all test images (per cent)\n");
    let _ = writeln!(text, "{:<10} {:<8} {:<13}{:>7}", "agent", "head", "", "final");
    lines(text, record, |head| format!("{:>7}", percent(head.stream.last().copied())));
}

/// A line a head and arm.
fn lines(text: &mut String, record: &LabRecord, numbers: impl Fn(&HeadRecord) -> String) {
    for row in record.rows() {
        let (agent, head, arm) = (row.run.name(), row.head.head.as_str(), row.arm.name.as_str());
        let mark = if row.is_untrained() { "  untrained" } else { "" };
        let _ = writeln!(text, "{agent:<10} {head:<8} {arm:<13}{}{mark}", numbers(row.head));
    }
}

/// What the mark says, where any head has it.
fn untrained(record: &LabRecord) -> &'static str {
    if record.rows().iter().any(|row| row.is_untrained()) {
        "\nuntrained: no row had a teacher, so the student head has learned nothing.\n"
    } else {
        ""
    }
}

/// Who joined late and who left, in arms where anybody did.
pub(super) fn membership(record: &LabRecord) -> String {
    let changes: Vec<_> = record
        .arms
        .iter()
        .flat_map(|arm| arm.membership.iter().map(move |change| (&arm.name, change)))
        .collect();
    let lines = changes.iter().map(|(arm, change)| format!("{arm:<13} {change}\n"));
    if changes.is_empty() {
        String::new()
    } else {
        format!("\nJoined and left\n\n{}", lines.collect::<String>())
    }
}

/// Time, and energy where any agent could measure it, over all experiences.
fn took(record: &LabRecord) -> String {
    let runs = || record.arms.iter().flat_map(|arm| arm.agents.iter().map(move |run| (arm, run)));
    let totals: Vec<_> =
        runs().filter_map(|(arm, run)| Some((run.name(), &arm.name, run.total_usage()?))).collect();
    if totals.is_empty() {
        return String::new();
    }
    let has_energy = totals.iter().any(|(_, _, usage)| usage.energy_joules.is_some());
    let mut text = format!("\nTook\n\n{:<10} {:<8} {:<13}", "agent", "", "");
    let _ = write!(text, "{:>9}{:>13}{:>11}", "seconds", "cpu seconds", "samples/s");
    text.push_str(if has_energy { "      joules\n" } else { "\n" });
    for (agent, arm, usage) in totals {
        let rate = usage.samples_per_second().map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        let (wall, cpu) = (fixed(usage.seconds, 1), fixed(usage.cpu_seconds, 1));
        let _ = write!(text, "{agent:<10} {:<8} {arm:<13}{wall:>9}{cpu:>13}{rate:>11}", "");
        if has_energy {
            let joules = usage.energy_joules.map_or("-".to_owned(), |joules| format!("{joules:.0}"));
            let _ = write!(text, "{joules:>12}");
        }
        text.push('\n');
    }
    if has_energy {
        text.push_str("\njoules: what the whole board drew meanwhile, with all that ran on it.\n");
    }
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
            let refused = traffic.refused_in_words();
            if !refused.is_empty() {
                let _ = writeln!(text, "{:<10} messages refused: {refused}", run.name());
            }
            if let Some(finished) = &run.finished {
                let seconds = fixed(finished.labelling_seconds, 1);
                let _ = writeln!(text, "{:<10} labelled for others for {seconds} s", run.name());
            }
        }
    }
    if !text.is_empty() {
        text += "\nA message of 0 bytes takes back what its sender said before.\n";
    }
    text
}
