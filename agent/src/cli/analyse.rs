//! `dkt analyse`: what trained networks have learned.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, io_error, print};
use crate::analysis::experiences::cka_over_experiences;
use crate::analysis::features::{Of, tsne_of_features};
use crate::analysis::network::Network;
use crate::analysis::{MAX_SAMPLES, MIN_SAMPLES, samples, tsne};
use crate::data::{self, DataSource};
use crate::durable;
use crate::ids::SampleId;
use crate::report::analysis as report;

/// Most networks of one analysis.
const MAX_NETWORKS: usize = 100;
const MAX_ITERATIONS: u32 = 100_000;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Compare the layers of networks by centred kernel alignment (CKA)
    ///
    /// Two networks, or a teacher and its students after each experience.
    Cka(CkaArguments),
    /// Put test images into the plane by a network's features (t-SNE)
    Tsne(TsneArguments),
}

#[derive(Args)]
pub(super) struct Common {
    /// `digits`, or a path: docs/data.md lists the formats; the test split is used
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Seed of the choice of images, and of the embedding
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the page and the CSV file go
    #[arg(long, value_name = "FOLDER", default_value = "runs/analysis")]
    out: PathBuf,
}

#[derive(Args)]
pub(super) struct CkaArguments {
    /// The teacher and the student, dual-head models
    #[arg(value_names = ["MODEL_A.onnx", "MODEL_B.onnx"], num_args = 2, required_unless_present = "teacher",
          conflicts_with_all = ["teacher", "student"])]
    models: Vec<PathBuf>,
    /// The teacher; or one for every experience, in their order
    #[arg(long, value_name = "MODEL.onnx", num_args = 1..=MAX_NETWORKS, requires = "student")]
    teacher: Vec<PathBuf>,
    /// The student after every experience, in their order
    #[arg(long, value_name = "MODEL.onnx", num_args = 1..=MAX_NETWORKS, requires = "teacher")]
    student: Vec<PathBuf>,
    /// Test images, of every class as many as of any other
    #[arg(long, default_value_t = 512, value_parser = sample_count())]
    samples: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct TsneArguments {
    /// Dual-head models, a plot each
    #[arg(value_name = "MODEL.onnx", required = true, num_args = 1..=MAX_NETWORKS)]
    models: Vec<PathBuf>,
    /// The logits of a head instead of the features that both heads read
    #[arg(long, value_enum)]
    head: Option<Head>,
    /// Test images, of every class as many as of any other
    #[arg(long, default_value_t = 1000, value_parser = sample_count())]
    samples: u32,
    /// Effective number of neighbours of an image
    #[arg(long, default_value_t = 30.0)]
    perplexity: f64,
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ITERATIONS)))]
    iterations: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Head {
    /// The continual-learning head
    Cl,
    /// The student head
    Student,
}

fn sample_count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(MIN_SAMPLES as i64..=MAX_SAMPLES as i64)
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Cka(arguments) => cka(&arguments),
        Command::Tsne(arguments) => tsne(&arguments),
    }
}

fn cka(arguments: &CkaArguments) -> Result<(), CliError> {
    let (teachers, students) = match &arguments.models[..] {
        [teacher, student] => (std::slice::from_ref(teacher), std::slice::from_ref(student)),
        _ => (&arguments.teacher[..], &arguments.student[..]),
    };
    let (source, ids) = images(&arguments.common, arguments.samples)?;
    let table = cka_over_experiences(&read(teachers)?, &read(students)?, &source, &ids, || false)?;
    let page = [report::cka_section(&table)];
    write(&arguments.common.out, "cka", "CKA of networks", &page, &report::cka_csv(&table), || {
        report::cka_text(&table)
    })
}

fn tsne(arguments: &TsneArguments) -> Result<(), CliError> {
    let of = match arguments.head {
        None => Of::Features,
        Some(Head::Cl) => Of::ClLogits,
        Some(Head::Student) => Of::StLogits,
    };
    let options = tsne::Options {
        perplexity: arguments.perplexity,
        n_iterations: arguments.iterations as usize,
        seed: arguments.common.seed,
    };
    let (source, ids) = images(&arguments.common, arguments.samples)?;
    let mut maps = Vec::with_capacity(arguments.models.len());
    for path in &arguments.models {
        maps.push(tsne_of_features(&Network::read(path)?, of, &source, &ids, &options)?);
    }
    let page = [report::tsne_section(&maps)];
    write(&arguments.common.out, "tsne", "t-SNE of networks", &page, &report::tsne_csv(&maps), || {
        report::tsne_text(&maps)
    })
}

fn images(common: &Common, n: u32) -> Result<(DataSource, Vec<SampleId>), CliError> {
    let source = data::load(&common.data)?;
    let ids = samples::balanced(&source.test, n as usize, common.seed);
    Ok((source, ids))
}

fn read(paths: &[PathBuf]) -> Result<Vec<Network>, CliError> {
    Ok(paths.iter().map(|path| Network::read(path)).collect::<Result<_, _>>()?)
}

/// `<name>.html` and `<name>.csv` in the folder, and a few lines on the terminal.
fn write(
    folder: &Path,
    name: &str,
    title: &str,
    sections: &[String],
    csv: &str,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
    report::write_page(title, sections, &folder.join(format!("{name}.html")))?;
    durable::write(&folder.join(format!("{name}.csv")), csv.as_bytes())?;
    print(&format!("{}\nWritten to {}: {name}.html, {name}.csv\n", text(), folder.display()))
}
