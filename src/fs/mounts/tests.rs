//! Paths, links and mount points.

use super::*;
use crate::fs::memory_tree::MemoryTree;

fn guest() -> Mounts {
    let root = MemoryTree::new("ext4", "root-uuid")
        .file("/etc/hostname", "web1\n")
        .file("/usr/lib/modules/6.1/modules.dep", "deep")
        .link("/lib", "usr/lib")
        .link("/etc/mtab", "../proc/self/mounts")
        .link("/abs", "/etc/hostname")
        .link("/up", "../../../../etc/hostname")
        .link("/loop1", "loop2")
        .link("/loop2", "/loop1")
        .link("/self", ".")
        .link("/data", "srv/data")
        .link("/new", "etc/made")
        .directory("/srv/data")
        .directory("/boot")
        .file("/boot/hidden", "below the mount point");
    let boot = MemoryTree::new("ext4", "boot-uuid")
        .file("/vmlinuz", "kernel")
        .link("/back", "../etc/hostname")
        .directory("/efi");
    let esp = MemoryTree::new("vfat", "ABCD-1234").file("/EFI/BOOT/BOOTX64.EFI", "loader");
    let data = MemoryTree::new("ext4", "data-uuid").file("/x", "data");
    let mut mounts = Mounts::new(vec![
        ("disk0/p1".into(), Box::new(root)),
        ("disk0/p2".into(), Box::new(boot)),
        ("disk0/p3".into(), Box::new(esp)),
        ("disk1/p1".into(), Box::new(data)),
    ]);
    for (path, index) in [("/", 0), ("/boot", 1), ("/boot/efi", 2), ("/data", 3)] {
        mounts.mount(&path.into(), index).unwrap();
    }
    mounts
}

fn read(mounts: &Mounts, path: &str) -> Option<String> {
    let contents = mounts.read(&path.into(), 100).unwrap()?;
    Some(String::from_utf8(contents).unwrap())
}

#[test]
fn links_stay_inside_the_guest_and_mount_points_are_crossed() {
    let mounts = guest();
    for path in [
        "/etc/hostname",
        "etc//./hostname",
        "/abs",
        "/up",
        "/boot/back",
        "/boot/efi/../../etc/hostname",
        "/../../etc/hostname",
        "/self/self/self/etc/hostname",
    ] {
        assert_eq!(read(&mounts, path).as_deref(), Some("web1\n"), "{path}");
    }
    assert_eq!(read(&mounts, "/boot/vmlinuz").as_deref(), Some("kernel"));
    assert_eq!(
        read(&mounts, "/boot/efi/EFI/BOOT/BOOTX64.EFI").as_deref(),
        Some("loader")
    );
    // A mount point that is a link is mounted where the link leads.
    assert_eq!(read(&mounts, "/srv/data/x").as_deref(), Some("data"));
    assert_eq!(read(&mounts, "/data/x").as_deref(), Some("data"));
    for path in [
        "/boot/hidden",
        "/etc/mtab",
        "/loop1",
        "/etc/hostname/x",
        "/none/x",
        "",
    ] {
        let found = mounts.find(&path.into()).unwrap();
        assert!(found.is_none_or(|f| f.path.0 == b"/"), "{path}");
    }
}

#[test]
fn says_where_a_file_really_is() {
    let mounts = guest();
    let found = mounts
        .find(&"/lib/modules/6.1/modules.dep".into())
        .unwrap()
        .unwrap();
    assert_eq!(found.path, "/usr/lib/modules/6.1/modules.dep".into());
    assert_eq!((found.index, &*found.volume), (0, "disk0/p1"));
    let found = mounts.find(&"/boot/efi/EFI/BOOT".into()).unwrap().unwrap();
    assert_eq!((found.index, found.path_there), (2, "/EFI/BOOT".into()));
    let found = mounts
        .find_on(2, &"/EFI/BOOT/BOOTX64.EFI".into())
        .unwrap()
        .unwrap();
    assert_eq!(found.attributes.size, 6);
    assert_eq!(
        mounts.read_link(&"/lib".into()).unwrap(),
        Some(GuestPath::from("usr/lib"))
    );
}

#[test]
fn a_place_is_where_a_file_is_or_would_be_made() {
    let mut mounts = guest();
    let place = mounts.place(&"/lib/modules/new".into()).unwrap().unwrap();
    assert_eq!(
        (place.node, place.path_there),
        (None, "/usr/lib/modules/new".into())
    );
    // Through a link that leads nowhere yet.
    let place = mounts.place(&"/new".into()).unwrap().unwrap();
    assert_eq!(place.path_there, "/etc/made".into());
    assert_eq!(mounts.place(&"/missing/folder/x".into()).unwrap(), None);
    assert_eq!(mounts.place(&"/boot".into()).unwrap(), None);

    let edit = mounts.edit(place.directory.index).unwrap();
    let node = edit.create(place.directory.node, &place.name, 0o100_644).unwrap();
    edit.replace(node, &mut &b"made"[..]).unwrap();
    assert_eq!(read(&mounts, "/new").as_deref(), Some("made"));
}

#[test]
fn big_files_are_refused_and_streamed() {
    let mounts = guest();
    assert!(mounts.read(&"/etc/hostname".into(), 4).is_err());
    assert!(mounts.read(&"/etc".into(), 4).is_err());
    let mut text = String::new();
    let mut reader = mounts.open(&"/etc/hostname".into()).unwrap().unwrap();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((reader.size(), &*text), (5, "web1\n"));
    assert_eq!(
        mounts.list(&"/boot".into()).unwrap(),
        Some(vec![b"back".to_vec(), b"efi".to_vec(), b"vmlinuz".to_vec()])
    );
}
