//! What a run or a lab came to: tables for the terminal, a CSV and a JSON file, an HTML page.

pub mod analysis;
pub mod experiment;
mod heat_map;
pub mod html;
mod measures;
pub mod metrics_csv;
pub mod metrics_json;
mod plots;
pub mod record;
pub mod table;
pub mod tensorboard;
