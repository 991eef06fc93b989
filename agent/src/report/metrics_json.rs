//! `metrics.json`: the numbers of `metrics.csv`, nested, for programs.
//!
//! Lists over experiences are in the order of the stream; what is not known is `null`. Epochs and what an experience
//! took have the fields of the events, so experiences and epochs count from 0 here.

mod read;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::measures::{AFTER_EXPERIENCE, OVER_STREAM};
use super::record::{Arm, HeadRecord, LabRecord, RunRecord};
use crate::durable::{self, WriteError};

pub use self::read::read;

/// # Errors
/// [`WriteError`] if the file cannot be written.
pub fn write(record: &LabRecord, path: &Path) -> Result<(), WriteError> {
    let text = format!("{}\n", render(record));
    durable::write(path, text.as_bytes())
}

fn render(record: &LabRecord) -> Value {
    let arm =
        |arm: &Arm| json!({"name": arm.name, "agents": each(&arm.agents, run), "membership": arm.membership});
    json!({"title": record.title, "arms": each(&record.arms, arm)})
}

fn each<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    items.iter().map(value).collect()
}

fn run(run: &RunRecord) -> Value {
    let n_test = run.n_test();
    json!({
        "agent": run.name(),
        "started": run.started,
        "heads": each(&run.heads, |record| head(run, record, &n_test)),
        "usage": run.usages,
        "epochs": run.epochs,
        "traffic": run.last_traffic(),
        "finished": run.finished,
    })
}

fn head(run: &RunRecord, head: &HeadRecord, n_test: &[usize]) -> Value {
    let rows = head.matrix.rows();
    let per_experience = |i| head.matrix.forgetting_per_experience(i).unwrap_or_default();
    let mut object = Map::from_iter([
        ("head".to_owned(), json!(head.head)),
        ("trained".to_owned(), json!((!run.epochs.is_empty()).then(|| !run.is_untrained(head)))),
        ("accuracy".to_owned(), json!(rows)),
        ("initial_accuracy".to_owned(), json!((!head.initial.is_empty()).then_some(&head.initial))),
        ("experience_forgetting".to_owned(), (0..rows.len()).map(per_experience).collect()),
        ("experience_forward_transfer".to_owned(), json!(head.forward_transfers())),
        ("confusion".to_owned(), json!(head.confusions)),
    ]);
    for (metric, value) in AFTER_EXPERIENCE {
        object.insert(metric.to_owned(), (0..rows.len()).map(|i| json!(value(head, i, n_test))).collect());
    }
    for (metric, value) in OVER_STREAM {
        object.insert(metric.to_owned(), json!(value(head)));
    }
    object.into()
}
