//! Clocks that tests can move, and dates in the text forms that are shared with the Python service.

mod clock;
mod isoformat;
#[cfg(feature = "testing")]
mod manual_clock;

#[cfg(feature = "testing")]
pub use self::manual_clock::ManualClock;
pub(crate) use self::{
    clock::{Clock, wall_micros},
    isoformat::{isoformat, parse_isoformat},
};
