//! `dkt`: one agent, a whole lab on one machine, or the tools around them.

use std::process::ExitCode;

fn main() -> ExitCode {
    dkt_agent::train::library::disable_telemetry();
    dkt_agent::cli::main()
}
