//! What the system's errors amount to, and what is too large for any segment.

use clustor_shards::disk::{DiskError, FileId};
use clustor_shards::log::LogOptions;
use clustor_shards::log::options::SEGMENT_BLOCKS_MAX;
use clustor_shards::log::size::PairNeed;
use clustor_wire::ids::PairNumber;
use std::io;

const FILE: FileId = FileId::ledger(PairNumber(7));

#[test]
fn what_the_system_is_short_of_passes_and_says_nothing_of_the_disk() {
    for errno in [
        libc::ENOMEM,
        libc::EAGAIN,
        libc::EINTR,
        libc::ENOBUFS,
        libc::EMFILE,
        libc::ENFILE,
    ] {
        let error = DiskError::of("reading", FILE, errno);
        assert!(error.is_passing(), "{error}");
        let said = error.to_string();
        let why = io::Error::from_raw_os_error(errno).to_string();
        for part in [
            "reading durability-",
            why.as_str(),
            "nothing of what is on the disk",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn what_the_device_says_does_not_pass() {
    for errno in [
        libc::EIO,
        libc::EBADMSG,
        libc::ENODATA,
        libc::EREMOTEIO,
        libc::ENXIO,
    ] {
        let error = DiskError::of("reading", FILE, errno);
        assert!(matches!(error, DiskError::Io(_)), "{error:?}");
        assert!(!error.is_passing());
    }
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        assert_eq!(DiskError::of("writing", FILE, errno), DiskError::Full);
    }
    assert_eq!(
        DiskError::of("writing", FILE, libc::ECANCELED),
        DiskError::Cancelled
    );
    assert_eq!(
        DiskError::of("opening", FILE, libc::ENOENT),
        DiskError::NoFile(FILE)
    );
}

#[test]
fn who_may_not_open_a_file_knows_nothing_of_what_it_holds() {
    let opening = |errno| DiskError::of_opening(FILE, &io::Error::from_raw_os_error(errno));
    assert!(opening(libc::EACCES).is_passing());
    assert!(opening(libc::EPERM).is_passing());
    assert!(opening(libc::EROFS).is_passing());
    assert!(opening(libc::EMFILE).is_passing());
    assert!(!opening(libc::EIO).is_passing());
}

#[test]
fn what_no_segment_has_room_for_is_refused_with_the_bound() {
    let options = LogOptions::for_segment_bytes(1 << 20);
    let blocks_max = u64::from(SEGMENT_BLOCKS_MAX);
    // The opening takes half of a segment at most, header, checkpoint and trailer included.
    let half = blocks_max as usize / 2;
    let need = PairNeed::of(b"checkpoint", half * 3_900, None);
    let ask = need.pair(PairNumber(7), &options).expect("there is room");
    assert!(ask.segment_blocks <= SEGMENT_BLOCKS_MAX);
    assert!(need.fits(ask.segment_blocks, ask.ledger_blocks));
    for need in [
        PairNeed::of(b"checkpoint", half * 4_096, None),
        PairNeed::of(b"checkpoint", 0, Some(2 * half * 4_096)),
    ] {
        let refused = need.pair(PairNumber(7), &options).err();
        let Some(DiskError::TooLarge {
            blocks,
            blocks_max: max,
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert!(blocks > blocks_max && max == blocks_max);
    }
}
