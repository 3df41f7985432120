//! What the initramfs images lack, and how the next ones will have it.

use super::{
    Action,
    draft::{Draft, Facts, enumeration},
    names::stable_name,
};
use crate::{
    fs::GuestPath,
    guest::{InitramfsGenerator, NameRole},
    matching::{DeviceRole, ModuleFile},
};

/// One more segment for every image that lacks a module of the controller's driver or one of `files` (paths in the image
/// and contents), and the modules in the configuration of the program that makes the next image.
pub(super) fn extend(facts: Facts<'_>, controller: usize, files: &[(GuestPath, String)], draft: &mut Draft) {
    let generator = facts.guest.initramfs_generator;
    let model = facts
        .machine
        .storage
        .get(controller)
        .map_or("none", |controller| controller.model.as_str());
    let mut files = files.to_vec();
    files.extend(resume_file(facts));
    let mut for_next_image: Vec<String> = Vec::new();
    for kernel in &facts.guest.kernels {
        let (Some(image), Some(driver)) = (
            &kernel.initramfs,
            facts.driver(kernel, DeviceRole::Storage, controller),
        ) else {
            continue;
        };
        let to_load: Vec<String> = driver
            .modules
            .iter()
            .filter(|module| !driver.built_in.contains(module))
            .cloned()
            .collect();
        for module in &to_load {
            if !for_next_image.contains(module) {
                for_next_image.push(module.clone());
            }
        }
        let missing: Vec<ModuleFile> = driver
            .files
            .iter()
            .filter(|file| !file.in_initramfs)
            .cloned()
            .collect();
        if missing.is_empty() && files.is_empty() {
            continue;
        }
        let because = if missing.is_empty() {
            format!("{image} is to know names that change")
        } else {
            let names: Vec<_> = missing.iter().map(|file| &file.module).collect();
            let (lack, them) = if names.len() == 1 {
                ("is", "it")
            } else {
                ("are", "them")
            };
            format!(
                "{} {lack} not in {image}, and without {them} kernel {} finds no disk on {model}",
                enumeration(&names),
                kernel.release
            )
        };
        // initramfs-tools loads what its conf/modules names; others leave it to udev, which finds the aliases.
        let load = match generator {
            Some(InitramfsGenerator::InitramfsTools) if !missing.is_empty() => to_load,
            _ => Vec::new(),
        };
        draft.step(
            Action::ExtendInitramfs {
                kernel: kernel.release.clone(),
                image: image.clone(),
                modules: missing,
                load,
                files: files.clone(),
            },
            because,
        );
    }
    if !for_next_image.is_empty() {
        keep_for_next_image(facts, model, &for_next_image, draft);
    }
}

fn keep_for_next_image(facts: Facts<'_>, model: &str, modules: &[String], draft: &mut Draft) {
    let because = "the next kernel update makes a new initramfs, which must have the drivers too";
    let comment = format!("# The disks of this machine hang on {model} (written by rehome).");
    match facts.guest.initramfs_generator {
        Some(InitramfsGenerator::InitramfsTools) => {
            let lines = [comment].into_iter().chain(modules.iter().cloned()).collect();
            draft.step(
                Action::AppendLines {
                    path: GuestPath::from("/etc/initramfs-tools/modules"),
                    lines,
                },
                because,
            );
        }
        Some(InitramfsGenerator::Dracut) => draft.step(
            Action::WriteFile {
                path: GuestPath::from("/etc/dracut.conf.d/90-rehome.conf"),
                contents: format!("{comment}\nadd_drivers+=\" {} \"\n", modules.join(" ")),
                mode: 0o644,
            },
            because,
        ),
        None => draft.warn(format!(
            "it is not known what makes this system's initramfs images: see to it that the next one has {}",
            enumeration(modules)
        )),
    }
}

/// initramfs-tools keeps the name of the hibernation device inside the image too, and waits for it at each boot. The
/// files of conf.d are read in order of name, the last word counts.
fn resume_file(facts: Facts<'_>) -> Option<(GuestPath, String)> {
    if facts.guest.initramfs_generator != Some(InitramfsGenerator::InitramfsTools) {
        return None;
    }
    let name = facts.guest.device_names.iter().find(|name| {
        name.role == NameRole::KernelResume
            && name.path.as_bytes().starts_with(b"/etc/initramfs-tools/conf.d/")
    })?;
    let lasting = stable_name(facts, name)?;
    Some((
        GuestPath::from("conf/conf.d/zzz-rehome-resume"),
        format!("RESUME={lasting}\n"),
    ))
}
