//! How the attributes of a file are shared out to records: all to the first, or, where that is too small, to further ones
//! that an attribute list names. Pure: nothing is read or written here.

use super::{
    attribute::{NON_RESIDENT_HEADER, RESIDENT_HEADER, kind},
    edited_file::{OwnedAttribute, Value},
    error::{NtfsError, Parsed},
};

/// What the records have room for, and whose they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes for attributes in the first record.
    pub(super) first: usize,
    /// Bytes for attributes in each further record.
    pub(super) more: usize,
    pub(super) cluster_size: u64,
    /// The file is `$MFT`, whose map begins in the first record: the rest is found with it.
    pub(super) is_mft: bool,
}

/// An attribute, or a part of one, as it is to stand in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which attribute.
    pub(super) index: usize,
    /// The first cluster of the part.
    pub(super) vcn: u64,
    /// With 0 for its number in the record.
    pub(super) bytes: Vec<u8>,
}

/// Which record gets what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The first record, then the further ones.
    pub(super) records: Vec<Vec<Piece>>,
    pub(super) list: List,
}

/// Where the attribute list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// There is none.
    None,
    /// In the first record.
    Resident,
    /// In clusters.
    Clusters,
}

/// Bytes that are kept for the runs of an attribute list in clusters: it may be in a few pieces.
pub(super) const LIST_RUNS: usize = 48;
/// Bytes of an entry of the list, before the name.
const LIST_ENTRY: usize = 0x1a;

/// Shares out `attributes`, which are in the order that they have in a record.
pub(super) fn layout(shape: &Shape, attributes: &[OwnedAttribute]) -> Parsed<Layout> {
    if let Some(first) = all_in_one(shape, attributes)? {
        return Ok(Layout {
            records: vec![first],
            list: List::None,
        });
    }
    // How long the list is depends on what it says, and where things go on how long it is.
    let mut length: usize = attributes.iter().map(entry_length).sum();
    while RESIDENT_HEADER + length <= shape.first / 2 {
        let records = share_out(shape, attributes, (RESIDENT_HEADER + length).next_multiple_of(8))?;
        let needed = list_length(attributes, &records);
        if needed <= length {
            return Ok(Layout {
                records,
                list: List::Resident,
            });
        }
        length = needed;
    }
    let records = share_out(shape, attributes, NON_RESIDENT_HEADER + LIST_RUNS)?;
    Ok(Layout {
        records,
        list: List::Clusters,
    })
}

/// Bytes of the attribute list.
fn list_length(attributes: &[OwnedAttribute], records: &[Vec<Piece>]) -> usize {
    let pieces = records.iter().flatten();
    pieces
        .filter_map(|piece| attributes.get(piece.index))
        .map(entry_length)
        .sum()
}

fn entry_length(attribute: &OwnedAttribute) -> usize {
    (LIST_ENTRY + attribute.name.len() * 2).next_multiple_of(8)
}

/// All attributes in one record, if there is room.
fn all_in_one(shape: &Shape, attributes: &[OwnedAttribute]) -> Parsed<Option<Vec<Piece>>> {
    let mut left = shape.first;
    let mut pieces = Vec::new();
    for (index, attribute) in attributes.iter().enumerate() {
        let Some((bytes, 0)) = attribute.encode(0, left, shape.cluster_size)? else {
            return Ok(None);
        };
        left -= bytes.len();
        pieces.push(Piece { index, vcn: 0, bytes });
    }
    Ok(Some(pieces))
}

/// A record that is filled.
struct Filled {
    left: usize,
    pieces: Vec<Piece>,
}

impl Filled {
    fn new(room: usize) -> Self {
        Self {
            left: room,
            pieces: Vec::new(),
        }
    }

    fn put(&mut self, piece: Piece) {
        self.left = self.left.saturating_sub(piece.bytes.len());
        self.pieces.push(piece);
    }
}

