//! A plan as people read it.

use super::{Action, Plan, Step, blockers, draft::enumeration};
use crate::{
    fs::GuestPath,
    matching::{Binding, DeviceRole},
};
use std::{
    borrow::Cow,
    fmt::{self, Write},
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(&mut Printable(f))
    }
}

/// Passes text on. Much of it comes from the guest, which must not steer the terminal.
struct Printable<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Printable<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_printable(self.0, text)
    }
}

/// Writes `text` with the control characters in it spelled out, but for line feeds and tabs.
///
/// # Errors
/// Those of `out`.
pub fn write_printable(out: &mut impl Write, text: &str) -> fmt::Result {
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            write!(out, "{}", character.escape_default())?;
        } else {
            out.write_char(character)?;
        }
    }
    Ok(())
}

impl Plan {
    fn write(&self, f: &mut Printable<'_, '_>) -> fmt::Result {
        let guest = self.guest.as_deref().unwrap_or("An unknown system");
        writeln!(
            f,
            "{guest} moves to {} ({})",
            self.machine.name, self.machine.description
        )?;
        if let Some(root) = &self.root {
            writeln!(f, "  root      {root}")?;
        }
        writeln!(f, "  firmware  {}", blockers::name(self.firmware))?;
        if let Some(controller) = self.machine.storage.get(self.storage) {
            writeln!(f, "  disks     {}", controller.model)?;
        }
        for adapter in &self.adapters {
            write!(
                f,
                "  network   {} {} at {}",
                adapter.model, adapter.mac, adapter.pci_address
            )?;
            match &adapter.interface {
                Some(interface) => writeln!(f, " for {interface}")?,
                None => writeln!(f)?,
            }
        }
        write_drivers(self, f)?;
        write_list("Blockers: it cannot be done like this", &self.blockers, f)?;
        write_list("Warnings: somebody should look", &self.warnings, f)?;
        if self.steps.is_empty() {
            return writeln!(f, "\nNothing has to be changed on the disks.");
        }
        writeln!(f, "\nSteps")?;
        for (number, step) in (1_usize..).zip(&self.steps) {
            write!(f, "{number:>3}. ")?;
            write_step(step, f)?;
        }
        Ok(())
    }
}

fn write_step(step: &Step, f: &mut Printable<'_, '_>) -> fmt::Result {
    match &step.action {
        Action::ReplaceLine { path, line, old, new } => {
            writeln!(f, "{path} line {line}")?;
            writeln!(f, "     - {}\n     + {}", text(old), text(new))?;
        }
        Action::AppendLines { path, lines } => {
            writeln!(f, "{path}, at the end")?;
            for line in lines {
                writeln!(f, "     + {line}")?;
            }
        }
        Action::WriteFile { path, contents, mode } => {
            writeln!(f, "{path}, a file of ours (mode {mode:04o})")?;
            for line in contents.lines() {
                writeln!(f, "     + {line}")?;
            }
        }
        Action::ExtendInitramfs {
            kernel,
            image,
            modules,
            load,
            files,
        } => {
            writeln!(f, "{image} (kernel {kernel}), one more segment")?;
            for module in modules {
                writeln!(f, "     + {}", module.path)?;
            }
            for (path, _) in files {
                writeln!(f, "     + {path}")?;
            }
            if !load.is_empty() {
                writeln!(f, "     + loads {}", enumeration(load))?;
            }
        }
        Action::CopyOnEsp { volume, from, to } => {
            writeln!(f, "{to} on the EFI system partition ({volume})")?;
            writeln!(f, "     + a copy of {from}")?;
        }
    }
    writeln!(f, "     because {}", step.because)
}

/// A line of a file, with its tabs.
fn text(line: &GuestPath) -> Cow<'_, str> {
    String::from_utf8_lossy(line.as_bytes())
}

fn write_drivers(plan: &Plan, f: &mut Printable<'_, '_>) -> fmt::Result {
    let controller = plan.machine.storage.get(plan.storage).map(|c| c.model.as_str());
    let adapter = plan.adapters.first().map(|adapter| adapter.model.as_str());
    let used = |binding: &&Binding| match binding.role {
        DeviceRole::Storage => Some(binding.device.as_str()) == controller,
        DeviceRole::Network => Some(binding.device.as_str()) == adapter,
        DeviceRole::Other => false,
    };
    let mut bindings = plan.bindings.iter().filter(used).peekable();
    if bindings.peek().is_some() {
        writeln!(f, "\nDrivers")?;
    }
    for binding in bindings {
        let driver = binding.driver.as_ref().map_or_else(
            || "none".to_owned(),
            |driver| {
                let names: Vec<String> = driver
                    .modules
                    .iter()
                    .map(|module| {
                        let built_in = driver.built_in.contains(module);
                        let note = if built_in { " (built in)" } else { "" };
                        format!("{module}{note}")
                    })
                    .collect();
                enumeration(&names)
            },
        );
        writeln!(f, "  kernel {}, {}: {driver}", binding.kernel, binding.device)?;
    }
    Ok(())
}

fn write_list(title: &str, items: &[String], f: &mut Printable<'_, '_>) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    for item in items {
        writeln!(f, "  - {item}")?;
    }
    Ok(())
}
