//! Ctrl-C: the first one asks commands to finish their file and stop, the second ends
//! the program at once.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. Where that is impossible Ctrl-C keeps its default meaning.
pub fn install() {
    let handler = || {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping; press Ctrl-C again to stop at once");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("note: Ctrl-C will end the program at once: {error}");
    }
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// The flag itself, for libraries that take one.
pub fn flag() -> &'static AtomicBool {
    &REQUESTED
}

/// Forgets a request, for a command that uses Ctrl-C to stop one reply only.
pub fn clear() {
    REQUESTED.store(false, Ordering::SeqCst);
}
