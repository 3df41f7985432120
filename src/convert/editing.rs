//! All edits of a plan on one layer, the judges of them, and the discarding of what is free.

use crate::{
    disk::{Error, Kind, Result},
    fs::{
        FileSystem, GuestPath, Mounts,
        detect::{self, Detected},
    },
    guest::{Guest, swap_files::swap_in},
    output::{Judgement, Report},
    plan::Plan,
    rewrite::{self, Edits},
    source::{Examined, Found, Layer},
    volume::Volume,
};
use std::{collections::BTreeSet, ops::Range};

/// Carries out `plan` on `edited` and lets the judges look. `examined` is the state before.
pub(super) fn edit(plan: &Plan, examined: &Examined, edited: &mut Layer, report: &mut Report) -> Result<()> {
    let mut guests = examined.inspection.guests.iter();
    let Some(guest) = guests.find(|guest| Some(&guest.root) == plan.root.as_ref()) else {
        return Ok(());
    };
    guest.mount(&mut edited.mounts)?;
    let edits = rewrite::apply(plan, &mut edited.mounts)?;
    for volume in edits.volumes() {
        report.judgements.push(judge(&edits, volume, examined, edited)?);
    }
    report.changes = edits.changes;
    report.warnings.extend(edits.remarks);
    Ok(())
}

/// Three judges of the edits on one volume; an objection is an error.
fn judge(edits: &Edits, id: &str, examined: &Examined, edited: &Layer) -> Result<Judgement> {
    let missing = || Error::new(Kind::NotFound, id, "the volume that was edited is gone");
    let (before, _) = examined.layer.volume(id).ok_or_else(missing)?;
    let (after, contents) = edited.volume(id).ok_or_else(missing)?;
    let written = contents.recorder.written();
    rewrite::audit(id, &*open_afresh(before)?, &written, &edits.changed_nodes(id))?;
    rewrite::judge(edits, id, &*open_afresh(after)?)?;
    let witness = match detect::witness(&after.disk)? {
        Some(witness) if rewrite::ask_witness(edits, id, &*witness)? => Some(witness.name().to_owned()),
        _ => None,
    };
    Ok(Judgement {
        volume: id.to_owned(),
        audited_bytes: written.iter().map(|range| range.end - range.start).sum(),
        files_read_back: edits.changes.iter().filter(|change| change.volume == id).count(),
        witness,
    })
}

/// A new reader, without what another one remembers.
fn open_afresh(volume: &Volume) -> Result<Box<dyn FileSystem>> {
    match detect::open(volume.disk.clone())? {
        Detected::FileSystem(filesystem) => Ok(filesystem),
        _ => Err(Error::new(
            Kind::Corrupt,
            &*volume.id,
            "holds no filesystem any more",
        )),
    }
}

/// Discards every run that nobody needs: free space, swap, the swap files of `guests`, unwritten runs, and what lies between
/// partitions. Gives for each disk how many bytes that are.
pub(super) fn discard_free(layer: &Layer, guests: &[Guest]) -> Result<Vec<u64>> {
    let mut discarded = vec![0_u64; layer.disks.len()];
    for (volume, contents) in layer.volumes().filter(|(volume, _)| !layer.overlaps(volume)) {
        let mut bytes = 0_u64;
        let mut discard = |range: Range<u64>| {
            bytes = bytes.saturating_add(range.end.saturating_sub(range.start));
            volume.disk.discard(range)
        };
        match &contents.found {
            Found::FileSystem(index) => {
                layer.mounts.filesystem(*index)?.free(&mut discard)?;
                let files = guests.iter().flat_map(|guest| &guest.swap_files);
                let paths: BTreeSet<&GuestPath> = files
                    .filter(|file| file.volume == volume.id)
                    .map(|file| &file.path_there)
                    .collect();
                for path in paths {
                    discard_swap_file(&layer.mounts, *index, path, &mut discard)?;
                }
            }
            Found::Swap(swap) => swap.free().map_or(Ok(()), discard)?,
            // What is not understood is copied whole.
            Found::Known(_) | Found::Unknown | Found::Failed(_) => {}
        }
        if let Some(sum) = discarded.get_mut(layer.disk_of(volume)) {
            *sum = sum.saturating_add(bytes);
        }
    }
    for (index, disk) in layer.disks.iter().enumerate() {
        for gap in layer.gaps(index) {
            if let Some(sum) = discarded.get_mut(index) {
                *sum = sum.saturating_add(gap.end.saturating_sub(gap.start));
            }
            disk.discard(gap)?;
        }
    }
    Ok(discarded)
}

/// Discards what was swapped out into a file; its header stays.
fn discard_swap_file(
    mounts: &Mounts,
    index: usize,
    path: &GuestPath,
    discard: &mut dyn FnMut(Range<u64>) -> Result<()>,
) -> Result<()> {
    let Some(file) = mounts
        .find_on(index, path)?
        .filter(|file| file.attributes.is_file())
    else {
        return Ok(());
    };
    let Some(free) = swap_in(mounts, &file)?.and_then(|swap| swap.free()) else {
        return Ok(());
    };
    mounts
        .filesystem(index)?
        .file_runs(file.node, &mut |offset, run| {
            // Both begin and end with the part of the file that is free.
            let skipped = free.start.saturating_sub(offset);
            let length = (run.end - run.start).min(free.end.saturating_sub(offset));
            let part = run.start.saturating_add(skipped)..run.start.saturating_add(length);
            if part.start < part.end {
                discard(part)
            } else {
                Ok(())
            }
        })
}
