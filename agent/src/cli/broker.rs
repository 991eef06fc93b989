//! `dkt broker`.

use std::net::SocketAddr;

use super::CliError;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[cfg(feature = "broker")]
pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let mut signals = super::run::Signals::listen()
        .map_err(super::io_error("listen for", std::path::Path::new("signals")))?;
    let broker = crate::exchange::broker::EmbeddedBroker::start(arguments.listen)?;
    super::print(&format!("listening on mqtt://{}; end with Ctrl-C\n", broker.addr()))?;
    signals.wait();
    Ok(())
}

#[cfg(not(feature = "broker"))]
pub(super) fn run(_: Arguments) -> Result<(), CliError> {
    Err(CliError::NoBroker)
}
