//! What must be loaded for a module, and in which order: `modules.dep`, then soft dependencies, as modprobe does it.

use super::{IndexFiles, ModuleIndex, normal_name};
use crate::driver::modprobe::{ModprobeConfig, SoftDependency};
use std::collections::{BTreeMap, BTreeSet};

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
                    let weak = self.soft.weak.get(&module.name).into_iter().flatten();
                    for found in weak.map(|name| self.resolve(name, config)) {
                        for module in found.modules {
                            add(&mut closure.weak, module);
                        }
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
        self.soft
            .of(module)
            .or(of_config.map(|(_, dependency)| dependency))
            .cloned()
            .unwrap_or_default()
    }
}

/// The lines of `modules.softdep` and `modules.weakdep`, by module. (In those of modprobe.d a pattern can stand for
/// the module; depmod writes names.)
#[derive(Clone, Debug, Default)]
pub(super) struct SoftDependencies {
    soft: BTreeMap<String, SoftDependency>,
    weak: BTreeMap<String, Vec<String>>,
}

impl SoftDependencies {
    pub(super) fn new(files: &IndexFiles) -> Self {
        let mut dependencies = Self::default();
        for (module, text) in files.directives("modules.softdep", "softdep") {
            dependencies
                .soft
                .entry(normal_name(module))
                .or_insert_with(|| SoftDependency::parse(text));
        }
        for (module, text) in files.directives("modules.weakdep", "weakdep") {
            let names = text.split_ascii_whitespace().map(str::to_owned);
            dependencies
                .weak
                .entry(normal_name(module))
                .or_default()
                .extend(names);
        }
        dependencies
    }

    fn of(&self, module: &str) -> Option<&SoftDependency> {
        self.soft.get(module)
    }
}

#[derive(Default)]
struct Seen {
    whole: BTreeSet<u32>,
    soft: BTreeSet<u32>,
}

/// Names of one kind that are kept: more than that would only say that the indexes are damaged.
const MAX_NAMES: usize = 200;

/// Adds `name` if it is not there.
fn add(names: &mut Vec<String>, name: String) {
    if names.len() < MAX_NAMES && !names.contains(&name) {
        names.push(name);
    }
}
