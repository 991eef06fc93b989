//! `dkt keys`: an authority for a lab, and what its broker and its agents are given.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use time::OffsetDateTime;

use super::{CliError, print};
use crate::keys::folder::{KeysFolder, SIGNERS, read_register};
use crate::keys::register::{Register, Standing, moment};
use crate::keys::{DEFAULT_AUTHORITY_DAYS, DEFAULT_DAYS, Holder, MAX_DAYS, RENEW_WITHIN_DAYS};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make an authority, the broker's certificate and an empty list of revoked certificates
    Init {
        /// Folder for everything; it is new or empty. Who can read it can be anybody in the lab
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// DNS names and IP addresses under which agents reach the broker; localhost is always one
        #[arg(long, num_args = 1.., required = true, value_name = "NAME-OR-ADDRESS")]
        broker: Vec<String>,
        #[command(flatten)]
        lifetime: Lifetime,
        /// Days until the authority ends, and all certificates with it
        #[arg(long, default_value_t = DEFAULT_AUTHORITY_DAYS, value_name = "DAYS", value_parser = days())]
        ca_days: u32,
    },
    /// Make keys and a certificate for each agent
    Add {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Agents, as in `agent = "NAME"` of their configurations; `bridge.SITE` for the bridge of another site
        #[arg(required = true, value_name = "AGENT")]
        names: Vec<Holder>,
        #[command(flatten)]
        lifetime: Lifetime,
    },
    /// Issue new certificates for the same keys
    ///
    /// Without names, for everybody whose certificate ends within 30 days, the broker included. The list of revoked
    /// certificates is signed anew, too.
    Renew {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Agents and bridges, whenever their certificates end
        #[arg(value_name = "AGENT")]
        names: Vec<Holder>,
        /// The broker; names and addresses that are given take the place of those it had
        #[arg(long, num_args = 0.., value_name = "NAME-OR-ADDRESS")]
        broker: Option<Vec<String>>,
        #[command(flatten)]
        lifetime: Lifetime,
    },
    /// Put an agent's certificates on the list of revoked ones, and remove its keys
    Revoke {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// An agent, or `bridge.SITE`
        #[arg(value_name = "AGENT")]
        name: Holder,
    },
    /// Show every certificate: whose it is, its serial number, its end, and whether it is revoked
    List {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(clap::Args)]
pub(super) struct Lifetime {
    /// Days until a certificate ends
    #[arg(long, default_value_t = DEFAULT_DAYS, value_name = "DAYS", value_parser = days())]
    days: u32,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS))
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    let now = OffsetDateTime::now_utc();
    match command {
        Command::Init { out, broker, lifetime, ca_days } => {
            let keys = KeysFolder::init(&out, &broker, ca_days, lifetime.days, now)?;
            let text = format!(
                "Made an authority that ends on {}, and a broker's certificate for {}.\n\
                 To the broker: ca.pem, crl.pem, broker/cert.pem, broker/key.pem of {folder}.\n\
                 `dkt keys add {folder} AGENT...` goes on.\n",
                moment(keys.register().authority_until_s).date(),
                keys.register().addresses.join(", "),
                folder = out.display(),
            );
            print(&text)
        }
        Command::Add { folder, mut names, lifetime } => {
            names.sort();
            names.dedup();
            let mut keys = KeysFolder::open(&folder)?;
            keys.add(&names, lifetime.days, now)?;
            let mut text = issued(&keys, &names);
            if names.iter().any(|name| matches!(name, Holder::Agent(_))) {
                let _ = writeln!(text, "To every agent, anew: {}", folder.join(SIGNERS).display());
            }
            print(&text)
        }
        Command::Renew { folder, mut names, broker, lifetime } => {
            let mut keys = KeysFolder::open(&folder)?;
            if let Some(addresses) = &broker {
                names.push(Holder::Broker);
                if !addresses.is_empty() {
                    keys.set_addresses(addresses)?;
                }
            }
            if names.is_empty() {
                names = keys.register().ending(now);
            }
            names.sort();
            names.dedup();
            keys.renew(&names, lifetime.days, now)?;
            match names.is_empty() {
                true => print(&format!("No certificate ends within {RENEW_WITHIN_DAYS} days.\n")),
                false => print(&issued(&keys, &names)),
            }
        }
        Command::Revoke { folder, name } => {
            let mut keys = KeysFolder::open(&folder)?;
            keys.revoke(&name, now)?;
            let mut text = format!(
                "Revoked `{name}`.\nTo the broker, which then has to be restarted: {}\n",
                folder.join("crl.pem").display()
            );
            if let Holder::Agent(_) = name {
                let signers = folder.join(SIGNERS);
                let _ = writeln!(text, "To every agent, anew, without {name}.pub: {}", signers.display());
            }
            print(&text)
        }
        Command::List { folder } => print(&list(&read_register(&folder)?, &folder, now)),
    }
}

/// Who is given what.
fn issued(keys: &KeysFolder, names: &[Holder]) -> String {
    let line = |name: &Holder| {
        let until = keys.register().current(name).map(|issued| moment(issued.until_s).date().to_string());
        let folder = keys.folder_of(name);
        format!("To {name}, good until {}: {}\n", until.unwrap_or_default(), folder.display())
    };
    names.iter().map(line).collect()
}

fn list(register: &Register, folder: &Path, now: OffsetDateTime) -> String {
    let width = register.issued.iter().map(|issued| issued.holder.to_string().len()).max().unwrap_or(0);
    let width = width.max("authority".len());
    let authority_until = moment(register.authority_until_s);
    let mut text = format!("{:<width$}  {:<32}  {:<11}  \n", "name", "serial number", "good until");
    let _ = writeln!(text, "{:<width$}  {:<32}  {:<11}", "authority", "", authority_until.date());
    for issued in &register.issued {
        let standing = match register.standing(issued, now) {
            Standing::Good if issued.holder == Holder::Broker => register.addresses.join(", "),
            Standing::Good => String::new(),
            Standing::EndsSoon => "ends soon".to_owned(),
            Standing::Ended => "ended".to_owned(),
            Standing::Replaced => "replaced".to_owned(),
            Standing::Revoked => {
                format!("revoked on {}", moment(issued.revoked_s.unwrap_or_default()).date())
            }
        };
        let (name, serial) = (issued.holder.to_string(), issued.serial.to_string());
        let _ =
            writeln!(text, "{name:<width$}  {serial:<32}  {:<11}  {standing}", moment(issued.until_s).date());
    }
    let mut text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    let ending = register.ending(now);
    if !ending.is_empty() {
        let names = ending.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "\nWarning: within {RENEW_WITHIN_DAYS} days, or already, these end: {names}. `dkt keys renew {}` renews them.",
            folder.display()
        );
    }
    if authority_until - now <= time::Duration::days(RENEW_WITHIN_DAYS.into()) {
        let _ = writeln!(
            text,
            "\nWarning: the authority ends on {}, and everything with it; make another in a new folder.",
            authority_until.date()
        );
    }
    text
}
