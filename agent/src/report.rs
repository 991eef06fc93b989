//! What a run or a lab came to: tables for the terminal, a CSV file, an HTML page.

pub mod html;
pub mod metrics_csv;
mod plots;
pub mod record;
pub mod table;
