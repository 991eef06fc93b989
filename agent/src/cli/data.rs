//! `dkt data`: what lies at a path, before anything is trained on it.

use std::fmt::Write as _;
use std::io::IsTerminal;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, print};
use crate::data::inspect::{Inspection, Split, inspect};

/// Files from which on their reading is worth a bar.
const MANY_FILES: usize = 1000;
/// Damaged files that are named in the text; JSON has them all.
const MAX_NAMED: usize = 100;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Read a data set and describe it: format, images, classes, duplicates, damaged files
    ///
    /// Exit code 65 if files are damaged; they are named.
    Inspect {
        /// `digits`, or a path: docs/data.md lists the formats
        #[arg(value_name = "DATA")]
        data: String,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    let Command::Inspect { data, json } = command;
    let bar = ProgressBar::hidden();
    let style = ProgressStyle::with_template("reading [{bar:30}] {pos}/{len} files, {eta} left")
        .expect("invariant: the template is well formed");
    bar.set_style(style.progress_chars("=> "));
    let is_terminal = std::io::stderr().is_terminal();
    let inspection = inspect(&data, &|done, all| {
        if is_terminal && all >= MANY_FILES {
            if bar.length().is_none() {
                bar.set_length(all as u64);
                bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            }
            bar.set_position(done as u64);
        }
    });
    bar.finish_and_clear();
    let inspection = inspection?;
    let text = match json {
        true => super::to_json(&inspection)?,
        false => text(&inspection),
    };
    print(&text)?;
    match inspection.damaged.len() {
        0 => Ok(()),
        n_damaged => Err(CliError::DamagedFiles { data, n_damaged }),
    }
}

fn text(data: &Inspection) -> String {
    let mut text = String::new();
    let digest = match &data.digest {
        Some(digest) => format!(
            "{digest}\n{0:<14}of the training images with crop_padding = 0 and flip = false; the augmentation of\n\
             {0:<14}[data] is part of the digests that agents compare",
            ""
        ),
        None => "none, as files are damaged".to_owned(),
    };
    for (name, value) in [
        ("path", data.path.as_str()),
        ("format", data.format),
        ("classes", &data.classes.len().to_string()),
        ("digest", &digest),
    ] {
        let _ = writeln!(text, "{name:<13} {value}");
    }
    let _ = writeln!(text, "\n{:<28} {:>18} {:>18}", "", "train", "test");
    for (name, value) in ROWS {
        let _ = writeln!(text, "{name:<28} {:>18} {:>18}", value(&data.train), value(&data.test));
    }
    let shared = data.n_test_images_in_train;
    let _ = writeln!(text, "{:<28} {:>18} {shared:>18}", "also among training images", "");
    let _ = writeln!(
        text,
        "\nFor [data] of AGENT.toml, white being 1, of the training split, as \"auto\" measures it there:\n{}",
        normalization(&data.train)
    );
    let width = data.classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max("class".len());
    let _ = writeln!(text, "\n{:<width$} {:>9} {:>9}", "class", "train", "test");
    let counts = data.train.n_per_class.iter().zip(&data.test.n_per_class);
    for (class, (train, test)) in data.classes.iter().zip(counts) {
        let _ = writeln!(text, "{class:<width$} {train:>9} {test:>9}");
    }
    if !data.damaged.is_empty() {
        let _ = writeln!(text, "\nDamaged files, left out above: {}", data.damaged.len());
    }
    for damaged in data.damaged.iter().take(MAX_NAMED) {
        let _ = writeln!(text, "  {}", damaged.error);
    }
    if data.damaged.len() > MAX_NAMED {
        let _ = writeln!(text, "  and {} more, all in --json", data.damaged.len() - MAX_NAMED);
    }
    text
}

/// What is said of each split.
type Row = (&'static str, fn(&Split) -> String);

const ROWS: [Row; 7] = [
    ("images", |split| split.n_images.to_string()),
    ("channels x height x width", |split| split.shape.map(|n| n.to_string()).join("x")),
    ("images of a class", |split| {
        let counts = || split.n_per_class.iter();
        format!("{} to {}", counts().min().unwrap_or(&0), counts().max().unwrap_or(&0))
    }),
    ("pixel values", |split| format!("{} to {}", split.range[0], split.range[1])),
    ("mean by channel, 0 to 255", |split| per_channel(&split.mean)),
    ("std by channel, 0 to 255", |split| per_channel(&split.std)),
    ("duplicates within the split", |split| split.n_duplicates.to_string()),
];

/// As a line of a configuration.
fn normalization(train: &Split) -> String {
    let list = |values: &[f32]| {
        let shares = values.iter().map(|value| format!("{:.6}", f64::from(*value) / 255.0));
        shares.collect::<Vec<_>>().join(", ")
    };
    format!("normalization = {{ mean = [{}], std = [{}] }}", list(&train.mean), list(&train.std))
}

fn per_channel(values: &[f32]) -> String {
    values.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join(" ")
}
