//! What the agents of a report ran with, key by key.

use std::collections::BTreeMap;

use serde_json::Value;

use super::page::Table;
use super::record::LabRecord;
use crate::config::AgentConfig;

/// Runs by their arms and their places in them.
type Runs = Vec<(usize, usize)>;

/// A key, its value as in TOML, and the agents that have it.
type Setting = (String, String, String);

/// What every reader of a report asks for, by default or not.
const ALWAYS: [&str; 9] = [
    "replay.batch_size",
    "replay.capacity",
    "seed",
    "strategy.name",
    "train.batch_size",
    "train.distill.loss",
    "train.epochs",
    "train.learning_rate",
    "train.optimizer.name",
];

/// [`ALWAYS`] and the keys that differ from their defaults, and, folded, those that do not.
pub(super) fn tables(record: &LabRecord) -> String {
    let (given, default) = settings(record);
    let table = |settings: &[Setting]| {
        let mut table = Table::new(&["key", "value", "agents"], [""; 0]);
        for (i, (key, value, agents)) in settings.iter().enumerate() {
            let is_first = i == 0 || settings[i - 1].0 != *key;
            table.row(&[if is_first { key } else { "" }, value, agents], []);
        }
        table.end()
    };
    let mut html = String::new();
    if !given.is_empty() {
        html += &table(&given);
    }
    if !default.is_empty() {
        let n = default.len();
        html += &format!(
            "<details><summary>{n} keys with their defaults</summary>\n{}</details>\n",
            table(&default)
        );
    }
    html
}

/// Settings of the keys that are shown, and of those that are folded.
fn settings(record: &LabRecord) -> (Vec<Setting>, Vec<Setting>) {
    let defaults = defaults();
    // Of each key, which runs have which value.
    let mut keys: BTreeMap<String, Vec<(Value, Runs)>> = BTreeMap::new();
    for (a, arm) in record.arms.iter().enumerate() {
        for (i, started) in
            arm.agents.iter().enumerate().filter_map(|(i, run)| Some((i, run.started.as_ref()?)))
        {
            for (key, value) in flat(&started.configuration) {
                let values = keys.entry(key).or_default();
                match values.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, runs)) => runs.push((a, i)),
                    None => values.push((value, vec![(a, i)])),
                }
            }
        }
    }
    let (mut given, mut default) = (Vec::new(), Vec::new());
    for (key, values) in keys {
        let is_default = !ALWAYS.contains(&key.as_str())
            && values.iter().all(|(value, _)| defaults.get(&key) == Some(value));
        let kept = if is_default { &mut default } else { &mut given };
        for (value, runs) in values {
            kept.push((key.clone(), value.to_string(), agents(record, &runs)));
        }
    }
    (given, default)
}

/// Of an agent that has a name and a fleet and nothing else.
fn defaults() -> BTreeMap<String, Value> {
    let config: AgentConfig =
        toml::from_str("agent = \"a\"\nfleet = \"f\"\n").expect("invariant: they have defaults");
    let mut defaults = flat(&config.effective().to_json());
    defaults.retain(|key, _| !["agent", "fleet"].contains(&key.as_str()));
    defaults
}

/// Values by their keys, as `train.optimizer.name`; what is not set is left out.
fn flat(configuration: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&key, value, flat);
                }
            }
            Value::Null => {}
            value => {
                flat.insert(prefix.to_owned(), value.clone());
            }
        }
    }
    let mut values = BTreeMap::new();
    walk("", configuration, &mut values);
    values
}

/// `all`, or agents that have it in every arm, arms in which every agent has it, and single runs of others.
fn agents(record: &LabRecord, runs: &[(usize, usize)]) -> String {
    let has = |a: usize, i: usize| runs.contains(&(a, i));
    let of_arm = |a: usize| (0..record.arms[a].agents.len()).map(move |i| (a, i));
    let arms = || 0..record.arms.len();
    if arms().flat_map(of_arm).all(|(a, i)| has(a, i)) {
        return "all".to_owned();
    }
    let everywhere = |i: usize| arms().all(|a| record.arms[a].agents.get(i).is_none() || has(a, i));
    let whole = |a: usize| of_arm(a).all(|(a, i)| has(a, i));
    let mut names: Vec<String> = Vec::new();
    for &(a, i) in runs {
        let (arm, agent) = (&record.arms[a], record.arms[a].agents[i].name());
        let name = if everywhere(i) {
            agent.to_owned()
        } else if whole(a) {
            arm.name.clone()
        } else {
            format!("{agent} ({})", arm.name)
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::lab;

    fn config(text: &str) -> Value {
        let config: AgentConfig = toml::from_str(&format!("fleet = \"f\"\n{text}")).unwrap();
        config.effective().to_json()
    }

    #[test]
    fn settings_are_told_of_those_who_have_them() {
        let mut record = lab();
        for (a, exchange) in [(0, true), (1, false)] {
            for (i, agent) in ["alice", "bob"].into_iter().enumerate() {
                record.arms[a].agents[i].started.as_mut().unwrap().configuration = config(&format!(
                    "agent = \"{agent}\"\nseed = {i}\nout = \"{a}/{agent}\"\n[exchange]\nenabled = {exchange}\n\
                     [train]\nlearning_rate = 0.3\n[strategy]\nname = \"ewc\"\n[train.optimizer]\nname = \"sgd\"\n"
                ));
            }
        }
        let (given, default) = settings(&record);
        let of = |key: &str| -> Vec<(&str, &str)> {
            let settings = given.iter().filter(|(k, ..)| k == key);
            settings.map(|(_, value, agents)| (value.as_str(), agents.as_str())).collect()
        };
        assert_eq!(of("train.learning_rate"), [("0.3", "all")]);
        assert_eq!(of("train.optimizer.name"), [("\"sgd\"", "all")]);
        assert_eq!(of("strategy.name"), [("\"ewc\"", "all")]);
        assert_eq!((of("strategy.lambda").len(), of("replay.capacity")), (1, vec![("0", "all")]));
        assert_eq!(of("seed"), [("0", "alice"), ("1", "bob")]);
        assert_eq!(of("exchange.enabled"), [("true", "exchange on"), ("false", "exchange off")]);
        assert_eq!(of("out")[0], ("\"0/alice\"", "alice (exchange on)"));
        assert_eq!(of("train.micro_batches"), []);
        assert!(default.iter().any(|(key, _, agents)| key == "train.micro_batches" && agents == "all"));
        assert!(ALWAYS.iter().all(|key| given.iter().any(|(k, ..)| k == key)), "{given:?}");
        let html = tables(&record);
        assert!(html.contains("<td>train.learning_rate</td><td>0.3</td><td>all</td>"), "{html}");
        assert!(html.contains("keys with their defaults</summary>"), "{html}");
    }

    #[test]
    fn a_run_that_does_not_tell_its_configuration_has_no_settings() {
        assert_eq!(tables(&lab()), "");
    }
}
