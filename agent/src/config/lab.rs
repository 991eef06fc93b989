//! `LAB.toml`: several agents on one machine, what they share and where they differ.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::members::{self, MemberTable};
use super::{AgentConfig, ConfigError, class_order, parse};
use crate::membership::Member;

/// Configuration of `dkt testbed`.
#[derive(Clone, Debug, PartialEq)]
pub struct LabConfig {
    /// Heading of the report.
    pub title: String,
    /// `embedded` for a broker of the testbed's own, or the URL of a running one.
    pub broker: String,
    /// Whether the same lab runs a second time with the exchange off.
    pub control: bool,
    pub agents: Vec<AgentConfig>,
    /// When each of them is there.
    pub members: Vec<Member>,
}

/// The file as it is written: agents are tables laid over `defaults`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabFile {
    title: String,
    #[serde(default = "embedded")]
    broker: String,
    #[serde(default)]
    control: bool,
    #[serde(default)]
    defaults: toml::Table,
    agents: Vec<toml::Table>,
}

/// The lab's own broker, in the place of a URL.
pub const EMBEDDED: &str = "embedded";

fn embedded() -> String {
    EMBEDDED.to_owned()
}

impl LabConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file: LabFile = parse(path)?;
        let (mut agents, mut tables) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        let invalid = |source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) };
        for mut table in file.agents {
            tables.push(MemberTable::take(&mut table).map_err(invalid)?);
            let mut merged = file.defaults.clone();
            lay_over(&mut merged, table);
            let mut config: AgentConfig = merged.try_into().map_err(invalid)?;
            if file.broker != EMBEDDED {
                file.broker.clone_into(&mut config.exchange.broker);
            }
            if !names.insert(config.agent.clone()) {
                return Err(ConfigError::DuplicateAgent {
                    path: path.to_owned(),
                    agent: config.agent.to_string(),
                });
            }
            agents.push(config);
        }
        if agents.is_empty() {
            return Err(ConfigError::Value {
                path: path.to_owned(),
                key: "agents",
                expected: "at least one [[agents]] table",
                found: "none".to_owned(),
            });
        }
        class_order::of_lab(path, &mut agents)?;
        agents.iter().try_for_each(|agent| agent.validate(path))?;
        let members = members::of_lab(path, &agents, &tables)?;
        Ok(LabConfig { title: file.title, broker: file.broker, control: file.control, agents, members })
    }
}

/// Puts `over` on top of `base`, table by table, so that an agent states only what differs.
fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
