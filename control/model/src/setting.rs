//! A setting as people meet it: where it can be set, and the words that describe it.
//!
//! Rows come out of the tables that also define the typed settings (`culvert_node::settings`,
//! `culvert_path::settings`). Everything that lists settings, such as the command line, manual
//! pages and documents, is made from rows.

/// A table of the configuration file, or what stands above all tables.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name in the file; empty for what stands above all tables.
    pub name: &'static str,
    /// What the file says about it.
    pub about: &'static str,
    /// Its settings, in the order in which they are listed.
    pub rows: &'static [Row],
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its key in the configuration file.
    pub name: &'static str,
    /// What it means, without a full stop.
    pub help: &'static str,
    /// More sentences for pages, where there is room for them.
    pub note: &'static str,
    /// What applies if it is not set, in words.
    pub default: &'static str,
    /// A value as the configuration file has it: the default, or an example.
    pub example: &'static str,
    /// Its environment variable.
    pub variable: Option<&'static str>,
    /// Its option on the command line.
    pub flag: Option<Flag>,
}

/// A setting's option on the command line.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// As people type it: `--busy-poll`.
    pub typed: &'static str,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// The commands that take it.
    pub scope: Scope,
}

/// Which commands take an option, and under which heading help lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every command.
    Common,
    /// `culvert node`, without a heading.
    Node,
    /// `culvert node`, with the options of its data plane.
    NodeDataPlane,
    /// Every command that runs lanes.
    DataPlane,
}

impl Scope {
    /// The heading in help.
    #[must_use]
    pub const fn heading(self) -> Option<&'static str> {
        match self {
            Self::Common => Some("Common options"),
            Self::Node => None,
            Self::NodeDataPlane | Self::DataPlane => Some("Data plane"),
        }
    }
}

impl Flag {
    /// Without the dashes.
    #[must_use]
    pub fn long(&self) -> &'static str {
        self.typed.trim_start_matches('-')
    }
}

impl Row {
    /// As help on the command line describes it.
    #[must_use]
    pub fn flag_help(&self) -> String {
        let variable = self.variable.map(|variable| format!(" [variable: {variable}]")).unwrap_or_default();
        format!("{}{variable} [default: {}]", self.help, self.default)
    }

    /// As pages describe it: sentences, the last of which names the default unless the example is
    /// the default.
    #[must_use]
    pub fn sentences(&self) -> String {
        let mut text = format!("{}.", self.help);
        if !self.note.is_empty() {
            text = format!("{text} {}", self.note);
        }
        if self.has_example_of_default() { text } else { format!("{text} Default: {}.", self.default) }
    }

    /// Whether the example is the default.
    #[must_use]
    pub fn has_example_of_default(&self) -> bool {
        self.example.trim_matches('"') == self.default
    }
}
