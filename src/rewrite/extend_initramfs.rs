//! One more segment at the end of an initramfs image: modules that it lacks, the indexes over all of them, other files.

use super::file::Editor;
use crate::{
    disk::{Error, Kind},
    driver::{
        initramfs::{AddedFile, AddedModule, Addition, Image, append, segment},
        module_index::{IndexFiles, ModuleIndex},
    },
    fs::{GuestPath, Result, mounts::Found},
    matching::{ModuleFile, index_files},
};

/// The largest module file that is read, packed or not.
const LARGEST_MODULE: u64 = 64 << 20;
/// The largest image whose end must be rewritten (a boot configuration, which stays last), which takes all of it into
/// memory. Others only grow.
const LARGEST_REWRITTEN: u64 = 512 << 20;

pub(super) fn apply(
    editor: &mut Editor<'_>,
    kernel: &str,
    image: &GuestPath,
    modules: &[ModuleFile],
    load: &[String],
    files: &[(GuestPath, String)],
) -> Result<()> {
    let found = editor.find(image)?;
    let failed = |text: String| Error::new(Kind::Corrupt, &*found.volume, format!("{image}: {text}"));
    let wanted = |path: &[u8]| files.iter().any(|(file, _)| file.as_bytes() == path);
    let old =
        Image::read(editor.mounts.open_found(&found)?, &wanted).map_err(|error| failed(error.to_string()))?;

    // What is there already, from an earlier move, is not added once more.
    let files: Vec<AddedFile> = files
        .iter()
        .map(|(path, contents)| (path.to_string(), contents))
        .filter(|(path, contents)| old.contents(path) != Some(contents.as_bytes()))
        .map(|(path, contents)| AddedFile {
            path,
            permissions: 0o644,
            contents: contents.clone().into_bytes(),
        })
        .collect();
    let held = old.modules(kernel);
    let modules: Vec<&ModuleFile> = modules
        .iter()
        .filter(|module| !held.iter().any(|there| there.name == module.module))
        .collect();
    if files.is_empty() && modules.is_empty() {
        return Ok(());
    }

    let mut addition = Addition {
        release: kernel.to_owned(),
        files,
        load: load.to_vec(),
        ..Addition::default()
    };
    let mut index = IndexFiles::default();
    if let Some(first) = modules.first() {
        let (folder, _) = below_modules(first, kernel, &found)?;
        index = index_files(editor.mounts, &folder)?;
    }
    for module in &modules {
        let (_, path) = below_modules(module, kernel, &found)?;
        let file = editor.find(&module.path)?;
        addition.modules.push(AddedModule {
            path,
            contents: editor.mounts.read_found(&file, LARGEST_MODULE)?,
        });
    }
    let index = ModuleIndex::new(index)
        .map_err(|error| failed(format!("the indexes of kernel {kernel}: {error}")))?;
    let modified = u32::try_from(editor.clock()).unwrap_or(u32::MAX);
    let new = segment(&old, &index, &addition, modified).map_err(|error| failed(error.to_string()))?;
    for remark in &new.remarks {
        editor.remark(format!("{image}: {remark}"));
    }
    let appendix = append(&old, &new.cpio);
    if appendix.keep == found.attributes.size {
        return editor.append(&found, &appendix.bytes);
    }
    let whole = editor.mounts.read_found(&found, LARGEST_REWRITTEN)?;
    let kept = usize::try_from(appendix.keep)
        .ok()
        .and_then(|keep| whole.get(..keep))
        .ok_or_else(|| failed("is shorter than it was when it was read".to_owned()))?;
    let replaced = [kept, &*appendix.bytes].concat();
    editor.replace(&found, &whole, &replaced)
}

/// The folder of the kernel's modules in the guest, and the module's path below it.
fn below_modules(module: &ModuleFile, kernel: &str, image: &Found) -> Result<(GuestPath, String)> {
    let folder = format!("/modules/{kernel}/").into_bytes();
    let path = module.path.as_bytes();
    path.windows(folder.len())
        .position(|window| window == folder)
        .map(|at| path.split_at(at.saturating_add(folder.len())))
        .and_then(|(folder, below)| {
            let folder = folder.strip_suffix(b"/").unwrap_or(folder);
            Some((GuestPath::from(folder), String::from_utf8(below.to_vec()).ok()?))
        })
        .ok_or_else(|| {
            let text = format!(
                "{} is not below the modules of kernel {kernel}; it cannot be added to {}",
                module.path, image.path
            );
            Error::new(Kind::Unsupported, &*image.volume, text)
        })
}
