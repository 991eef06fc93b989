//! RabbitMQ with `rabbitmq.conf` and its MQTT plugin, on other ports and with its files in a folder of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Program, changed};
use crate::broker::{find, free_port};

/// Debian's: the program on the `PATH` is a wrapper that wants to be root and to write to /var/log.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Erlang's port mapper, without which RabbitMQ would start one that outlives it, and the broker itself.
///
/// # Panics
/// If they are not installed, or the configuration is no longer what is expected.
pub fn rabbitmq(folder: &Path, port: u16) -> Vec<Program> {
    let [mapper_port, distribution_port] = [free_port(), free_port()];
    let listener = format!("127.0.0.1:{port}");
    let config = changed("broker-config/rabbitmq.conf", &[("127.0.0.1:1883", &listener)]);
    for (file, text) in [("rabbitmq.conf", config.as_str()), ("plugins", "[rabbitmq_mqtt].\n")] {
        fs::write(folder.join(file), text).expect("the configuration is written");
    }

    let mut mapper = Command::new(find("epmd"));
    mapper.args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()]);

    let program = PathBuf::from(PROGRAM);
    let mut broker = Command::new(if program.is_file() { program } else { find("rabbitmq-server") });
    let text = |name: &str| folder.join(name).into_os_string();
    broker.envs([
        ("HOME", folder.as_os_str().to_owned()),
        // Of its own name there is one at each port mapper.
        ("RABBITMQ_NODENAME", "dkt@localhost".into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", mapper_port.to_string().into()),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string().into()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".into()),
        // Nothing of the machine's own broker.
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
        ("RABBITMQ_CONFIG_FILE", text("rabbitmq.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", text("plugins")),
        ("RABBITMQ_MNESIA_BASE", text("mnesia")),
        ("RABBITMQ_LOG_BASE", text("log")),
        ("RABBITMQ_LOGS", "-stderr".into()),
        ("RABBITMQ_PID_FILE", text("pid")),
        // As under systemd the script then becomes the broker, and killing the one ends the other.
        ("NOTIFY_SOCKET", "/dev/null".into()),
    ]);
    vec![(mapper, mapper_port), (broker, port)]
}
