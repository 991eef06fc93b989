//! `--set key=value`: keys of `AGENT.toml`, in place of what an experiment would choose.

use std::str::FromStr;

use toml::{Table, Value};

/// Keys that are the experiment's own, and what says them instead.
const RESERVED: [(&str, &str); 11] = [
    ("agent", "the experiment names its agents"),
    ("fleet", "the experiment names its fleets"),
    ("seed", "use --seeds"),
    ("out", "use --out"),
    ("model.network", "use --network"),
    ("data.source", "use --data"),
    ("checkpoint.models", "the experiment keeps the networks that it needs"),
    ("exchange.enabled", "use --no-control"),
    ("exchange.broker", "use --broker"),
    ("exchange.tls", "use --broker, with an mqtt:// URL"),
    ("teacher", "use --teacher-from"),
];

#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    #[error("expected key=value, found `{found}`")]
    Form { found: String },
    #[error("`{key}`: `{value}` is no TOML value; write text in quotes")]
    Value { key: String, value: String },
    #[error("`{key}` cannot be set here: {instead}")]
    Reserved { key: String, instead: &'static str },
    #[error("`{key}`: `{part}` holds a value, expected a table of keys")]
    NotATable { key: String, part: String },
}

/// A key, its parts between full stops, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Value,
}

impl FromStr for Override {
    type Err = OverrideError;

    /// A word that is no TOML value is taken as text: `train.device=cuda`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || OverrideError::Form { found: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(form)?;
        let (key, value) = (key.trim(), value.trim());
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
        };
        if !key.split('.').all(is_part) || value.is_empty() {
            return Err(form());
        }
        for (own, instead) in RESERVED {
            reserve(key, own, instead)?;
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_-+:./".contains(c);
        let value = match toml::from_str::<Table>(&format!("value = {value}")) {
            Ok(mut table) if table.len() == 1 => table.remove("value").ok_or_else(form)?,
            _ if value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.chars().all(is_word) => {
                Value::String(value.to_owned())
            }
            _ => return Err(OverrideError::Value { key: key.to_owned(), value: value.to_owned() }),
        };
        Ok(Override { key: key.to_owned(), value })
    }
}

/// Refuses a key that is `own`, above it or below it.
fn reserve(key: &str, own: &str, instead: &'static str) -> Result<(), OverrideError> {
    if own == key || own.starts_with(&format!("{key}.")) || key.starts_with(&format!("{own}.")) {
        return Err(OverrideError::Reserved { key: key.to_owned(), instead });
    }
    Ok(())
}

impl Override {
    /// Refuses a key that one experiment alone keeps for itself, by what says it instead.
    ///
    /// # Errors
    /// [`OverrideError::Reserved`] if this is that key.
    pub(super) fn refuse(&self, own: &str, instead: &'static str) -> Result<(), OverrideError> {
        reserve(&self.key, own, instead)
    }

    /// Puts the value in its place, whatever is there.
    ///
    /// # Errors
    /// [`OverrideError::NotATable`] if a part of the key holds a value already.
    pub fn apply(&self, table: &mut Table) -> Result<(), OverrideError> {
        put(table, &self.key, self.value.clone())
            .map_err(|part| OverrideError::NotATable { key: self.key.clone(), part: part.to_owned() })
    }
}

/// Puts a value under a dotted key; the part of it that is no table, if there is one.
pub(super) fn put<'k>(table: &mut Table, key: &'k str, value: Value) -> Result<(), &'k str> {
    let (mut table, mut rest) = (table, key);
    while let Some((part, below)) = rest.split_once('.') {
        let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        table = inner.as_table_mut().ok_or(part)?;
        rest = below;
    }
    table.insert(rest.to_owned(), value);
    Ok(())
}

/// The value under a dotted key.
pub(super) fn get<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((part, below)) => get(table.get(part)?.as_table()?, below),
        None => table.get(key),
    }
}

/// Every value of a table by its dotted key, as TOML writes it.
pub(super) fn flat(table: &Table) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                values.extend(flat(inner).into_iter().map(|(below, v)| (format!("{key}.{below}"), v)));
            }
            value => values.push((key.clone(), value.to_string())),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> Table {
        let mut table: Table = toml::from_str("[train]\nepochs = 3\noptimizer = { name = 'sgd' }").unwrap();
        for text in texts {
            text.parse::<Override>().unwrap().apply(&mut table).unwrap();
        }
        table
    }

    #[test]
    fn values_are_put_where_their_keys_say() {
        let table = set(&[
            "train.epochs=6",
            "train.device = cuda:1",
            "train.optimizer={ name = \"adam\" }",
            "data.flip=true",
            "stream.class_order=[1, 0]",
        ]);
        let expected = "
            [train]
            epochs = 6
            device = 'cuda:1'
            optimizer = { name = 'adam' }
            [data]
            flip = true
            [stream]
            class_order = [1, 0]
        ";
        assert_eq!(table, toml::from_str(expected).unwrap());
        assert_eq!(get(&table, "train.optimizer.name").unwrap().as_str(), Some("adam"));
        assert_eq!(get(&table, "train.none.name"), None);
        assert!(flat(&table).contains(&("train.optimizer.name".to_owned(), "\"adam\"".to_owned())));
    }

    #[test]
    fn what_cannot_be_set_is_refused_and_says_why() {
        for (text, says) in [
            ("train.epochs", "expected key=value, found `train.epochs`"),
            ("train..epochs=3", "expected key=value"),
            ("train.epochs=", "expected key=value"),
            ("train.epochs=[1", "`[1` is no TOML value"),
            ("train.epochs=1\nagent = 'x'", "is no TOML value"),
            ("seed=3", "use --seeds"),
            ("exchange={ enabled = false }", "use --no-control"),
            ("teacher.models=[]", "use --teacher-from"),
        ] {
            let error = text.parse::<Override>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let inside: Override = "train.epochs.first=3".parse().unwrap();
        let error = inside.apply(&mut set(&[])).unwrap_err().to_string();
        assert_eq!(error, "`train.epochs.first`: `epochs` holds a value, expected a table of keys");
    }
}
