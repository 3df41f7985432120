//! One device and one kernel: the modules that the device's modaliases ask for, all that these need, and why not others.

use super::{
    Binding, DeviceRole, Driver, ModuleFile, built_in_names, firmware_files, image::Image, kernel_files,
};
use crate::{
    driver::{
        modprobe::{Line, ModprobeConfig},
        module_index::{IndexFiles, ModuleIndex},
    },
    fs::{Mounts, Result},
    guest::{self, Guest},
};

/// A device of the target.
pub(super) struct Wanted<'a> {
    pub(super) model: &'a str,
    pub(super) role: DeviceRole,
    /// One of these must be answered.
    pub(super) modaliases: &'a [String],
    /// Every one of these.
    pub(super) behind: &'a [String],
}

/// A kernel of the guest with what is known of its modules.
pub(super) struct Kernel<'a> {
    kernel: &'a guest::Kernel,
    mounts: &'a Mounts,
    index: ModuleIndex,
    config: ModprobeConfig,
    /// Why its modules cannot be used at all.
    unusable: Option<String>,
    /// Read when the first module is asked for.
    image: Option<Image>,
}

/// What modaliases lead to.
#[derive(Default)]
struct Answer {
    /// All of it, in the order of the chain.
    names: Vec<String>,
    /// Of them, what is a file.
    modules: Vec<String>,
    /// Of them, what is built in.
    built_in: Vec<String>,
}

type Rejected = Vec<(String, String)>;

impl<'a> Kernel<'a> {
    /// Reads the indexes. `config` is the guest's; the kernel's own command line adds to it.
    pub(super) fn read(
        guest: &Guest,
        kernel: &'a guest::Kernel,
        mounts: &'a Mounts,
        config: &ModprobeConfig,
    ) -> Result<Self> {
        let mut config = config.clone();
        let entries = guest.boot.loader.iter().flat_map(|loader| &loader.entries);
        // Entries for rescue may say other things than the one that starts by itself.
        let mine = || entries.clone().filter(|entry| entry.kernel == kernel.image);
        if let Some(entry) = mine().find(|entry| entry.default).or_else(|| mine().next()) {
            config.add_kernel_command_line(&entry.options);
        }
        let mut unusable = None;
        let mut files = IndexFiles::default();
        match &kernel.modules {
            Some(folder) => files = kernel_files::index_files(mounts, folder)?,
            None => unusable = Some("has no folder of modules".to_owned()),
        }
        if kernel.modules.is_some() && files.is_empty() {
            unusable = Some("has no index of its modules (modules.dep): run depmod in the guest".to_owned());
        }
        let index = match ModuleIndex::new(files) {
            Ok(index) => index,
            Err(error) => {
                unusable = Some(format!("has a damaged index of its modules: {error}"));
                ModuleIndex::new(IndexFiles::default())
                    .map_err(|error| crate::disk::Error::new(crate::disk::Kind::Corrupt, "guest", error))?
            }
        };
        Ok(Self {
            kernel,
            mounts,
            index,
            config,
            unusable,
            image: None,
        })
    }

    /// What this kernel has for `device`.
    pub(super) fn bind(&mut self, device: &Wanted<'_>) -> Result<Binding> {
        let mut rejected = Rejected::new();
        if let Some(reason) = &self.unusable {
            rejected.push((format!("kernel {}", self.kernel.release), reason.clone()));
        }
        let driver = match self.modules_for(device, &mut rejected) {
            Some(answer) => self.driver(device.role, answer, &mut rejected)?,
            None => None,
        };
        Ok(Binding {
            device: device.model.to_owned(),
            role: device.role,
            kernel: self.kernel.release.clone(),
            driver,
            rejected,
        })
    }

    /// The modules of the whole chain, or `None` if one part of it is missing.
    fn modules_for(&self, device: &Wanted<'_>, rejected: &mut Rejected) -> Option<Answer> {
        let mut chain = device
            .modaliases
            .iter()
            .find_map(|modalias| self.answer(modalias, rejected));
        if chain.is_none() && rejected.is_empty() {
            for modalias in device.modaliases {
                rejected.push((modalias.clone(), "no module answers to it".to_owned()));
            }
        }
        for modalias in device.behind {
            let before = rejected.len();
            let Some(answer) = self.answer(modalias, rejected) else {
                if rejected.len() == before {
                    rejected.push((modalias.clone(), "no module answers to it".to_owned()));
                }
                chain = None;
                continue;
            };
            if let Some(chain) = &mut chain {
                add_new(&mut chain.names, answer.names);
                add_new(&mut chain.modules, answer.modules);
                add_new(&mut chain.built_in, answer.built_in);
            }
        }
        chain
    }