/// Shares out to as many records as are needed, with `list` bytes of the first for the attribute list.
fn share_out(shape: &Shape, attributes: &[OwnedAttribute], list: usize) -> Parsed<Vec<Vec<Piece>>> {
    // The map of `$MFT` takes what the rest leaves of the first record, which must be something.
    let for_map = if shape.is_mft { shape.first / 4 } else { 0 };
    let mut records = vec![Filled::new(shape.first.saturating_sub(list + for_map))];
    let is_map = |attribute: &OwnedAttribute| {
        shape.is_mft && attribute.kind == kind::DATA && attribute.name.is_empty()
    };
    let (maps, others): (Vec<_>, Vec<_>) = attributes
        .iter()
        .enumerate()
        .partition(|(_, attribute)| is_map(attribute));
    for (index, attribute) in others.into_iter().chain(maps) {
        if attribute.kind == kind::STANDARD_INFORMATION || is_map(attribute) {
            if let Some(first) = records.first_mut().filter(|_| is_map(attribute)) {
                first.left += for_map;
            }
            let first = records.first_mut().map_or(0, |first| first.left);
            let encoded = attribute.encode(0, first, shape.cluster_size)?;
            let (bytes, next) = encoded.ok_or_else(|| too_large(attribute, first))?;
            let piece = Piece { index, vcn: 0, bytes };
            if let Some(first) = records.first_mut() {
                first.put(piece);
            }
            if next != 0 {
                share_rest(shape, &mut records, (index, attribute), next)?;
            }
            continue;
        }
        if !put_whole(shape, &mut records, (index, attribute), 0)? {
            share_rest(shape, &mut records, (index, attribute), 0)?;
        }
    }
    for record in &mut records {
        record.pieces.sort_by_key(|piece| (piece.index, piece.vcn));
    }
    Ok(records.into_iter().map(|record| record.pieces).collect())
}

/// Puts the runs from `first` on as one piece where there is room, or in a new record. False if one has no room for it.
fn put_whole(
    shape: &Shape,
    records: &mut Vec<Filled>,
    (index, attribute): (usize, &OwnedAttribute),
    first: usize,
) -> Parsed<bool> {
    let Some((bytes, 0)) = attribute.encode(first, shape.more, shape.cluster_size)? else {
        return Ok(false);
    };
    let piece = Piece {
        index,
        vcn: vcn(attribute, first),
        bytes,
    };
    // A map's later parts come after its first ones, so `$MFT` does not fill up earlier records with them.
    let in_order = shape.is_mft && first > 0;
    let room = records
        .iter_mut()
        .find(|record| !in_order && record.left >= piece.bytes.len());
    match room {
        Some(record) => record.put(piece),
        None => {
            let mut record = Filled::new(shape.more);
            record.put(piece);
            records.push(record);
        }
    }
    Ok(true)
}

/// Puts the runs from `first` on in as many new records as they need.
fn share_rest(
    shape: &Shape,
    records: &mut Vec<Filled>,
    (index, attribute): (usize, &OwnedAttribute),
    first: usize,
) -> Parsed<()> {
    let mut first = first;
    while !put_whole(shape, records, (index, attribute), first)? {
        let encoded = attribute.encode(first, shape.more, shape.cluster_size)?;
        let Some((bytes, next @ 1..)) = encoded else {
            return Err(too_large(attribute, shape.more));
        };
        let mut record = Filled::new(shape.more);
        record.put(Piece {
            index,
            vcn: vcn(attribute, first),
            bytes,
        });
        records.push(record);
        first = next;
    }
    Ok(())
}

fn vcn(attribute: &OwnedAttribute, first: usize) -> u64 {
    match &attribute.value {
        Value::Clusters(clusters) => clusters.runs.get(first).map_or(0, |run| run.vcn),
        Value::Resident { .. } => 0,
    }
}

