use super::*;
use crate::{
    copy::{Pace, copy, digest},
    destination::explain_full,
    disk::{Digest, DiskSink, MemoryDisk},
    watch::Unwatched,
};

fn identity(size: u64) -> Identity {
    Identity {
        plan: Digest::of(b"plan"),
        source: Digest::of(b"source"),
        size,
    }
}

fn source() -> MemoryDisk {
    let bytes = (0..3_u32 << 20).map(|i| (i / 999 % 251) as u8).collect();
    MemoryDisk::new("source", bytes)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn move_disk(destination: &mut dyn Destination, name: &str) {
    let source = source();
    let (container, ledger) = destination
        .disk(name, source.size(), &identity(source.size()), &Unwatched)
        .unwrap();
    let sink = DiskSink::new(container.disk, container.blank);
    copy(&source, &sink, &ledger, Pace::default(), &Unwatched).unwrap();
}

#[test]
fn a_file_appears_with_its_companions_and_nothing_stays_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    let mut destination = Box::new(FileDestination::create(&out, Shape::File).unwrap());
    destination.keep("plan.json", b"{}").unwrap();
    move_disk(&mut *destination, "guest.raw");
    destination.file("guest.xml", b"<domain/>").unwrap();
    assert_eq!(names(folder.path()), [".guest.raw.rehome-work"]);
    destination.publish(&Unwatched).unwrap();
    assert_eq!(names(folder.path()), ["guest.raw", "guest.xml"]);
    let moved = FileDisk::open(&out).unwrap();
    assert_eq!(
        digest(&moved, &Unwatched).unwrap(),
        digest(&source(), &Unwatched).unwrap()
    );
}

#[test]
fn a_folder_appears_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("server");
    let mut destination = Box::new(FileDestination::create(&out, Shape::Folder).unwrap());
    move_disk(&mut *destination, "sda.raw");
    move_disk(&mut *destination, "sdb.raw");
    destination.file("report.json", b"{}").unwrap();
    destination.publish(&Unwatched).unwrap();
    assert_eq!(names(folder.path()), ["server"]);
    assert_eq!(names(&out), ["report.json", "sda.raw", "sdb.raw"]);
}

#[test]
fn a_folder_that_got_its_name_just_before_a_kill_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("server");
    let mut destination = FileDestination::create(&out, Shape::Folder).unwrap();
    move_disk(&mut destination, "sda.raw");
    rename_new(&destination.work.products(), &out).unwrap();
    drop(destination);
    assert_eq!(names(folder.path()), [".server.rehome-work", "server"]);
    let error = FileDestination::resume(&out, Shape::Folder).unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    assert!(error.to_string().contains("is complete"), "{error}");
    assert_eq!(names(folder.path()), ["server"]);
}

#[test]
fn what_exists_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    fs::write(&out, b"precious").unwrap();
    let error = FileDestination::create(&out, Shape::File).unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    assert_eq!(names(folder.path()), ["guest.raw"]);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    let nowhere = folder.path().join("missing/guest.raw");
    assert_eq!(
        FileDestination::create(&nowhere, Shape::File).unwrap_err().kind,
        Kind::NotFound
    );
}

#[test]
fn what_comes_to_exist_meanwhile_is_not_replaced_and_the_rest_is_taken_back() {
    for intruder in ["guest.raw", "guest.xml"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("guest.raw");
        let mut destination = Box::new(FileDestination::create(&out, Shape::File).unwrap());
        move_disk(&mut *destination, "guest.raw");
        destination.file("guest.xml", b"<domain/>").unwrap();
        fs::write(folder.path().join(intruder), b"precious").unwrap();
        assert_eq!(destination.publish(&Unwatched).unwrap_err().kind, Kind::Exists);
        assert_eq!(names(folder.path()), [".guest.raw.rehome-work", intruder]);
        assert_eq!(fs::read(folder.path().join(intruder)).unwrap(), b"precious");
        fs::remove_file(folder.path().join(intruder)).unwrap();
        let mut resumed = Box::new(FileDestination::resume(&out, Shape::File).unwrap());
        move_disk(&mut *resumed, "guest.raw");
        resumed.file("guest.xml", b"<domain/>").unwrap();
        resumed.publish(&Unwatched).unwrap();
        assert_eq!(names(folder.path()), ["guest.raw", "guest.xml"]);
    }
}

#[test]
fn a_run_killed_while_it_published_is_resumed_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    let mut destination = FileDestination::create(&out, Shape::File).unwrap();
    move_disk(&mut destination, "guest.raw");
    destination.file("guest.xml", b"<domain/>").unwrap();
    // The kill: the list is kept, the companion is visible, the disk is not.
    destination.keep("publishing", b"guest.xml\nguest.raw").unwrap();
    rename_new(
        &destination.work.product("guest.xml").unwrap(),
        &folder.path().join("guest.xml"),
    )
    .unwrap();
    drop(destination);
    let mut resumed = Box::new(FileDestination::resume(&out, Shape::File).unwrap());
    assert_eq!(names(folder.path()), [".guest.raw.rehome-work"]);
    move_disk(&mut *resumed, "guest.raw");
    resumed.file("guest.xml", b"<domain/>").unwrap();
    resumed.publish(&Unwatched).unwrap();
    assert_eq!(names(folder.path()), ["guest.raw", "guest.xml"]);
}

