//! `join`, `leave` and `rejoin` of a lab's agents: who is there when.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, ValueDeserializer};

use super::{AgentConfig, ConfigError};
use crate::membership::{Member, Moment, stuck};

/// `{ after = "alice", experience = 2 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    after: String,
    /// Number of the experience that the other has trained, from 1.
    experience: usize,
}

/// `{ after_experience = 3 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Leave {
    /// Number of its own experience, from 1.
    after_experience: usize,
}

/// The keys of an `[[agents]]` table that are the lab's and not the agent's.
#[derive(Debug)]
pub(super) struct MemberTable {
    join: Option<After>,
    leave: Option<Leave>,
    rejoin: Option<After>,
}

impl MemberTable {
    /// Takes the keys out of an agent's table.
    pub fn take(table: &mut DeTable<'_>) -> Result<Self, toml::de::Error> {
        Ok(MemberTable {
            join: take(table, "join")?,
            leave: take(table, "leave")?,
            rejoin: take(table, "rejoin")?,
        })
    }
}

fn take<T: DeserializeOwned>(table: &mut DeTable<'_>, key: &str) -> Result<Option<T>, toml::de::Error> {
    table.remove(key).map(|value| T::deserialize(ValueDeserializer::from(value))).transpose()
}

/// When each agent of the lab at `path` is there.
///
/// # Errors
/// [`ConfigError`] if somebody is named whom the lab does not have, if an experience is not in a stream, or if
/// agents wait for what never comes.
pub(super) fn of_lab(
    path: &Path,
    agents: &[AgentConfig],
    tables: &[MemberTable],
) -> Result<Vec<Member>, ConfigError> {
    let mut members = Vec::new();
    for (agent, table) in agents.iter().zip(tables) {
        let moment = |key, after: &Option<After>| {
            after.as_ref().map(|after| moment(path, agents, (agent, key), after)).transpose()
        };
        let n_experiences = agent.n_experiences();
        let leave = table.leave.as_ref().map(|leave| leave.after_experience);
        if let Some(found) = leave.filter(|leave| !(1..n_experiences).contains(leave)) {
            let (path, agent) = (path.to_owned(), agent.agent.clone());
            return Err(ConfigError::LeavesTooLate { path, agent, n_experiences, found });
        }
        let rejoin = moment("rejoin", &table.rejoin)?;
        if rejoin.is_some() && leave.is_none() {
            let (path, agent) = (path.to_owned(), agent.agent.clone());
            return Err(ConfigError::RejoinsWithoutLeaving { path, agent });
        }
        members.push(Member { join: moment("join", &table.join)?, leave, rejoin });
    }
    let n_experiences: Vec<usize> = agents.iter().map(AgentConfig::n_experiences).collect();
    let stuck = stuck(&members, &n_experiences);
    if stuck.is_empty() {
        return Ok(members);
    }
    let waits = stuck.iter().flat_map(|i| waits(agents, &members, *i)).collect();
    Err(ConfigError::WaitForEver { path: path.to_owned(), waits })
}

