//! One step after the other, then the commit of every filesystem that was touched.

use super::{
    Change, append_lines, copy_on_esp, extend_initramfs,
    file::{Editor, Expected},
    replace_line, write_file,
};
use crate::{
    disk::{Error, Kind},
    fs::{Mounts, Node, Result},
    plan::{Action, Plan},
};
use std::collections::BTreeSet;

/// What was done: for the report, and for the judges.
#[derive(Debug, Default)]
pub struct Edits {
    /// In the order of the steps; a file that several steps changed is there several times.
    pub changes: Vec<Change>,
    /// Things that the report should say.
    pub remarks: Vec<String>,
    pub(super) expected: Vec<Expected>,
}

impl Edits {
    /// Ids of the volumes that were changed, each once, in order.
    pub fn volumes(&self) -> BTreeSet<&str> {
        self.expected.iter().map(|file| file.volume.as_str()).collect()
    }

    /// Nodes of the files of `volume` that were there before and have other contents now.
    pub fn changed_nodes(&self, volume: &str) -> BTreeSet<Node> {
        self.expected
            .iter()
            .filter(|file| file.volume == volume && file.existed)
            .map(|file| file.node)
            .collect()
    }
}

/// Carries out all steps of `plan` on the guest's filesystems, mounted as the guest has them. A step whose result is
/// there already changes nothing and leaves no [`Change`]. Every filesystem that was touched is committed.
///
/// # Errors
/// The first step that cannot be done, by number and file: the overlay is then of no use. `Unsafe` for a plan with
/// blockers, `Corrupt` for a file that is not as the plan found it.
pub fn apply(plan: &Plan, mounts: &mut Mounts) -> Result<Edits> {
    if !plan.blockers.is_empty() {
        let text = format!("the plan has blockers: {}", plan.blockers.join("; "));
        return Err(Error::new(Kind::Unsafe, "plan", text));
    }
    let mut editor = Editor::new(mounts, plan.options.clock);
    for (step, planned) in plan.steps.iter().enumerate() {
        editor.begin(step);
        let done = match &planned.action {
            Action::ReplaceLine { path, line, old, new } => {
                replace_line::apply(&mut editor, path, *line, old, new)
            }
            Action::AppendLines { path, lines } => append_lines::apply(&mut editor, path, lines),
            Action::WriteFile { path, contents, mode } => {
                write_file::apply(&mut editor, path, contents, *mode)
            }
            Action::ExtendInitramfs {
                kernel,
                image,
                modules,
                load,
                files,
            } => extend_initramfs::apply(&mut editor, kernel, image, modules, load, files),
            Action::CopyOnEsp { volume, from, to } => copy_on_esp::apply(&mut editor, volume, from, to),
        };
        done.map_err(|error| {
            let text = format!(
                "step {} of the plan failed: {}",
                step.saturating_add(1),
                error.source
            );
            Error {
                source: text.into(),
                ..error
            }
        })?;
    }
    editor.finish()
}
