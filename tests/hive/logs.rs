//! Transaction logs: hives that were not closed properly come to what Windows made of them.

use crate::{
    raw::Raw,
    samples::sample,
    seen::{by_us, must_be_alike},
};
use rehome::{
    disk::{Digest, Kind},
    hive::{Hive, seal_log_entry},
};

fn open(names: &[&str]) -> Option<Hive> {
    let files: Option<Vec<_>> = names.iter().map(|name| sample(name)).collect();
    let mut files = files?;
    let logs = files.split_off(1);
    Some(Hive::open(names[0], files.remove(0), &logs).unwrap())
}

/// Digest of the hive bins data.
fn bins(hive: &Hive) -> String {
    let size = u32::from_le_bytes(hive.file()[40..44].try_into().unwrap()) as usize;
    Digest::of(&hive.file()[4096..4096 + size]).to_string()
}

const DIRTY: [&str; 3] = [
    "yarp/NewDirtyHive2/NewDirtyHive",
    "yarp/NewDirtyHive2/NewDirtyHive.LOG1",
    "yarp/NewDirtyHive2/NewDirtyHive.LOG2",
];

/// The result that Windows 10 itself came to.
#[test]
fn entries_give_what_windows_10_recovered() {
    let (Some(mut ours), Some(theirs)) = (
        open(&DIRTY),
        open(&["yarp/NewDirtyHive1/RecoveredHive_Windows10"]),
    ) else {
        return;
    };
    assert!(
        ours.recovered().unwrap().contains("3 entries"),
        "{:?}",
        ours.recovered()
    );
    assert!(ours.file()[4096..] == theirs.file()[4096..]);
    must_be_alike(&by_us(&ours), &by_us(&theirs), "recovered");
    // Written once, it has the sequence numbers that Windows gave it too.
    assert!(ours.edit(0).unwrap().commit().unwrap());
    assert_eq!(ours.file()[4..12], theirs.file()[4..12]);
    Raw::new(ours.file()).must_be_sound("recovered");
}

/// The digests are those of what yarp makes of the same files.
#[test]
fn entries_in_two_logs_of_real_machines_are_replayed() {
    for (names, entries, digest) in [
        (
            ["regipy/SYSTEM_B", "regipy/SYSTEM_B.LOG1", "regipy/SYSTEM_B.LOG2"],
            "24 entries",
            "4bd04cea4d6761b185400e767625af71c3c12d0fe74b0e4b9e86bad8be18c198",
        ),
        (
            [
                "regipy/transactions_NTUSER.DAT",
                "regipy/transactions_ntuser.dat.log1",
                "regipy/transactions_ntuser.dat.log2",
            ],
            "23 entries",
            "1a517fdea59fe6d4510713573efe71f753b6799b2a8824ec30d2d7af9545d8c7",
        ),
    ] {
        let Some(mut hive) = open(&names) else { return };
        assert!(
            hive.recovered().unwrap().contains(entries),
            "{:?}",
            hive.recovered()
        );
        assert_eq!(bins(&hive), digest);
        hive.check().unwrap();
        // The order of the logs does not matter.
        let again = open(&[names[0], names[2], names[1]]).unwrap();
        assert!(again.file() == hive.file());
        assert!(hive.edit(0).unwrap().commit().unwrap());
        Raw::new(hive.file()).must_be_sound(names[0]);
    }
}

#[test]
fn pages_of_an_old_log_mend_a_bad_base_block() {
    let names = [
        "yarp/BadBaseBlockHive/BadBaseBlockHive",
        "yarp/BadBaseBlockHive/BadBaseBlockHive.LOG1",
    ];
    let Some(mut hive) = open(&names) else { return };
    assert!(
        hive.recovered().unwrap().contains("64 pages of 512 bytes"),
        "{:?}",
        hive.recovered()
    );
    assert_eq!(
        bins(&hive),
        "5bbecf24794f3fd21051fd3b69465b885213afe61108742c0c248d44c932c3f4"
    );
    assert_eq!(hive.version(), (1, 3));
    assert!(hive.find("key_with_many_subkeys\\1").unwrap().is_none());
    let value = hive
        .find("key_with_many_subkeys\\4500")
        .unwrap()
        .unwrap()
        .strings("v")
        .unwrap();
    assert_eq!(value.unwrap(), ["a", "bb", "ccc"]);
    assert!(
        hive.find("key_with_many_subkeys\\5000\\find_me_in_log")
            .unwrap()
            .is_some()
    );
    assert!(hive.edit(0).unwrap().commit().unwrap());
    Raw::new(hive.file()).must_be_sound("mended");
}

