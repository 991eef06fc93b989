//! `LAB.toml`: several agents on one machine, what they share and where they differ.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::members::{self, MemberTable};
use super::{AgentConfig, ConfigError, class_order, read_text};
use crate::ids::AgentId;
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

/// The file as it is written, but for the agents, which are tables laid over `defaults`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabFile {
    title: String,
    #[serde(default = "embedded")]
    broker: String,
    #[serde(default)]
    control: bool,
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
    /// [`ConfigError`], naming the file, the agent and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let invalid = |mut source: toml::de::Error| {
            source.set_input(Some(&text));
            ConfigError::Parse { path: path.to_owned(), source: Box::new(source) }
        };
        // Values know where in the text they are, whatever table they are laid over: an error names the line.
        let mut table = DeTable::parse(&text).map_err(invalid)?;
        let defaults = defaults(path, table.get_mut())?;
        let agent_tables = agent_tables(path, table.get_mut())?;
        let file = LabFile::deserialize(Deserializer::from(table)).map_err(invalid)?;
        let (mut agents, mut tables) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for (i, (span, mut table)) in agent_tables.into_iter().enumerate() {
            let name = table.get("agent").and_then(|name| name.get_ref().as_str());
            let name = name.map_or_else(|| (i + 1).to_string(), |name| format!("`{name}`"));
            let of_agent = |source| ConfigError::OfAgent { agent: name.clone(), source: Box::new(source) };
            tables.push(MemberTable::take(&mut table).map_err(invalid).map_err(of_agent)?);
            let mut merged = defaults.clone();
            lay_over(&mut merged, table);
            let merged = Deserializer::from(Spanned::new(span, merged));
            let mut config = AgentConfig::deserialize(merged).map_err(invalid).map_err(of_agent)?;
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
        class_order::of_lab(path, &mut agents)?;
        for agent in &agents {
            let name = format!("`{}`", agent.agent);
            agent
                .validate(path)
                .map_err(|source| ConfigError::OfAgent { agent: name, source: Box::new(source) })?;
        }
        if file.broker == EMBEDDED {
            check_teachers(path, &agents)?;
        }
        let members = members::of_lab(path, &agents, &tables)?;
        Ok(LabConfig { title: file.title, broker: file.broker, control: file.control, agents, members })
    }
}

/// That the lab has the teachers that its agents name: at a broker of its own there is nobody else.
fn check_teachers(path: &Path, agents: &[AgentConfig]) -> Result<(), ConfigError> {
    for agent in agents {
        let others = agents.iter().filter(|other| other.fleet == agent.fleet && other.agent != agent.agent);
        let known: Vec<AgentId> = others.map(|other| other.agent.clone()).collect();
        if let Some(name) = agent.exchange.teachers.iter().find(|name| !known.contains(name)) {
            return Err(ConfigError::TeacherOfNobody {
                path: path.to_owned(),
                agent: agent.agent.clone(),
                fleet: agent.fleet.clone(),
                name: name.clone(),
                known,
            });
        }
    }
    Ok(())
}

/// Takes the keys that all agents share out of a lab's table.
fn defaults<'i>(path: &Path, table: &mut DeTable<'i>) -> Result<DeTable<'i>, ConfigError> {
    match table.remove("defaults").map(Spanned::into_inner) {
        None => Ok(DeTable::new()),
        Some(DeValue::Table(defaults)) => Ok(defaults),
        Some(other) => Err(ConfigError::Value {
            path: path.to_owned(),
            key: "defaults",
            expected: "a table",
            found: other.type_str().to_owned(),
        }),
    }
}

/// Takes the agents' tables out of a lab's, each with where it is in the text.
fn agent_tables<'i>(
    path: &Path,
    table: &mut DeTable<'i>,
) -> Result<Vec<(Range<usize>, DeTable<'i>)>, ConfigError> {
    let wrong = |found: &str| ConfigError::Value {
        path: path.to_owned(),
        key: "agents",
        expected: "at least one [[agents]] table",
        found: found.to_owned(),
    };
    let agents = match table.remove("agents").map(Spanned::into_inner) {
        None => DeArray::new(),
        Some(DeValue::Array(agents)) => agents,
        Some(other) => return Err(wrong(other.type_str())),
    };
    if agents.is_empty() {
        return Err(wrong("none"));
    }
    let table = |agent: Spanned<DeValue<'i>>| match (agent.span(), agent.into_inner()) {
        (span, DeValue::Table(table)) => Ok((span, table)),
        (_, other) => Err(wrong(other.type_str())),
    };
    agents.into_iter().map(table).collect()
}

/// Puts `over` on top of `base`, table by table, so that an agent states only what differs.
fn lay_over<'i>(base: &mut DeTable<'i>, over: DeTable<'i>) {
    for (key, value) in over {
        let span = value.span();
        match (base.get_mut(&**key.get_ref()).map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Table(below)), DeValue::Table(above)) => lay_over(below, above),
            (_, value) => {
                base.insert(key, Spanned::new(span, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_teachers(heading: &str, of_bob: &str) -> Result<LabConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.toml");
        let agents = format!(
            "[[agents]]\nagent = \"alice\"\nfleet = \"f\"\n\n[[agents]]\nagent = \"carol\"\nfleet = \"g\"\n\n\
             [[agents]]\nagent = \"bob\"\nfleet = \"f\"\nexchange.teachers = {of_bob}\n"
        );
        std::fs::write(&path, format!("title = \"x\"\n{heading}\n{agents}")).unwrap();
        LabConfig::read(&path)
    }

    #[test]
    fn a_lab_of_its_own_has_the_teachers_that_are_named() {
        assert!(of_teachers("", "[\"alice\"]").is_ok());
        for wrong in ["alcie", "carol"] {
            let error = of_teachers("", &format!("[\"alice\", \"{wrong}\"]")).unwrap_err().to_string();
            let says = format!("`bob` names `{wrong}`, but its fleet `f` has `alice` in this lab");
            assert!(error.contains(&says), "{error}");
        }
        // At another broker there may be more agents than the lab's.
        assert!(of_teachers("broker = \"mqtt://127.0.0.1:1883\"", "[\"dave\"]").is_ok());
    }
}