fn too_large(attribute: &OwnedAttribute, room: usize) -> NtfsError {
    NtfsError::Full(format!(
        "its attribute {:#x} has {} bytes, where a record has room for {room}",
        attribute.kind,
        attribute.size()
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{attribute, data_runs::Run, edited_file::Clusters},
        *,
    };
    use proptest::prelude::*;

    const SHAPE: Shape = Shape {
        first: 960,
        more: 960,
        cluster_size: 4096,
        is_mft: false,
    };

    fn in_clusters(kind: u32, pieces: u64) -> OwnedAttribute {
        let runs = (0..pieces).map(|piece| Run {
            vcn: piece * 3,
            lcn: Some(piece * 7919 % 100_003 * 100),
            clusters: 3,
        });
        OwnedAttribute {
            value: Value::Clusters(Clusters {
                runs: runs.collect(),
                size: pieces * 3 * 4096,
                initialized: pieces * 3 * 4096,
                compression_unit: 0,
            }),
            ..OwnedAttribute::resident(kind, &[], Vec::new())
        }
    }

    fn resident(kind: u32, length: usize) -> OwnedAttribute {
        OwnedAttribute::resident(kind, &[], vec![7; length])
    }

    /// Every attribute is there once and whole, in order, and each record has room for what it gets.
    fn must_be_right(shape: &Shape, attributes: &[OwnedAttribute]) -> Layout {
        let layout = layout(shape, attributes).unwrap();
        let mut parts = vec![Vec::new(); attributes.len()];
        let mut seen = vec![false; attributes.len()];
        for (record, pieces) in layout.records.iter().enumerate() {
            let used: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
            let room = match (record, layout.list) {
                (0, List::None) => shape.first,
                (0, List::Resident) => {
                    shape.first - RESIDENT_HEADER - list_length(attributes, &layout.records)
                }
                (0, List::Clusters) => shape.first - NON_RESIDENT_HEADER - LIST_RUNS,
                _ => shape.more,
            };
            assert!(used <= room, "record {record}: {used} in {room}");
            assert!(pieces.is_sorted_by_key(|piece| piece.index));
            for piece in pieces {
                seen[piece.index] = true;
                let (read, length) = attribute::parse(&piece.bytes).unwrap().unwrap();
                assert_eq!(length, piece.bytes.len());
                if let attribute::Form::NonResident(part) = read.form {
                    assert_eq!(part.vcns.start, piece.vcn);
                    parts[piece.index].push(part.vcns);
                }
            }
        }
        assert!(seen.iter().all(|seen| *seen));
        for (attribute, mut parts) in attributes.iter().zip(parts) {
            if let Value::Clusters(of) = &attribute.value {
                let is_map = shape.is_mft && attribute.kind == kind::DATA && attribute.name.is_empty();
                assert!(
                    !is_map || parts.is_sorted_by_key(|part| part.start),
                    "a map in order"
                );
                parts.sort_by_key(|part| part.start);
                let end = parts.into_iter().fold(0, |end, part| {
                    assert_eq!(part.start, end, "no gaps");
                    part.end
                });
                assert_eq!(of.end(), end);
            }
        }
        layout
    }

    #[test]
    fn what_fits_stays_in_one_record() {
        let attributes = [resident(0x10, 72), resident(0x30, 100), resident(0x80, 500)];
        assert_eq!(must_be_right(&SHAPE, &attributes).list, List::None);
        let attributes = [resident(0x10, 72), resident(0x30, 100), in_clusters(0x80, 100)];
        assert_eq!(must_be_right(&SHAPE, &attributes).list, List::None);
    }

    #[test]
    fn a_long_map_gets_records_of_its_own() {
        let attributes = [resident(0x10, 72), resident(0x30, 100), in_clusters(0x80, 1000)];
        let layout = must_be_right(&SHAPE, &attributes);
        assert_eq!(layout.list, List::Resident);
        assert!(layout.records.len() > 4);
        let attributes = [resident(0x10, 72), in_clusters(0x80, 20_000)];
        assert_eq!(must_be_right(&SHAPE, &attributes).list, List::Clusters);
    }

    #[test]
    fn the_map_of_mft_begins_in_its_first_record() {
        let shape = Shape {
            is_mft: true,
            ..SHAPE
        };
        let attributes = [
            resident(0x10, 72),
            resident(0x30, 100),
            in_clusters(0x80, 3000),
            in_clusters(0xb0, 3),
        ];
        let layout = must_be_right(&shape, &attributes);
        let first = layout.records[0].iter().find(|piece| piece.index == 2).unwrap();
        assert_eq!(first.vcn, 0);
    }

    #[test]
    fn what_no_record_has_room_for_is_an_error() {
        assert!(layout(&SHAPE, &[resident(0x10, 72), resident(0x90, 1000)]).is_err());
    }

    proptest! {
        #[test]
        fn any_attributes_are_shared_out(
            sizes in proptest::collection::vec((0..700_usize, 0..600_u64), 1..20),
            is_mft in any::<bool>(),
        ) {
            let mut attributes = vec![resident(kind::STANDARD_INFORMATION, 72)];
            for (index, (length, pieces)) in sizes.into_iter().enumerate() {
                // Each has a name of its own: parts are told apart by it.
                let mut one = if length % 2 == 0 { resident(0x90, length) } else { in_clusters(0x80, pieces) };
                one.name = vec![index as u16 + 1];
                attributes.push(one);
            }
            attributes.push(in_clusters(kind::DATA, 900));
            attributes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
            must_be_right(&Shape { is_mft, ..SHAPE }, &attributes);
        }
    }
}
