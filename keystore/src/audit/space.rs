//! Room for the log, taken from the disk before it is needed.
//!
//! A file system that is full must not end the log in mid-sentence, and must not keep operators from what would help.
//! So some room beyond the file's end is always allocated: the *reserve*.
//!
//! ```text
//!  0 ............................ 80 % ............ len + reserve/2 ..... len + reserve ....... capacity
//!                                  |
//!                                  alarm
//!
//!  room left       who may still write
//!  > reserve       everybody
//!  > reserve / 2   leases and exports of keys that exist, operators         no new key is made
//!  > 0             operators                                                keys: audit-unavailable
//!  0               nobody                                                   all: audit-unavailable
//! ```
//!
//! Room ends at the capacity that the settings give the file, or where the disk gives no more, whichever comes first.

use std::fs::File;

use conf::AuditSettings;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::Room;

/// How much of the capacity may be used before there is an alarm, in percent.
const ALARM_PERCENT: u64 = 80;

/// Where the file may grow to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    capacity: u64,
    reserve: u64,
    /// Up to here the disk has given room.
    allocated: u64,
    /// The file system cannot give room ahead.
    unsupported: bool,
}

impl Space {
    /// For a file of this length.
    pub(super) fn new(settings: AuditSettings, len: u64) -> Self {
        Self {
            capacity: settings.capacity,
            reserve: settings.reserve,
            allocated: len,
            unsupported: false,
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What lies beyond the file's end was given back: it was cut.
    pub(super) fn cut(&mut self, len: u64) {
        self.allocated = self.allocated.min(len);
    }

    /// Asks the disk for room, when what it gave is less than the reserve.
    pub(super) fn provide(&mut self, file: &File, len: u64) {
        let wanted = (len + self.reserve).min(self.capacity);
        if self.unsupported || self.allocated >= wanted {
            return;
        }
        // More than is wanted, so that it is not asked for at every record; and what is wanted, if that is all there is.
        for end in [(len + 2 * self.reserve).min(self.capacity), wanted] {
            let from = self.allocated.max(len);
            match fallocate(file, FallocateFlags::KEEP_SIZE, from, end - from) {
                Ok(()) => {
                    self.allocated = end;
                    return;
                }
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "this file system keeps no room for the audit log");
                    self.unsupported = true;
                    return;
                }
            }
        }
    }

    /// Where room ends.
    fn end(&self) -> u64 {
        match self.unsupported {
            true => self.capacity,
            false => self.capacity.min(self.allocated),
        }
    }

    pub(super) fn room(&self, len: u64) -> Room {
        match self.end().saturating_sub(len) {
            0 => Room::None,
            left if left <= self.reserve / 2 => Room::Operators,
            left if left < self.reserve => Room::Reserve,
            _ => Room::Plenty,
        }
    }

    /// Whether a record may make the file this long.
    pub(super) fn admits(&self, len: u64, by_caller: bool) -> bool {
        match by_caller {
            true => len + self.reserve / 2 <= self.end(),
            false => len <= self.end(),
        }
    }

    /// Whether an operator should look after it.
    pub(super) fn alarm(&self, len: u64) -> bool {
        len >= self.capacity / 100 * ALARM_PERCENT || self.room(len) < Room::Plenty
    }
}