#[test]
fn logs_that_do_not_fit_leave_a_hive_that_is_read_and_not_edited() {
    for names in [
        &["yarp/BadLogHive1/BadLogHive", "yarp/BadLogHive1/BadLogHive.LOG1"][..],
        &["yarp/BadLogHive1/BadLogHive", "yarp/BadLogHive2/BadLogHive.LOG1"],
        &[
            "yarp/BadLogHive3/BadLogHive",
            "yarp/BadLogHive3/BadLogHive.LOG1",
            "yarp/BadLogHive3/BadLogHive.LOG2",
        ],
        &["regipy/SYSTEM_2"],
        // The log of something else.
        &[DIRTY[0], "yarp/BadBaseBlockHive/BadBaseBlockHive.LOG1"],
        &[DIRTY[0], DIRTY[1]],
    ] {
        let Some(mut hive) = open(names) else { return };
        assert!(hive.stale().is_some(), "{names:?}");
        hive.root().unwrap().subkeys().unwrap();
        let error = hive.edit(0).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        assert!(error.to_string().contains("--force-dirty"), "{error}");
        hive.force_dirty();
        assert!(hive.edit(0).unwrap().commit().unwrap(), "{names:?}");
        Raw::new(hive.file()).must_be_sound("forced");
    }
}

/// What Windows does after us: it opens the hive, clean, beside logs that are older; and if it then stops half-way, the old logs
/// must not pass for those of that stop.
#[test]
fn logs_that_were_replayed_are_over() {
    let Some(mut hive) = open(&DIRTY) else { return };
    let logs = [sample(DIRTY[1]).unwrap(), sample(DIRTY[2]).unwrap()];
    let mut editor = hive.edit(1_700_000_000).unwrap();
    editor.make_path("Key3\\new").unwrap();
    editor.commit().unwrap();
    let edited = hive.into_file();
    let again = Hive::open("again", edited.clone(), &logs).unwrap();
    assert_eq!((again.recovered(), again.stale()), (None, None));
    assert!(again.find("Key3\\new").unwrap().is_some());
    assert!(again.file() == edited);
    // Windows begins to write: the first sequence number is one higher.
    let mut stopped = edited;
    stopped[4] += 1;
    seal(&mut stopped);
    let stopped = Hive::open("stopped", stopped, &logs).unwrap();
    assert!(stopped.stale().is_some(), "{:?}", stopped.recovered());
}

fn seal(file: &mut [u8]) {
    let words = file[..508]
        .chunks(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let sum = words.fold(0, |sum, word| sum ^ word);
    file[508..512].copy_from_slice(&sum.to_le_bytes());
}

/// A hive that is taken as it is has logs beside it that go further: what is written to it is later than all of them.
#[test]
fn what_is_written_is_later_than_every_log() {
    let (Some(file), Some(log)) = (sample(DIRTY[0]), sample(DIRTY[2])) else {
        return;
    };
    let recovered = Hive::open("recovered", file.clone(), std::slice::from_ref(&log)).unwrap();
    let last = u32::from_le_bytes(recovered.file()[4..8].try_into().unwrap());
    // The hive is older than the log, whose first entry does not follow: it cannot be used, and a later one would.
    let mut older = file.clone();
    for at in [4, 8] {
        older[at..at + 4].copy_from_slice(&1_u32.to_le_bytes());
    }
    seal(&mut older);
    let mut hive = Hive::open("older", older, &[log]).unwrap();
    assert_eq!((hive.stale(), hive.recovered()), (None, None), "it is clean");
    let mut editor = hive.edit(0).unwrap();
    editor.make_path("new").unwrap();
    editor.commit().unwrap();
    let written = u32::from_le_bytes(hive.file()[4..8].try_into().unwrap());
    assert!(written > last, "{written} after {last}");
}

/// A log that is cut anywhere: the entries before the cut count, and nothing fails.
#[test]
fn a_log_that_was_cut_counts_as_far_as_it_goes() {
    let (Some(file), Some(log)) = (sample(DIRTY[0]), sample(DIRTY[2])) else {
        return;
    };
    let mut kinds = std::collections::BTreeSet::new();
    for cut in (0..log.len()).step_by(509) {
        let hive = Hive::open("cut", file.clone(), &[log[..cut].to_vec()]).unwrap();
        let said = hive.recovered().or(hive.stale()).unwrap().to_owned();
        kinds.insert(said);
    }
    assert!(kinds.len() >= 4, "{kinds:?}");
}

/// Entries that lie: of sizes that are none, far away, or making the hive as large as they like.
#[test]
fn lying_entries_are_not_followed() {
    let (Some(file), Some(log)) = (sample(DIRTY[0]), sample(DIRTY[2])) else {
        return;
    };
    let size = u32::from_le_bytes(log[516..520].try_into().unwrap()) as usize;
    for (at, value) in [
        (16, 0_u32),
        (16, 4095),
        (16, u32::MAX - 4095),
        (16, 1 << 30),
        (20, u32::MAX),
        (20, 100_000),
        (40, u32::MAX - 511),
        (40, 1 << 30),
        (44, u32::MAX),
        (44, 0),
        (44, 1),
    ] {
        let mut log = log.clone();
        log[512 + at..516 + at].copy_from_slice(&value.to_le_bytes());
        seal_log_entry(&mut log[512..512 + size]);
        match Hive::open("lying", file.clone(), &[log]) {
            Ok(hive) => assert!(hive.stale().is_some(), "{at} {value}"),
            Err(error) => assert!(matches!(error.kind, Kind::Unsupported | Kind::Corrupt), "{error}"),
        }
    }
}
