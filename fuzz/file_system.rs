//! What every filesystem target does: walk all there is, in bounded steps, and then edit it.

use rehome::{
    disk::{Disk, MemoryDisk, Overlay},
    fs::{FileSystem, Node, mode},
};
use std::sync::Arc;

/// A directory loop must not keep us.
const MOST_NODES: usize = 3000;

/// The bytes as a disk that takes edits.
#[allow(dead_code, reason = "targets of patches have bases")]
pub fn overlay(data: &[u8]) -> Arc<dyn Disk> {
    let length = data.len() / 512 * 512;
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("disk", data[..length].to_vec()));
    Arc::new(Overlay::new(disk, 16 << 20, std::env::temp_dir()))
}

/// A base with the patches of `data`, as a disk that takes edits. The base itself is never copied.
#[allow(dead_code, reason = "targets of whole images have no bases")]
pub fn patched(base: &Arc<dyn Disk>, patches: &[(usize, &[u8])]) -> Arc<dyn Disk> {
    let overlay = Overlay::new(base.clone(), 16 << 20, std::env::temp_dir());
    for (at, new) in patches {
        overlay
            .write_at(*at as u64, new)
            .expect("a patch within its base");
    }
    Arc::new(overlay)
}

/// Reads all that a small walk finds; errors are answers.
pub fn walk(file_system: &dyn FileSystem, size: u64) {
    let mut nodes = vec![file_system.root()];
    let mut next = 0;
    while let Some(node) = nodes.get(next).copied() {
        next += 1;
        let _ = file_system.extended_names(node).map(|names| {
            for name in names.iter().take(20) {
                let _ = file_system.extended(node, name);
            }
        });
        let Ok(attributes) = file_system.attributes(node) else {
            continue;
        };
        let mut buffer = [0; 5000];
        for offset in [0, 700, attributes.size.saturating_sub(1), u64::MAX - 3] {
            if let Ok(read) = file_system.read_at(node, offset, &mut buffer) {
                assert!(read <= buffer.len());
            }
        }
        let room = MOST_NODES.saturating_sub(nodes.len());
        let mut found = Vec::new();
        let _ = file_system.list(node, &mut |name, child| {
            if found.len() < room {
                found.push((name.to_vec(), child));
            }
            found.len() < room
        });
        for (name, _) in found.iter().take(5) {
            let _ = file_system.lookup(node, name);
        }
        let _ = file_system.file_runs(node, &mut |_, _| Ok(()));
        nodes.extend(found.into_iter().map(|(_, child)| child));
    }
    let _ = file_system.free(&mut |run| {
        assert!(
            run.start <= run.end && run.end <= size,
            "a free run outside of the volume: {run:?}"
        );
        Ok(())
    });
    let _ = file_system.data_runs(&mut |_, _| Ok(()));
    let _ = file_system.page_file_runs(&mut |_, _| Ok(()));
    let _ = (
        file_system.free_bytes(),
        file_system.identity(),
        file_system.recovered(),
    );
}

/// Changes a little of everything; errors are answers, panics are not.
pub fn edit(file_system: &mut dyn FileSystem) {
    let root = file_system.root();
    let Ok(edit) = file_system.edit() else {
        return;
    };
    edit.set_clock(1_700_000_000);
    let old = edit.lookup(root, b"etc").ok().flatten();
    let _ = old.map(|etc| -> Result<(), rehome::disk::Error> {
        if let Some(fstab) = edit.lookup(etc, b"fstab")? {
            edit.append(fstab, &mut &[b'#'; 3000][..])?;
            edit.replace(fstab, &mut &b"short"[..])?;
            edit.rename((etc, b"fstab"), (root, b"a-new-name-for-it"))?;
        }
        Ok(())
    });
    let _ = make(edit, root);
    let _ = edit.remove(root, b"link");
    let _ = edit.commit();
}

fn make(edit: &mut dyn rehome::fs::Edit, root: Node) -> Result<(), rehome::disk::Error> {
    let folder = edit.create(root, b"made", mode::DIRECTORY | 0o755)?;
    for number in 0..12 {
        let name = format!("a file with a name of some length {number}");
        let file = edit.create(folder, name.as_bytes(), mode::FILE | 0o644)?;
        edit.replace(file, &mut &vec![7; number * 900][..])?;
    }
    edit.remove(folder, b"a file with a name of some length 3")
}
