//! The incarnations ("lives") of a store: how generations follow each other, and which lives a store replaces.

use skysail_core::catalog::Generation;

/// The generation that follows `current`; the first write to a store draws its incarnation.
pub(super) fn generation_after(current: &Generation) -> Generation {
    let incarnation = if current.incarnation.is_empty() {
        fresh_incarnation()
    } else {
        current.incarnation.clone()
    };
    Generation {
        incarnation,
        number: current.number + 1,
    }
}

/// How many replaced lives a store remembers. A frontend that was away for more settlements than that finds a
/// life that does not replace its own, and asks an operator once more.
const REMEMBERED: usize = 16;

/// The lives that a store replaces: newest first, each once, at most [`REMEMBERED`].
pub(super) fn remembered_lives(lives: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut remembered = Vec::new();
    for life in lives {
        if !life.is_empty() && !remembered.contains(&life) {
            remembered.push(life);
        }
    }
    remembered.truncate(REMEMBERED);
    remembered
}

/// A random name for a store's life, 16 hex digits.
pub(super) fn fresh_incarnation() -> String {
    format!("{:016x}", fastrand::u64(..))
}
