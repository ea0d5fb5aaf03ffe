//! No kernel: the portable form serves every processor but x86-64.

use crate::chain::{Chain, Pattern};
use crate::{BLOCK, Form};

/// There is none.
pub(crate) enum Kernel {}

impl Kernel {
    pub(crate) fn new(_: Form, _: &[u8; BLOCK]) -> Option<Self> {
        None
    }

    pub(crate) fn form(&self) -> Form {
        match *self {}
    }

    pub(crate) fn ctr(&self, _: [u8; 8], _: u64, _: &[u8], _: &mut [u8]) {
        match *self {}
    }

    pub(crate) fn cbc(&self, _: Pattern, _: &[u8], _: &mut [u8], _: &mut [Chain], _: usize) {
        match *self {}
    }
}
