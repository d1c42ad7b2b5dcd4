//! Markdown tables, and the table of ratios that every part begins with.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// The goal of a ratio.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// The ratio is shown for comparison only.
    Shown,
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ratio <= goal,
            Self::Shown => true,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, "at least {goal}"),
            Self::AtMost(goal) => write!(f, "at most {goal:.3}"),
            Self::Shown => Ok(()),
        }
    }
}

/// The rows of the table of ratios.
#[derive(Default)]
pub(crate) struct Ratios(Vec<Vec<String>>);

impl Ratios {
    pub(crate) fn add(&mut self, label: &str, ratio: f64, wall_clock: Option<f64>, goal: Goal) {
        let digits = if ratio < 1.0 { 3 } else { 2 };
        self.0.push(vec![
            label.to_owned(),
            format!("{ratio:.digits$}"),
            wall_clock.map_or(String::new(), |ratio| format!("{ratio:.digits$}")),
            goal.to_string(),
            match goal {
                Goal::Shown => "",
                _ if goal.is_met(ratio) => "yes",
                _ => "no",
            }
            .to_owned(),
        ]);
    }

    pub(crate) fn text(self) -> String {
        table(&["ratio", "measured", "wall clock", "goal", "met"], self.0)
    }
}

/// Formats a table. All columns except the first are aligned to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header.to_vec()).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", seconds * 1e3)
}
