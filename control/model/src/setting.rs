//! Descriptions of settings: where each can be set, and the text that explains it.
//!
//! The macros that define the typed settings (`culvert_node::settings`, `culvert_path::settings`)
//! produce the rows too. Command line, manual pages and documents are generated from rows.

/// A table of the configuration file, or its top level.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name in the file; empty for the top level.
    pub name: &'static str,
    /// The comment above it in the file.
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
    /// Further sentences, which help on the command line leaves out.
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
    /// With its dashes: `--busy-poll`.
    pub typed: &'static str,
    /// The placeholder for the value in help.
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
    /// The text of help on the command line.
    #[must_use]
    pub fn flag_help(&self) -> String {
        let variable = self.variable.map(|variable| format!(" [variable: {variable}]")).unwrap_or_default();
        format!("{}{variable} [default: {}]", self.help, self.default)
    }

    /// The text of pages: sentences, the last of which names the default unless the example does.
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
