//! Compressed pieces of an image that were unpacked lately, for those who read less than a whole one at a time: a
//! filesystem, or two threads whose pieces of the disk meet in one of the image.

use crate::disk::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Pieces are kept up to this many bytes, but never less than a few: more threads than that seldom meet.
const KEPT_BYTES: usize = 4 << 20;
const FEWEST: usize = 4;
/// The search goes through all of them.
const MOST: usize = 64;

/// In the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Unpacked(Mutex<Vec<Arc<Piece>>>);

/// A piece that is kept, or that somebody is unpacking just now: others wait for it and do not do it again.
#[derive(Debug)]
struct Piece {
    place: u64,
    bytes: Mutex<Option<Arc<Vec<u8>>>>,
}

impl Unpacked {
    /// Fills `buffer` with bytes of the piece at `place`, which unpacks to `size` bytes, from `within` on. `unpack` fills
    /// a whole one.
    pub(super) fn read(
        &self,
        place: u64,
        size: usize,
        within: usize,
        buffer: &mut [u8],
        unpack: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        if buffer.len() == size {
            return unpack(buffer);
        }
        let piece = self.piece(place, size);
        let mut slot = piece.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = if let Some(bytes) = &*slot {
            bytes.clone()
        } else {
            let mut bytes = vec![0; size];
            unpack(&mut bytes)?;
            slot.insert(Arc::new(bytes)).clone()
        };
        drop(slot);
        let wanted = bytes.get(within..within.saturating_add(buffer.len()));
        buffer.copy_from_slice(wanted.unwrap_or_default());
        Ok(())
    }

    fn piece(&self, place: u64, size: usize) -> Arc<Piece> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = kept.iter().find(|piece| piece.place == place) {
            return there.clone();
        }
        let most = (KEPT_BYTES / size.max(1)).clamp(FEWEST, MOST);
        if kept.len() >= most {
            kept.remove(0);
        }
        let bytes = Mutex::default();
        let new = Arc::new(Piece { place, bytes });
        kept.push(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Error, Kind};
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    #[test]
    fn a_piece_is_unpacked_once_for_all_who_want_parts_of_it() {
        let unpacked = Unpacked::default();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for part in 0..8_usize {
                let (unpacked, count) = (&unpacked, &count);
                scope.spawn(move || {
                    let mut buffer = [0; 100];
                    unpacked
                        .read(7, 800, part * 100, &mut buffer, |whole| {
                            count.fetch_add(1, Ordering::SeqCst);
                            for (at, byte) in whole.iter_mut().enumerate() {
                                *byte = (at / 100) as u8;
                            }
                            Ok(())
                        })
                        .unwrap();
                    assert_eq!(buffer, [part as u8; 100]);
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }

    #[test]
    fn what_fails_is_tried_again_and_few_are_kept() {
        let unpacked = Unpacked::default();
        let fail = |_: &mut [u8]| Err(Error::new(Kind::Corrupt, "d", "damaged"));
        assert!(unpacked.read(1, 1000, 0, &mut [0; 10], fail).is_err());
        assert!(unpacked.read(1, 1000, 0, &mut [0; 10], |_| Ok(())).is_ok());
        assert!(unpacked.read(1, 1000, 990, &mut [0; 10], fail).is_ok());
        for place in 0..1000 {
            unpacked
                .read(place, 1 << 20, 0, &mut [0; 10], |_| Ok(()))
                .unwrap();
        }
        assert_eq!(unpacked.0.lock().unwrap().len(), 4);
    }
}
