//! A plan in the making: what the decisions are made from, and where they put what they decide.

use super::{Action, Options, Step};
use crate::{
    guest::{Guest, Kernel},
    machine::Machine,
    matching::{Binding, DeviceRole, Driver},
};

/// The facts, and what the user decided.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) guest: &'a Guest,
    pub(super) machine: &'a Machine,
    pub(super) bindings: &'a [Binding],
    pub(super) options: &'a Options,
}

impl<'a> Facts<'a> {
    /// What `kernel` has for the device with that index among the target's devices of that role.
    pub(super) fn binding(self, kernel: &Kernel, role: DeviceRole, index: usize) -> Option<&'a Binding> {
        self.bindings
            .iter()
            .filter(|binding| binding.role == role && binding.kernel == kernel.release)
            .nth(index)
    }

    /// The driver that `kernel` has for that device.
    pub(super) fn driver(self, kernel: &Kernel, role: DeviceRole, index: usize) -> Option<&'a Driver> {
        self.binding(kernel, role, index)?.driver.as_ref()
    }

    /// The kernel that starts when nobody chooses.
    pub(super) fn default_kernel(self) -> Option<&'a Kernel> {
        let kernels = &self.guest.kernels;
        kernels
            .iter()
            .find(|kernel| kernel.default)
            .or_else(|| kernels.first())
    }
}

/// What was decided so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) steps: Vec<Step>,
    pub(super) blockers: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Draft {
    pub(super) fn step(&mut self, action: Action, because: impl Into<String>) {
        self.steps.push(Step {
            action,
            because: because.into(),
        });
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        push_new(&mut self.warnings, text.into());
    }

    pub(super) fn block(&mut self, text: impl Into<String>) {
        push_new(&mut self.blockers, text.into());
    }
}

fn push_new(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

/// "a", "a and b", "a, b and c".
pub(super) fn enumeration<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}
