//! `culvert tune …` and `culvert doctor`: arguments and execution.
//!
//! The `culvert` binary parses [`TuneArgs`] and [`DoctorArgs`] and runs them with a
//! [`CommandContext`]. Results go to its `out`, messages to its `err`; the returned value is the
//! exit code.

mod apply;
mod arguments;
mod audit;
mod context;
mod doctor;
mod keep;
mod measure;
mod source;
mod status;

pub use arguments::{
    ApplyArgs, AuditArgs, DoctorArgs, FactsArgs, MeasureArgs, PlanArgs, RollbackArgs, SelectionArgs, SourceArgs,
    TuneAction, TuneArgs, WatchArgs,
};
pub use context::{CommandContext, Failure, exit};

impl TuneArgs {
    /// Runs the command and returns its exit code.
    ///
    /// # Errors
    /// [`Failure`], which the caller prints.
    pub fn run(self, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
        match self.action {
            TuneAction::Audit(arguments) => audit::audit(&arguments, context),
            TuneAction::Plan(arguments) => audit::plan(&arguments, context),
            TuneAction::Facts(arguments) => audit::facts(&arguments, context),
            TuneAction::Explain { rule } => audit::explain(rule.as_deref(), context),
            TuneAction::Apply(arguments) => apply::apply(&arguments, context),
            TuneAction::Confirm { json } => apply::confirm(json, context),
            TuneAction::Rollback(arguments) => apply::roll_back(&arguments, context),
            TuneAction::Status { json } => status::status(json, context),
            TuneAction::Measure(arguments) => measure::measure(&arguments, context),
            TuneAction::Watch(arguments) => keep::watch(&arguments, context),
            TuneAction::Guard { transaction } => keep::guard(&transaction, context),
        }
    }
}

impl DoctorArgs {
    /// Runs the command and returns its exit code.
    ///
    /// # Errors
    /// [`Failure`], which the caller prints.
    pub fn run(self, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
        doctor::doctor(&self, context)
    }
}
