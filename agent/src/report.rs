//! What a run or a lab came to: tables for the terminal, a CSV and a JSON file, an HTML page.

pub mod analysis;
pub mod experiment;
mod heatmap;
pub mod html;
mod measures;
pub mod metrics_csv;
pub mod metrics_json;
mod number;
mod page;
mod plots;
pub mod record;
mod settings;
pub mod table;
pub mod tensorboard;
