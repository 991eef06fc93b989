//! Files that are used as they are: examples, brokers' configurations, the service unit. They must agree with the
//! program and with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use dkt_agent::config::lab::LabConfig;
use dkt_agent::config::{AgentConfig, SigningConfig, TlsConfig};
use dkt_agent::exchange::wire;
use dkt_tests::process::run;
use dkt_tests::repository;

use crate::dkt;
use crate::repository::files;

#[test]
fn the_example_configuration_shows_every_key_with_its_default() {
    let shipped = repository("agent/examples/agent.toml");
    let text = fs::read_to_string(&shipped).unwrap();
    let defaults: AgentConfig = toml::from_str("agent = \"alice\"\nfleet = \"lab\"").unwrap();
    assert_eq!(AgentConfig::read(&shipped).unwrap(), defaults);

    // With what is commented out, it has each key there is, and none that is not.
    let mut whole = defaults;
    let path = PathBuf::from("x");
    whole.out = Some(path.clone());
    whole.model.seed = Some(0);
    let (capacity, selection) = whole.replay.resolved(whole.strategy.strategy());
    whole.replay.capacity = Some(capacity);
    whole.replay.selection = Some(selection);
    whole.proxy = Some(toml::from_str("source = \"x\"").unwrap());
    whole.exchange.tls = Some(TlsConfig { ca: path.clone(), cert: path.clone(), key: path.clone() });
    whole.exchange.signing = Some(SigningConfig { key: path.clone(), signers: path });
    let shown = uncommented(&text).parse::<toml::Table>().unwrap();
    assert_eq!(keys(&shown), keys(&toml::Table::try_from(&whole).unwrap()));
}

/// Settings and tables that are comments become what they are.
fn uncommented(text: &str) -> String {
    let uncommented = |line: &str| {
        let setting = line.strip_prefix("# ").filter(|rest| {
            let word = rest.split(['=', ' ', ']']).next().unwrap_or_default().trim_start_matches('[');
            let is_key = word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
            is_key && (rest.starts_with('[') || rest[word.len()..].starts_with(" = "))
        });
        setting.unwrap_or(line).to_owned() + "\n"
    };
    text.lines().map(uncommented).collect()
}

/// Dotted paths of all settings. The optimiser's own constants depend on which it is.
fn keys(table: &toml::Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(table) if key != "optimizer" => {
                keys.extend(self::keys(table).into_iter().map(|below| format!("{key}.{below}")));
            }
            _ => {
                keys.insert(key.clone());
            }
        }
    }
    keys
}

#[test]
fn every_example_lab_is_one_and_is_listed() {
    let folder = repository("agent/examples");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let labs: Vec<String> = names.filter(|name| name.ends_with("-lab.toml")).collect();
    assert!(labs.len() >= 5, "{labs:?}");
    for name in labs {
        let lab = LabConfig::read(&folder.join(&name)).unwrap();
        assert!(lab.control && lab.agents.len() >= 2, "{name} compares the exchange with its control");
        assert!(list.contains(&format!("]({name})")), "the README beside {name} has no link to it");
        // Waiting for one that comes late by design is in vain.
        let n_first = lab.members.iter().filter(|member| member.join.is_none()).count();
        for (agent, member) in lab.agents.iter().zip(&lab.members) {
            let n_peers = if member.join.is_none() { n_first - 1 } else { 0 };
            assert!(agent.exchange.wait_for_peers <= n_peers, "{name}: {} waits for too many", agent.agent);
        }
    }
}

/// Exit codes and their meaning, as `dkt --help` tells them.
fn exit_codes() -> BTreeMap<u8, String> {
    let help = run(dkt(["--help"])).stdout;
    let list = help.split("Exit codes: ").nth(1).unwrap().split(".\n").next().unwrap().replace('\n', " ");
    let code = |text: &str| {
        let (code, meaning) = text.trim().split_once(' ').unwrap();
        (code.parse().unwrap(), meaning.to_owned())
    };
    list.split(';').map(code).collect()
}