#[test]
fn a_run_that_did_nothing_durable_leaves_nothing_and_one_that_did_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    let size = source().size();
    let mut destination = FileDestination::create(&out, Shape::File).unwrap();
    destination
        .disk("guest.raw", size, &identity(size), &Unwatched)
        .unwrap();
    assert_eq!(destination.leftover(), Leftover::Nothing);
    drop(destination);
    assert_eq!(names(folder.path()), [] as [&str; 0]);
    assert_eq!(
        FileDestination::resume(&out, Shape::File).unwrap_err().kind,
        Kind::NotFound
    );

    let mut destination = FileDestination::create(&out, Shape::File).unwrap();
    destination.keep("plan.json", b"the plan").unwrap();
    move_disk(&mut destination, "guest.raw");
    assert!(matches!(destination.leftover(), Leftover::Resumable(_)));
    drop(destination);
    assert_eq!(names(folder.path()), [".guest.raw.rehome-work"]);
    let error = FileDestination::create(&out, Shape::File).unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    assert!(error.to_string().contains("--resume"), "{error}");

    let mut resumed = FileDestination::resume(&out, Shape::File).unwrap();
    assert_eq!(resumed.kept("plan.json").unwrap().unwrap(), b"the plan");
    assert_eq!(resumed.kept("other").unwrap(), None);
    // A run that breaks while it keeps something leaves what was kept before.
    let new = folder.path().join(".guest.raw.rehome-work/kept/plan.json.new");
    fs::create_dir(&new).unwrap();
    resumed.keep("plan.json", b"another").unwrap_err();
    assert_eq!(resumed.kept("plan.json").unwrap().unwrap(), b"the plan");
    fs::remove_dir(&new).unwrap();
    resumed.keep("plan.json", b"another").unwrap();
    assert_eq!(resumed.kept("plan.json").unwrap().unwrap(), b"another");
    let other = Identity {
        plan: Digest::of(b"another"),
        ..identity(size)
    };
    assert_eq!(
        resumed
            .disk("guest.raw", size, &other, &Unwatched)
            .unwrap_err()
            .kind,
        Kind::Unsafe
    );
    let (container, ledger) = resumed
        .disk("guest.raw", size, &identity(size), &Unwatched)
        .unwrap();
    assert!(!container.fresh && !ledger.is_empty() && ledger.digest().is_some());
}

#[test]
fn a_container_that_is_lost_is_not_believed_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    let mut destination = FileDestination::create(&out, Shape::File).unwrap();
    move_disk(&mut destination, "guest.raw");
    fs::remove_file(destination.work.product("guest.raw").unwrap()).unwrap();
    drop(destination);
    let mut resumed = FileDestination::resume(&out, Shape::File).unwrap();
    let size = source().size();
    let (container, ledger) = resumed
        .disk("guest.raw", size, &identity(size), &Unwatched)
        .unwrap();
    assert!(container.fresh && ledger.is_empty());
}

#[test]
fn two_runs_do_not_work_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guest.raw");
    let first = FileDestination::create(&out, Shape::File).unwrap();
    for second in [
        FileDestination::create(&out, Shape::File),
        FileDestination::resume(&out, Shape::File),
    ] {
        let error = second.unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        assert!(error.to_string().contains("another run"), "{error}");
    }
    drop(first);
    assert!(FileDestination::create(&out, Shape::File).is_ok());
}

#[test]
fn a_products_name_leads_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("server");
    let mut destination = FileDestination::create(&out, Shape::Folder).unwrap();
    for name in ["", ".", "..", "../x", "/etc/x", "a/b", "a\0b"] {
        assert_eq!(
            destination.file(name, b"").unwrap_err().kind,
            Kind::Unsupported,
            "{name:?}"
        );
        assert!(destination.disk(name, 1, &identity(1), &Unwatched).is_err());
    }
}

#[test]
fn a_full_destination_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let mut destination = FileDestination::create(&folder.path().join("server"), Shape::Folder).unwrap();
    let full = || Error::io("disk", std::io::Error::from(std::io::ErrorKind::StorageFull));
    let text = explain_full(full(), &destination, 5000).to_string();
    assert!(
        text.contains("up to 5000 more bytes") && text.contains("removed"),
        "{text}"
    );
    move_disk(&mut destination, "a.raw");
    let text = explain_full(full(), &destination, 5000).to_string();
    assert!(text.contains("--resume"), "{text}");
}
