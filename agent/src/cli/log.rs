//! The log of the program: what of it, in which format, and where to.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::{CliError, chain, io_error};
use crate::telemetry::progress::{Style, object};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A line for people
    Plain,
    /// One JSON object a line
    Json,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct Log {
    /// Format of the log
    #[arg(long, global = true, env = "DKT_LOG_FORMAT", hide_env_values = true, value_enum,
          default_value_t = Format::Plain, value_name = "FORMAT")]
    pub log_format: Format,
    /// File that the log is appended to, in place of standard error
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

/// Writes to standard error; where nobody reads that, the program goes on.
pub(super) fn tell(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

impl Log {
    /// Whether standard error is lines of JSON alone.
    fn is_json_on_stderr(&self) -> bool {
        self.log_file.is_none() && self.log_format == Format::Json
    }

    /// How progress is shown where `asked` was asked for.
    pub fn style(&self, asked: Style) -> Style {
        if asked == Style::Auto && self.is_json_on_stderr() { Style::Log } else { asked }
    }

    /// Says something on standard error, in JSON if the log there is.
    pub fn tell(&self, text: &str) {
        if !self.is_json_on_stderr() {
            return tell(text);
        }
        for line in text.lines() {
            tell(&(object(tracing::Level::INFO, line, None) + "\n"));
        }
    }

    /// As on a command line, with a space before each; empty if nothing was given.
    pub fn as_given(&self) -> String {
        let format = if self.log_format == Format::Json { " --log-format json" } else { "" };
        let file = self.log_file.as_ref().map(|path| format!(" --log-file {}", path.display()));
        format!("{format}{}", file.unwrap_or_default())
    }

    /// Logs from now on what `DKT_LOG` says, warnings if it says nothing.
    ///
    /// # Errors
    /// [`CliError::Io`] if the file cannot be opened.
    pub fn start(&self) -> Result<(), CliError> {
        let filter = EnvFilter::try_from_env("DKT_LOG")
            .unwrap_or_else(|_| EnvFilter::new("warn,rumqttd=off,rumqttc=off"));
        let writer = match &self.log_file {
            Some(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path);
                // Each line is one write at the end of the file, whoever else writes to it.
                BoxMakeWriter::new(Arc::new(file.map_err(io_error("open the log", path))?))
            }
            None => BoxMakeWriter::new(std::io::stderr),
        };
        let is_colored = self.log_file.is_none() && std::io::stderr().is_terminal();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(is_colored);
        match self.log_format {
            Format::Plain => log.init(),
            Format::Json => log.json().flatten_event(true).init(),
        }
        Ok(())
    }

    /// Says why the program ends: one line on standard error, in the log's format if the log is there, and in a
    /// log's file too.
    pub fn tell_end(&self, error: &CliError) {
        let (message, exit_code) = (chain(error), error.exit_code());
        let is_in_log = (self.log_file.is_some() || self.log_format == Format::Json)
            && tracing::enabled!(tracing::Level::ERROR);
        if is_in_log {
            tracing::error!(exit_code, "{message}");
        }
        if self.log_file.is_some() || !is_in_log {
            // Where nobody reads it, the exit code still tells.
            let _ = writeln!(std::io::stderr().lock(), "dkt: {message}");
        }
    }
}
