//! `results.json`: everything, for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ExperimentRecord, Row};

/// Version of the file.
const VERSION: u32 = 1;

pub(super) fn render(record: &ExperimentRecord) -> String {
    let key = |arm: usize| record.arms[arm].key.as_str();
    let row = |row: &Row<'_>, baseline: Option<usize>| {
        let mut value = json!({
            "arm": key(row.arm),
            "head": row.head,
            "metric": row.metric.name(),
            "n": row.summary.n,
            "mean": row.summary.mean,
            "sd": row.summary.sd,
            "trained": !record.arms[row.arm].is_untrained(row.head),
        });
        if let Some(baseline) = baseline {
            value["baseline"] = key(baseline).into();
            value["baseline_trained"] = (!record.arms[baseline].is_untrained(row.head)).into();
        }
        value
    };
    let arms: Vec<Value> = record
        .arms
        .iter()
        .map(|arm| {
            let runs: Vec<Value> =
                arm.runs.iter().map(|(seed, run)| json!({ "seed": seed, "agents": run.agents })).collect();
            json!({ "arm": arm.key, "label": arm.label, "runs": runs })
        })
        .collect();
    let summaries: Vec<Value> = record.summaries().iter().map(|r| row(r, None)).collect();
    let differences: Vec<Value> = record.differences().iter().map(|r| row(r, record.baseline)).collect();
    let settings: BTreeMap<&String, &String> =
        record.settings.iter().map(|(key, value)| (key, value)).collect();
    let value = json!({
        "version": VERSION,
        "experiment": record.name,
        "question": record.question,
        "data": record.data,
        "scale": record.scale,
        "agents": record.agents,
        "seeds": record.seeds,
        "settings": settings,
        "notes": record.notes,
        "runs": record.n_runs,
        "finished": record.n_finished,
        "teacher": record.teacher.as_ref().map(|run| &run.agents),
        "summary": summaries,
        "differences": differences,
        "arms": arms,
    });
    serde_json::to_string_pretty(&value).expect("invariant: a record has a JSON form") + "\n"
}