    /// What answers to one modalias, without what is blacklisted; `None`: nothing.
    fn answer(&self, modalias: &str, rejected: &mut Rejected) -> Option<Answer> {
        if is_virtio_1(modalias) && is_before_4(&self.kernel.release) {
            let reason = "virtio 1.0, which Linux knows from 4.0 on".to_owned();
            add_new(rejected, [(modalias.to_owned(), reason)]);
            return None;
        }
        let found = self.index.resolve(modalias, &self.config);
        let mut answer = Answer {
            built_in: found.built_in,
            ..Answer::default()
        };
        for module in found.modules {
            match self.config.blacklisted(&module) {
                Some(line) => add_new(rejected, [(module, blacklisted_by(line))]),
                None => answer.modules.push(module),
            }
        }
        if answer.built_in.is_empty() {
            let named = built_in_names::for_modalias(modalias).filter(|name| self.index.is_builtin(name));
            add_new(&mut answer.built_in, named.map(str::to_owned));
        }
        answer.names = answer.modules.iter().chain(&answer.built_in).cloned().collect();
        (!answer.names.is_empty()).then_some(answer)
    }

    /// The files that must be loaded for those modules; `None` if one of them cannot be.
    fn driver(
        &mut self,
        role: DeviceRole,
        answer: Answer,
        rejected: &mut Rejected,
    ) -> Result<Option<Driver>> {
        let names = answer.modules.iter().map(String::as_str);
        let needed = self.index.dependencies(names, &self.config);
        let mut whole = true;
        let mut refuse = |what: &str, why: String| {
            rejected.push((what.to_owned(), why));
            whole = false;
        };
        for missing in &needed.missing {
            refuse(missing, "is needed and is not there".to_owned());
        }
        let mut files = Vec::new();
        for name in &needed.load {
            if let Some(line) = self.config.blacklisted(name)
                && !answer.modules.contains(name)
                && self.config.install.contains(line)
            {
                refuse(name, blacklisted_by(line));
            }
            let module = self.index.module(name).zip(self.kernel.modules.as_ref());
            let Some((module, folder)) = module else {
                continue;
            };
            let path = folder.join(&module.path);
            if !self.mounts.exists(&path)? {
                refuse(name, format!("its file {path} is not there"));
                continue;
            }
            files.push(ModuleFile {
                module: name.clone(),
                path,
                in_initramfs: false,
            });
        }
        if !whole {
            return Ok(None);
        }
        if role == DeviceRole::Storage && !self.look_into_image(&answer, &mut files, rejected)? {
            return Ok(None);
        }
        let mut missing_firmware = Vec::new();
        if role != DeviceRole::Other {
            for file in &files {
                let missing = firmware_files::missing(self.mounts, &self.kernel.release, &file.path)?;
                add_new(&mut missing_firmware, missing);
            }
        }
        Ok(Some(Driver {
            modules: answer.names,
            built_in: answer.built_in,
            files,
            missing_firmware,
        }))
    }

    /// Notes which of the files the initramfs holds. `false`: the image cannot be used, or its own configuration keeps a
    /// module from being loaded.
    fn look_into_image(
        &mut self,
        answer: &Answer,
        files: &mut [ModuleFile],
        rejected: &mut Rejected,
    ) -> Result<bool> {
        let Some(path) = self.kernel.initramfs.as_ref().filter(|_| !files.is_empty()) else {
            return Ok(true);
        };
        let image = match &mut self.image {
            Some(image) => image,
            empty => empty.insert(Image::read(self.mounts, path, &self.kernel.release)?),
        };
        if let Some(damage) = image.damage() {
            rejected.push((path.to_string(), damage.to_owned()));
            return Ok(false);
        }
        let mut usable = true;
        for file in files {
            file.in_initramfs = image.holds(&file.module);
            if answer.modules.contains(&file.module)
                && let Some(line) = image.blacklisted(&file.module)
            {
                rejected.push((file.module.clone(), format!("{} of {path}", blacklisted_by(line))));
                usable = false;
            }
        }
        Ok(usable)
    }
}

/// A PCI device of virtio 1.0 (Virtual I/O Device specification 1.0, section 4.1.2: device ids from 0x1040 on). Older kernels
/// match it, because they match every device of that vendor, and then refuse it.
fn is_virtio_1(modalias: &str) -> bool {
    let device = modalias
        .strip_prefix("pci:v00001AF4d")
        .and_then(|rest| rest.get(..8));
    device
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .is_some_and(|id| (0x1040..0x1080).contains(&id))
}

fn is_before_4(release: &str) -> bool {
    let major = release
        .split('.')
        .next()
        .and_then(|digits| digits.parse::<u32>().ok());
    major.is_some_and(|major| major < 4)
}

fn blacklisted_by(line: &Line) -> String {
    if line.line == 0 {
        format!("is blacklisted by {}", line.file)
    } else {
        format!("is blacklisted in {} line {}", line.file, line.line)
    }
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, new: impl IntoIterator<Item = T>) {
    for item in new {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}
