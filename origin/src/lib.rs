//! The origin role.
pub mod storage;
