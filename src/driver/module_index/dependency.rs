//! What must be loaded for a module, and in which order: `modules.dep`, then soft dependencies, as modprobe does it.

use super::{ModuleIndex, normal_name};
use crate::driver::{
    modalias::matches,
    modprobe::{ModprobeConfig, SoftDependency},
};
use std::collections::BTreeSet;

/// Everything that some modules need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Names of modules that are files, in the order of loading.
    pub load: Vec<String>,
    /// Names of modules that are built into the kernel.
    pub built_in: Vec<String>,
    /// What is named and is nowhere, as names or paths: without a hard dependency a module cannot be loaded.
    pub missing: Vec<String>,
    /// What soft dependencies name and is nowhere: kmod ignores that.
    pub missing_soft: Vec<String>,
    /// What modules say that they may ask for once they run (`modules.weakdep`): an initramfs should have it.
    pub weak: Vec<String>,
}

/// What is left to do; a list instead of recursion, which a hostile index could make as deep as it likes.
enum Task {
    /// A module with all that it needs.
    Whole(u32),
    /// A module whose hard dependencies are done, with its soft ones.
    Soft(u32),
    /// A module itself.
    Load(u32),
}

impl ModuleIndex {
    /// Everything that must be loaded for these modules or aliases, each once, dependencies first. Cycles are cut
    /// where they close. `config` adds soft dependencies and aliases of the guest.
    pub fn dependencies<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        config: &ModprobeConfig,
    ) -> Closure {
        let mut closure = Closure::default();
        let mut seen = Seen::default();
        for name in names {
            let found = self.resolve(name, config);
            if found.modules.is_empty() && found.built_in.is_empty() {
                add(&mut closure.missing, normal_name(name));
            }
            for built_in in found.built_in {
                add(&mut closure.built_in, built_in);
            }
            for number in found.modules.iter().filter_map(|name| self.number(name)) {
                self.visit(number, config, &mut seen, &mut closure);
            }
        }
        closure
    }

    fn visit(&self, number: u32, config: &ModprobeConfig, seen: &mut Seen, closure: &mut Closure) {
        let mut tasks = vec![Task::Whole(number)];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Whole(number) => {
                    let Some(module) = self.at(number).filter(|_| seen.whole.insert(number)) else {
                        continue;
                    };
                    for path in &module.unknown {
                        add(&mut closure.missing, path.clone());
                    }
                    tasks.push(Task::Soft(number));
                    tasks.extend(module.needs.iter().rev().map(|needed| Task::Soft(*needed)));
                }
                Task::Soft(number) => {
                    let Some(module) = self.at(number).filter(|_| seen.soft.insert(number)) else {
                        continue;
                    };
                    let soft = self.soft_dependency(&module.name, config);
                    let post = self.named(&soft.post, config, closure);
                    let pre = self.named(&soft.pre, config, closure);
                    tasks.extend(post.into_iter().rev().map(Task::Whole));
                    tasks.push(Task::Load(number));
                    tasks.extend(pre.into_iter().rev().map(Task::Whole));
                    for weak in self.weak_dependencies(&module.name, config) {
                        add(&mut closure.weak, weak);
                    }
                }
                Task::Load(number) => {
                    if let Some(module) = self.at(number) {
                        closure.load.push(module.name.clone());
                    }
                }
            }
        }
    }

    /// The numbers of the modules that soft dependencies name.
    fn named(&self, names: &[String], config: &ModprobeConfig, closure: &mut Closure) -> Vec<u32> {
        let mut numbers = Vec::new();
        for name in names {
            let found = self.resolve(name, config);
            if found.modules.is_empty() && found.built_in.is_empty() {
                add(&mut closure.missing_soft, name.clone());
            }
            for built_in in found.built_in {
                add(&mut closure.built_in, built_in);
            }
            numbers.extend(found.modules.iter().filter_map(|name| self.number(name)));
        }
        numbers
    }

    /// The first that names the module counts; kmod reads `modules.softdep` among the files of `modprobe.d`, in the
    /// order of their names.
    fn soft_dependency(&self, module: &str, config: &ModprobeConfig) -> SoftDependency {
        let of_config = config.soft_dependency(module);
        if let Some((file, dependency)) = of_config
            && file < "modules.softdep"
        {
            return dependency.clone();
        }
        self.files
            .directives("modules.softdep", "softdep")
            .find(|(name, _)| matches(normal_name(name).as_bytes(), module.as_bytes()))
            .map(|(_, text)| SoftDependency::parse(text))
            .or_else(|| of_config.map(|(_, dependency)| dependency.clone()))
            .unwrap_or_default()
    }

    fn weak_dependencies(&self, module: &str, config: &ModprobeConfig) -> Vec<String> {
        let of_index = self
            .files
            .directives("modules.weakdep", "weakdep")
            .filter(|(name, _)| normal_name(name) == module)
            .flat_map(|(_, names)| names.split_ascii_whitespace());
        let mut found = Vec::new();
        for name in of_index {
            found.extend(self.resolve(name, config).modules);
        }
        found
    }
}

#[derive(Default)]
struct Seen {
    whole: BTreeSet<u32>,
    soft: BTreeSet<u32>,
}

/// Adds `name` if it is not there.
fn add(names: &mut Vec<String>, name: String) {
    if !names.contains(&name) {
        names.push(name);
    }
}
