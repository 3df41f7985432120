//! Files whose contents Windows does not need after it was shut down.

use crate::{
    image::Image,
    model::{Random, contents},
};
use rehome::fs::{FileSystem, mode};
use std::collections::BTreeMap;

fn runs(image: &Image) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    let junk = vec![0xee; 1 << 20];
    image
        .open()
        .page_file_runs(&mut |name, run| {
            let length = run.end - run.start;
            *bytes.entry(name.to_owned()).or_default() += length;
            image.write(run.start, &junk[..length as usize]);
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn their_runs_are_theirs_alone() {
    let image = Image::make_sparse(48 << 20, &[]);
    let mut random = Random::new(8);
    let put = |folder: &[u8], name: &[u8], bytes: &[u8]| {
        let mut fs = image.open();
        let root = fs.root();
        let known = fs.lookup(root, folder).unwrap();
        let edit = fs.edit().unwrap();
        let parent = match (folder, known) {
            (b"", _) => root,
            (_, Some(known)) => known,
            (_, None) => edit.create(root, folder, mode::DIRECTORY | 0o755).unwrap(),
        };
        let node = edit.create(parent, name, mode::FILE | 0o644).unwrap();
        edit.replace(node, &mut &*bytes).unwrap();
        edit.commit().unwrap();
        node
    };
    let bytes = random.bytes(700_001);
    let pages = put(b"", b"PageFile.sys", &bytes);
    put(b"", b"hiberfil.sys", &[0; 500_000]);
    let other = put(b"folder", b"pagefile.sys", &bytes);
    let plain = put(b"", b"plain", &bytes);
    let seen = runs(&image);
    let expected = [("hiberfil.sys", 500_000), ("pagefile.sys", 700_001)];
    assert_eq!(
        seen,
        expected.map(|(name, length)| (name.to_owned(), length)).into()
    );
    let fs = image.open();
    assert!(contents(&fs, pages).iter().all(|byte| *byte == 0xee));
    assert!(contents(&fs, other) == bytes && contents(&fs, plain) == bytes);
    image.must_be_clean("with junk in page files");
    // One with two names is somebody's file.
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    edit.link(pages, root, b"another name").unwrap();
    edit.commit().unwrap();
    assert_eq!(runs(&image).into_keys().collect::<Vec<_>>(), ["hiberfil.sys"]);
}

#[test]
fn a_hibernated_windows_needs_them() {
    let image = Image::make_sparse(24 << 20, &[]);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    for (name, start) in [(&b"pagefile.sys"[..], &b"pages"[..]), (b"hiberfil.sys", b"hibr")] {
        let node = edit.create(root, name, mode::FILE | 0o644).unwrap();
        edit.replace(node, &mut &*[start, &[1; 100_000]].concat())
            .unwrap();
    }
    edit.commit().unwrap();
    assert!(runs(&image).is_empty());
}
