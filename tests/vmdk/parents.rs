//! Snapshots: disks that hold what differs from their parents.

use crate::image::{
    MIB, extents, open, qemu_img, qemu_io, raw_source, read_all, read_in_pieces, text, try_open,
};
use rehome::{
    disk::{Content, Kind},
    image::{self, Format},
};
use std::path::Path;

/// "base.vmdk" with data, and "top.vmdk" over "middle.vmdk" over it.
fn chain(folder: &Path, raw: &Path) {
    let at = |name: &str| folder.join(name);
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        text(raw),
        text(&at("base.vmdk")),
    ]);
    for (name, parent, options) in [
        ("middle.vmdk", "base.vmdk", "zeroed_grain=on"),
        ("top.vmdk", "middle.vmdk", "zeroed_grain=off"),
    ] {
        let image = at(name);
        qemu_img(&[
            "create",
            "-f",
            "vmdk",
            "-o",
            options,
            "-b",
            text(&at(parent)),
            "-F",
            "vmdk",
            text(&image),
        ]);
    }
    // Written by the bottom first: a parent that changes later no longer fits its child.
}

fn replace_in(path: &Path, from: &str, to: &str) {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    let mut new = bytes[..at].to_vec();
    new.extend(to.as_bytes());
    new.extend(&bytes[at + from.len()..]);
    // The descriptor has zeros behind it: what is added is taken from those.
    if to.len() > from.len() {
        let zero = (at..new.len()).find(|index| new[*index] == 0).unwrap();
        new.drain(zero..zero + to.len() - from.len());
    } else {
        let zero = (at..new.len()).find(|index| new[*index] == 0).unwrap();
        new.splice(zero..zero, std::iter::repeat_n(0, from.len() - to.len()));
    }
    assert_eq!(new.len(), bytes.len());
    std::fs::write(path, new).unwrap();
}

fn hint_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let line = text
        .lines()
        .find(|line| line.starts_with("parentFileNameHint"))
        .unwrap();
    line.to_owned()
}

#[test]
fn a_chain_is_read_through() {
    let (folder, raw) = raw_source(12 * MIB);
    let at = |name: &str| folder.path().join(name);
    let create = |name: &str, parent: &str, options: &str| {
        qemu_img(&[
            "create",
            "-f",
            "vmdk",
            "-o",
            options,
            "-b",
            text(&at(parent)),
            "-F",
            "vmdk",
            text(&at(name)),
        ]);
    };
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        text(&raw),
        text(&at("base.vmdk")),
    ]);
    create("middle.vmdk", "base.vmdk", "zeroed_grain=on");
    qemu_io(
        &["write -P 3 1M 100k", "write -z 2M 320k", "write -P 4 6M 1M"],
        &at("middle.vmdk"),
    );
    create("top.vmdk", "middle.vmdk", "zeroed_grain=off");
    qemu_io(&["write -P 5 1030k 3k", "write -P 6 11M 64k"], &at("top.vmdk"));
    let flat = at("flat");
    qemu_img(&["convert", "-O", "raw", text(&at("top.vmdk")), text(&flat)]);
    let expected = std::fs::read(&flat).unwrap();
    let disk = open(&at("top.vmdk"));
    assert!(read_all(disk.as_ref()) == expected);
    assert!(read_in_pieces(disk.as_ref(), 9_999) == expected);
    extents(disk.as_ref());
    let backing = disk.info().unwrap().backing.unwrap();
    assert!(backing.name.ends_with("middle.vmdk"), "{backing:?}");
    assert_eq!(backing.format.as_deref(), Some("vmdk"));
    // Hidden by a zeroed grain, although the parent has data there.
    assert!(
        extents(open(&at("middle.vmdk")).as_ref())
            .iter()
            .any(|(range, content)| {
                *content == Content::Hole && range.start <= 2 * MIB && range.end >= 2 * MIB + (320 << 10)
            })
    );
}

#[test]
fn a_parent_that_has_moved_along_is_found_by_its_name_and_known_by_its_cid() {
    let (folder, raw) = raw_source(2 * MIB);
    chain(folder.path(), &raw);
    let top = folder.path().join("top.vmdk");
    let expected = read_all(open(&top).as_ref());
    for hint in [
        "/vmfs/volumes/4c/web/middle.vmdk",
        "C:\\Virtual Machines\\web\\middle.vmdk",
        "middle.vmdk",
    ] {
        let before = hint_of(&top);
        replace_in(&top, &before, &format!("parentFileNameHint=\"{hint}\""));
        assert!(read_all(open(&top).as_ref()) == expected, "{hint}");
        assert_eq!(image::chain(&top, None).unwrap().len(), 3, "{hint}");
    }
    std::fs::remove_file(folder.path().join("middle.vmdk")).unwrap();
    let error = try_open(&top).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    assert!(
        error.to_string().contains("\"middle.vmdk\" as its parent"),
        "{error}"
    );
}

#[test]
fn a_parent_that_has_changed_is_refused_with_the_cure() {
    let (folder, raw) = raw_source(2 * MIB);
    chain(folder.path(), &raw);
    let top = folder.path().join("top.vmdk");
    qemu_io(&["write -P 9 0 64k"], &folder.path().join("base.vmdk"));
    let error = try_open(&top).unwrap_err();
    assert_eq!(error.kind, Kind::Unsafe, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("base.vmdk") && text.contains("set parentCID"),
        "{text}"
    );
    assert_eq!(open(&folder.path().join("base.vmdk")).format(), Format::Vmdk);
}

#[test]
fn a_chain_in_a_circle_and_half_a_parent_are_refused() {
    let (folder, raw) = raw_source(MIB);
    chain(folder.path(), &raw);
    let middle = folder.path().join("middle.vmdk");
    let base_cid = {
        let info = open(&folder.path().join("base.vmdk")).info().unwrap();
        info.details
            .iter()
            .find(|(name, _)| name == "cid")
            .unwrap()
            .1
            .clone()
    };
    // A child that says to be its own parent.
    let own = open(&middle).info().unwrap();
    let cid = own
        .details
        .iter()
        .find(|(name, _)| name == "cid")
        .unwrap()
        .1
        .clone();
    let short = |cid: &str| cid.trim_start_matches('0').to_owned();
    let sound = std::fs::read(&middle).unwrap();
    replace_in(
        &middle,
        &format!("parentCID={}", short(&base_cid)),
        &format!("parentCID={}", short(&cid)),
    );
    let before = hint_of(&middle);
    replace_in(&middle, &before, "parentFileNameHint=\"middle.vmdk\"");
    let error = try_open(&middle).unwrap_err();
    assert!(error.to_string().contains("chain"), "{error}");

    std::fs::write(&middle, &sound).unwrap();
    replace_in(
        &middle,
        &format!("parentCID={}", short(&base_cid)),
        "parentCID=ffffffff",
    );
    let error = try_open(&middle).unwrap_err();
    assert!(error.to_string().contains("says that it has none"), "{error}");

    std::fs::write(&middle, &sound).unwrap();
    let before = hint_of(&middle);
    replace_in(&middle, &before, "");
    let error = try_open(&middle).unwrap_err();
    assert!(error.to_string().contains("does not name it"), "{error}");

    // A raw file is no parent.
    std::fs::write(&middle, &sound).unwrap();
    let before = hint_of(&middle);
    replace_in(&middle, &before, "parentFileNameHint=\"raw\"");
    let error = try_open(&middle).unwrap_err();
    assert!(error.to_string().contains("is no VMDK"), "{error}");
}