fn moment(
    path: &Path,
    agents: &[AgentConfig],
    (agent, key): (&AgentConfig, &'static str),
    After { after, experience }: &After,
) -> Result<Moment, ConfigError> {
    let Some(other) = agents.iter().position(|a| a.agent.as_str() == after) else {
        return Err(ConfigError::MemberOfNobody {
            path: path.to_owned(),
            agent: agent.agent.clone(),
            key,
            name: after.clone(),
            known: agents.iter().map(|a| a.agent.to_string()).collect(),
        });
    };
    let last = agents[other].n_experiences();
    if !(1..=last).contains(experience) {
        return Err(ConfigError::MemberBeyondStream {
            path: path.to_owned(),
            agent: agent.agent.clone(),
            key,
            other: agents[other].agent.clone(),
            last,
            found: *experience,
        });
    }
    Ok(Moment { agent: other, experience: *experience })
}

/// What an agent waits for, and what keeps that from coming, in words.
fn waits(agents: &[AgentConfig], members: &[Member], i: usize) -> Vec<String> {
    let name = |i: usize| &agents[i].agent;
    let mut words = Vec::new();
    for (does, moment) in [("joins", members[i].join), ("comes back", members[i].rejoin)] {
        let Some(Moment { agent, experience }) = moment else { continue };
        let mut text = format!("`{}` {does} after experience {experience} of `{}`", name(i), name(agent));
        if let Some(leave) = members[agent].leave.filter(|leave| *leave < experience) {
            text += &format!(", which leaves after {leave}");
        }
        words.push(text);
    }
    words
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::lab::LabConfig;

    /// Agents by their names, with further keys.
    fn lab(agents: &[(&str, &str)]) -> Result<Vec<Member>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.toml");
        let agents: String =
            agents.iter().map(|(name, keys)| format!("[[agents]]\nagent = \"{name}\"\n{keys}\n")).collect();
        fs::write(&path, format!("title = \"x\"\n[defaults]\nfleet = \"f\"\n{agents}")).unwrap();
        let lab = LabConfig::read(&path).map_err(|e| {
            let causes = std::iter::successors(Some(&e as &dyn std::error::Error), |e| e.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        })?;
        assert_eq!(lab.members.len(), lab.agents.len());
        Ok(lab.members)
    }

    fn refused(agents: &[(&str, &str)], says: &[&str]) {
        let error = lab(agents).unwrap_err();
        for text in [&["lab.toml"], says].concat() {
            assert!(error.contains(text), "no `{text}` in: {error}");
        }
    }

    #[test]
    fn agents_of_a_lab_say_when_they_are_there() {
        let members = lab(&[
            ("a", ""),
            ("b", "join = { after = \"a\", experience = 2 }"),
            ("c", "leave = { after_experience = 4 }\nrejoin = { after = \"b\", experience = 5 }"),
        ]);
        let moment = |agent, experience| Some(Moment { agent, experience });
        assert_eq!(
            members.unwrap(),
            [
                Member::default(),
                Member { join: moment(0, 2), ..Member::default() },
                Member { join: None, leave: Some(4), rejoin: moment(1, 5) },
            ]
        );
    }

    #[test]
    fn what_the_lab_does_not_have_is_refused() {
        refused(
            &[("a", ""), ("b", "join = { after = \"carol\", experience = 1 }")],
            &["`join` of `b` waits for `carol`", "this lab has `a`, `b`"],
        );
        for experience in ["0", "6"] {
            let join = format!("join = {{ after = \"a\", experience = {experience} }}");
            let says =
                format!("`join` of `b`: expected an experience of `a` from 1 to 5, found {experience}");
            refused(&[("a", ""), ("b", &join)], &[&says]);
        }
        refused(
            &[("a", "strategy.name = \"joint\""), ("b", "join = { after = \"a\", experience = 2 }")],
            &["from 1 to 1, found 2"],
        );
        refused(
            &[("a", "leave = { after_experience = 5 }")],
            &["`leave` of `a`: expected at least 1 and fewer than the 5 experiences of its stream, found 5"],
        );
        refused(
            &[("a", ""), ("b", "rejoin = { after = \"a\", experience = 1 }")],
            &["`b` has `rejoin` and no `leave`"],
        );
        refused(&[("a", "leave = { after = 1 }")], &["`after`", "`after_experience`"]);
    }

    #[test]
    fn what_never_comes_is_refused() {
        refused(
            &[
                ("a", ""),
                ("b", "join = { after = \"c\", experience = 1 }"),
                ("c", "join = { after = \"b\", experience = 2 }"),
            ],
            &["`b` joins after experience 1 of `c`, `c` joins after experience 2 of `b`; let one of them"],
        );
        refused(
            &[("a", "join = { after = \"a\", experience = 1 }")],
            &["`a` joins after experience 1 of `a`"],
        );
        refused(
            &[("a", "leave = { after_experience = 2 }"), ("b", "join = { after = \"a\", experience = 3 }")],
            &["`b` joins after experience 3 of `a`, which leaves after 2"],
        );
        refused(
            &[
                ("a", "leave = { after_experience = 1 }\nrejoin = { after = \"b\", experience = 2 }"),
                ("b", "leave = { after_experience = 1 }\nrejoin = { after = \"a\", experience = 2 }"),
            ],
            &["`a` comes back after experience 2 of `b`, which leaves after 1, `b` comes back"],
        );
    }

    #[test]
    fn one_that_comes_back_can_be_waited_for() {
        let members = lab(&[
            ("a", ""),
            ("b", "leave = { after_experience = 1 }\nrejoin = { after = \"a\", experience = 2 }"),
            ("c", "join = { after = \"b\", experience = 5 }"),
        ]);
        assert!(members.is_ok(), "{members:?}");
    }
}
