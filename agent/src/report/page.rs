//! What the pages are made of: one file each, no script, nothing fetched.

use std::fmt::{Display, Write as _};

use super::plots::{self, Axes, Line};

/// Plots of lines are black on white until the last rule; heatmaps take the colours of the page by themselves.
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; line-height: 1.5; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #8886; }
p { max-width: 60rem; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: 6px; }
figure { display: inline-table; margin: 0.5rem 1rem 0.5rem 0; vertical-align: top; }
figcaption { display: table-caption; caption-side: bottom; font-size: 0.9rem; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.95rem; }
th { vertical-align: bottom; }
td, th { padding: 0.15rem 0.9rem 0.15rem 0; text-align: left; }
tr + tr > td { border-top: 1px solid #8883; }
td { white-space: nowrap; }
td.long { white-space: normal; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.untrained { opacity: 0.6; font-style: italic; }
@media (prefers-color-scheme: dark) {
svg [fill='#FFFFFF'] { fill: none; } svg [fill='#000000'] { fill: #ddd; } svg [stroke='#000000'] { stroke: #ddd; }
}
";

/// A page as far as its heading.
pub(super) fn begin(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )
}

/// The rest of a page.
pub(super) fn end(html: &mut String) {
    let _ = write!(
        html,
        "<p><small>Written by dkt {}.</small></p>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
}

pub(super) fn paragraph(html: &mut String, text: &str) {
    if !text.is_empty() {
        let _ = writeln!(html, "<p>{}</p>", escape(text));
    }
}

/// A line plot, or a word where there is nothing to plot.
pub(super) fn curves(html: &mut String, lines: &[Line], axes: &Axes<'_>, caption: &str) {
    if lines.is_empty() {
        paragraph(html, &format!("{caption}: none."));
        return;
    }
    match plots::lines(lines, axes) {
        Ok(svg) => figure(html, &svg, caption, &plots::description(lines, axes)),
        Err(error) => not_drawn(html, caption, &*error),
    }
}

pub(super) fn not_drawn(html: &mut String, caption: &str, error: &dyn std::error::Error) {
    paragraph(html, &format!("{caption}: not drawn ({error})"));
}

/// A picture with its caption, which is its title, too; `description` for those who do not see it, unless empty.
pub(super) fn figure(html: &mut String, svg: &str, caption: &str, description: &str) {
    let caption = escape(caption);
    let (tag, content) = svg.split_once('>').unwrap_or((svg, ""));
    let _ = write!(html, "<figure>{tag} role=\"img\"><title>{caption}</title>");
    if !description.is_empty() {
        let _ = write!(html, "<desc>{}</desc>", escape(description));
    }
    let _ = writeln!(html, "{content}<figcaption>{caption}</figcaption></figure>");
}

/// Characters from which on a cell's text may be broken into lines.
const LONG_CHARS: usize = 40;

/// A table: columns of text, then columns of numbers.
pub(super) struct Table {
    html: String,
}

impl Table {
    pub fn new(texts: &[&str], numbers: impl IntoIterator<Item = impl Display>) -> Self {
        let mut html = "<div class=\"wide\"><table><tr>".to_owned();
        for text in texts {
            let _ = write!(html, "<th scope=\"col\">{text}</th>");
        }
        for name in numbers {
            let _ = write!(html, "<th scope=\"col\" class=\"number\">{name}</th>");
        }
        Table { html: html + "</tr>\n" }
    }

    pub fn row(&mut self, texts: &[&str], numbers: impl IntoIterator<Item = String>) {
        self.marked_row(texts, numbers, "");
    }

    /// One that is greyed, with a mark after its last text that says why, unless the mark is empty.
    pub fn marked_row(&mut self, texts: &[&str], numbers: impl IntoIterator<Item = String>, mark: &str) {
        self.html += if mark.is_empty() { "<tr>" } else { "<tr class=\"untrained\">" };
        for (i, text) in texts.iter().enumerate() {
            let class = if text.chars().count() > LONG_CHARS { " class=\"long\"" } else { "" };
            let is_marked = i + 1 == texts.len() && !mark.is_empty();
            let mark = if is_marked { format!(" ({mark})") } else { String::new() };
            let _ = write!(self.html, "<td{class}>{}{mark}</td>", escape(text));
        }
        for number in numbers {
            let _ = write!(self.html, "<td class=\"number\">{number}</td>");
        }
        self.html += "</tr>\n";
    }

    pub fn end(self) -> String {
        self.html + "</table></div>\n"
    }
}

/// In words.
pub(super) fn head(name: &str) -> String {
    match name {
        "cl" => "continual-learning head".to_owned(),
        other => format!("{other} head"),
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
