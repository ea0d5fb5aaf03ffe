//! From a package to a response: the layout planned once, its bytes made for each request.

mod buffer;
mod plan;
mod render;

pub use buffer::BufferPool;
pub use plan::Planner;
pub use render::{Handing, MediaBody};
