//! Class orders that are those of other agents: who is named, and what their order is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{AgentConfig, ConfigError, parse};
use crate::stream::ClassOrder;

/// Most files or agents that one order is looked up in, one after another.
const MAX_STEPS: usize = 64;

/// The order of the agent of `path`, which may be that of another file's agent, relative to the file that names it.
///
/// # Errors
/// [`ConfigError`] if a file cannot be read, or if they name each other in a circle.
pub(super) fn of_file(path: &Path, order: ClassOrder) -> Result<ClassOrder, ConfigError> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut seen: Vec<PathBuf> = vec![real(path)];
    let (mut file, mut order) = (path.to_owned(), order);
    while let ClassOrder::SameAs(name) = order {
        file = file.parent().unwrap_or(Path::new("")).join(name);
        let other: AgentConfig = parse(&file)?;
        let is_circle = seen.contains(&real(&file)) || seen.len() >= MAX_STEPS;
        seen.push(real(&file));
        if is_circle {
            let names = seen.iter().map(|file| file.display().to_string()).collect();
            return Err(ConfigError::OrderCircle { path: path.to_owned(), names });
        }
        order = other.stream.class_order;
    }
    Ok(order)
}

/// The orders of the agents of the lab at `path`, by their names, each a seed or a list.
///
/// # Errors
/// [`ConfigError`] if an agent is named that the lab does not have, or if they name each other in a circle.
pub(super) fn of_lab(path: &Path, agents: &mut [AgentConfig]) -> Result<(), ConfigError> {
    let written: BTreeMap<String, ClassOrder> =
        agents.iter().map(|a| (a.agent.to_string(), a.stream.class_order.clone())).collect();
    for agent in agents {
        let mut names = vec![agent.agent.to_string()];
        while let ClassOrder::SameAs(name) = &agent.stream.class_order {
            let Some(order) = written.get(name) else {
                return Err(ConfigError::OrderOfNobody {
                    path: path.to_owned(),
                    agent: agent.agent.clone(),
                    name: name.clone(),
                    known: written.keys().cloned().collect(),
                });
            };
            let is_circle = names.contains(name);
            names.push(name.clone());
            if is_circle {
                return Err(ConfigError::OrderCircle { path: path.to_owned(), names });
            }
            agent.stream.class_order = order.clone();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::lab::LabConfig;

    fn lab(agents: &[(&str, &str)]) -> Result<Vec<ClassOrder>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.toml");
        let agents: String = agents
            .iter()
            .map(|(name, order)| format!("[[agents]]\nagent = \"{name}\"\nstream.class_order = {order}\n"))
            .collect();
        fs::write(&path, format!("title = \"x\"\n[defaults]\nfleet = \"f\"\n{agents}")).unwrap();
        let lab = LabConfig::read(&path).map_err(|e| e.to_string())?;
        Ok(lab.agents.into_iter().map(|a| a.stream.class_order).collect())
    }

    #[test]
    fn agents_of_a_lab_take_over_the_order_of_others() {
        let orders = lab(&[("a", "\"b\""), ("b", "\"c\""), ("c", "7"), ("d", "[1, 0]"), ("e", "\"d\"")]);
        let seed = ClassOrder::Seed(7);
        let list = ClassOrder::List(vec![1, 0]);
        assert_eq!(orders, Ok(vec![seed.clone(), seed.clone(), seed, list.clone(), list]));
        let error = lab(&[("a", "\"b\""), ("b", "\"c\""), ("c", "\"b\"")]).unwrap_err();
        assert!(error.contains("`a`, `b`, `c`, `b` have each other's class order"), "{error}");
        assert!(lab(&[("a", "\"a\"")]).unwrap_err().contains("`a`, `a` have"));
        let error = lab(&[("a", "\"carol\""), ("b", "1")]).unwrap_err();
        assert!(error.contains("`a` has the class order of `carol`"), "{error}");
        assert!(error.contains("this lab has `a`, `b`"), "{error}");
    }

    #[test]
    fn an_agent_takes_over_the_order_of_a_file_beside_its_own() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("others")).unwrap();
        let write = |name: &str, order: &str| {
            let agent = Path::new(name).file_stem().unwrap().to_str().unwrap();
            let text = format!("agent = \"{agent}\"\nfleet = \"f\"\nstream.class_order = {order}\n");
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let bob = write("bob.toml", "\"others/alice.toml\"");
        let alice = write("others/alice.toml", "\"carol.toml\"");
        write("others/carol.toml", "7");
        let order = |path: &Path| AgentConfig::read(path).map(|config| config.stream.class_order);
        assert_eq!(order(&bob).unwrap(), ClassOrder::Seed(7));
        assert_eq!(order(&alice).unwrap(), ClassOrder::Seed(7));
        write("others/carol.toml", "\"../bob.toml\"");
        let error = order(&bob).unwrap_err().to_string();
        assert!(error.contains("carol.toml") && error.contains("have each other's class order"), "{error}");
        write("others/carol.toml", "\"missing.toml\"");
        let error = order(&bob).unwrap_err().to_string();
        assert!(error.contains("others/missing.toml"), "{error}");
    }
}