/// Rows `| code | meaning … |` of the tables of a page.
fn table_of_codes(text: &str) -> BTreeMap<u8, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(|cell| cell.trim().trim_matches('`'));
        Some((cells.next()?.parse().ok()?, cells.next()?.to_lowercase()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_readme_has_the_exit_codes_that_help_tells() {
    let codes = exit_codes();
    assert_eq!(codes.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 65, 66, 69, 74, 78, 130]);
    let table = table_of_codes(&fs::read_to_string(repository("README.md")).unwrap());
    assert!(table.keys().eq(codes.keys()), "the table of the README has {:?}", table.keys());
    for (code, meaning) in codes {
        assert!(
            table[&code].contains(&meaning.to_lowercase()),
            "{code} is `{}`, not `{meaning}`",
            table[&code]
        );
    }
}

#[test]
fn every_broker_takes_the_longest_message_and_no_longer_packet() {
    for (name, text) in [files("broker-config", &["conf"]), files("deploy/compose", &["conf"])].concat() {
        let setting = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} ")));
            line.map(|number| number.parse::<usize>().unwrap())
        };
        // A bridge is a part of another file, which has the limits; the service's drop-in is none of mosquitto's; NATS
        // has no such limit.
        if text.contains("\nconnection ") || name.contains(".service.d") || name.ends_with("/nats.conf") {
            continue;
        }
        if name.ends_with("/rabbitmq.conf") {
            assert_eq!(setting("max_message_size ="), Some(wire::MAX_MESSAGE_BYTES), "{name}");
            continue;
        }
        assert_eq!(setting("message_size_limit"), Some(wire::MAX_MESSAGE_BYTES), "{name}");
        assert_eq!(setting("max_packet_size"), Some(wire::MAX_MESSAGE_BYTES + 4096), "{name}");
    }
}

#[test]
fn every_other_shipped_agent_has_a_valid_configuration() {
    for (name, _) in files("deploy", &["toml"]) {
        let config = AgentConfig::read(&repository(&name)).unwrap();
        let file = PathBuf::from(&name);
        assert_eq!(file.file_stem().unwrap(), config.agent.as_str(), "{name} is called after its agent");
    }
}

#[test]
fn a_service_is_not_restarted_where_that_cannot_help() {
    for (name, text) in files("deploy/systemd", &["service"]) {
        let setting = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
            line.unwrap_or_else(|| panic!("{name} has no {key}"))
        };
        let prevented: BTreeSet<u8> = setting("RestartPreventExitStatus")
            .split_whitespace()
            .map(|code| code.parse().unwrap())
            .collect();
        // What may pass by itself: an unexpected failure, a broker or device that comes, a disk that is emptied,
        // an impatient Ctrl-C.
        let worth_a_restart = [0, 1, 69, 74, 130];
        let expected: BTreeSet<u8> =
            exit_codes().into_keys().filter(|c| !worth_a_restart.contains(c)).collect();
        assert_eq!(prevented, expected, "{name}");
        assert_eq!(setting("Restart"), "on-failure", "{name}");
        assert_eq!(setting("KillSignal"), "SIGTERM", "{name}: an agent saves when it is asked to stop");
        assert!(setting("Environment").starts_with("ORT_DYLIB_PATH="), "{name}");
    }
}

#[test]
fn service_units_are_well_formed() {
    for (name, text) in files("deploy/systemd", &["service"]) {
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let is_section = ["[Unit]", "[Service]", "[Install]"].contains(&line);
            let is_setting = line.split_once('=').is_some_and(|(key, _)| {
                key.starts_with(|c: char| c.is_ascii_uppercase())
                    && key.chars().all(|c| c.is_ascii_alphanumeric())
            });
            assert!(is_section || is_setting, "{name}: `{line}`");
        }
        verified_by_systemd(&name, &text);
    }
}

/// systemd's own opinion, where it is installed. It wants the program to be there, so the one under test is named.
fn verified_by_systemd(name: &str, text: &str) {
    let program = dkt([""; 0]).get_program().to_str().unwrap().to_owned();
    let installed = "ExecStart=/usr/bin/dkt ";
    assert!(text.contains(installed), "{name} no longer has `{installed}`");
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join(PathBuf::from(name).file_name().unwrap());
    fs::write(&unit, text.replace(installed, &format!("ExecStart={program} "))).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // It also reads the machine's own units, and may complain about those.
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("dkt-agent")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
