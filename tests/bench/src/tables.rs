//! Markdown tables, and the table of ratios that every part begins with.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// The goal of a ratio.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ratio <= goal,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, "at least {goal}"),
            Self::AtMost(goal) => write!(f, "at most {goal:.3}"),
        }
    }
}

/// The table of ratios.
pub(crate) struct Ratios(Table);

impl Ratios {
    pub(crate) fn new() -> Self {
        Self(table(&["ratio", "measured", "wall clock", "goal", "met"]))
    }

    pub(crate) fn add(&mut self, label: &str, ratio: f64, wall_clock: Option<f64>, goal: Goal) {
        let digits = if ratio < 1.0 { 3 } else { 2 };
        self.0.add_row([
            label.to_owned(),
            format!("{ratio:.digits$}"),
            wall_clock.map_or(String::new(), |ratio| format!("{ratio:.digits$}")),
            goal.to_string(),
            if goal.is_met(ratio) { "yes" } else { "no" }.to_owned(),
        ]);
    }

    pub(crate) fn text(mut self) -> String {
        right_from(&mut self.0, 1);
        self.0.to_string()
    }
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header.to_vec());
    table
}

/// Aligns all columns from `first` on to the right.
pub(crate) fn right_from(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
