//! What binaries allocate with.

use libmimalloc_sys::{mi_option_set, mi_option_t};
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay`: milliseconds until freed pages go back to the system. The bindings name only some options.
const PURGE_DELAY: mi_option_t = 15;

/// Keeps freed pages for the life of the process: a training step finds those of the step before, and the system need not clear them
/// again. A program calls it first of all; it does nothing where another allocator is in use.
pub fn keep_pages() {
    // SAFETY: it sets a number that the allocator reads whenever pages are freed.
    unsafe { mi_option_set(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    /// The option's number is a place in a list; its default is known, and unlike those of its neighbours.
    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: both read numbers.
        let value = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(value(), 1000);
        keep_pages();
        assert_eq!(value(), -1);
    }
}
