//! Tables that are Markdown too, and the one that every part begins with: ratios, and what they
//! shall come to.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// What a ratio shall come to.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, is: f64) -> bool {
        match self {
            Self::AtLeast(goal) => is >= goal,
            Self::AtMost(goal) => is <= goal,
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
        Self(table(&["ratio", "is", "by the clock", "goal", "met"]))
    }

    pub(crate) fn add(&mut self, what: &str, is: f64, by_clock: Option<f64>, goal: Goal) {
        let digits = if is < 1.0 { 3 } else { 2 };
        self.0.add_row([
            what.to_owned(),
            format!("{is:.digits$}"),
            by_clock.map_or(String::new(), |is| format!("{is:.digits$}")),
            goal.to_string(),
            if goal.is_met(is) { "yes" } else { "no" }.to_owned(),
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

pub(crate) fn right_from(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
