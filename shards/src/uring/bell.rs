//! The event that ends a ring's wait from another thread: a read of its counter, in flight whenever the ring waits.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::error::RingError;
use super::ring::{Mark, Owner, Ring};

pub(super) struct Bell {
    event: OwnedFd,
    /// Where the kernel puts the counter. It says nothing more than that it was not zero.
    counter: Box<[u8; 8]>,
    armed: bool,
}

impl Bell {
    /// Of an event descriptor that blocks.
    pub(super) fn new(event: OwnedFd) -> Self {
        Self {
            event,
            counter: Box::default(),
            armed: false,
        }
    }

    /// Whether its read is in flight.
    pub(super) const fn is_armed(&self) -> bool {
        self.armed
    }

    /// Reads the counter, unless a read is in flight.
    pub(super) fn arm(&mut self, ring: &mut Ring) -> Result<(), RingError> {
        if self.armed {
            return Ok(());
        }
        self.armed = true;
        let event = types::Fd(self.event.as_raw_fd());
        let read = opcode::Read::new(event, self.counter.as_mut_ptr(), 8)
            .build()
            .user_data(Mark::new(Owner::Doorbell, 0, 0).pack());
        ring.push(&[read])
    }

    /// Its read has ended.
    ///
    /// # Errors
    /// When the counter can't be read: a shard that can't be woken must not go on.
    pub(super) fn completed(&mut self, result: i32) -> Result<(), RingError> {
        self.armed = false;
        match -result {
            ..=0 | libc::EINTR | libc::EAGAIN | libc::ECANCELED => Ok(()),
            code => Err(RingError::Enter {
                source: std::io::Error::from_raw_os_error(code),
            }),
        }
    }

    /// Gives up what the kernel may still write to.
    pub(super) fn leak(self) {
        Box::leak(self.counter);
    }
}
